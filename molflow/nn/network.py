"""The contract of every network on point clouds, with the parts that all of them share."""

from abc import ABC, abstractmethod

from torch import Tensor, nn

from molflow.geometry import project


class PointNetwork(nn.Module, ABC):
    """(x, h, mask, t) -> (dx, dh): dx turns, reflects and permutes with x and has zero centroid, dh is invariant.

    A network implements `changes`, and makes `readout` if it has features.

    Args:
        n_features: F, features of a point that the network changes; 0 for identical particles.
        n_labels: L, further features that stay as they are.
        n_times: T, numbers such as the time that describe the whole configuration.
    """

    def __init__(self, n_features: int, n_labels: int = 0, n_times: int = 0):
        super().__init__()
        self.n_features, self.n_labels, self.n_times = n_features, n_labels, n_times
        self.readout: nn.Linear | None = None

    def forward(self, x: Tensor, h: Tensor, mask: Tensor, t: Tensor | None = None) -> tuple[Tensor, Tensor]:
        """Apply the network.

        Args:
            x: positions (B, N, D), any D.
            h: features, then labels (B, N, F + L).
            mask: True for a real point (B, N).
            t: (B, T), only for a network made with `n_times` > 0.

        Returns:
            dx (B, N, D) with zero centroid, and dh (B, N, F), both zero at padding.

        Raises:
            ValueError: t has another number of times than the network.
        """
        given = 0 if t is None else t.shape[-1]
        if given != self.n_times:
            raise ValueError(f"expected {self.n_times} times, got {given}")
        return self.changes(x, h, mask, t)

    @abstractmethod
    def changes(self, x: Tensor, h: Tensor, mask: Tensor, t: Tensor | None) -> tuple[Tensor, Tensor]:
        """dx and dh, as `forward` returns them; t is None or has T times."""

    def outputs(self, dx: Tensor, scalars: Tensor, h: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
        """dx without its centroid, and dh as `readout` makes it from scalars (B, N, H) of the points."""
        dx = project(dx, mask)
        if self.readout is None:
            return dx, h[..., :0]
        return dx, self.readout(scalars) * mask.unsqueeze(-1).to(h.dtype)
