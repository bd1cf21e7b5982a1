"""Bond orders and stability from distances alone, by look-up tables such as EDM's (arXiv 2203.17003).

`BondRules` holds the tables as data. This file needs no torch, so worker processes can ask which elements the tables
cover; the look-up itself is in `lookup`, which is imported when bonds are first looked up.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from molflow.chem.elements import SYMBOLS, atomic_number
from molflow.chem.valences import VALENCES

if TYPE_CHECKING:
    from torch import Tensor

    from molflow.chem.lookup import Tables

    Array = Tensor | np.ndarray

PROTOCOL = "EDM look-up bonds (arXiv 2203.17003)"


@dataclass(frozen=True, eq=False)
class BondRules:
    """Look-up tables: the distances of bonds of each order, and the valences of each element.

    A pair at distance d (pm) has order 1 if d < single + margin 1, order 2 if also d < double + margin 2, order 3 if
    also d < triple + margin 3. An atom is stable when its bond orders sum to one of the valences of its element. A
    molecule is stable when it has atoms and all of them are stable.

    Attributes:
        name: of the tables.
        protocol: the sentence that reports print beside a score.
        lengths: typical lengths of single, double and triple bonds in pm, by pair of elements, each pair once. An order
            or a pair that is absent cannot be assigned.
        valences: the sums of bond orders at which an atom is stable, by element. Its keys are the elements that the
            tables cover.
        margins: pm that a bond of order 1, 2 and 3 may be longer than its typical length.

    Example:
        >>> EDM_QM9.elements, EDM_QM9.covers(np.array([6, 16])).tolist()
        (('H', 'C', 'N', 'O', 'F'), [True, False])
    """

    name: str
    protocol: str
    lengths: Mapping[tuple[str, str], tuple[int, ...]]
    valences: Mapping[str, tuple[int, ...]]
    margins: tuple[int, ...] = (10, 5, 3)

    def __post_init__(self) -> None:
        for (a, b), lengths in self.lengths.items():
            if a not in self.valences or b not in self.valences:
                raise ValueError(f"{self.name}: the length of {a}-{b} is given, but not the valences of both elements")
            if a != b and (b, a) in self.lengths:
                raise ValueError(f"{self.name}: the length of {a}-{b} is given twice")
            if len(lengths) > len(self.margins):
                raise ValueError(
                    f"{self.name}: {a}-{b} has {len(lengths)} lengths, but there are {self.margins} margins"
                )

    @property
    def elements(self) -> tuple[str, ...]:
        """The elements that the tables cover."""
        return tuple(self.valences)

    @cached_property
    def tables(self) -> Tables:
        """The same tables as tensors."""
        from molflow.chem.lookup import Tables

        return Tables.of(self)

    @cached_property
    def _covered(self) -> np.ndarray:
        covered = np.zeros(len(SYMBOLS) + 1, dtype=bool)  # by atomic number
        covered[[atomic_number(element) for element in self.elements]] = True
        return covered

    def covers(self, atomic_numbers: np.ndarray) -> np.ndarray:
        """Whether the tables cover each element: integers of any shape -> bool of that shape, False for 0."""
        numbers = np.asarray(atomic_numbers, dtype=np.int64)
        known = (numbers > 0) & (numbers < len(self._covered))
        return self._covered[numbers * known]

    @cached_property
    def _paired(self) -> np.ndarray:
        paired = np.zeros((len(SYMBOLS) + 1, len(SYMBOLS) + 1), dtype=bool)  # by atomic numbers
        for a, b in self.lengths:
            i, j = atomic_number(a), atomic_number(b)
            paired[i, j] = paired[j, i] = True
        return paired

    def covers_pairs(self, first: np.ndarray, second: np.ndarray) -> np.ndarray:
        """Whether the tables have a length for each pair of elements: atomic numbers of one shape -> bool."""
        covered: np.ndarray = self._paired[first, second]
        return covered

    def bond_orders(
        self, positions: Array, atomic_numbers: Array, mask: Array, *, refuse_foreign: bool = True
    ) -> Tensor:
        """Bond order of every pair of atoms.

        Distances are computed in float64. Atoms at the same position get the highest order their pair has; a NaN
        distance is no bond.

        Args:
            positions: (B, N, 3), Å, torch or numpy, as the other arguments.
            atomic_numbers: (B, N) integers.
            mask: (B, N) bool, True for a real atom.
            refuse_foreign: raise for an element outside the tables; otherwise its atoms have no bonds.

        Returns:
            (B, N, N) int8, symmetric, zero on the diagonal and wherever an atom is padding.

        Raises:
            MolflowError: shapes that disagree, an atomic number that is no element, or an element outside the tables,
                named with its place in the batch.
        """
        from molflow.chem.lookup import bond_orders

        return bond_orders(self, positions, atomic_numbers, mask, refuse_foreign)

    def stability(
        self, positions: Array, atomic_numbers: Array, mask: Array, hydrogens: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """Whether each atom and each molecule is stable.

        A molecule with an element outside the tables is not stable, and neither is any of its atoms.

        Args:
            positions: (B, N, 3), Å.
            atomic_numbers: (B, N) integers.
            mask: (B, N) bool, True for a real atom.
            hydrogens: (B, N) hydrogens that united atoms carry; each counts as a single bond of its atom. This assumes
                that each hydrogen is placed so that it bonds to its own atom alone. Compute published figures on
                molecules with all atoms.

        Returns:
            atoms (B, N) bool, False for padding, and molecules (B,) bool.

        Raises:
            MolflowError: shapes that disagree, or an atomic number that is no element.
        """
        orders = self.bond_orders(positions, atomic_numbers, mask, refuse_foreign=False)
        return self.stability_of_orders(orders, atomic_numbers, mask, hydrogens)

    def stability_of_orders(
        self, orders: Tensor, atomic_numbers: Array, mask: Array, hydrogens: Array | None = None
    ) -> tuple[Tensor, Tensor]:
        """`stability` for bond orders (B, N, N) that are known already."""
        from molflow.chem.lookup import stability_of_orders

        return stability_of_orders(self, orders, atomic_numbers, mask, hydrogens)


EDM_QM9 = BondRules(
    name="EDM's tables for QM9",
    protocol=PROTOCOL,
    lengths={
        ("H", "H"): (74,),
        ("H", "C"): (109,),
        ("H", "N"): (101,),
        ("H", "O"): (96,),
        ("H", "F"): (92,),
        ("C", "C"): (154, 134, 120),
        ("C", "N"): (147, 129, 116),
        ("C", "O"): (143, 120, 113),
        ("C", "F"): (135,),
        ("N", "N"): (145, 125, 110),
        ("N", "O"): (140, 121),
        ("N", "F"): (136,),
        ("O", "O"): (148, 121),
        ("O", "F"): (142,),
        ("F", "F"): (142,),
    },
    valences={element: (valence,) for element, valence in VALENCES.items()},
)
"""The part of EDM's tables for the elements of QM9; valences H 1, C 4, N 3, O 2, F 1."""


