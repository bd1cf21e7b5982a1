"""Molecules, whose types are generated or given, in all-atom or united-atom representation."""

import math
import re
from collections.abc import Sequence
from typing import Annotated, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from molflow.batch import MoleculeBatch
from molflow.chem.elements import atomic_number, symbol
from molflow.config import NameIn
from molflow.distributions import AtomCounts, Compositions
from molflow.errors import MolflowError
from molflow.flows.dequantization import Dequantizer
from molflow.flows.domains.base import Domain, DomainConfig
from molflow.flows.registry import DEQUANTIZERS, DOMAINS
from molflow.geometry import Context, MeanFreeSpace, Points, project

Representation = Literal["all-atom", "united-atom"]

_MOST_HYDROGENS = 7  # on one heavy atom


class _MoleculesConfig(DomainConfig):
    """The fields of all domains of molecules."""

    task: ClassVar[str] = "molecules"
    representation: Representation = "all-atom"
    scale: float = Field(1.5, gt=0, description="angstrom in one model unit")
    types: tuple[str, ...] = Field((), description="of points, such as CH3; by default those of the whole data set")


@DOMAINS.register("molecules")
class MoleculesConfig(_MoleculesConfig):
    """`MoleculeDomain`: types of points are generated."""

    dequantization: Annotated[str, NameIn(DEQUANTIZERS)] = "argmax"
    atom_counts: tuple[int, ...] = Field(
        (), description="entry n counts molecules with n points; by default those of the training data"
    )

    def build(self) -> "MoleculeDomain":
        dequantizer = DEQUANTIZERS[self.dequantization](len(self.types))
        return MoleculeDomain(self.types, self.representation, self.scale, AtomCounts(self.atom_counts), dequantizer)


@DOMAINS.register("composed_molecules")
class ComposedMoleculesConfig(_MoleculesConfig):
    """`ComposedMoleculeDomain`: types of points are given. The table of compositions is in the weights."""

    n_compositions: int = Field(0, ge=0, description="rows of the table, filled in by training")

    def build(self) -> "ComposedMoleculeDomain":
        return ComposedMoleculeDomain(self.types, self.representation, self.scale, self.n_compositions)


class _Molecules(Domain[MoleculeBatch]):
    """Base of the domains of molecules, with the types of their points.

    Args:
        types: of points: "C" is a carbon atom; in the united-atom representation, "CH3" is a carbon that carries three
            hydrogens.
        representation: "all-atom" or "united-atom".
        scale: angstrom in one model unit.
    """

    task: ClassVar[str] = "molecules"

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
            raise ValueError("types of the all-atom representation carry no hydrogens")
        table = torch.full((119, _MOST_HYDROGENS + 1), -1)
        table[numbers, hydrogens] = torch.arange(len(numbers))
        self.register_buffer("type_numbers", numbers, persistent=False)
        self.register_buffer("type_hydrogens", hydrogens, persistent=False)
        self.register_buffer("type_table", table, persistent=False)

    def space(self, mask: Tensor) -> MeanFreeSpace:
        return MeanFreeSpace(mask, self.dim, self.n_features)

    def log_unit(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """-(n - 1) D log scale, (B,)."""
        return -self.space(mask).position_dof.to(dtype) * math.log(self.scale)

    def represented(self, data: MoleculeBatch) -> MoleculeBatch:
        """Molecules in the representation of the domain: united atoms count the hydrogens that are removed.

        Raises:
            MolflowError: united atoms for an all-atom domain.
        """
        if self.representation == "united-atom":
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
        """Molecules with all atoms, from positions in model units and types."""
        hydrogens = None if self.representation == "all-atom" else self.type_hydrogens[types] * mask
        return MoleculeBatch(x * self.scale, self.type_numbers[types] * mask, mask, hydrogens).with_hydrogens()

    def concatenate(self, parts: Sequence[MoleculeBatch]) -> MoleculeBatch:
        return MoleculeBatch.concatenate(parts)


class MoleculeDomain(_Molecules):
    """Molecules whose types become features by dequantisation, and whose sizes follow the data.

    Args:
        types, representation, scale: as in all domains of molecules.
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
        # The dequantizer has the precision of the model; from here on the positions have it too.
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
    """Molecules as positions given types: p(molecule) = p(composition) p(positions | types).

    The composition is drawn from those of the training data, so nothing is dequantised and the flow has (n - 1) D
    dimensions. A composition that training did not have has probability zero, log p = -inf. As in all other domains the
    density is over ordered points: p(types) = p(composition) / (n! / prod_k n_k!).

    Args:
        types, representation, scale: as in all domains of molecules.
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


def type_name(number: int, hydrogens: int) -> str:
    """(6, 0) -> "C", (6, 1) -> "CH", (6, 3) -> "CH3"."""
    return symbol(number) + ("" if not hydrogens else "H" if hydrogens == 1 else f"H{hydrogens}")


def _parse_type(name: str) -> tuple[int, int]:
    match = re.fullmatch(f"([A-Z][a-z]?)(H[2-{_MOST_HYDROGENS}]?)?", name)
    if match is None:
        raise ValueError(f"{name!r} is not a type; expected an element, or one with its hydrogens such as CH3")
    element, hydrogens = match.groups()
    return atomic_number(element), 0 if hydrogens is None else int(hydrogens[1:] or 1)
