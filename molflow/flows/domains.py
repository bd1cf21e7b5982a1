"""What a flow is a distribution over: molecules with atom types, or identical particles.

A domain turns data into points on the mean-free space and back, and knows what that costs in likelihood.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, TypeVar

import torch
from torch import Tensor, nn

from molflow.batch import MoleculeBatch
from molflow.chem.elements import atomic_number, symbol
from molflow.distributions import AtomCounts
from molflow.errors import MolflowError
from molflow.flows.dequantization import Dequantizer
from molflow.geometry import MeanFreeSpace, Points, project

Data = TypeVar("Data")


class Domain(nn.Module, ABC, Generic[Data]):
    """Data <-> points, with positions divided by `scale` so that the flow sees numbers of order one.

    Attributes:
        dim: D, coordinates of a point.
        n_features: F, continuous features of a point.
        scale: length of one model unit in the units of the data.
    """

    dim: int
    n_features: int
    scale: float

    def space(self, mask: Tensor) -> MeanFreeSpace:
        return MeanFreeSpace(mask, self.dim, self.n_features)

    def log_unit(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Log density lost when positions are rescaled to data units, -(n - 1) D log scale, (B,)."""
        return -self.space(mask).position_dof.to(dtype) * math.log(self.scale)

    @abstractmethod
    def to_points(self, data: Data, generator: torch.Generator | None) -> tuple[Points, Tensor, Tensor]:
        """Points, their mask (B, N), and c (B,) such that log p(data) >= E[log p(points) + c], in nats."""

    @abstractmethod
    def from_points(self, points: Points, mask: Tensor) -> Data:
        """The data that points stand for."""

    @abstractmethod
    def sample_mask(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        """How many points each of n new configurations has, as a mask (n, N)."""

    @abstractmethod
    def log_prob_mask(self, mask: Tensor) -> Tensor:
        """Log probability of those numbers of points, (B,)."""

    @abstractmethod
    def concatenate(self, parts: Sequence[Data]) -> Data:
        """Join batches."""


class MoleculeDomain(Domain[MoleculeBatch]):
    """Molecules of the given elements; types become features by dequantisation, and sizes follow the data.

    Args:
        elements: chemical symbols, in the order of the types.
        atom_counts: distribution of the number of atoms.
        dequantizer: a `Dequantizer` with as many types as there are elements.
        scale: angstrom in one model unit.
    """

    atomic_numbers: Tensor
    types: Tensor

    def __init__(self, elements: Sequence[str], atom_counts: AtomCounts, dequantizer: Dequantizer, scale: float):
        super().__init__()
        self.dim, self.n_features, self.scale = 3, len(elements), scale
        self.elements = tuple(elements)
        self.atom_counts = atom_counts
        self.dequantizer = dequantizer
        numbers = torch.tensor([atomic_number(e) for e in elements])
        types = torch.full((int(numbers.max()) + 1,), -1)
        types[numbers] = torch.arange(len(numbers))
        self.register_buffer("atomic_numbers", numbers, persistent=False)
        self.register_buffer("types", types, persistent=False)

    def to_points(self, data: MoleculeBatch, generator: torch.Generator | None) -> tuple[Points, Tensor, Tensor]:
        z, mask = data.atomic_numbers, data.mask
        types = torch.where(z < len(self.types), self.types[z.clamp(max=len(self.types) - 1)], -1)
        if (types[mask] < 0).any():
            stranger = symbol(int(z[mask][types[mask] < 0][0]))
            raise MolflowError(f"element {stranger} is not one this model knows: {', '.join(self.elements)}")
        h, log_q = self.dequantizer(types, mask, generator)
        # h has the precision of the model, and so have the positions from here on.
        x = project(data.positions.to(h.dtype), mask) / self.scale
        return Points(x, h), mask, self.log_prob_mask(mask) - log_q + self.log_unit(mask, h.dtype)

    def from_points(self, points: Points, mask: Tensor) -> MoleculeBatch:
        types = self.dequantizer.quantize(points.h)
        return MoleculeBatch(points.x * self.scale, self.atomic_numbers[types] * mask, mask)

    def sample_mask(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        sizes = self.atom_counts.sample(n, generator)
        return torch.arange(int(sizes.max()), device=device) < sizes.unsqueeze(1)

    def log_prob_mask(self, mask: Tensor) -> Tensor:
        return self.atom_counts.log_prob(mask.sum(1)).to(self.dequantizer.mean.dtype)

    def concatenate(self, parts: Sequence[MoleculeBatch]) -> MoleculeBatch:
        return MoleculeBatch.concatenate(parts)


class ParticleDomain(Domain[Tensor]):
    """A fixed number of identical particles; data are tensors (B, N, D).

    Args:
        n_particles: N.
        dim: D.
        scale: data units in one model unit.
    """

    def __init__(self, n_particles: int, dim: int, scale: float = 1.0):
        super().__init__()
        self.n_particles, self.dim, self.n_features, self.scale = n_particles, dim, 0, scale

    def to_points(self, data: Tensor, generator: torch.Generator | None) -> tuple[Points, Tensor, Tensor]:
        if data.shape[1:] != (self.n_particles, self.dim):
            raise MolflowError(f"expected configurations (B, {self.n_particles}, {self.dim}), got {tuple(data.shape)}")
        mask = torch.ones(data.shape[:2], dtype=torch.bool, device=data.device)
        points = Points(project(data, mask) / self.scale, data.new_zeros(*data.shape[:2], 0))
        return points, mask, self.log_unit(mask, data.dtype)

    def from_points(self, points: Points, mask: Tensor) -> Tensor:
        return points.x * self.scale

    def sample_mask(self, n: int, generator: torch.Generator | None, device: torch.device) -> Tensor:
        return torch.ones(n, self.n_particles, dtype=torch.bool, device=device)

    def log_prob_mask(self, mask: Tensor) -> Tensor:
        return torch.zeros(len(mask), device=mask.device)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))
