"""Molecule files under one name: reading is in `reading`, writing in `writing`, and `Structure` is what both speak."""

from molflow.chem.reading import Record, iter_records, read_structures
from molflow.chem.structure import Structure
from molflow.chem.writing import StructureWriter, check_writable

__all__ = ["Record", "Structure", "StructureWriter", "check_writable", "iter_records", "read_structures"]
