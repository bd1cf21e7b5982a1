"""What a flow is a distribution over: molecules, whose types are generated or given, or identical particles.

A domain turns data into points on the mean-free space and back, and knows what that costs in likelihood.
"""

import math
import re
from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Generic, Literal, TypeVar

import torch
from torch import Tensor, nn
from torch.nn.functional import one_hot

from molflow.batch import MoleculeBatch
from molflow.chem.elements import atomic_number, symbol
from molflow.distributions import AtomCounts, Compositions
from molflow.errors import MolflowError
from molflow.flows.dequantization import Dequantizer
from molflow.geometry import Context, MeanFreeSpace, Points, project

Data = TypeVar("Data")

Representation = Literal["all-atom", "united"]

_MOST_HYDROGENS = 7  # on one heavy atom


class Domain(nn.Module, ABC, Generic[Data]):
    """Data <-> points, with positions divided by `scale` so that the flow sees numbers of order one.

    Attributes:
        dim: D, coordinates of a point.
        n_features: F, continuous features of a point.
        n_labels: L, features of a point that are given and not generated.
        scale: length of one model unit in the units of the data.
    """

    dim: int
    n_features: int
    n_labels: int
    scale: float

    def space(self, mask: Tensor) -> MeanFreeSpace:
        return MeanFreeSpace(mask, self.dim, self.n_features)

    def log_unit(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """Log density lost when positions are rescaled to data units, -(n - 1) D log scale, (B,)."""
        return -self.space(mask).position_dof.to(dtype) * math.log(self.scale)

    @abstractmethod
    def to_points(self, data: Data, generator: torch.Generator | None) -> tuple[Points, Context, Tensor]:
        """Points, their context, and c (B,) such that log p(data) >= E[log p(points | context) + c], in nats."""

    def to_points_in(
        self, dtype: torch.dtype, data: Data, generator: torch.Generator | None
    ) -> tuple[Points, Context, Tensor]:
        """`to_points` in a precision.

        Raises:
            MolflowError: no configurations, or one without points.
        """
        points, context, correction = self.to_points(data, generator)
        if not len(context.mask) or not context.mask.any(1).all():
            raise MolflowError("expected at least one configuration, and at least one point in each")
        points = Points(points.x.to(dtype), points.h.to(dtype))
        return points, Context(context.mask, context.labels.to(dtype)), correction.to(dtype)

    @abstractmethod
    def from_points(self, points: Points, context: Context) -> Data:
        """The data that points stand for."""

    @abstractmethod
    def sample_context(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Context:
        """What is given about n new configurations."""

    @abstractmethod
    def log_prob_context(self, context: Context) -> Tensor:
        """Log probability of what is given, (B,)."""

    @abstractmethod
    def concatenate(self, parts: Sequence[Data]) -> Data:
        """Join batches."""


class _Molecules(Domain[MoleculeBatch]):
    """What all domains of molecules share: the types of their points.

    Args:
        types: what a point can be: "C" is a carbon atom; where the representation is united, "CH3" is a carbon that
            carries three hydrogens.
        representation: "all-atom" or "united".
        scale: angstrom in one model unit.
    """

    type_numbers: Tensor
    type_hydrogens: Tensor
    type_table: Tensor

    def __init__(self, types: Sequence[str], representation: Representation, scale: float):
        super().__init__()
        if not types or len(set(types)) < len(types):
            raise ValueError(f"expected different types of points, at least one, got {', '.join(types) or 'none'}")
        self.dim, self.scale = 3, scale
        self.types, self.representation = tuple(types), representation
        numbers, hydrogens = torch.tensor([_parse_type(name) for name in types]).T
        if representation == "all-atom" and hydrogens.any():
            raise ValueError("types of an all-atom representation carry no hydrogens")
        table = torch.full((119, _MOST_HYDROGENS + 1), -1)
        table[numbers, hydrogens] = torch.arange(len(numbers))
        self.register_buffer("type_numbers", numbers, persistent=False)
        self.register_buffer("type_hydrogens", hydrogens, persistent=False)
        self.register_buffer("type_table", table, persistent=False)

    def represented(self, data: MoleculeBatch) -> MoleculeBatch:
        """Molecules in the representation of the domain: where it is united, hydrogens are taken away and counted.

        Raises:
            MolflowError: united atoms for an all-atom domain.
        """
        if self.representation == "united":
            return data.united_atom()
        if data.hydrogens is not None:
            raise MolflowError("this model takes molecules with all their atoms; call with_hydrogens() first")
        return data

    def types_of(self, data: MoleculeBatch) -> Tensor:
        """Index of the type of every point (B, N), -1 at padding, of molecules in the representation of the domain.

        Raises:
            MolflowError: a type that the domain does not have.
        """
        hydrogens = torch.zeros_like(data.atomic_numbers) if data.hydrogens is None else data.hydrogens
        types = self.type_table[data.atomic_numbers, hydrogens.clamp(max=_MOST_HYDROGENS)]
        types = torch.where((hydrogens <= _MOST_HYDROGENS) & data.mask, types, -1)
        if (strange := data.mask & (types < 0)).any():
            name = type_name(int(data.atomic_numbers[strange][0]), int(hydrogens[strange][0]))
            raise MolflowError(f"{name} is not a type this model knows: {', '.join(self.types)}")
        return types

    def molecules(self, x: Tensor, types: Tensor, mask: Tensor) -> MoleculeBatch:
        """Molecules with all their atoms, from positions in model units and types."""
        hydrogens = None if self.representation == "all-atom" else self.type_hydrogens[types] * mask
        return MoleculeBatch(x * self.scale, self.type_numbers[types] * mask, mask, hydrogens).with_hydrogens()

    def concatenate(self, parts: Sequence[MoleculeBatch]) -> MoleculeBatch:
        return MoleculeBatch.concatenate(parts)


class MoleculeDomain(_Molecules):
    """Molecules whose types become features by dequantisation; sizes follow the data. Other arguments: `_Molecules`.

    Args:
        atom_counts: distribution of the number of points.
        dequantizer: a `Dequantizer` for as many types.
    """

    def __init__(
        self,
        types: Sequence[str],
        representation: Representation,
        scale: float,
        atom_counts: AtomCounts,
        dequantizer: Dequantizer,
    ):
        super().__init__(types, representation, scale)
        self.n_features, self.n_labels = len(types), 0
        self.atom_counts = atom_counts
        self.dequantizer = dequantizer

    def to_points(self, data: MoleculeBatch, generator: torch.Generator | None) -> tuple[Points, Context, Tensor]:
        data = self.represented(data)
        h, log_q = self.dequantizer(self.types_of(data), data.mask, generator)
        # h has the precision of the model, and so have the positions from here on.
        x = project(data.positions.to(h.dtype), data.mask) / self.scale
        context = Context(data.mask, h[..., :0])
        correction = self.log_prob_context(context).to(h.dtype) - log_q + self.log_unit(data.mask, h.dtype)
        return Points(x, h), context, correction

    def from_points(self, points: Points, context: Context) -> MoleculeBatch:
        return self.molecules(points.x, self.dequantizer.quantize(points.h), context.mask)

    def sample_context(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Context:
        sizes = self.atom_counts.sample(n, generator)
        mask = torch.arange(int(sizes.max()), device=device) < sizes.unsqueeze(1)
        return Context(mask, torch.zeros(*mask.shape, 0, device=device, dtype=dtype))

    def log_prob_context(self, context: Context) -> Tensor:
        return self.atom_counts.log_prob(context.mask.sum(1))


class ComposedMoleculeDomain(_Molecules):
    """Molecules as positions given types: p(molecule) = p(composition) p(positions | types). Arguments: `_Molecules`.

    The composition is drawn from those of the training data, so nothing has to be dequantised and the flow has
    (n - 1) D dimensions. A composition that training did not have has probability zero, log p = -inf. As for all other
    domains the density is over ordered points: p(types) = p(composition) / (n! / prod_k n_k!).

    Args:
        n_compositions: rows of the table of compositions.
    """

    def __init__(self, types: Sequence[str], representation: Representation, scale: float, n_compositions: int):
        super().__init__(types, representation, scale)
        self.n_features, self.n_labels = 0, len(types)
        self.compositions = Compositions(n_compositions, len(types))

    def to_points(self, data: MoleculeBatch, generator: torch.Generator | None) -> tuple[Points, Context, Tensor]:
        data = self.represented(data)
        x = project(data.positions, data.mask) / self.scale
        context = self._context(self.types_of(data), data.mask, x.dtype)
        correction = self.log_prob_context(context).to(x.dtype) + self.log_unit(data.mask, x.dtype)
        return Points(x, x[..., :0]), context, correction

    def from_points(self, points: Points, context: Context) -> MoleculeBatch:
        return self.molecules(points.x, context.labels.argmax(-1), context.mask)

    def sample_context(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Context:
        types, mask = self.compositions.sample(n, generator)
        return self._context(types, mask, dtype)

    def log_prob_context(self, context: Context) -> Tensor:
        composition = context.labels.sum(1).round().long()
        log_factorials = torch.lgamma(torch.cat([composition.sum(-1, keepdim=True), composition], -1).double() + 1)
        return self.compositions.log_prob(composition) - (log_factorials[:, 0] - log_factorials[:, 1:].sum(-1))

    def _context(self, types: Tensor, mask: Tensor, dtype: torch.dtype) -> Context:
        labels = one_hot(types.clamp(min=0), len(self.types)) * mask.unsqueeze(-1)
        return Context(mask, labels.to(dtype))


class ParticleDomain(Domain[Tensor]):
    """A fixed number of identical particles; data are tensors (B, N, D).

    Args:
        n_particles: N.
        dim: D.
        scale: data units in one model unit.
    """

    def __init__(self, n_particles: int, dim: int, scale: float = 1.0):
        super().__init__()
        self.n_particles, self.dim, self.scale = n_particles, dim, scale
        self.n_features = self.n_labels = 0

    def to_points(self, data: Tensor, generator: torch.Generator | None) -> tuple[Points, Context, Tensor]:
        if data.shape[1:] != (self.n_particles, self.dim):
            raise MolflowError(f"expected configurations (B, {self.n_particles}, {self.dim}), got {tuple(data.shape)}")
        context = self._context(len(data), data.device, data.dtype)
        points = Points(project(data, context.mask) / self.scale, context.labels)
        return points, context, self.log_unit(context.mask, data.dtype)

    def from_points(self, points: Points, context: Context) -> Tensor:
        return points.x * self.scale

    def sample_context(
        self, n: int, generator: torch.Generator | None, device: torch.device, dtype: torch.dtype
    ) -> Context:
        return self._context(n, device, dtype)

    def log_prob_context(self, context: Context) -> Tensor:
        return torch.zeros(len(context.mask), device=context.mask.device)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _context(self, n: int, device: torch.device, dtype: torch.dtype) -> Context:
        mask = torch.ones(n, self.n_particles, dtype=torch.bool, device=device)
        return Context(mask, torch.zeros(n, self.n_particles, 0, dtype=dtype, device=device))


def type_name(number: int, hydrogens: int) -> str:
    """(6, 0) -> "C", (6, 1) -> "CH", (6, 3) -> "CH3"."""
    return symbol(number) + ("" if not hydrogens else "H" if hydrogens == 1 else f"H{hydrogens}")


def _parse_type(name: str) -> tuple[int, int]:
    match = re.fullmatch(f"([A-Z][a-z]?)(H[2-{_MOST_HYDROGENS}]?)?", name)
    if match is None:
        raise ValueError(f"{name!r} is not a type; expected an element, or one with its hydrogens such as CH3")
    element, hydrogens = match.groups()
    return atomic_number(element), 0 if hydrogens is None else int(hydrogens[1:] or 1)
