"""What a user can ask of molecules: a formula, a number of atoms, a composition, certain elements, or a scaffold."""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from molflow.batch import MoleculeBatch
from molflow.chem.elements import atomic_number, symbol
from molflow.distributions.constraint import Constraint
from molflow.errors import MolflowError

_PART = re.compile(r"([A-Z][a-z]?)(\d*)")


class Ask(NamedTuple):
    """What samples must have; each is optional, and several must all hold.

    Attributes:
        formula: such as "C7H10O2", all atoms of a molecule.
        n_atoms: number of atoms, hydrogens included.
        composition: number of points of each type, such as {"CH3": 2, "C": 1}; types that are not named do not occur.
        elements: the only elements that may occur, hydrogen included, such as ("C", "H", "O").
        scaffold: a batch of one molecule whose heavy atoms stay where they are, each with at least the hydrogens and
            the bonds that it has there; all of its atoms in the all-atom representation.
    """

    formula: str | None = None
    n_atoms: int | None = None
    composition: Mapping[str, int] | None = None
    elements: Sequence[str] | None = None
    scaffold: MoleculeBatch | None = None

    @property
    def words(self) -> str:
        """What is asked, for messages."""
        parts = [
            self.formula is not None and f"the formula {self.formula}",
            self.n_atoms is not None and f"{self.n_atoms} atoms",
            self.composition is not None
            and "the composition " + ", ".join(f"{name}={n}" for name, n in self.composition.items()),
            self.elements is not None and f"only the elements {', '.join(self.elements)}",
            self.scaffold is not None and "room for the scaffold",
        ]
        return " and ".join(part for part in parts if part)


def parse_formula(formula: str) -> dict[int, int]:
    """ "C7H10O2" -> {6: 7, 1: 10, 8: 2}.

    Raises:
        MolflowError: not a formula, or an unknown element.
    """
    parts = _PART.findall(formula)
    if not formula or "".join(element + count for element, count in parts) != formula:
        raise MolflowError(f"{formula!r} is not a formula; expected elements and numbers, such as C7H10O2")
    atoms: dict[int, int] = {}
    for element, count in parts:
        number = atomic_number(element)
        atoms[number] = atoms.get(number, 0) + int(count or 1)
    return atoms


def constraint_of(ask: Ask, types: Sequence[str], numbers: Tensor, hydrogens: Tensor) -> Constraint:
    """The compositions that have what is asked, but for the scaffold.

    Args:
        ask: what is asked.
        types: names of the types of points.
        numbers: atomic number of each type, (T,).
        hydrogens: hydrogens that a point of each type carries, (T,).

    Raises:
        MolflowError: an element, or a type, that the model does not have, or a number below 1.
    """
    known = sorted({*numbers.tolist(), *([1] if hydrogens.any() else [])})
    elements = {number: (numbers == number).long() + (hydrogens if number == 1 else 0) for number in known}
    allowed = torch.ones(len(types), dtype=torch.bool, device=numbers.device)
    rows: list[tuple[Tensor, int]] = []
    if ask.formula is not None:
        atoms = parse_formula(ask.formula)
        _check_known(atoms, known, f"the formula {ask.formula}")
        rows += [(amounts, atoms.get(number, 0)) for number, amounts in elements.items()]
    if ask.n_atoms is not None:
        if ask.n_atoms < 1:
            raise MolflowError(f"expected 1 atom or more, got {ask.n_atoms}")
        rows.append((1 + hydrogens, ask.n_atoms))
    if ask.elements is not None:
        wanted = [atomic_number(element) for element in ask.elements]
        _check_known(wanted, known, "the elements asked for")
        for number in set(known) - set(wanted):
            allowed &= elements[number] == 0
    if ask.composition is not None:
        for name, count in ask.composition.items():
            if name not in types:
                raise MolflowError(f"{name} is not a type of this model, which has {', '.join(types)}")
            if count < 0:
                raise MolflowError(f"{name}: expected 0 points or more, got {count}")
        for place, name in enumerate(types):
            if count := ask.composition.get(name, 0):
                rows.append(((torch.arange(len(types), device=numbers.device) == place).long(), count))
            else:
                allowed[place] = False
    # An amount that must be 0 rules out types, which keeps the table of remainders small.
    for amounts, total in rows:
        if total == 0:
            allowed &= amounts == 0
    rows = [(amounts, total) for amounts, total in rows if total]
    empty = torch.zeros(0, len(types), dtype=torch.int64, device=numbers.device)
    amounts = torch.stack([amounts for amounts, _ in rows]) if rows else empty
    totals = torch.tensor([total for _, total in rows], dtype=torch.int64, device=numbers.device)
    return Constraint(allowed, amounts, totals, ask.words)


def _check_known(numbers: Iterable[int], known: Sequence[int], what: str) -> None:
    for number in numbers:
        if number not in known:
            has = " ".join(map(symbol, known))
            raise MolflowError(f"{what}: this model has no {symbol(number)}, only {has}")
