"""How far a molecule is from the nearest minimum of a force field or of GFN2-xTB.

A force field relaxes the structure with the bonds that it has: a wrong bond stays, and costs energy. GFN2-xTB knows
atoms, charge and unpaired electrons alone, so that bonds may form and break.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from molflow.errors import MolflowError

if TYPE_CHECKING:
    from collections.abc import Callable

    from rdkit import Chem

STEPS = 1000
"""Most steps of a relaxation; one that has not converged by then counts as it is."""

GRADIENT = 0.05
"""GFN2-xTB is at a minimum where no component of the gradient is larger, kcal/mol/Å."""

_BOHR = 0.529177210544  # Å, CODATA 2022
_HARTREE = 627.509474  # kcal/mol
_UNIT = 0.1  # Å; BFGS sets out with a step of one unit, in which no two atoms can change places


class Strain(NamedTuple):
    """What a relaxation changes.

    Attributes:
        energy: of the structure minus that of the relaxed one, kcal/mol.
        rmsd: of the heavy atoms (of all where there are none) after superposition, Å.
        force_field: "MMFF94", "UFF" or "GFN2-xTB".
        converged: whether a minimum was reached.
    """

    energy: float
    rmsd: float
    force_field: str
    converged: bool


class Method(NamedTuple):
    """A way to relax.

    Attributes:
        protocol: in a sentence.
        relax: moves the atoms of a molecule, and returns the energy that this sets free in kcal/mol, the name of the
            energy function, and whether a minimum was reached.
    """

    protocol: str
    relax: Callable[[Chem.Mol], tuple[float, str, bool]]


def strain(mol: Chem.Mol, method: str = "mmff94") -> Strain:
    """Relax a copy of a sanitised molecule with hydrogens and a conformer.

    Args:
        mol: for "gfn2-xtb" its formal charges make up the charge, and its radical electrons are all unpaired.
        method: one of `METHODS`.

    Raises:
        MolflowError: no such method, neither force field has parameters for the molecule, tblite is not installed, or
            it cannot compute the molecule, as where the electrons do not become self-consistent.

    Source: MMFF94 by T. A. Halgren, J. Comput. Chem. 17 (1996) 490; UFF by A. K. Rappé et al., J. Am. Chem. Soc. 114
        (1992) 10024; both as RDKit has them. GFN2-xTB by C. Bannwarth, S. Ehlert, S. Grimme, J. Chem. Theory Comput. 15
        (2019) 1652, as tblite has it; it runs on as many threads as OMP_NUM_THREADS says.
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
    """Raise MolflowError unless `strain` knows the method and what it needs is installed."""
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
            calculator.singlepoint(state)  # sets out from the electrons of the last step
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
    try:
        from tblite import interface
    except ImportError as error:
        raise MolflowError("strain by GFN2-xTB needs tblite: pip install 'molflow[xtb]'") from error
    return interface


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
"""What `strain` can relax by."""
