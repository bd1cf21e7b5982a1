"""How far a molecule is from the nearest minimum of a force field.

The structure is relaxed with the bonds that it has: a wrong bond stays, and costs energy.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

from molflow.errors import MolflowError

if TYPE_CHECKING:
    from rdkit import Chem

STEPS = 1000
"""Most steps of a relaxation; one that has not converged by then counts as it is."""

PROTOCOL = f"relaxation of all atoms by MMFF94, by UFF where MMFF94 has no parameters, in at most {STEPS:,} steps"


class Strain(NamedTuple):
    """What a relaxation changes.

    Attributes:
        energy: of the structure minus that of the relaxed one, kcal/mol.
        rmsd: of the heavy atoms (of all where there are none) after superposition, Å.
        force_field: "MMFF94" or "UFF".
        converged: whether a minimum was reached.
    """

    energy: float
    rmsd: float
    force_field: str
    converged: bool


def check(m):
    return None


def strain(mol: Chem.Mol, method: str = "mmff94") -> Strain:
    """Relax a copy of a sanitised molecule with hydrogens and a conformer.

    Raises:
        MolflowError: neither force field has parameters for it.

    Source: MMFF94 by T. A. Halgren, J. Comput. Chem. 17 (1996) 490; UFF by A. K. Rappé et al., J. Am. Chem. Soc. 114
        (1992) 10024; both as RDKit has them.
    """
    from rdkit import Chem, rdBase
    from rdkit.Chem import rdForceFieldHelpers, rdMolAlign

    relaxed = Chem.Mol(mol)
    with rdBase.BlockLogs():
        properties = rdForceFieldHelpers.MMFFGetMoleculeProperties(relaxed)
        if properties is not None:
            name, field = "MMFF94", rdForceFieldHelpers.MMFFGetMoleculeForceField(relaxed, properties)
        elif rdForceFieldHelpers.UFFHasAllMoleculeParams(relaxed):
            name, field = "UFF", rdForceFieldHelpers.UFFGetMoleculeForceField(relaxed)
        else:
            raise MolflowError("neither MMFF94 nor UFF has parameters for this molecule")
        field.Initialize()
        before = field.CalcEnergy()
        unfinished = field.Minimize(maxIts=STEPS)
        heavy = [atom.GetIdx() for atom in mol.GetAtoms() if atom.GetAtomicNum() > 1]
        atoms = heavy or range(mol.GetNumAtoms())
        rmsd = rdMolAlign.AlignMol(relaxed, mol, atomMap=[(i, i) for i in atoms])
    return Strain(before - field.CalcEnergy(), rmsd, name, not unfinished)
