"""Reports on single molecules: plain values that worker processes send back, with the reason of a failure in words."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, fields
from typing import Any

import numpy as np

from molflow.chem.relaxation import Strain
from molflow.chem.structure import Stated
from molflow.evaluation.screening import Descriptors

STATUSES: dict[str, str] = {
    "stable": "one fragment, and every atom has its valence, by the bonds of the protocol",
    "unstable": "RDKit accepts the bonds, but an atom has the wrong valence",
    "disconnected": "several fragments",
    "invalid": "RDKit refuses the bonds, two atoms coincide, a coordinate is not finite, or there are no atoms",
    "unsupported": "an element, or a pair of elements at the distance of a bond, that no look-up table has: a failure "
    "by look-up bonds, but scored by perceived ones; or more atoms than are supported",
    "timed out": "not finished within the time limit",
    "crashed": "ended its worker process, or raised an unexpected error",
    "unscored": "in no figure: a drawing, not in angstrom, without hydrogens, or without the bonds that were asked for",
    "unreadable": "a record of a file that could not be read",
}
"""Meaning of each status. If several apply, a molecule has the last one in the order stable, ..., invalid."""


@dataclass(frozen=True, kw_only=True, slots=True)
class MoleculeReport:
    """Results of the inspection of one molecule.

    Attributes:
        n_atoms, formula: number of atoms, and molecular formula.
        source, record: the file, empty for molecules in memory, and the number of the record, from 1.
        status, reason: see `STATUSES`; the reason of a stable molecule is empty.
        stable_atoms, stable: number of stable atoms, and whether all are, by EDM's look-up rules.
        valid: RDKit sanitises the molecule with the look-up bonds and no added hydrogens.
        connected: valid and one fragment.
        fragments: number of fragments by the look-up bonds.
        smiles: canonical SMILES by the look-up bonds; None if not valid.
        edm_smiles: canonical SMILES, with explicit hydrogens, of the largest fragment by the look-up bonds with missing
            hydrogens implied, as EDM's code counts a molecule; None if RDKit refuses the whole.
        qm9_elements: all elements are those of QM9.
        lookup_covered: EDM's tables, `molflow.chem.bonds.EDM_GEOM`, have every element and the length of every pair of
            elements that is at the distance of a bond.
        largest_fragment_valid: RDKit sanitises the largest fragment by the look-up bonds, whatever the others are.
        perceived_stable_atoms, perceived_stable: stability by charge-aware valences on bonds that RDKit perceives, see
            `molflow.chem.perceive`.
        charge_separated: a fragment by perceived bonds has a charged carbon or an O+ beside the opposite charge.
        perceived_valid: every fragment gets bond orders, and RDKit sanitises the whole.
        perceived_connected: perceived_valid and one fragment.
        perceived_fragments: number of fragments by RDKit's connectivity.
        perceived_smiles: canonical SMILES by perceived bonds; None if not perceived_valid.
        perception: the first problem of the perceived bonds, in words.
        default_connected: RDKit's DetermineBonds with default settings gives one fragment that it sanitises.
        given: whether the file gives bonds; the fields given_... are the same figures by its bonds and formal charges:
            given_stable_atoms, given_stable, given_valid, given_connected, given_smiles, given_problem.
        bonds: the bonds behind stable_atoms, stable, valid, connected, fragments and smiles: "lookup", "perceived" or
            "given".
        charge: net charge that bonds are perceived with.
        unpaired: number of unpaired electrons that the file states, or else 1 if the number of electrons is odd.
        agree: the bonds of the file and the perceived ones give mesomeric forms of one molecule.
        lookup_stable_atoms, lookup_stable, lookup_valid, lookup_connected: the figures by look-up bonds, if
            stable_atoms, stable, valid, connected, fragments and smiles are by another protocol.
        clashes: number of clashing pairs of atoms, see `CLASH_FRACTION`; None if not lookup_covered.
        descriptors: None if not perceived_connected.
        strain: None if not asked for, not perceived_connected, or without parameters for the molecule.
        posebusters: names of the failed checks; None if not asked for or not perceived_connected.
        posebusters_energy: whether the internal energy passes; None if not asked for, not perceived_connected, or left
            out, see `molflow.chem.posebusters.passes_energy`.
        measured: bins of `molflow.evaluation.distributions` and their counts, (2, k); not compared.
        stated: what the file states of the molecule; not compared, and not sent between processes.
    """

    n_atoms: int
    formula: str
    status: str
    reason: str = ""
    source: str = ""
    record: int | None = None
    stable_atoms: int = 0
    stable: bool = False
    valid: bool = False
    connected: bool = False
    fragments: int = 0
    smiles: str | None = None
    edm_smiles: str | None = None
    qm9_elements: bool = False
    lookup_covered: bool = False
    largest_fragment_valid: bool = False
    perceived_stable_atoms: int = 0
    perceived_stable: bool = False
    charge_separated: bool = False
    perceived_valid: bool = False
    perceived_connected: bool = False
    perceived_fragments: int = 0
    perceived_smiles: str | None = None
    perception: str = ""
    default_connected: bool = False
    given: bool = False
    given_stable_atoms: int = 0
    given_stable: bool = False
    given_valid: bool = False
    given_connected: bool = False
    given_smiles: str | None = None
    given_problem: str = ""
    bonds: str = "lookup"
    charge: int = 0
    unpaired: int = 0
    agree: bool = False
    lookup_stable_atoms: int = 0
    lookup_stable: bool = False
    lookup_valid: bool = False
    lookup_connected: bool = False
    clashes: int | None = None
    descriptors: Descriptors | None = None
    strain: Strain | None = None
    posebusters: tuple[str, ...] | None = None
    posebusters_energy: bool | None = None
    measured: Any = field(default=None, repr=False, compare=False)
    stated: Stated | None = field(default=None, repr=False, compare=False)

    def to_dict(self) -> dict[str, Any]:
        """One row of a table: all fields but the last two, with descriptors and strain as columns of their own."""
        apart = ("source", "record", "descriptors", "strain", "posebusters", "measured", "stated")
        row = {"source": self.source, "record": self.record}
        row |= {name: getattr(self, name) for name in self.__slots__ if name not in apart}
        row |= self.descriptors._asdict() if self.descriptors else dict.fromkeys(Descriptors._fields)
        found = self.strain._asdict() if self.strain else dict.fromkeys(Strain._fields)
        row |= {f"strain_{name}": value for name, value in found.items()}
        passed = None if self.posebusters is None else not self.posebusters
        return row | {"posebusters_passed": passed, "posebusters_failed": ", ".join(self.posebusters or ())}

    def to_message(self) -> dict[str, Any]:
        """Values for JSON, which `from_message` reads; fields with their default are left out."""
        found = {f.name: getattr(self, f.name) for f in fields(self) if f.name != "stated"}
        if self.measured is not None:
            found["measured"] = self.measured.tolist()
        return {f.name: found[f.name] for f in fields(self) if f.name in found and found[f.name] != f.default}

    @classmethod
    def from_message(cls, message: dict[str, Any]) -> MoleculeReport:
        """Read the values that `to_message` wrote."""
        makers: dict[str, Callable[[Any], Any]] = {
            "descriptors": lambda found: Descriptors(*found),
            "strain": lambda found: Strain(*found),
            "posebusters": tuple,
            "measured": lambda found: np.array(found, dtype=np.int32).reshape(2, -1),
        }
        return cls(**{name: makers[name](value) if name in makers else value for name, value in message.items()})
