"""Strain: how far a molecule is from the nearest minimum of a force field or of GFN2-xTB.

A force field relaxes the structure with its given bonds: a wrong bond stays and costs energy. GFN2-xTB knows only
atoms, charge and unpaired electrons, so bonds can form and break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from molflow.errors import MolflowError
from molflow.extras import import_extra

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdkit import Chem

STEPS = 1000
"""Maximum number of steps of a relaxation; one that has not converged by then is used as it is."""

GRADIENT = 0.05
"""GFN2-xTB has converged if no component of the gradient is larger, kcal/mol/Å."""

_BOHR = 0.529177210544  # Å, CODATA 2022
_HARTREE = 627.509474  # kcal/mol
_UNIT = 0.1  # Å; the first step of BFGS is one unit, too short for two atoms to swap places


class Strain(NamedTuple):
    """The changes made by a relaxation.

    Attributes:
        energy: energy of the structure minus energy of the relaxed structure, kcal/mol.
        rmsd: root mean square displacement of the heavy atoms (of all atoms if there are none) after superposition, Å.
        force_field: "MMFF94", "UFF" or "GFN2-xTB".
        converged: whether a minimum was reached.
    """

    energy: float
    rmsd: float
    force_field: str
    converged: bool


class Method(NamedTuple):
    """A relaxation method.

    Attributes:
        protocol: description for reports.
        relax: moves the atoms of a molecule to a minimum. Returns the released energy in kcal/mol, the name of the
            energy function, and whether a minimum was reached.
    """

    protocol: str
    relax: Callable[[Chem.Mol], tuple[float, str, bool]]


def strain(mol: Chem.Mol, method: str = "mmff94") -> Strain:
    """Relax a copy of a molecule and return what changes.

    Args:
        mol: sanitised, with hydrogens and a conformer. For "gfn2-xtb" the total charge is the sum of its formal
            charges, and all its radical electrons are unpaired.
        method: one of `METHODS`.

    Raises:
        MolflowError: an unknown method, neither force field has parameters for the molecule, tblite is not installed,
            or tblite cannot compute the molecule, for example because the electrons do not become self-consistent.

    Source: MMFF94 by T. A. Halgren, J. Comput. Chem. 17 (1996) 490, and UFF by A. K. Rappé et al., J. Am. Chem. Soc.
        114 (1992) 10024, as implemented in RDKit. GFN2-xTB by C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory
        Comput. 15 (2019) 1652, as implemented in tblite; the number of threads is OMP_NUM_THREADS.

    Example:
        >>> from rdkit.Chem import AddHs, MolFromSmiles, rdDistGeom
        >>> mol = AddHs(MolFromSmiles("CCO"))
        >>> _ = rdDistGeom.EmbedMolecule(mol, randomSeed=0)
        >>> strain(mol).energy > 0  # kcal/mol above the relaxed geometry
        True
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdMolAlign

    check_method(method)
    relaxed = Chem.Mol(mol)
    with rdBase.BlockLogs():
        energy, name, converged = METHODS[method].relax(relaxed)
        heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
        atoms = heavy or range(mol.GetNumAtoms())
        rmsd = rdMolAlign.AlignMol(relaxed, mol, atomMap=[(i, i) for i in atoms])
    return Strain(energy, rmsd, name, converged)


def check_method(method: str) -> None:
    """Raise MolflowError unless `strain` knows the method and its package is installed."""
    if method not in METHODS:
        raise MolflowError(f"no method {method!r} for strain; expected one of {', '.join(METHODS)}")
    if method == "gfn2-xtb":
        _tblite()


def _relax_by_force_field(mol: Chem.Mol) -> tuple[float, str, bool]:
    from rdkit.Chem import rdForceFieldHelpers

    properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(mol)
    if properties is not None:
        name, field = "MMFF94", rdForceFieldHelpers.MMFFGetMoleculeForceField(mol, properties)
    elif rdForceFieldHelpers.UFFHasAllMoleculeParams(mol):
        name, field = "UFF", rdForceFieldHelpers.UFFGetMoleculeForceField(mol)
    else:
        raise MolflowError("neither MMFF94 nor UFF has parameters for this molecule")
    field.Initialize()
    before = field.CalcEnergy()
    unfinished = field.Minimize(maxIts=STEPS)
    released = before - field.CalcEnergy()
    if not np.isfinite(released):
        raise MolflowError(f"{name} gives no finite energy")
    return released, name, not unfinished


def _relax_by_gfn2(mol: Chem.Mol) -> tuple[float, str, bool]:
    from rdkit import Chem
    from scipy.optimize import minimize

    tblite = _tblite()
    conformer = mol.GetConformer()
    start = conformer.GetPositions()
    try:
        calculator = tblite.Calculator(
            "GFN2-xTB",
            np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]),
            start / _BOHR,
            charge=Chem.GetFormalCharge(mol),
            uhf=sum(atom.GetNumRadicalElectrons() for atom in mol.GetAtoms()),
        )
        calculator.set("verbosity", 0)
        state = calculator.singlepoint()

        def energy_and_gradient(coordinates: np.ndarray) -> tuple[float, np.ndarray]:
            calculator.update(coordinates.reshape(-1, 3) * (_UNIT / _BOHR))
            calculator.singlepoint(state)  # starts from the electrons of the last step
            return state.get("energy") * _HARTREE, state.get("gradient").ravel() * (_HARTREE * _UNIT / _BOHR)

        before = state.get("energy") * _HARTREE
        options = {"maxiter": STEPS, "gtol": GRADIENT * _UNIT}
        found = minimize(energy_and_gradient, start.ravel() / _UNIT, jac=True, method="BFGS", options=options)
    except (tblite.TBLiteRuntimeError, tblite.TBLiteValueError) as error:
        raise MolflowError(f"GFN2-xTB cannot compute this molecule: {error}") from error
    if not np.isfinite([before, found.fun]).all():
        raise MolflowError("GFN2-xTB cannot compute this molecule: its energy is not finite")
    for atom, position in enumerate(found.x.reshape(-1, 3) * _UNIT):
        conformer.SetAtomPosition(atom, position.tolist())
    return float(before - found.fun), "GFN2-xTB", bool(found.success)


def _tblite() -> Any:
    import_extra("tblite", "xtb", "strain by GFN2-xTB")
    return import_extra("tblite.interface", "xtb", "strain by GFN2-xTB")


METHODS = {
    "mmff94": Method(
        f"relaxation of all atoms by MMFF94, by UFF where MMFF94 has no parameters, in at most {STEPS:,} steps",
        _relax_by_force_field,
    ),
    "gfn2-xtb": Method(
        f"relaxation of all atoms by GFN2-xTB in the gas phase with the formal charge, in at most {STEPS:,} steps",
        _relax_by_gfn2,
    ),
}
"""Name -> method, for `strain`."""
