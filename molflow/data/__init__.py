"""Data sets: QM9, sets of molecules in flat arrays, the batches cut from them, and the particle systems."""

from molflow.data.loaders import Batches, EqualSizeBatches, MixedSizeBatches
from molflow.data.particles import (
    NoArrayError,
    load_particles,
    particle_diagnostics,
    prepare_particles,
    read_array,
    read_configurations,
)
from molflow.data.qm9 import PROPERTIES, load_qm9, prepare_qm9, qm9_split
from molflow.data.structures import MoleculeSet

__all__ = [
    "PROPERTIES",
    "Batches",
    "EqualSizeBatches",
    "MixedSizeBatches",
    "MoleculeSet",
    "NoArrayError",
    "load_particles",
    "load_qm9",
    "particle_diagnostics",
    "prepare_particles",
    "prepare_qm9",
    "qm9_split",
    "read_array",
    "read_configurations",
]
