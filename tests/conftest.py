"""Fixtures that several test folders share."""

import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from fnmatch import fnmatch
from pathlib import Path

import pytest

from molflow.cli import main
from molflow.data import DATASETS, MoleculeSet, load_qm9, particles
from molflow.energies import ENERGIES, Tempering, get_system
from molflow.evaluation import METRICS
from molflow.flows import FLOWS
from molflow.nn import NETWORKS
from molflow.training.objectives import OBJECTIVES


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
    monkeypatch.setattr(
        particles, "get_system", lambda name: replace(get_system(name), start_width=2.0, tempering=quick)
    )
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
def interrupted():
    """Run a command and send Ctrl-C once `ready(text of stderr so far)`; it must fail without a traceback.

    Gives the last line of stderr. Progress is a line every tenth of a second.
    """

    def run(ready, *words):
        # A shell that starts pytest in the background lets its children ignore Ctrl-C.
        program = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "
        program += "from molflow import cli, progress; progress.INTERVAL = 0.1; cli.main()"
        command = [sys.executable, "-c", program, *map(str, words)]
        process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        shown = ""
        while process.poll() is None and not ready(shown):
            shown += process.stderr.read(64)
        time.sleep(0.2)
        process.send_signal(signal.SIGINT)
        _, err = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "Traceback" not in err
        return err.splitlines()[-1]

    return run


@pytest.fixture
def into_closed_pipe():
    """Run a command whose standard output nobody reads; gives (exit code, stderr)."""

    def run(*words):
        read, write = os.pipe()
        os.close(read)
        with os.fdopen(write) as pipe:
            command = [sys.executable, "-m", "molflow", *map(str, words)]
            done = subprocess.run(command, stdout=pipe, stderr=subprocess.PIPE, text=True, check=False)
        return done.returncode, done.stderr

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


@pytest.fixture
def forget_additions():
    """Remove from the registries at the end what a test adds to the built-in objects."""
    yield
    for registry in (ENERGIES, NETWORKS, FLOWS, OBJECTIVES, DATASETS, METRICS):
        for name in set(registry._objects) - set(registry._table()):
            del registry._objects[name]


def pytest_addoption(parser):
    parser.addoption("--fuzz-cases", type=int, default=100, help="damaged files for each reader in tests/test_fuzz.py")


def pytest_collection_modifyitems(config, items):
    """Mark the tests that match a line of slow.txt; a line that matches none of all tests is an error."""
    for pattern in (Path(__file__).parent / "slow.txt").read_text(encoding="utf-8").split():
        slow = [item for item in items if fnmatch(item.nodeid, f"tests/{pattern}*")]
        for item in slow:
            item.add_marker(pytest.mark.slow)
        if not slow and config.args_source == config.ArgsSource.TESTPATHS:
            raise pytest.UsageError(f"tests/slow.txt: no test matches {pattern}")
