"""Data sets: QM9, sets of molecules in flat arrays, and the batches cut from them."""

from molflow.data.loaders import Batches, EqualSizeBatches, MixedSizeBatches
from molflow.data.qm9 import PROPERTIES, load_qm9, prepare_qm9, qm9_split
from molflow.data.structures import MoleculeSet

__all__ = [
    "PROPERTIES",
    "Batches",
    "EqualSizeBatches",
    "MixedSizeBatches",
    "MoleculeSet",
    "load_qm9",
    "prepare_qm9",
    "qm9_split",
]