EDM_GEOM = BondRules(
    name="EDM's tables",
    protocol=PROTOCOL,
    lengths={
        **EDM_QM9.lengths,
        ("H", "B"): (119,), ("H", "Si"): (148,), ("H", "P"): (144,), ("H", "S"): (134,), ("H", "Cl"): (127,),
        ("H", "As"): (152,), ("H", "Br"): (141,), ("H", "I"): (161,),
        ("C", "Si"): (185,), ("C", "P"): (184,), ("C", "S"): (182, 160), ("C", "Cl"): (177,),
        ("C", "Br"): (194,), ("C", "I"): (214,),
        ("N", "P"): (177,), ("N", "S"): (168,), ("N", "Cl"): (175,), ("N", "Br"): (214,), ("N", "I"): (222,),
        ("O", "Si"): (163,), ("O", "P"): (163, 150), ("O", "S"): (151,), ("O", "Cl"): (164,),
        ("O", "Br"): (172,), ("O", "I"): (194,),
        ("F", "Si"): (160,), ("F", "P"): (156,), ("F", "S"): (158,), ("F", "Cl"): (166,), ("F", "Br"): (178,),
        ("F", "I"): (187,),
        ("B", "Cl"): (175,),
        ("Si", "Si"): (233,), ("Si", "S"): (200,), ("Si", "Cl"): (202,), ("Si", "Br"): (215,),
        ("Si", "I"): (243,),
        ("P", "P"): (221,), ("P", "S"): (210, 186), ("P", "Cl"): (203,), ("P", "Br"): (222,),
        ("S", "S"): (204,), ("S", "Cl"): (207,), ("S", "Br"): (225,), ("S", "I"): (234,),
        ("Cl", "Cl"): (199,), ("Cl", "Br"): (214,),
        ("Br", "Br"): (228,),
        ("I", "I"): (266,),
    },
    valences={
        **EDM_QM9.valences,
        "B": (3,), "Al": (3,), "Si": (4,), "P": (3, 5), "S": (4,), "Cl": (1,), "As": (3,), "Br": (1,), "I": (1,),
        "Hg": (1, 2), "Bi": (3, 5),
    },
)  # fmt: skip
"""The tables of EDM's code for 16 elements, behind published figures of QM9 and GEOM-Drugs, which `evaluate` uses.

For the elements of QM9 they equal `EDM_QM9`. They know sulfur with four bonds alone, so a thiol or a thioether is not
stable by them, and Al, Hg and Bi have valences but no bonds.
"""


