"""Chemistry on plain arrays: elements, look-up bonds, hydrogens, RDKit molecules, and SDF, XYZ and NPZ files.

The public names are loaded when they are first used: processes that run RDKit alone then need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molflow.chem.bonds import bond_orders, stability, stability_of_orders
    from molflow.chem.build import bonded_mol, canonical_smiles, is_connected, to_rdkit
    from molflow.chem.elements import SYMBOLS, atomic_number, formula, symbol
    from molflow.chem.hydrogens import add_hydrogens, strip_hydrogens
    from molflow.chem.io import Record, Structure, StructureWriter, check_writable, iter_records, read_structures
    from molflow.chem.perception import Perceived, perceive
    from molflow.chem.relaxation import Strain, strain

_HOME = {
    "Perceived": "perception",
    "Record": "io",
    "SYMBOLS": "elements",
    "Strain": "relaxation",
    "Structure": "io",
    "StructureWriter": "io",
    "add_hydrogens": "hydrogens",
    "atomic_number": "elements",
    "bond_orders": "bonds",
    "bonded_mol": "build",
    "canonical_smiles": "build",
    "check_writable": "io",
    "formula": "elements",
    "is_connected": "build",
    "iter_records": "io",
    "perceive": "perception",
    "read_structures": "io",
    "stability": "bonds",
    "stability_of_orders": "bonds",
    "strain": "relaxation",
    "strip_hydrogens": "hydrogens",
    "symbol": "elements",
    "to_rdkit": "build",
}

__all__ = [
    "SYMBOLS",
    "Perceived",
    "Record",
    "Strain",
    "Structure",
    "StructureWriter",
    "add_hydrogens",
    "atomic_number",
    "bond_orders",
    "bonded_mol",
    "canonical_smiles",
    "check_writable",
    "formula",
    "is_connected",
    "iter_records",
    "perceive",
    "read_structures",
    "stability",
    "stability_of_orders",
    "strain",
    "strip_hydrogens",
    "symbol",
    "to_rdkit",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"molflow.chem.{_HOME[name]}"), name)
    raise AttributeError(f"module 'molflow.chem' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
