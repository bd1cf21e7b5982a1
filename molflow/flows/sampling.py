"""Batches of latents, and maps applied size by size so that no padding is computed."""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from molflow.distributions import StandardNormal
from molflow.geometry import Context, P, point_of, select, tensors_of

if TYPE_CHECKING:
    from molflow.flows.base import Flow

PAIRS_AT_ONCE = 12288  # pairs of points: 150 molecules of nine; more no longer fit in the cache of a core
PAIRS_WITH_DENSITY = 8192  # fewer, as a Jacobian multiplies them by its columns


def latents(
    flow: "Flow[Any]",
    n: int,
    condition: Any,
    generator: torch.Generator,
    temperature: float,
    batch_size: int,
    ask: Mapping[str, Any] | None = None,
) -> Iterator[tuple[Any, Context, Tensor]]:
    """Batches of latent points, their context, and log p(context) + log p(z).

    Args:
        flow: the flow.
        n, condition, temperature, batch_size: as in `Flow.sample`.
        generator: source of contexts and latents.
        ask: what `Domain.request` takes.

    Raises:
        ValueError: n or the batch size is below 1.
        MolflowError: a condition that the flow does not take, or a missing one; something that cannot be asked.
    """
    if n < 1 or batch_size < 1:
        raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
    conditions, asked = flow.standardized(condition, n), flow.request(**ask or {})
    for start in range(0, n, batch_size):
        condition = None if conditions is None else conditions[start : start + batch_size]
        at_once = min(batch_size, n - start)
        context = flow.domain.sample_context(at_once, generator, flow.device, flow.dtype, asked, condition)
        context = context._replace(condition=condition)
        latent = StandardNormal(flow.domain.space(context.mask), temperature)
        z = latent.sample(generator, flow.dtype)
        yield z, context, flow.domain.log_prob_context(context).to(flow.dtype) + latent.log_prob(z)


def by_size(
    function: Callable[[P, Context], tuple[P, Tensor]], points: P, context: Context, pairs_at_once: int
) -> tuple[P, Tensor]:
    """Apply a map to the configurations of each size without their padding.

    Args:
        function: gives points and one number for each configuration.
        points: of all sizes.
        context: of the points.
        pairs_at_once: bound on pairs of points in one call on a CPU.
    """
    order, values, parts = [], [], []
    width = context.mask.shape[1]
    for index, n in _groups(context.mask, pairs_at_once):
        image, value = function(select(points, index, n), context.select(index, n))
        parts.append([_padded(tensor, width) for tensor in tensors_of(image)])
        values.append(value)
        order.append(index)
    back = torch.cat(order).argsort()
    joined = point_of([torch.cat(tensors)[back] for tensors in zip(*parts, strict=True)])
    return joined, torch.cat(values)[back]  # type: ignore[return-value]


def _padded(tensor: Tensor, width: int) -> Tensor:
    """(B, n, F) with zeros up to (B, width, F); vectors (B, F) as they are."""
    if tensor.ndim == 2:
        return tensor
    return torch.cat([tensor, tensor.new_zeros(len(tensor), width - tensor.shape[1], tensor.shape[2])], 1)


def _groups(mask: Tensor, pairs_at_once: int) -> Iterator[tuple[Tensor, int]]:
    """Indices of configurations of one size, and that size; in parts on a CPU, where memory is slow."""
    sizes = mask.sum(1)
    for n in sizes.unique().tolist():
        index = (sizes == n).nonzero().squeeze(1)
        at_once = max(1, pairs_at_once // n**2) if mask.device.type == "cpu" else len(index)
        yield from ((part, n) for part in index.split(at_once))
