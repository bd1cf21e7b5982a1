"""Molecules, whose types are generated or given, as all atoms, united atoms or united atoms in their environments."""

import math
import re
from collections.abc import Sequence
from dataclasses import replace
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field
from torch import Tensor
from torch.nn.functional import one_hot

from molflow.batch import MoleculeBatch
from molflow.chem.elements import atomic_number, symbol
from molflow.chem.valences import VALENCES
from molflow.config import NameIn
from molflow.distributions import COMPOSITIONS, AtomCounts, Compositions
from molflow.distributions.constraint import Constraint
from molflow.errors import MolflowError
from molflow.flows.dequantization import Dequantizer
from molflow.flows.domains.asking import Ask, constraint_of
from molflow.flows.domains.base import Domain, DomainConfig
from molflow.flows.domains.room import Room
from molflow.flows.registry import DEQUANTIZERS, DOMAINS
from molflow.geometry import Context, MeanFreeSpace, Points, project

Representation = Literal["all-atom", "united-atom", "environment"]

_NAME = re.compile(r"([A-Z][a-z]?)(H[2-7]?)?(?:\.([0-9]{3}))?")


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
    """`ComposedMoleculeDomain`: types of points are given. The distribution of compositions is in the weights."""

    compositions: Annotated[str, NameIn(COMPOSITIONS)] = Field(
        "table", description="those of the training data with their frequencies (table), or a model learned from them"
    )
    n_compositions: int = Field(0, ge=0, description="rows of the table, filled in by training")
    max_points: int = Field(
        0, ge=0, description="points of the largest composition of the model, filled in by training"
    )
    n_conditions: int = Field(
        0, ge=0, description="numbers that the model of compositions depends on, filled in by training"
    )

    def build(self) -> "ComposedMoleculeDomain":
        make = COMPOSITIONS[self.compositions]
        ends = bond_ends(self.types)
        compositions = make(len(self.types), self.n_compositions, self.max_points, ends, self.n_conditions)
        return ComposedMoleculeDomain(self.types, self.representation, self.scale, compositions)


