"""Make one molecule of a user's file ready for training: hydrogens, fragments, conformers, bonds, and what is wrong.

A worker process runs `prepare`, as RDKit can hang. Arguments and results are values for JSON.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from molflow.chem.build import canonical_smiles, is_sanitised
from molflow.chem.perception import perceive
from molflow.chem.plausibility import geometry_problem
from molflow.chem.reading import Record
from molflow.chem.stated import kekulized_bonds, stated_message, stated_mol, stated_of, with_hydrogens
from molflow.chem.structure import Stated

if TYPE_CHECKING:
    from rdkit import Chem

Fragments = Literal["drop", "keep", "largest"]

_TRIES = 10  # of the embedding


class _Unfit(Exception):
    """A molecule that is not used. The message is the reason."""


def message_of(record: Record) -> dict[str, Any]:
    """A record that could be read, as `prepare` takes it."""
    assert record.structure is not None
    positions, numbers, _ = record.structure
    stated = stated_message(record.stated or Stated())
    return {"positions": positions.tolist(), "numbers": numbers.tolist(), "stated": stated}


def prepare(message: dict[str, Any], fragments: Fragments, add_hydrogens: bool) -> dict[str, Any]:
    """Prepare a molecule.

    Args:
        message: a molecule by `message_of`, or `smiles` and the `seed` of the conformer that is made of it: ETKDG
            (version 3), then MMFF94, or UFF where MMFF94 lacks an atom.
        fragments: what to do with a molecule of several: drop it, keep all, or keep the one with most heavy atoms.
        add_hydrogens: complete the valences of a molecule that lacks hydrogens; otherwise it is not used.

    Returns:
        `problem`, the reason why the molecule is not used; or `positions` (n, 3), `numbers` (n,), `environments`
        (n, 3) (single, double and triple bonds of each heavy atom to heavy atoms), `smiles`, `scaffold` (of Murcko),
        `charge` and `n_fragments`.
    """
    try:
        mol = _embedded(message, fragments) if "smiles" in message else _completed(_bonded(message), add_hydrogens)
        return _described(mol, fragments)
    except _Unfit as error:
        return {"problem": str(error)}


def warm_up(**options: Any) -> None:
    """Prepare methane, so that RDKit and its tables are loaded before the time of a molecule counts."""
    prepare({"smiles": "C", "seed": 0}, **options)


def _embedded(message: dict[str, Any], fragments: Fragments) -> Chem.RWMol:
    """A conformer of a SMILES."""
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdDistGeom, rdForceFieldHelpers

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(message["smiles"])
        if mol is None or not mol.GetNumAtoms():
            raise _Unfit("RDKit cannot read the SMILES")
        mol = _one_fragment(mol, fragments)
        Chem.SanitizeMol(mol)
        mol = Chem.AddHs(mol)
        settings = rdDistGeom.ETKDGv3()
        settings.randomSeed = message["seed"]
        settings.maxIterations = _TRIES  # type: ignore[assignment]
        if rdDistGeom.EmbedMolecule(mol, settings) < 0:
            raise _Unfit("no conformer was found")
        if rdForceFieldHelpers.MMFFHasAllMoleculeParams(mol):
            unrelaxed = rdForceFieldHelpers.MMFFOptimizeMolecule(mol)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
            unrelaxed = rdForceFieldHelpers.UFFOptimizeMolecule(mol)
        else:
            unrelaxed = -1
        if unrelaxed < 0:
            raise _Unfit("the conformer could not be relaxed")
        Chem.Kekulize(mol, clearAromaticFlags=True)
    return Chem.RWMol(mol)


def _bonded(message: dict[str, Any]) -> Chem.RWMol:
    """A molecule with the bonds that the file states, else with perceived ones."""
    positions = np.array(message["positions"], dtype=np.float64).reshape(-1, 3)
    numbers = np.array(message["numbers"], dtype=np.int64)
    if problem := geometry_problem(positions, numbers):
        raise _Unfit(problem)
    stated = stated_of(message["stated"])
    if stated.bonds is not None and len(stated.bonds):
        mol, fault = stated_mol(positions, numbers, stated)
        if mol is None:
            raise _Unfit(fault)
        return mol
    found = perceive(positions, numbers, stated.charge or 0)
    if found.mol is None:
        raise _Unfit(f"the file states no bonds and none are perceived: {found.problem}")
    from rdkit import Chem

    mol = Chem.RWMol(found.mol)
    Chem.Kekulize(mol, clearAromaticFlags=True)
    return mol


def _completed(mol: Chem.RWMol, add_hydrogens: bool) -> Chem.RWMol:
    """The molecule, with the hydrogens that it lacks if they may be added."""
    whole, missing = with_hydrogens(mol)
    if missing and not add_hydrogens:
        raise _Unfit("hydrogens are missing; --add-hydrogens adds them")
    return whole if missing else mol


def _described(mol: Chem.RWMol, fragments: Fragments) -> dict[str, Any]:
    from rdkit import Chem
    from rdkit.Chem.Scaffolds import MurckoScaffold

    mol = Chem.RWMol(_one_fragment(mol, fragments))
    numbers = np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()])
    environments = np.zeros((len(numbers), 3), dtype=np.int64)
    for i, j, order in kekulized_bonds(mol).tolist():
        if numbers[i] > 1 and numbers[j] > 1 and 1 <= order <= 3:
            environments[[i, j], order - 1] += 1
    positions = mol.GetConformer().GetPositions()
    charge, n_fragments = Chem.GetFormalCharge(mol), len(Chem.GetMolFrags(mol))
    if not is_sanitised(mol):
        raise _Unfit("RDKit refuses its bonds")
    scaffold: Any = MurckoScaffold.GetScaffoldForMol(Chem.RemoveHs(mol))  # type: ignore[no-untyped-call]
    return {
        "positions": positions.tolist(),
        "numbers": numbers.tolist(),
        "environments": environments.tolist(),
        "smiles": canonical_smiles(mol),
        "scaffold": Chem.MolToSmiles(scaffold),
        "charge": charge,
        "n_fragments": n_fragments,
    }


def _one_fragment(mol: Chem.Mol, fragments: Fragments) -> Chem.Mol:
    """The molecule, or its largest fragment."""
    from rdkit import Chem

    parts: tuple[Chem.Mol, ...] = Chem.GetMolFrags(mol, asMols=True, sanitizeFrags=False)
    if len(parts) == 1 or fragments == "keep":
        return mol
    if fragments == "drop":
        raise _Unfit(f"it has {len(parts)} fragments")
    return max(parts, key=lambda part: sum(atom.GetAtomicNum() > 1 for atom in part.GetAtoms()))
