"""Fixtures that several test folders share."""

import os

import pytest

from molflow.cli import main
from molflow.data import MoleculeSet, load_qm9, particles
from molflow.energies import ENERGIES, Tempering


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
    monkeypatch.setattr(particles, "RECIPES", {name: particles.Recipe(2.0, quick) for name in ENERGIES})
    monkeypatch.setenv("MOLFLOW_CACHE", str(_particle_cache))


@pytest.fixture
def molflow(capfd):
    """Run a command; gives (exit code, stdout, stderr)."""

    def run(*words):
        with pytest.raises(SystemExit) as stop:
            main([str(word) for word in words])
        return stop.value.code, *capfd.readouterr()

    return run


@pytest.fixture
def fails(molflow, tmp_path, monkeypatch):
    """Run a command in an empty folder that must fail with one line and leave no file; gives (exit code, line)."""
    folder = tmp_path / "empty"
    folder.mkdir()
    monkeypatch.chdir(folder)

    def run(*words):
        code, out, err = molflow(*words)
        assert (out, len(err.splitlines()), os.listdir()) == ("", 1, [])
        assert err.startswith("molflow: error: ")
        return code, err.removeprefix("molflow: error: ").rstrip("\n")

    return run
