"""Systems of particles, identical or of several species."""

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
    species: tuple[int, ...] = Field(
        (), description="of each particle, numbered from 0; training fills it in from the data; (): all are identical"
    )

    def build(self) -> "ParticleDomain":
        return ParticleDomain(**self.settings())


class ParticleDomain(Domain[Tensor]):
    """A fixed number of particles; data are tensors (B, N, D).

    Args:
        n_particles: N.
        dim: D.
        scale: data units in one model unit.
        species: of each particle, numbered from 0; the density is invariant under permutations of equal ones. By
            default all are identical. An ordered chain has a species for each particle.

    Raises:
        ValueError: another number of species than of particles, or numbers that are left out.

    Example:
        >>> domain = ParticleDomain(n_particles=4, dim=2)
        >>> points, context, _ = domain.to_points(torch.randn(5, 4, 2), None)
        >>> points.x.shape
        torch.Size([5, 4, 2])
    """

    task: ClassVar[str] = "particles"

    def __init__(self, n_particles: int, dim: int, scale: float = 1.0, species: Sequence[int] = ()):
        super().__init__()
        self.n_particles, self.dim, self.scale = n_particles, dim, scale
        self.species = tuple(species) or (0,) * n_particles
        kinds = sorted(set(self.species))
        if len(self.species) != n_particles or kinds != list(range(len(kinds))):
            raise ValueError(f"species: expected {n_particles} numbers that count from 0, got {list(self.species)}")
        self.n_features = 0
        self.n_labels = len(kinds) if len(kinds) > 1 else 0

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
        points = Points(project(data, context.mask) / self.scale, context.labels[..., :0])
        return points, context, self.log_unit(context.mask, data.dtype)

    def from_points(self, points: Points, context: Context) -> Tensor:
        return points.x * self.scale

    def sample_context(
        self,
        n: int,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
        asked: Any = None,
        condition: Tensor | None = None,
    ) -> Context:
        return self._context(n, device, dtype)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _context(self, n: int, device: torch.device, dtype: torch.dtype) -> Context:
        mask = torch.ones(n, self.n_particles, dtype=torch.bool, device=device)
        species = torch.tensor(self.species, device=device)
        labels = torch.nn.functional.one_hot(species, len(species))[:, : self.n_labels]
        return Context(mask, labels.to(dtype).expand(n, -1, -1))
