"""Chemistry on plain arrays: elements, look-up bonds, RDKit molecules, and the SDF, XYZ and NPZ files around them."""

from molflow.chem.bonds import bond_orders, stability, stability_of_orders
from molflow.chem.build import bonded_mol, canonical_smiles, is_connected, to_rdkit
from molflow.chem.elements import SYMBOLS, atomic_number, symbol
from molflow.chem.io import Structure, StructureWriter, check_writable, read_structures

__all__ = [
    "SYMBOLS",
    "Structure",
    "StructureWriter",
    "atomic_number",
    "bond_orders",
    "bonded_mol",
    "canonical_smiles",
    "check_writable",
    "is_connected",
    "read_structures",
    "stability",
    "stability_of_orders",
    "symbol",
    "to_rdkit",
]