def bond_orders(positions: Array, atomic_numbers: Array, mask: Array, rules: BondRules = EDM_QM9) -> Tensor:
    """Bond orders (B, N, N) int8 of a batch of molecules. See `BondRules.bond_orders`.

    Args:
        positions: (B, N, 3), Å.
        atomic_numbers: (B, N) integers.
        mask: (B, N) bool, True for a real atom.
        rules: the look-up tables.

    Example:
        >>> hydrogen = np.array([[[0.0, 0.0, 0.0], [0.0, 0.0, 0.74]]])
        >>> bond_orders(hydrogen, np.array([[1, 1]]), np.ones((1, 2), bool)).tolist()
        [[[0, 1], [1, 0]]]
    """
    return rules.bond_orders(positions, atomic_numbers, mask)


def orders_of_one(positions: np.ndarray, atomic_numbers: np.ndarray, rules: BondRules = EDM_QM9) -> np.ndarray:
    """`bond_orders` of a single molecule: positions (n, 3) and atomic_numbers (n,) -> (n, n) int8."""
    mask = np.ones((1, len(atomic_numbers)), dtype=bool)
    return rules.bond_orders(positions[None], atomic_numbers[None], mask)[0].numpy()


def stability(
    positions: Array,
    atomic_numbers: Array,
    mask: Array,
    hydrogens: Array | None = None,
    rules: BondRules = EDM_QM9,
) -> tuple[Tensor, Tensor]:
    """Whether each atom (B, N) and each molecule (B,) is stable. See `BondRules.stability`.

    Args:
        positions: (B, N, 3), Å.
        atomic_numbers: (B, N) integers.
        mask: (B, N) bool, True for a real atom.
        hydrogens: (B, N), hydrogens that each atom carries and that are not among the atoms, or None.
        rules: the look-up tables.

    Example:
        >>> water = [[[0.0, 0.0, 0.0], [0.96, 0.0, 0.0], [-0.24, 0.93, 0.0]]]
        >>> atoms, molecules = stability(np.array(water), np.array([[8, 1, 1]]), np.ones((1, 3), bool))
        >>> molecules.tolist()
        [True]
    """
    return rules.stability(positions, atomic_numbers, mask, hydrogens)


def stability_of_orders(
    orders: Tensor,
    atomic_numbers: Array,
    mask: Array,
    hydrogens: Array | None = None,
    rules: BondRules = EDM_QM9,
) -> tuple[Tensor, Tensor]:
    """`stability` for bond orders (B, N, N) that are known already.

    Args:
        orders: (B, N, N) integers.
        atomic_numbers, mask, hydrogens, rules: as in `stability`.

    Example:
        >>> orders = torch.tensor([[[0, 1], [1, 0]]], dtype=torch.int8)
        >>> stability_of_orders(orders, np.array([[1, 1]]), np.ones((1, 2), bool))[1].tolist()
        [True]
    """
    return rules.stability_of_orders(orders, atomic_numbers, mask, hydrogens)
