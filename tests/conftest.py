"""Fixtures that several test folders share."""

import pytest

from molflow.data import MoleculeSet, load_qm9, particles
from molflow.energies import SYSTEMS, Tempering


@pytest.fixture(scope="session")
def qm9() -> MoleculeSet:
    """All of QM9 from the user's default cache, so a machine parses it once."""
    return load_qm9("all")


@pytest.fixture(scope="session")
def _particle_cache(tmp_path_factory):
    return tmp_path_factory.mktemp("particles")


@pytest.fixture
def few_particles(monkeypatch, _particle_cache):
    """Short chains in place of the full recipes (1,000 configurations of each split), in a cache of their own."""
    quick = Tempering((1.0,), n_burn_in=70, n_samples=10, thinning=5, n_leapfrog=15)
    monkeypatch.setattr(particles, "CHAINS", {"train": 100, "validation": 100, "test": 100})
    monkeypatch.setattr(particles, "RECIPES", {name: particles.Recipe(2.0, quick) for name in SYSTEMS})
    monkeypatch.setenv("MOLFLOW_CACHE", str(_particle_cache))
