"""Chemistry on plain arrays: elements, look-up bonds, hydrogens, RDKit molecules, and SDF, XYZ and NPZ files."""

from molflow.chem.bonds import bond_orders, stability, stability_of_orders
from molflow.chem.build import bonded_mol, canonical_smiles, is_connected, to_rdkit
from molflow.chem.elements import SYMBOLS, atomic_number, symbol
from molflow.chem.hydrogens import add_hydrogens, strip_hydrogens
from molflow.chem.io import Record, Structure, StructureWriter, check_writable, iter_records, read_structures

__all__ = [
    "SYMBOLS",
    "Record",
    "Structure",
    "StructureWriter",
    "add_hydrogens",
    "atomic_number",
    "bond_orders",
    "bonded_mol",
    "canonical_smiles",
    "check_writable",
    "is_connected",
    "iter_records",
    "read_structures",
    "stability",
    "stability_of_orders",
    "strip_hydrogens",
    "symbol",
    "to_rdkit",
]
