"""Data sets: their registry, QM9, particle systems, vectors, and the batches that are cut from them."""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.data.base import SPLITS, DataConfig, DataSetConfig, Loaded, Split, default_data
    from molflow.data.batches import Batch
    from molflow.data.configurations import read_configurations, read_particles
    from molflow.data.densities import PlaneDensity
    from molflow.data.files import NoArrayError, cache_path, read_array
    from molflow.data.loaders import Batches, EqualCostBatches, EqualSizeBatches, MixedSizeBatches
    from molflow.data.molecule_files import MoleculeFile
    from molflow.data.particles import load_particles, particle_diagnostics, prepare_particles
    from molflow.data.qm9 import PROPERTIES, load_qm9, prepare_qm9, qm9_split
    from molflow.data.registry import DATASETS
    from molflow.data.simulators import BenchmarkTask, Simulator, sample_prior
    from molflow.data.structures import MoleculeSet
    from molflow.data.vectors import read_vectors

__all__ = [
    "DATASETS", "PROPERTIES", "SPLITS", "Batch", "Batches", "BenchmarkTask", "DataConfig", "DataSetConfig",
    "EqualCostBatches", "EqualSizeBatches", "Loaded", "MixedSizeBatches", "MoleculeFile", "MoleculeSet",
    "NoArrayError", "PlaneDensity", "Simulator", "Split", "cache_path", "default_data", "load_particles", "load_qm9",
    "particle_diagnostics", "prepare_particles", "prepare_qm9", "qm9_split", "read_array", "read_configurations",
    "read_particles", "read_vectors", "sample_prior",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "base": ("SPLITS", "DataConfig", "DataSetConfig", "Loaded", "Split", "default_data"),
        "batches": ("Batch",),
        "configurations": ("read_configurations", "read_particles"),
        "densities": ("PlaneDensity",),
        "files": ("NoArrayError", "cache_path", "read_array"),
        "loaders": ("Batches", "EqualCostBatches", "EqualSizeBatches", "MixedSizeBatches"),
        "molecule_files": ("MoleculeFile",),
        "particles": ("load_particles", "particle_diagnostics", "prepare_particles"),
        "qm9": ("PROPERTIES", "load_qm9", "prepare_qm9", "qm9_split"),
        "registry": ("DATASETS",),
        "simulators": ("BenchmarkTask", "Simulator", "sample_prior"),
        "structures": ("MoleculeSet",),
        "vectors": ("read_vectors",),
    },
)
