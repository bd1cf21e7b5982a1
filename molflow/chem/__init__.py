"""Chemistry on plain arrays: elements, look-up bonds, hydrogens, RDKit molecules, and SDF, XYZ and NPZ files.

The public names are imported when they are first used, so that processes that only run RDKit need no torch.
"""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.chem.bonds import EDM_GEOM, EDM_QM9, BondRules, bond_orders, stability, stability_of_orders
    from molflow.chem.build import bonded_mol, canonical_smiles, is_connected, to_rdkit
    from molflow.chem.elements import SYMBOLS, atomic_number, formula, symbol
    from molflow.chem.hydrogens import add_hydrogens, strip_hydrogens
    from molflow.chem.io import Record, Structure, StructureWriter, check_writable, iter_records, read_structures
    from molflow.chem.perception import Perceived, perceive
    from molflow.chem.relaxation import Strain, strain

__all__ = [
    "EDM_GEOM", "EDM_QM9", "SYMBOLS", "BondRules", "Perceived", "Record", "Strain", "Structure", "StructureWriter",
    "add_hydrogens", "atomic_number", "bond_orders", "bonded_mol", "canonical_smiles", "check_writable", "formula",
    "is_connected", "iter_records", "perceive", "read_structures", "stability", "stability_of_orders", "strain",
    "strip_hydrogens", "symbol", "to_rdkit",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "bonds": ("EDM_GEOM", "EDM_QM9", "BondRules", "bond_orders", "stability", "stability_of_orders"),
        "build": ("bonded_mol", "canonical_smiles", "is_connected", "to_rdkit"),
        "elements": ("SYMBOLS", "atomic_number", "formula", "symbol"),
        "hydrogens": ("add_hydrogens", "strip_hydrogens"),
        "io": ("Record", "Structure", "StructureWriter", "check_writable", "iter_records", "read_structures"),
        "perception": ("Perceived", "perceive"),
        "relaxation": ("Strain", "strain"),
    },
)
