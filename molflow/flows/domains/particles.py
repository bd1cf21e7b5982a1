"""Systems of identical particles."""

import math
from collections.abc import Sequence
from typing import Any, ClassVar

import torch
from pydantic import Field
from torch import Tensor

from molflow.errors import MolflowError
from molflow.flows.domains.base import Domain, DomainConfig
from molflow.flows.registry import DOMAINS
from molflow.geometry import Context, MeanFreeSpace, Points, project


@DOMAINS.register("particles")
class ParticlesConfig(DomainConfig):
    """`ParticleDomain`."""

    task: ClassVar[str] = "particles"
    n_particles: int = Field(gt=1)
    dim: int = Field(gt=0)
    scale: float = Field(1.0, gt=0, description="data units in one model unit")

    def build(self) -> "ParticleDomain":
        return ParticleDomain(**self.settings())


class ParticleDomain(Domain[Tensor]):
    """A fixed number of identical particles; data are tensors (B, N, D).

    Args:
        n_particles: N.
        dim: D.
        scale: data units in one model unit.

    Example:
        >>> domain = ParticleDomain(n_particles=4, dim=2)
        >>> points, context, _ = domain.to_points(torch.randn(5, 4, 2), None)
        >>> points.x.shape
        torch.Size([5, 4, 2])
    """

    task: ClassVar[str] = "particles"

    def __init__(self, n_particles: int, dim: int, scale: float = 1.0):
        super().__init__()
        self.n_particles, self.dim, self.scale = n_particles, dim, scale
        self.n_features = self.n_labels = 0

    def __repr__(self) -> str:
        return f"{self.n_particles} particles in {self.dim}D"

    def space(self, mask: Tensor) -> MeanFreeSpace:
        return MeanFreeSpace(mask, self.dim)

    def log_unit(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """-(n - 1) D log scale, (B,)."""
        return -self.space(mask).position_dof.to(dtype) * math.log(self.scale)

    def to_points(self, data: Tensor, generator: torch.Generator | None) -> tuple[Points, Context, Tensor]:
        if data.shape[1:] != (self.n_particles, self.dim):
            raise MolflowError(f"expected configurations (B, {self.n_particles}, {self.dim}), got {tuple(data.shape)}")
        context = self._context(len(data), data.device, data.dtype)
        points = Points(project(data, context.mask) / self.scale, context.labels)
        return points, context, self.log_unit(context.mask, data.dtype)

    def from_points(self, points: Points, context: Context) -> Tensor:
        return points.x * self.scale

    def sample_context(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype, asked: Any = None
    ) -> Context:
        return self._context(n, device, dtype)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _context(self, n: int, device: torch.device, dtype: torch.dtype) -> Context:
        mask = torch.ones(n, self.n_particles, dtype=torch.bool, device=device)
        return Context(mask, torch.zeros(n, self.n_particles, 0, dtype=dtype, device=device))
