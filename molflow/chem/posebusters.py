"""PoseBusters' checks of a single molecule: bond lengths and angles, clashes, flatness, internal energy and others.

The thresholds are those of its configuration "mol". Lengths, angles and clashes concern heavy atoms only. The checks
are called one by one, without the tables that PoseBusters makes of their results, which take longer than the checks.

Source: M. Buttenschoen, G. M. Morris, C. M. Deane, Chem. Sci. 15 (2024) 3130.
"""

from __future__ import annotations

import logging
from contextlib import contextmanager
from functools import cache
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from molflow.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from rdkit import Chem

PROTOCOL = 'PoseBusters (Chem. Sci. 15 (2024) 3130), configuration "mol" without the internal energy'

MOST_ATOMS = 60
"""Largest number of atoms of a molecule whose internal energy is checked; 50 conformers of it take seconds."""

ATTEMPTS = 20
"""RDKit must embed a first conformer within as many attempts, or the internal energy is not checked."""

ENERGY_PROTOCOL = (
    "PoseBusters (Chem. Sci. 15 (2024) 3130), internal energy: by UFF, at most 100 x the mean of 50 conformers; "
    f"up to {MOST_ATOMS} atoms that RDKit embeds within {ATTEMPTS} attempts"
)


class _Check(NamedTuple):
    """A module of PoseBusters' configuration.

    Attributes:
        function: takes the molecule and returns results by name.
        outputs: names of its results that are passed or failed -> their names in PoseBusters' tables.
    """

    function: Callable[[Chem.Mol], dict[str, Any]]
    outputs: dict[str, str]

    def outcomes(self, mol: Chem.Mol) -> dict[str, bool | None]:
        """Whether the molecule passes; None if the check cannot be made."""
        results = self.function(mol)
        values = {name: results.get(output) for output, name in self.outputs.items()}
        return {name: None if value is None or value != value else bool(value) for name, value in values.items()}


def checks(mol: Chem.Mol) -> dict[str, bool | None]:
    """Whether a sanitised molecule with hydrogens and a conformer passes each check; None if a check cannot be made.

    Args:
        mol: the molecule; it is not changed.

    Raises:
        MolflowError: PoseBusters is not installed.
    """
    from rdkit import Chem

    found: dict[str, bool | None] = {}
    with _silence():
        for check in _configured()["checks"]:
            found |= check.outcomes(Chem.Mol(mol))
    return found


def failed_checks(mol: Chem.Mol) -> tuple[str, ...]:
    """The names of the `checks` that a molecule fails, as in PoseBusters' tables.

    Raises:
        MolflowError: PoseBusters is not installed.
    """
    return tuple(name for name, passed in checks(mol).items() if passed is False)


def passes_energy(mol: Chem.Mol) -> bool | None:
    """Whether the internal energy by UFF is at most 100 times the mean of 50 conformers; None if it is not checked.

    PoseBusters embeds the conformers with a fixed seed, so results are reproducible. Water, methane and others whose
    lowest energy is 0 fail unless they are at that minimum. A molecule of QM9 takes 0.2 s. Small fused rings of which
    RDKit embeds no conformer would take tens of seconds, and have no result.

    Args:
        mol: sanitised, with hydrogens and a conformer; it is not changed.

    Raises:
        MolflowError: PoseBusters is not installed.
    """
    from rdkit import Chem

    (check,) = _configured()["energy"]
    with _silence():
        if mol.GetNumAtoms() > MOST_ATOMS or not _embeds(mol):
            return None
        (passes,) = check.outcomes(Chem.Mol(mol)).values()
    return passes


def check_installed() -> None:
    """Raise MolflowError unless PoseBusters is installed."""
    _configured()


@cache
def _configured() -> dict[str, list[_Check]]:
    """The checks of the configuration "mol"; that of the energy apart."""
    package = import_extra("posebusters", "posebusters", "checking by PoseBusters")
    found: dict[str, list[_Check]] = {"checks": [], "energy": []}
    for module in package.PoseBusters(config="mol").config["modules"]:
        outputs, names = module.get("chosen_binary_test_output"), module.get("rename_outputs", {})
        if not outputs:  # the energy is listed a second time, without an outcome
            continue
        kind, parameters = module["function"], module.get("parameters", {})
        if kind == "energy_ratio":
            parameters = parameters | {"num_threads": 1}
        function = _library_check(package.posebusters.module_dict[kind], parameters)
        if kind == "distance_geometry":
            function = _geometry_check(parameters)
        shown = {name: names.get(name, name).lower().replace(" ", "_") for name in outputs}
        found["energy" if kind == "energy_ratio" else "checks"].append(_Check(function, shown))
    return found


