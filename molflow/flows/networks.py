"""Calls of networks by flows, on point clouds and on vectors."""

from typing import Any

import torch
from torch import Tensor, nn

from molflow.flows.conditions import Conditions
from molflow.flows.domains.base import Domain
from molflow.geometry import Context, P, Points
from molflow.nn.network import NetworkConfig


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


def build_network(
    config: NetworkConfig, domain: Domain[Any], conditions: Conditions | None, n_times: int = 0
) -> nn.Module:
    """The network that a configuration describes, with the sizes that a domain needs.

    Raises:
        ValueError: a network on point clouds for vectors, or the other way round.
    """
    if config.acts_on != domain.acts_on:
        raise ValueError(f"the network {config.kind} acts on {config.acts_on}, the domain is of {domain.acts_on}")
    n_conditions = 0 if conditions is None else len(conditions.names)
    return config.build(domain.n_features, domain.n_labels, n_times, n_conditions)


def _trimmed(network: nn.Module, *arguments: Tensor | None) -> Any:
    """Call a network without the None arguments at the end."""
    given = list(arguments)
    while given and given[-1] is None:
        given.pop()
    return network(*given)
