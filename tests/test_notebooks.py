"""The notebooks run from top to bottom with fewer samples and steps, as their readers would run them."""

import re
from importlib import import_module
from pathlib import Path

import pytest

FOLDER = Path(__file__).parents[1] / "experiments" / "notebooks"
SMALLER = {
    "1-first-molecules": "n = 12",
    "2-score-molecules": "n = 12",
    "3-train-on-your-own-file": "max_steps, n_rests, n = 2, 4, 2",
    "4-boltzmann-generator": "n_chains, n_samples, steps, n = 4, 4, 2, 20",
    "5-any-architecture-and-sbi": "steps, n_simulations, epochs, n = 2, 50, 1, 20",
    "6-what-is-a-free-form-flow": "steps, n, n_repeats = 2, 20, 2",
}


@pytest.fixture
def script(monkeypatch):
    monkeypatch.syspath_prepend(str(FOLDER))
    return import_module("execute")


def test_each_notebook_is_here_and_in_the_test(script):
    assert [path.stem for path in script.NOTEBOOKS] == list(SMALLER)


@pytest.mark.parametrize("name", SMALLER)
def test_a_notebook_runs(name, script, tmp_path, monkeypatch):
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path / "cache"))
    notebook = script.execute(FOLDER / f"{name}.ipynb", tmp_path, SMALLER[name])
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", ())]
    assert any("image/png" in output.get("data", {}) for output in outputs)
    assert not any("text/html" in output["data"] and "<iframe" in str(output) for output in outputs if "data" in output)


@pytest.mark.parametrize("name", SMALLER)
def test_all_parameters_of_a_notebook_are_replaced(name, script):
    notebook = script.nbformat.read(FOLDER / f"{name}.ipynb", as_version=4)
    (cell,) = [cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", ())]
    assert names(SMALLER[name]) == names(cell.source)


def names(assignments):
    """The names that lines of assignments give values to."""
    return {word for line in assignments.splitlines() for word in re.findall(r"\w+", line.split("=")[0])}
