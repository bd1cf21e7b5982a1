"""Protocols of bonds: looked up, perceived, or given by the file; one of them fills the main figures of a report.

Nothing here loads torch.
"""

from dataclasses import replace
from typing import Any

import numpy as np

from molflow.chem import perception
from molflow.chem.bonds import EDM_GEOM
from molflow.chem.build import canonical_smiles, is_connected, is_sanitised, mesomeric_smiles
from molflow.chem.perception import Perceived, complete_atoms, incomplete
from molflow.chem.stated import stated_mol
from molflow.chem.structure import Stated
from molflow.evaluation.options import Bonds
from molflow.evaluation.reports import MoleculeReport

GIVEN = "bonds and formal charges of the file, kekulised"
VALENCES = "kekulised bond orders by formal charge (cf. arXiv 2505.00169)"

PROTOCOLS: dict[str, str] = {
    "lookup": EDM_GEOM.protocol,
    "perceived": f"{perception.PROTOCOL}; {VALENCES}",
    "file": f"{GIVEN}; {VALENCES}",
    "auto": f"{GIVEN}, or {perception.PROTOCOL} where it has none; {VALENCES}",
}
"""The rule in words that each choice of bonds stands for."""


def given_fields(
    positions: np.ndarray, atomic_numbers: np.ndarray, stated: Stated | None, perceived: Perceived
) -> dict[str, Any]:
    """The fields of a report on the bonds that a file gives, compared with the perceived ones; none without bonds."""
    if stated is None or not _gives_bonds(stated, len(atomic_numbers)):
        return {}
    mol, problem = stated_mol(positions, atomic_numbers, stated)
    if mol is None:
        return {"given": True, "given_problem": problem}
    stable = complete_atoms(mol)
    found: dict[str, Any] = {
        "given": True,
        "given_stable_atoms": int(stable.sum()),
        "given_stable": bool(stable.all()),
        "given_problem": incomplete(mol, stable),
    }
    if not is_sanitised(mol):
        return found | {"given_problem": found["given_problem"] or "RDKit refuses the bonds of the file"}
    agree = perceived.mol is not None and mesomeric_smiles(mol) == mesomeric_smiles(perceived.mol)
    smiles = canonical_smiles(mol)
    return found | {"given_valid": True, "given_connected": is_connected(mol), "given_smiles": smiles, "agree": agree}


def _gives_bonds(stated: Stated, n_atoms: int) -> bool:
    """Whether there are bonds, or none are needed: a single atom, or ions."""
    if stated.bonds is None:
        return False
    return bool(len(stated.bonds)) or n_atoms == 1 or (stated.charges is not None and bool(stated.charges.all()))


def headline(report: MoleculeReport, bonds: Bonds) -> MoleculeReport:
    """The report with the main figures of another protocol; those by look-up are kept under names of their own."""
    if bonds == "lookup":
        return report
    kept = replace(
        report,
        lookup_stable_atoms=report.stable_atoms,
        lookup_stable=report.stable,
        lookup_valid=report.valid,
        lookup_connected=report.connected,
    )
    if bonds == "file" and not report.given:
        return replace(kept, status="unscored", reason="the file gives no bonds")
    origin = "perceived" if bonds == "perceived" or not report.given else "given"
    stable_atoms, stable, valid, connected, smiles = (
        getattr(report, f"{origin}_{name}") for name in ("stable_atoms", "stable", "valid", "connected", "smiles")
    )
    problem = report.perception if origin == "perceived" else report.given_problem
    coincide = report.reason if report.reason.startswith("two atoms on one spot") else ""
    fragments = report.perceived_fragments if origin == "perceived" else _fragments(report)
    several = f"{fragments} fragments" if fragments > 1 else ""
    electrons = "electron" if report.unpaired == 1 else "electrons"
    radical = f"a radical with {report.unpaired} unpaired {electrons}" if report.unpaired and not stable else ""
    status = "invalid" if coincide or not valid else "disconnected" if several else "stable" if stable else "unstable"
    return replace(
        kept,
        bonds=origin,
        status=status,
        reason="; ".join(words for words in (coincide.split(";")[0], problem, several, radical) if words),
        stable_atoms=stable_atoms,
        stable=stable,
        valid=valid,
        connected=connected,
        fragments=fragments,
        smiles=smiles,
    )


def _fragments(report: MoleculeReport) -> int:
    return report.given_smiles.count(".") + 1 if report.given_smiles else 0