class _Molecules(Domain[MoleculeBatch]):
    """Base of the domains of molecules, with the types of their points.

    Args:
        types: of points: "C" is a carbon atom; in the united-atom representation, "CH3" is a carbon that carries three
            hydrogens; in the environment representation, "CH.110" is a carbon that carries one hydrogen and has one
            single, one double and no triple bond to other heavy atoms.
        representation: "all-atom", "united-atom" or "environment".
        scale: angstrom in one model unit.
    """

    task: ClassVar[str] = "molecules"

    type_numbers: Tensor
    type_hydrogens: Tensor
    type_bonds: Tensor
    sorted_codes: Tensor
    code_order: Tensor

    def __init__(self, types: Sequence[str], representation: Representation, scale: float):
        super().__init__()
        if not types or len(set(types)) < len(types):
            raise ValueError(f"expected different types of points, at least one, got {', '.join(types) or 'none'}")
        self.dim, self.scale = 3, scale
        self.types, self.representation = tuple(types), representation
        numbers, hydrogens, bonds = zip(*map(parse_type, types), strict=True)
        if representation == "all-atom" and any(hydrogens):
            raise ValueError("types of the all-atom representation carry no hydrogens")
        if {each is not None for each in bonds} != {representation == "environment"}:
            raise ValueError("types of the environment representation, and no others, have bonds, such as CH.110")
        self.register_buffer("type_numbers", torch.tensor(numbers), persistent=False)
        self.register_buffer("type_hydrogens", torch.tensor(hydrogens), persistent=False)
        given = None if representation != "environment" else torch.tensor(bonds)
        self.register_buffer("type_bonds", given, persistent=False)
        codes, order = type_codes(self.type_numbers, self.type_hydrogens, given).sort()
        self.register_buffer("sorted_codes", codes, persistent=False)
        self.register_buffer("code_order", order, persistent=False)

    def __repr__(self) -> str:
        return f"{self.representation} molecules of {len(self.types)} types"

    def space(self, mask: Tensor) -> MeanFreeSpace:
        return MeanFreeSpace(mask, self.dim, self.n_features)

    def log_unit(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """-(n - 1) D log scale, (B,)."""
        return -self.space(mask).position_dof.to(dtype) * math.log(self.scale)

    def represented(self, data: MoleculeBatch) -> MoleculeBatch:
        """Molecules with the atoms of the domain: but for all-atom domains, hydrogens are removed and counted.

        Raises:
            MolflowError: united atoms for an all-atom domain.
        """
        if self.representation != "all-atom":
            return data.united_atom()
        if data.hydrogens is not None:
            raise MolflowError("this model takes molecules with all their atoms; call with_hydrogens() first")
        return data

    def types_of(self, data: MoleculeBatch) -> Tensor:
        """Index of the type of every point (B, N), -1 at padding, of molecules in the representation of the domain.

        The bonds of environment types are the `environments` of the batch, or else looked up.

        Raises:
            MolflowError: a type that the domain does not have.
        """
        hydrogens = torch.zeros_like(data.atomic_numbers) if data.hydrogens is None else data.hydrogens
        bonds = None
        if self.representation == "environment":
            bonds = data.heavy_bonds() if data.environments is None else data.environments
        codes = type_codes(data.atomic_numbers, hydrogens, bonds)
        place = torch.searchsorted(self.sorted_codes, codes).clamp(max=len(self.types) - 1)
        types = torch.where((self.sorted_codes[place] == codes) & data.mask, self.code_order[place], -1)
        if (strange := data.mask & (types < 0)).any():
            name = code_name(int(codes[strange][0]))
            raise MolflowError(f"{name} is not a type this model knows: {', '.join(self.types)}")
        return types

    def molecules(self, x: Tensor, types: Tensor, mask: Tensor) -> MoleculeBatch:
        """Molecules with all atoms, from positions in model units and types."""
        return self.points_as_molecules(x * self.scale, types, mask).with_hydrogens()

    def points_as_molecules(self, positions: Tensor, types: Tensor, mask: Tensor) -> MoleculeBatch:
        """Molecules whose atoms are the points, from positions in angstrom and types."""
        hydrogens = None if self.representation == "all-atom" else self.type_hydrogens[types] * mask
        environments = None if self.type_bonds is None else self.type_bonds[types] * mask.unsqueeze(-1)
        return MoleculeBatch(positions, self.type_numbers[types] * mask, mask, hydrogens, environments=environments)

    def concatenate(self, parts: Sequence[MoleculeBatch]) -> MoleculeBatch:
        return MoleculeBatch.concatenate(parts)


class MoleculeDomain(_Molecules):
    """Molecules whose types become features by dequantisation, and whose sizes follow the data.

    Args:
        types, representation, scale: as in all domains of molecules.
        atom_counts: distribution of the number of points.
        dequantizer: a `Dequantizer` for as many types.

    Example:
        >>> config = molflow.flows.DOMAINS["molecules"]
        >>> config(types=("H", "C"), representation="all-atom", atom_counts=(0, 0, 1)).build().n_features
        2
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

    def request(self, **ask: Any) -> int | None:
        asked = Ask(**_known(ask))
        if asked.words and (self.representation != "all-atom" or asked != Ask(n_atoms=asked.n_atoms)):
            raise MolflowError(
                f"this model generates the types of atoms, so it cannot be asked for {asked.words}"
                + ("; it can for n_atoms" if self.representation == "all-atom" else "")
            )
        return asked.n_atoms

    def log_prob_of(self, **ask: Any) -> Tensor:
        n = self.request(**ask)
        if n is None:
            return torch.zeros((), dtype=torch.float64)
        return self.atom_counts.log_prob(self.type_numbers.new_tensor([n]))[0]

    def sample_context(
        self,
        n: int,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
        asked: int | None = None,
        condition: Tensor | None = None,
    ) -> Context:
        if asked is None:
            sizes = self.atom_counts.sample(n, generator)
        else:
            sizes = torch.full((n,), asked, device=device)
            if self.atom_counts.log_prob(sizes[:1]).isinf().any():
                raise MolflowError(f"this model makes no molecules of {asked} atoms")
        mask = torch.arange(int(sizes.max()), device=device) < sizes.unsqueeze(1)
        return Context(mask, torch.zeros(*mask.shape, 0, device=device, dtype=dtype))

    def log_prob_context(self, context: Context) -> Tensor:
        return self.atom_counts.log_prob(context.mask.sum(1))


class Request(NamedTuple):
    """What is asked of compositions, and the scaffold that they have room for."""

    constraint: Constraint
    room: Room | None = None


class ComposedMoleculeDomain(_Molecules):
    """Molecules as positions given types: p(molecule) = p(composition) p(positions | types).

    The composition has a distribution of its own, so nothing is dequantised and the flow has (n - 1) D dimensions. A
    composition that is not in a table has probability zero, log p = -inf. As in all other domains the density is over
    ordered points: p(types) = p(composition) / (n! / prod_k n_k!).

    Args:
        types, representation, scale: as in all domains of molecules.
        compositions: distribution of the numbers of points of each type.

    Example:
        >>> molflow.load_pretrained("qm9-allatom").domain
        all-atom molecules of 5 types
    """

    def __init__(self, types: Sequence[str], representation: Representation, scale: float, compositions: Compositions):
        super().__init__(types, representation, scale)
        self.n_features, self.n_labels = 0, len(types)
        self.compositions = compositions

    def to_points(self, data: MoleculeBatch, generator: torch.Generator | None) -> tuple[Points, Context, Tensor]:
        data = self.represented(data)
        x = project(data.positions, data.mask) / self.scale
        context = self._context(self.types_of(data), data.mask, x.dtype)
        correction = self.log_prob_context(context).to(x.dtype) + self.log_unit(data.mask, x.dtype)
        return Points(x, x[..., :0]), context, correction

    def from_points(self, points: Points, context: Context) -> MoleculeBatch:
        return self.molecules(points.x, context.labels.argmax(-1), context.mask)

    def request(self, **ask: Any) -> Request | None:
        asked = Ask(**_known(ask))
        if not asked.words:
            return None
        constraint = constraint_of(asked, self.types, self.type_numbers, self.type_hydrogens)
        if asked.scaffold is None:
            return Request(constraint)
        room = self.room_for(asked.scaffold)
        return Request(replace(constraint, room=room.allowed), room)

    def room_for(self, scaffold: MoleculeBatch) -> Room:
        """What a scaffold asks of compositions.

        Args:
            scaffold: one molecule; where it has hydrogens, a point keeps at least as many as its atom has.

        Raises:
            MolflowError: not one molecule, no atoms, or an atom that no type of this model can be.
        """
        if len(scaffold) != 1 or not scaffold.mask.any():
            raise MolflowError(f"expected a scaffold of one molecule with atoms, got {len(scaffold)} molecules")
        points = self.represented(scaffold)
        real = points.mask[0]
        numbers = points.atomic_numbers[0, real].unsqueeze(1)
        allowed = numbers == self.type_numbers
        if points.hydrogens is not None:
            allowed &= points.hydrogens[0, real].unsqueeze(1) <= self.type_hydrogens
        if self.type_bonds is not None:
            bonds = points.heavy_bonds() if points.environments is None else points.environments
            allowed &= (bonds[0, real].unsqueeze(1) <= self.type_bonds).all(-1)
        if not allowed.any(1).all():
            atom = int(allowed.any(1).int().argmin())
            name = symbol(int(numbers[atom]))
            raise MolflowError(
                f"the scaffold: atom {atom + 1} of those kept, {name}, is no type of this model with the bonds and "
                f"hydrogens that it has; the model has {', '.join(self.types)}"
            )
        return Room(points.positions[0, real] / self.scale, allowed)

    def log_prob_of(self, **ask: Any) -> Tensor:
        request = self.request(**ask)
        if request is None:
            return torch.zeros((), dtype=torch.float64)
        return self.compositions.log_prob_of(request.constraint)

    def sample_context(
        self,
        n: int,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
        asked: Request | None = None,
        condition: Tensor | None = None,
    ) -> Context:
        constraint, room = asked or (None, None)
        types, mask = self.compositions.sample(n, generator, constraint, condition)
        if room is None:
            return self._context(types, mask, dtype)
        types, fixed = room.arranged(types, mask, generator), room.positions.to(dtype).expand(n, -1, -1)
        return self._context(types, mask, dtype)._replace(fixed=fixed)

    def log_prob_context(self, context: Context) -> Tensor:
        composition = context.labels.sum(1).round().long()
        log_factorials = torch.lgamma(torch.cat([composition.sum(-1, keepdim=True), composition], -1).double() + 1)
        log_p = self.compositions.log_prob(composition, context.condition)
        return log_p - (log_factorials[:, 0] - log_factorials[:, 1:].sum(-1))

    def log_prob_of_condition(self, context: Context) -> Tensor:
        if not self.compositions.n_conditions:
            return super().log_prob_of_condition(context)
        return self.log_prob_context(context) - self.log_prob_context(context._replace(condition=None))

    def _context(self, types: Tensor, mask: Tensor, dtype: torch.dtype) -> Context:
        labels = one_hot(types.clamp(min=0), len(self.types)) * mask.unsqueeze(-1)
        return Context(mask, labels.to(dtype))


def _known(ask: dict[str, Any]) -> dict[str, Any]:
    """What is asked, without what is None. Raises MolflowError for something that no molecule can be asked for."""
    for name in ask:
        if name not in Ask._fields:
            raise MolflowError(f"molecules cannot be asked for {name}, only for {', '.join(Ask._fields)}")
    return {name: value for name, value in ask.items() if value is not None}


def type_name(number: int, hydrogens: int, bonds: Sequence[int] | None = None) -> str:
    """(6, 0) -> "C", (6, 3) -> "CH3"; with numbers of single, double and triple bonds (6, 1, (1, 1, 0)) -> "CH.110"."""
    name = symbol(number) + ("" if not hydrogens else "H" if hydrogens == 1 else f"H{hydrogens}")
    return name if bonds is None else f"{name}.{''.join(map(str, bonds))}"


def parse_type(name: str) -> tuple[int, int, tuple[int, ...] | None]:
    """The inverse of `type_name`. Raises ValueError for a name that is none."""
    match = _NAME.fullmatch(name)
    if match is None:
        raise ValueError(
            f"{name!r} is not a type; expected an element, or one with its hydrogens such as CH3, or with its bonds "
            "such as CH.110"
        )
    element, hydrogens, bonds = match.groups()
    n_hydrogens = 0 if hydrogens is None else int(hydrogens[1:] or 1)
    return atomic_number(element), n_hydrogens, None if bonds is None else tuple(map(int, bonds))


def bond_ends(types: Sequence[str]) -> Tensor:
    """The bonds of each type that end at other points of a molecule, by kind, (T, E) integers.

    The kinds are single, double and triple bonds of environment types. For other types all bonds are one kind, by the
    valences of the elements; for elements without a fixed valence nothing is known and E is 0.
    """
    parsed = [parse_type(name) for name in types]
    ends: list[tuple[int, ...]]
    if any(bonds is not None for _, _, bonds in parsed):
        ends = [bonds or (0, 0, 0) for _, _, bonds in parsed]
    elif all(symbol(number) in VALENCES for number, _, _ in parsed):
        ends = [(VALENCES[symbol(number)] - hydrogens,) for number, hydrogens, _ in parsed]
    else:
        ends = [()] * len(parsed)
    return torch.tensor(ends, dtype=torch.int64).view(len(parsed), len(ends[0]) if ends else 0)


def type_codes(numbers: Tensor, hydrogens: Tensor, bonds: Tensor | None = None) -> Tensor:
    """Types as whole numbers that ascend with the element, then the hydrogens, then the bonds.

    Args:
        numbers: atomic numbers (...), integers.
        hydrogens: hydrogens that each atom carries (...).
        bonds: numbers of single, double and triple bonds to heavy atoms (..., 3), for environment types.

    Returns:
        int64 (...), in decimal digits the element, three for hydrogens, one that is 1 if there are bonds, three for
        bonds; a count that has more digits is the largest one.
    """
    codes = (numbers.long() * 1000 + hydrogens.long().clamp(max=999)) * 10_000
    if bonds is None:
        return codes
    digits = bonds.long().clamp(max=9) * torch.tensor([100, 10, 1], device=bonds.device)
    return codes + 1000 + digits.sum(-1)


def code_name(code: int) -> str:
    """The name of the type that has a code of `type_codes`."""
    carrier, bonds = divmod(code, 10_000)
    return type_name(*divmod(carrier, 1000), [int(digit) for digit in str(bonds)[1:]] if bonds else None)
