"""Evaluation options: how much is computed for each molecule, and what the scores are compared with."""

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, get_args

from molflow.errors import MolflowError

if TYPE_CHECKING:
    from molflow.evaluation.novelty import TrainingReference

Bonds = Literal["lookup", "perceived", "file", "auto"]
BONDS: tuple[Bonds, ...] = get_args(Bonds)
"""Protocols of bonds, see `molflow.evaluation.protocols`."""

Unit = Literal["angstrom", "nm", "bohr"]

Scope = Literal["stability", "lookup", "all"]
SCOPES: tuple[Scope, ...] = get_args(Scope)
"""How much is computed for each molecule; each scope includes those before it."""

SECONDS = 10.0
"""Default limit of processor time for one molecule."""

EXTRAS = ("strain", "posebusters", "posebusters_energy")
"""What is computed on demand; a molecule that fails with them is inspected without them."""


@dataclass(frozen=True, kw_only=True)
class EvaluationOptions:
    """Options of `evaluate` and `inspect_all`, checked when they are made.

    Attributes:
        reference: name of a data set in `REFERENCES`, whose recorded scores are reported beside these.
        training: training molecules for novelty, such as `qm9_training_reference()`. Metrics that need them are left
            out without it.
        scope: "stability" uses look-up bonds and no RDKit, 0.02 ms for a molecule of QM9; "lookup" adds validity,
            uniqueness and novelty by the same bonds, 0.5 ms; "all" adds perceived bonds, shapes and descriptors, 5 ms,
            in worker processes.
        bonds: the protocol that fills the main figures: "lookup" by EDM's tables, "perceived" by RDKit, "file" as the
            file gives them, "auto" as the file gives them or else perceived. All but "lookup" need the scope "all".
        charge: net charge of each molecule for perceived bonds, or the name of the field of a record that has it; by
            default the one that the file states, else 0.
        unit: of the coordinates, "angstrom", "nm" or "bohr".
        add_hydrogens: complete molecules that have no hydrogens and lack some, by `molflow.chem.stated.completed`.
        strain: method of `molflow.chem.relaxation.METHODS` for strain energies. "mmff94" doubles the time,
            "gfn2-xtb" (extra `xtb`) takes far longer.
        posebusters: run the checks of PoseBusters (extra `posebusters`), 4 ms a molecule of QM9.
        posebusters_energy: also compare the internal energy with that of conformers, as PoseBusters does, 0.2 s;
            left out where RDKit takes long to embed them, see `molflow.chem.posebusters.passes_energy`.
        workers: number of worker processes, by default one for each core with the scope "all", and none with "lookup".
            0 inspects in this process, where a molecule that hangs cannot be stopped; this is the default on Windows.
        seconds: limit of processor time for one molecule.
        progress: show progress bars on stderr.

    Raises:
        MolflowError: an unknown reference, scope or method, a package that is not installed, or strain or posebusters
            with a smaller scope than "all".
    """

    reference: str | None = None
    training: "TrainingReference | None" = None
    scope: Scope = "all"
    bonds: Bonds = "lookup"
    charge: int | str | None = None
    unit: Unit = "angstrom"
    add_hydrogens: bool = False
    strain: str | None = None
    posebusters: bool = False
    posebusters_energy: bool = False
    workers: int | None = None
    seconds: float = SECONDS
    progress: bool = False

    def __post_init__(self) -> None:
        if self.scope not in SCOPES:
            raise MolflowError(f"unknown scope {self.scope!r}; expected one of {' '.join(SCOPES)}")
        if self.bonds not in BONDS:
            raise MolflowError(f"unknown bonds {self.bonds!r}; expected one of {' '.join(BONDS)}")
        if self.scope != "all" and (self.bonds != "lookup" or self.charge is not None):
            raise MolflowError(f"bonds and charge need the scope 'all', not {self.scope!r}")
        if self.scope != "all" and any(getattr(self, name) for name in EXTRAS):
            raise MolflowError(f"strain and posebusters need the scope 'all', not {self.scope!r}")
        if self.reference is not None:
            from molflow.evaluation.reference import check_reference

            check_reference(self.reference)
        check_extras(self.strain, self.posebusters or self.posebusters_energy)

    def covers(self, scope: Scope) -> bool:
        """Whether this scope includes another."""
        return SCOPES.index(scope) <= SCOPES.index(self.scope)

    @property
    def net_charge(self) -> int | None:
        """The charge of every molecule; None where each has its own."""
        return None if isinstance(self.charge, str) else self.charge

    @property
    def inspection(self) -> dict[str, Any]:
        """What the report on a molecule depends on."""
        names = ("scope", "bonds", "charge", "unit", "add_hydrogens", "seconds", *EXTRAS)
        return {name: getattr(self, name) for name in names}

    @property
    def keywords(self) -> dict[str, Any]:
        """Keyword arguments of `inspect` that differ from their defaults."""
        found: dict[str, Any] = {name: getattr(self, name) or None for name in EXTRAS}
        found |= {"bonds": None if self.bonds == "lookup" else self.bonds, "charge": self.net_charge}
        return {name: value for name, value in found.items() if value is not None}


def check_extras(strain: str | None, posebusters: bool) -> None:
    """Raise MolflowError for an unknown method of strain or a package that is not installed."""
    if strain is not None:
        from molflow.chem.relaxation import check_method

        check_method(strain)
    if posebusters:
        from molflow.chem.posebusters import check_installed

        check_installed()
