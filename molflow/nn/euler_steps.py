"""Steps of Euler's method along a velocity on vectors, as one network."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from molflow.nn.network import Network, NetworkConfig, VectorNetwork, global_inputs
from molflow.nn.registry import NETWORKS


class EulerSteps(VectorNetwork):
    """y = x_K with x_0 = x and x_k = x_(k-1) - (t_(k-1) - t_k) v(x_(k-1), condition, t_(k-1)).

    All steps have the weights of the velocity v, so the network is as deep as K of them and has the size of one.

    Args:
        velocity: (x, condition, t) -> v, such as the network of a continuous flow on vectors. The time of the step is
            the first of its times; those that this network gets follow.
        times: t_0 to t_K, from noise at 1 to data at 0 for a decoder; in the opposite order for an encoder.

    Example:
        >>> velocity = molflow.nn.MLP(2, n_times=1, hidden=16)
        >>> EulerSteps(velocity, [1, 0.5, 0])(torch.zeros(5, 2)).shape
        torch.Size([5, 2])
    """

    def __init__(self, velocity: nn.Module, times: Sequence[float]):
        super().__init__()
        self.velocity, self.times = velocity, tuple(times)
        if isinstance(velocity, VectorNetwork):
            self.n_features, self.n_times = velocity.n_features, velocity.n_times - 1
            self.n_conditions = velocity.n_conditions

    def forward(self, x: Tensor, condition: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        if isinstance(self.velocity, VectorNetwork):
            global_inputs(t, condition, self.n_times, self.n_conditions)
        for start, end in pairwise(self.times):
            at = x.new_full((len(x), 1), start)
            x = x - (start - end) * self.velocity(x, condition, at if t is None else torch.cat([at, t], -1))
        return x


@NETWORKS.register("euler_steps")
class EulerStepsConfig(NetworkConfig):
    """`EulerSteps` of a velocity on vectors."""

    acts_on: ClassVar[Literal["points", "vectors"]] = "vectors"
    velocity: Network = Field(description="a network on vectors, the velocity")
    times: tuple[Annotated[float, Field(ge=0, le=1)], ...] = Field(
        min_length=2, max_length=10_000, description="of the steps, which all rise or all fall"
    )

    @field_validator("times")
    @classmethod
    def _check_times(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        steps = [end - start for start, end in pairwise(times)]
        if not (all(step > 0 for step in steps) or all(step < 0 for step in steps)):
            raise ValueError("must all rise or all fall")
        return times

    @model_validator(mode="after")
    def _check(self) -> "EulerStepsConfig":
        if self.velocity.acts_on != "vectors":
            raise ValueError(f"velocity: expected a network on vectors, and {self.velocity.kind} acts on points")
        return self

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> nn.Module:
        return EulerSteps(self.velocity.build(n_features, 0, 1 + n_times, n_conditions), self.times)
