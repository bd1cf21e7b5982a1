"""Molecule files: the public names of `reading`, `writing` and `structure` in one place."""

from molflow.chem.reading import Record, iter_records, read_structures
from molflow.chem.structure import Structure
from molflow.chem.writing import StructureWriter, check_writable

__all__ = ["Record", "Structure", "StructureWriter", "check_writable", "iter_records", "read_structures"]