def _library_check(function: Callable[..., Any], parameters: dict[str, Any]) -> Callable[[Chem.Mol], dict[str, Any]]:
    def run(mol: Chem.Mol) -> dict[str, Any]:
        results: dict[str, Any] = function(mol_pred=mol, **parameters)["results"]
        return results

    return run


def _geometry_check(parameters: dict[str, Any]) -> Callable[[Chem.Mol], dict[str, Any]]:
    """`check_geometry` of PoseBusters with arrays in place of tables of pairs, which take thirty times as long.

    A pair of heavy atoms violates RDKit's distance bounds by (d - bound) / bound. The thresholds differ for bonds,
    for both ends of an angle, and for all other pairs, which can only be too close.
    """
    most_bond, most_angle, most_clash = (
        parameters[f"threshold_{name}"] for name in ("bad_bond_length", "bad_angle", "clash")
    )

    def run(mol: Chem.Mol) -> dict[str, Any]:
        from rdkit import Chem
        from rdkit.Chem import rdDistGeom

        if Chem.SanitizeMol(mol, catchErrors=True):
            return {}
        try:
            bounds = rdDistGeom.GetMoleculeBoundsMatrix(mol, **parameters["bound_matrix_params"])
        except RuntimeError:
            return {}
        low, high = np.tril(bounds), np.triu(bounds).T
        _symmetrise(low, high, mol)
        heavy = np.array([atom.GetAtomicNum() > 1 for atom in mol.GetAtoms()])
        i, j = np.nonzero(np.tril(heavy[:, None] & heavy, -1))
        positions = mol.GetConformer().GetPositions()
        distance, low, high = np.linalg.norm(positions[i] - positions[j], axis=1), low[i, j], high[i, j]
        error = np.minimum(distance / low - 1, 0) + np.maximum(distance / high - 1, 0)
        bonded = Chem.GetAdjacencyMatrix(mol)
        bond = bonded[i, j] > 0
        angle = ~bond & ((bonded @ bonded)[i, j] > 0)
        return {
            "bond_lengths_within_bounds": (np.abs(error[bond]) <= most_bond).all(),
            "bond_angles_within_bounds": (np.abs(error[angle]) <= most_angle).all(),
            "no_internal_clash": (error[~bond & ~angle] >= -most_clash).all(),
        }

    return run


def _symmetrise(low: np.ndarray, high: np.ndarray, mol: Chem.Mol) -> None:
    """Give conjugated terminal bonds of equal elements, as those of a carboxylate, their widest bounds, in place."""
    kinds: dict[tuple[int, ...], list[tuple[int, int]]] = {}
    for match in mol.GetSubstructMatches(_terminal_bonds()):
        elements = sorted(mol.GetAtomWithIdx(atom).GetAtomicNum() for atom in match)
        kinds.setdefault(tuple(elements), []).append((max(match), min(match)))
    for pairs in kinds.values():
        i, j = np.transpose(pairs)
        low[i, j], high[i, j] = low[i, j].min(), high[i, j].max()


@cache
def _terminal_bonds() -> Chem.Mol:
    from rdkit import Chem

    return Chem.MolFromSmarts("[O,N;D1;$([O,N;D1]-[*]=[O,N;D1]),$([O,N;D1]=[*]-[O,N;D1])]~[*]")


def _embeds(mol: Chem.Mol) -> bool:
    """Whether RDKit embeds one conformer within `ATTEMPTS`, made as PoseBusters makes its fifty."""
    from rdkit import Chem
    from rdkit.Chem import inchi, rdDistGeom

    names: Any = inchi  # has no types
    parsed = names.MolFromInchi(names.MolToInchi(mol))
    if parsed is None:
        return False
    settings: Any = rdDistGeom.ETKDGv3()
    settings.randomSeed, settings.useRandomCoords, settings.numThreads = 42, True, 1
    settings.maxIterations = ATTEMPTS
    found: int = rdDistGeom.EmbedMolecule(Chem.AddHs(parsed), settings)
    return found == 0


@contextmanager
def _silence() -> Iterator[None]:
    """Silence PoseBusters and RDKit, then restore RDKit's log channels, since PoseBusters enables all of them."""
    from rdkit import rdBase

    channels = dict(line.split(":") for line in rdBase.LogStatus().splitlines())
    loggers = [logging.getLogger(name) for name in ("posebusters", "rdkit")]
    levels = [logger.level for logger in loggers]
    for logger in loggers:
        logger.setLevel(logging.CRITICAL + 1)
    try:
        yield
    finally:
        for logger, level in zip(loggers, levels, strict=True):
            logger.setLevel(level)
        for channel, status in channels.items():
            if status != "enabled":
                rdBase.DisableLog(channel)
