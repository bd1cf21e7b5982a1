"""Calls of networks by flows, on point clouds and on vectors."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from molflow.flows.conditions import Conditions
from molflow.flows.domains.base import Domain
from molflow.geometry import Context, P, Points, tensors_of
from molflow.nn.network import NetworkConfig

if TYPE_CHECKING:
    from molflow.flows.base import Flow


def evaluate(network: nn.Module, points: P, context: Context, t: Tensor | None = None) -> P:
    """The output of a network: (dx, dh) on point clouds, y on vectors.

    Times and conditions are passed only where there are any, so that networks without them need no such argument.

    Args:
        network: (x, h, mask[, t[, condition]]) -> (dx, dh), or (x[, condition[, t]]) -> y.
        points: its input.
        context: labels follow the features at the input.
        t: times, (B, T).
    """
    condition = context.condition
    if isinstance(points, Tensor):
        return _trimmed(network, points, condition, t)  # type: ignore[no-any-return]
    features = torch.cat([points.h, context.labels], -1)
    return Points(*_trimmed(network, points.x, features, context.mask, t, condition))


def transform(network: nn.Module, points: P, context: Context, t: Tensor | None = None) -> P:
    """The image of points under a network: p + (dx, dh) for point clouds, y for vectors."""
    image = evaluate(network, points, context, t)
    return image if isinstance(points, Tensor) else points + image


def euler_steps(velocity: Callable[[P, Tensor], P], points: P, times: Sequence[float]) -> P:
    """p - (t - r) v(p, t) from each time t to the next one r.

    Args:
        velocity: (p, t) -> v, t (B,).
        points: at the first of the times.
        times: in their order along the path.
    """
    first = tensors_of(points)[0]
    for t, r in pairwise(times):
        points = points - velocity(points, first.new_full((len(first),), t)) * (t - r)
    return points


def fall_to_zero(times: Sequence[float]) -> bool:
    """Whether times fall from one to the next and end at 0, at the data."""
    return len(times) > 1 and times[-1] == 0 and all(r < t for t, r in pairwise(times))


def passes(times: Sequence[float], start_from_noise: bool) -> list[list[float]]:
    """Times that fall to 0 several times, one list for each fall: 1, 0.5, 0, 0.2, 0 are [1, 0.5, 0] and [0.2, 0].

    Args:
        times: which may rise from 0 to a time below 1.
        start_from_noise: whether they begin at 1, and not below.

    Raises:
        ValueError: they do not.
    """
    parts: list[list[float]] = [[]]
    for t in times:
        if parts[-1] and t > parts[-1][-1]:
            parts.append([])
        parts[-1].append(t)
    first, *others = parts
    starts = first[:1] == [1] if start_from_noise else first[:1] < [1]
    if not starts or not all(map(fall_to_zero, parts)) or any(part[0] >= 1 for part in others):
        start = "1" if start_from_noise else "below 1"
        raise ValueError(f"times must fall from {start} to 0, and from there may rise below 1 and fall again")
    return parts


def pass_again(velocity: Callable[[P, Tensor], P], points: P, parts: Sequence[Sequence[float]]) -> P:
    """Points at time 0 taken back to time t as (1 - t) p, and by Euler steps to time 0 again, for each of `passes`.

    The errors of a point count as its noise at time t, and the velocity removes them.
    """
    for part in parts:
        points = euler_steps(velocity, points * (1 - part[0]), part)
    return points


def build_network(
    config: NetworkConfig, domain: Domain[Any], conditions: Conditions | None, n_times: int = 0
) -> nn.Module:
    """The network that a configuration describes, with the sizes that a domain needs.

    Raises:
        ValueError: a network on point clouds for vectors, or the other way round.
    """
    if config.acts_on != domain.acts_on:
        raise ValueError(f"the network {config.kind} acts on {config.acts_on}, the domain is of {domain.acts_on}")
    n_conditions = 0 if conditions is None else conditions.n_inputs
    return config.build(domain.n_features, domain.n_labels, n_times, n_conditions)


_REASONS: tuple[tuple[tuple[type[nn.Module], ...], str], ...] = (
    (
        (nn.modules.batchnorm._BatchNorm,),
        "makes the image of a vector depend on the others of its batch, so there is no density; use nn.RMSNorm",
    ),
    (
        (nn.modules.dropout._DropoutNd,),
        "is another map at every call, so encoder and decoder cannot invert each other; use weight decay",
    ),
    (
        (nn.LayerNorm, nn.modules.instancenorm._InstanceNorm),
        "has wrong gradients when torch differentiates backward through its forward-mode derivative, as training does; "
        "use nn.RMSNorm or nn.GroupNorm(1, width)",
    ),
)


def check_layers(network: nn.Module, name: str) -> None:
    """Refuse a network with a layer that cannot be in a flow.

    Raises:
        ValueError: the layer and the reason.
    """
    for path, layer in network.named_modules():
        for kinds, reason in _REASONS:
            if isinstance(layer, kinds) and getattr(layer, "p", 1) > 0:
                raise ValueError(
                    f"the {name} has a {type(layer).__name__}{f' ({path})' if path else ''}, which {reason}"
                )


@torch.no_grad()
def check_shapes(flow: "Flow[Any]", name: str, n_times: int) -> None:
    """Try a network on vectors on a batch of three.

    Raises:
        ValueError: it fails, or changes the number or the length of the vectors.
    """
    n_features = flow.domain.n_features
    n_conditions = 0 if flow.conditions is None else flow.conditions.n_inputs
    x, condition, t = (
        torch.zeros(3, n, dtype=flow.dtype, device=flow.device) if n else None
        for n in (n_features, n_conditions, n_times)
    )
    given = f"vectors (3, {n_features})" + (f" and conditions (3, {n_conditions})" if n_conditions else "")
    try:
        image = _trimmed(getattr(flow, name), x, condition, t)
    except (RuntimeError, TypeError, ValueError, IndexError) as error:  # whatever a user's module raises for shapes
        raise ValueError(f"the {name} does not take {given}: {error}") from error
    shape = tuple(image.shape) if isinstance(image, Tensor) else type(image).__name__
    if shape != (3, n_features):
        raise ValueError(f"the {name} must keep the shape of its input: it maps {given} to {shape}")


def _trimmed(network: nn.Module, *arguments: Tensor | None) -> Any:
    """Call a network without the None arguments at the end."""
    given = list(arguments)
    while given and given[-1] is None:
        given.pop()
    return network(*given)
