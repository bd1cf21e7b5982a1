"""Molecules of a page's gallery: drawn at random from those that stream past, and described in plain values."""

import random
import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from heapq import heappush, heappushpop
from typing import Any

SEED = 0
"""Seed of the draw, so that the same file gives the same page."""


@dataclass(frozen=True)
class Example:
    """A molecule of the gallery.

    Attributes:
        name: the origin of the molecule, such as "record 17".
        status: one word; readers can filter by it.
        reason: why the molecule failed, in words; empty if it did not.
        smiles: SMILES by the bonds that are drawn, or None.
        depiction: a drawing in two dimensions, SVG.
        elements: symbols of the n atoms.
        positions: positions of the n atoms, Å.
        bonds: pairs of atoms, counted from 0, with their orders 1 to 3.
        charges: formal charges of the n atoms; empty if none is charged.
        marked: atoms that the reason is about, counted from 0.
        source: the set of molecules that it is from; readers can filter by it. Empty if there is one set.
    """

    name: str
    status: str
    reason: str
    smiles: str | None
    depiction: str
    elements: Sequence[str]
    positions: Sequence[Sequence[float]]
    bonds: Sequence[tuple[int, int, int]]
    charges: Sequence[int] = ()
    marked: Sequence[int] = ()
    source: str = ""

    @property
    def kind(self) -> str:
        """The reason without the places of atoms, which molecules that failed in the same way share."""
        return re.sub(r" \(atoms? [^)]*\)", "", re.sub(r"\batom \d+ \((\w+)\)", r"\1", self.reason))


def example(name: str, structure: Any, report: Any, source: str = "") -> Example:
    """Make a molecule of the gallery.

    Args:
        name: the origin of the molecule, such as "record 17".
        structure: a `Structure` with finite positions; bonds are looked up unless it has them.
        report: its `MoleculeReport`. The bonds behind its main figures are drawn; perceived ones also for a
            molecule that the look-up tables do not know.
        source: name of the set that it is from, if there are several.

    Example:
        >>> molecule = next(molflow.load_pretrained("qm9").sample(1, seed=0).structures())
        >>> report = molflow.evaluation.inspect(molecule)
        >>> example("molecule 1", molecule, report).status == report.status
        True
    """
    from molflow.chem import symbol
    from molflow.chem.depict import depict, drawn

    positions, numbers, _ = structure
    mol = _mol_of(positions, numbers, report)
    shown = drawn(*structure, mol=mol)
    marked = marked_atoms(report.reason, len(numbers), shown.bonds.tolist())
    return Example(
        name=name,
        status=report.status,
        reason=report.reason,
        smiles=report.perceived_smiles if mol is not None and report.bonds == "lookup" else report.smiles,
        depiction=depict(positions, numbers, shown, marked=marked),
        elements=[symbol(number) for number in numbers.tolist()],
        positions=positions.tolist(),
        bonds=[(i, j, order) for i, j, order in shown.bonds.tolist()],
        charges=shown.charges.tolist() if shown.charges.any() else (),
        marked=marked,
        source=source,
    )


def _mol_of(positions: Any, numbers: Any, report: Any) -> Any:
    """The RDKit molecule with the bonds behind the figures of a report; None where they are looked up, or unknown."""
    from molflow.chem.perception import perceive
    from molflow.chem.stated import stated_mol

    if report.bonds == "given":
        return stated_mol(positions, numbers, report.stated)[0]
    if report.perceived_valid and (report.bonds == "perceived" or report.status == "unsupported"):
        return perceive(positions, numbers, report.charge).mol
    return None


def marked_atoms(reason: str, n_atoms: int, bonds: Sequence[Sequence[int]]) -> list[int]:
    """The atoms that a reason names, and those outside the largest fragment if it names several fragments.

    Example:
        >>> marked_atoms("two atoms on one spot (atoms 1 and 3)", 4, [(0, 1, 1)])
        [0, 2]
        >>> marked_atoms("2 fragments; atom 1 (C) has valence 3, expected 4", 3, [(0, 1, 1)])
        [0, 2]
    """
    named = {int(place) - 1 for pair in re.findall(r"\batoms? (\d+)(?: and (\d+))?", reason) for place in pair if place}
    if re.search(r"\b\d+ fragments", reason):
        named |= _outside_largest(n_atoms, bonds)
    return sorted(atom for atom in named if atom < n_atoms)


def _outside_largest(n_atoms: int, bonds: Sequence[Sequence[int]]) -> set[int]:
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    ends = np.array([bond[:2] for bond in bonds], dtype=np.int64).reshape(-1, 2).T
    graph = coo_array((np.ones(len(bonds)), tuple(ends)), shape=(n_atoms, n_atoms))
    _, fragment = connected_components(graph, directed=False)
    return set(np.flatnonzero(fragment != np.bincount(fragment).argmax()).tolist())


class Draw:
    """A random draw of molecules that are added one by one, of bounded size.

    Each molecule gets a random number, and of each source and status those with the smallest are kept. In their order
    the first `most` molecules are a uniform draw of all, and further ones fill up the rarer statuses.

    Args:
        n_sources: number of sources; more of them have fewer molecules each, so that a page stays small.

    Example:
        >>> draw = Draw()
        >>> structures = list(molflow.load_pretrained("qm9").sample(3, seed=0).structures())
        >>> for number, report in enumerate(molflow.evaluation.inspect_all(structures, scope="lookup", workers=0)):
        ...     draw.add("", f"molecule {number}", structures[number], report)
        >>> len(draw.examples())
        3
    """

    def __init__(self, n_sources: int = 1) -> None:
        self.most = max(4, 48 // n_sources)  # of each source and status
        self._several = n_sources > 1
        self._random = random.Random(SEED)
        self._kept: dict[tuple[str, str], list[Any]] = defaultdict(list)  # heaps, the largest number first

    def add(self, source: str, name: str, structure: Any, report: Any) -> None:
        """Add a molecule; arguments as those of `example`."""
        heap = self._kept[source, report.status]
        number = self._random.random()
        item = (-number, name, structure, report, source if self._several else "")
        if len(heap) < self.most:
            heappush(heap, item)
        elif -number > heap[0][0]:
            heappushpop(heap, item)

    def items(self) -> list[Any]:
        """The arguments of `example` for the molecules drawn, in random order."""
        return [item[1:] for item in sorted((i for heap in self._kept.values() for i in heap), key=lambda i: -i[0])]

    def examples(self) -> list[Example]:
        """The molecules drawn, in random order."""
        return [example(*item) for item in self.items()]
