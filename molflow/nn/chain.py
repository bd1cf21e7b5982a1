"""Networks in sequence, as one deep network."""

from collections.abc import Iterable, Sequence
from typing import Annotated

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from molflow.geometry import project
from molflow.nn.network import Network, NetworkConfig, PointNetwork
from molflow.nn.registry import NETWORKS


class Chain(PointNetwork):
    """Several networks, the stages, in sequence: every stage gets the output of the one before, times its factor.

    The change of the chain is p_k - p_0 from its input to its output, with p_k = q_k + stage_k(q_k) and
    q_k = f_k p_(k - 1), positions about their centroid.

    Args:
        stages: networks with equal numbers of features, labels, times and conditions; each gets the same times.
        factors: f_k, one for each stage; by default all are 1. A stage that removes noise from data at time t of a
            path expects them times 1 - t.

    Raises:
        ValueError: another number of factors than of stages.

    Example:
        >>> network = Chain([molflow.nn.EGNN(n_features=0, hidden=8, n_blocks=1) for _ in range(2)])
        >>> x, h, mask = torch.randn(2, 5, 3), torch.zeros(2, 5, 0), torch.ones(2, 5, dtype=torch.bool)
        >>> [change.shape for change in network(x, h, mask)]
        [torch.Size([2, 5, 3]), torch.Size([2, 5, 0])]
    """

    def __init__(self, stages: Iterable[PointNetwork], factors: Sequence[float] | None = None):
        first, *others = stages
        super().__init__(first.n_features, first.n_labels, first.n_times, first.n_conditions)
        self.stages = nn.ModuleList([first, *others])
        self.factors = tuple(factors or [1.0] * len(self.stages))
        if len(self.factors) != len(self.stages):
            raise ValueError(f"{len(self.factors)} factors for {len(self.stages)} stages")

    def _forward(self, x: Tensor, h: Tensor, mask: Tensor, global_inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        moved, changed = x, h[..., : self.n_features]
        labels = h[..., self.n_features :]
        t = condition = None
        if global_inputs is not None:
            t, condition = (part if part.shape[1] else None for part in global_inputs.tensor_split([self.n_times], 1))
        for stage, factor in zip(self.stages, self.factors, strict=True):
            if factor != 1:
                moved, changed = moved - (1 - factor) * project(moved, mask), factor * changed
            dx, dh = stage(moved, torch.cat([changed, labels], -1), mask, t, condition)
            moved, changed = moved + dx, changed + dh
        return moved - x, changed - h[..., : self.n_features]


@NETWORKS.register("chain")
class ChainConfig(NetworkConfig):
    """A `Chain` of networks of any kinds; the stages of one that is a chain itself become its stages."""

    stages: list[Network] = Field(min_length=1, description="networks on point clouds, in their order")
    factors: list[Annotated[float, Field(gt=0, le=1)]] | None = Field(
        None, description="of the input of each of these networks; by default all are 1"
    )

    @model_validator(mode="after")
    def _check(self) -> "ChainConfig":
        if self.factors is not None and len(self.factors) != len(self.stages):
            raise ValueError(f"factors: expected {len(self.stages)}, one for each of stages, got {len(self.factors)}")
        if any(stage.acts_on != "points" for stage in self.stages):
            raise ValueError("stages: only networks on point clouds can be in a chain")
        return self

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> PointNetwork:
        parts = [stage.build(n_features, n_labels, n_times, n_conditions) for stage in self.stages]
        return chained(parts, self.factors or [1.0] * len(parts))


def chained(parts: Sequence[nn.Module], factors: Sequence[float]) -> Chain:
    """One chain of networks, of which some may be chains; a factor is that of the input of one of them."""
    stages: list[PointNetwork] = []
    of_stages: list[float] = []
    for part, factor in zip(parts, factors, strict=True):
        inner = part if isinstance(part, Chain) else Chain([part])  # type: ignore[list-item]
        stages += inner.stages  # type: ignore[arg-type]
        of_stages += [factor * inner.factors[0], *inner.factors[1:]]
    return Chain(stages, of_stages)
