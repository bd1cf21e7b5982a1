"""Data sets: their registry, QM9, particle systems, vectors, and the batches that are cut from them."""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.data.base import SPLITS, DataConfig, DataSetConfig, Loaded, Split, default_data
    from molflow.data.batches import Batch
    from molflow.data.files import NoArrayError, cache_path, read_array
    from molflow.data.loaders import Batches, EqualSizeBatches, MixedSizeBatches
    from molflow.data.particles import load_particles, particle_diagnostics, prepare_particles, read_configurations
    from molflow.data.qm9 import PROPERTIES, load_qm9, prepare_qm9, qm9_split
    from molflow.data.registry import DATASETS
    from molflow.data.structures import MoleculeSet
    from molflow.data.vectors import read_vectors

_HOMES = {
    "DATASETS": "molflow.data.registry",
    "PROPERTIES": "molflow.data.qm9",
    "SPLITS": "molflow.data.base",
    "Batch": "molflow.data.batches",
    "Batches": "molflow.data.loaders",
    "DataConfig": "molflow.data.base",
    "DataSetConfig": "molflow.data.base",
    "EqualSizeBatches": "molflow.data.loaders",
    "Loaded": "molflow.data.base",
    "MixedSizeBatches": "molflow.data.loaders",
    "MoleculeSet": "molflow.data.structures",
    "NoArrayError": "molflow.data.files",
    "Split": "molflow.data.base",
    "cache_path": "molflow.data.files",
    "default_data": "molflow.data.base",
    "load_particles": "molflow.data.particles",
    "load_qm9": "molflow.data.qm9",
    "particle_diagnostics": "molflow.data.particles",
    "prepare_particles": "molflow.data.particles",
    "prepare_qm9": "molflow.data.qm9",
    "qm9_split": "molflow.data.qm9",
    "read_array": "molflow.data.files",
    "read_configurations": "molflow.data.particles",
    "read_vectors": "molflow.data.vectors",
}

__all__ = [
    "DATASETS",
    "PROPERTIES",
    "SPLITS",
    "Batch",
    "Batches",
    "DataConfig",
    "DataSetConfig",
    "EqualSizeBatches",
    "Loaded",
    "MixedSizeBatches",
    "MoleculeSet",
    "NoArrayError",
    "Split",
    "cache_path",
    "default_data",
    "load_particles",
    "load_qm9",
    "particle_diagnostics",
    "prepare_particles",
    "prepare_qm9",
    "qm9_split",
    "read_array",
    "read_configurations",
    "read_vectors",
]

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
