"""The contracts of networks, on point clouds and on vectors, with the parts that all of them share."""

from abc import ABC, abstractmethod
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor, nn

from molflow.config import KindConfig, OneOf
from molflow.geometry import project
from molflow.nn.registry import NETWORKS

Layers = Annotated[int, Field(gt=0, le=10_000)]
"""Type of a number of hidden layers: their widths are listed before the first tensor is made that can be bounded."""


class NetworkConfig(KindConfig):
    """Base of the configurations of networks: the sizes of a network, and how to build it.

    Attributes:
        acts_on: "points" for a `PointNetwork`, "vectors" for a `VectorNetwork`.
    """

    acts_on: ClassVar[Literal["points", "vectors"]] = "points"

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> nn.Module:
        """A network with fresh weights; seed torch before for reproducible ones.

        Args:
            n_features: F, numbers of a point (of a vector) that the network changes.
            n_labels: L, further features of points, which stay as they are.
            n_times: T, times at its input.
            n_conditions: C, conditions at its input.

        Raises:
            ValueError: sizes that cannot be.
        """
        raise TypeError(f"{type(self).__name__} must implement build")


Network = Annotated[SerializeAsAny[NetworkConfig], OneOf(NETWORKS)]
"""Type of a configuration field that holds any registered network."""


class PointNetwork(nn.Module, ABC):
    """(x, h, mask, t, condition) -> (dx, dh) on point clouds.

    dx permutes with x and has zero centroid; dh permutes. If the network is `equivariant`, dx also rotates and reflects
    with x, and dh is invariant; if it is not, training turns its data at random.

    Implementing a network: write `_forward`, and create `readout` if there are features. Register a `NetworkConfig`
    with `NETWORKS.register`. `molflow.testing.assert_equivariant` checks the result.

    Args:
        n_features: F, features of a point that the network changes; 0 for identical particles.
        n_labels: L, further features that stay as they are.
        n_times: T, times at the input.
        n_conditions: C, conditions at the input.

    Attributes:
        equivariant: whether the network follows rotations and reflections.
        n_globals: T + C, numbers that describe the whole configuration.
    """

    equivariant: ClassVar[bool] = True

    def __init__(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0):
        super().__init__()
        self.n_features, self.n_labels = n_features, n_labels
        self.n_times, self.n_conditions = n_times, n_conditions
        self.readout: nn.Linear | None = None

    @property
    def n_globals(self) -> int:
        return self.n_times + self.n_conditions

    def forward(
        self, x: Tensor, h: Tensor, mask: Tensor, t: Tensor | None = None, condition: Tensor | None = None
    ) -> tuple[Tensor, Tensor]:
        """Apply the network.

        Args:
            x: positions (B, N, D), any D.
            h: features, then labels (B, N, F + L).
            mask: True for a real point (B, N).
            t: times (B, T); None for a network without times.
            condition: (B, C); None for a network without conditions.

        Returns:
            dx (B, N, D) with zero centroid, and dh (B, N, F), both zero at padding.

        Raises:
            ValueError: another number of times or conditions than the network was made for.
        """
        return self._forward(x, h, mask, global_inputs(t, condition, self.n_times, self.n_conditions))

    @abstractmethod
    def _forward(self, x: Tensor, h: Tensor, mask: Tensor, global_inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        """dx and dh as `forward` returns them; global inputs are times, then conditions (B, T + C), or None."""

    def outputs(self, dx: Tensor, scalars: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """dx without its centroid, and dh as `readout` computes it from scalars (B, N, H) of the points."""
        dx = project(dx, mask)
        if self.readout is None:
            return dx, h[..., :0]
        return dx, self.readout(scalars) * mask.unsqueeze(-1).to(h.dtype)


class VectorNetwork(nn.Module, ABC):
    """(x, condition, t) -> y on vectors: (B, F), (B, C) and (B, T) -> (B, F).

    Implementing a network: write `forward`, which should call `global_inputs` to check what it is given, and set the
    attributes. Register a `NetworkConfig` with `acts_on = "vectors"`.

    Attributes:
        n_features: F.
        n_times: T, times at the input.
        n_conditions: C, conditions at the input.
    """

    n_features: int
    n_times: int
    n_conditions: int

    @abstractmethod
    def forward(self, x: Tensor, condition: Tensor | None = None, t: Tensor | None = None) -> Tensor:
        """Apply the network; condition and t are None for a network without them."""


def global_inputs(t: Tensor | None, condition: Tensor | None, n_times: int, n_conditions: int) -> Tensor | None:
    """Times and conditions side by side, (B, T + C); None where there are neither.

    Raises:
        ValueError: another number of times or conditions than expected.
    """
    for name, given, expected in (("times", t, n_times), ("conditions", condition, n_conditions)):
        n_given = 0 if given is None else given.shape[-1]
        if n_given != expected:
            raise ValueError(f"expected {expected} {name}, got {n_given}")
    if t is None or condition is None:
        return condition if t is None else t
    return torch.cat([t, condition], -1)
