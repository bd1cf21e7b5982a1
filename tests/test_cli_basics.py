"""The first commands of a newcomer: version, templates, cards, quiet runs, shell completion, missing extras."""

import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import molflow as package
from molflow.pretrained import folder_of, model_names
from molflow.templates import template_names, template_text
from molflow.training.state import load_state

QM9 = Path(__file__).parent / "fixtures" / "qm9_200.npz"
FEW = ("max_steps=2", "batch_size=4", "compile=false", "validation_molecules=1", "validation_samples=2")
SETTINGS = [word for each in FEW for word in ("--set", f"training.{each}")]


def test_version(molflow):
    assert molflow("--version") == (0, f"molflow {package.__version__}\n", "")


def test_it_is_a_module_that_runs():
    done = subprocess.run([sys.executable, "-m", "molflow", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout == f"molflow {package.__version__}\n"


# ---- templates -------------------------------------------------------------------------------------------------------


def test_templates_are_listed_shown_and_copied(molflow, tmp_path):
    code, text, err = molflow("templates", "--json", tmp_path / "a.json")
    assert (code, err) == (0, "")
    assert [line.split()[0] for line in text.splitlines()] == list(template_names())
    assert tuple(json.loads((tmp_path / "a.json").read_text())) == template_names()
    assert molflow("templates", "--show", "dw4")[1] == template_text("dw4")
    assert molflow("templates", "--copy", "dw4", tmp_path / "new" / "mine.toml")[0] == 0
    assert package.load_experiment(tmp_path / "new" / "mine.toml") == package.load_experiment("dw4")


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ("templates --show qm8", "unknown template 'qm8'; did you mean qm9? Known are: dw4, "),
        ("templates --copy dw5 a.toml", "unknown template 'dw5'; did you mean dw4? Known are: dw4, "),
        (f"templates --copy dw4 {QM9}", "qm9_200.npz exists already; expected the name of a new file"),
        ("templates --show dw4 --copy dw4 a.toml", "--show and --copy exclude each other"),
        ("templates --show dw4 --json a.json", "--json is for the list of templates"),
        ("train qm8", "unknown template 'qm8'; did you mean qm9? Known are: dw4, "),
        ("train dw4 --set training.epoch=3", "dw4: unknown key training.epoch; did you mean training.epochs?"),
        ("train dw4 --set training.epochs=none", "dw4: training.epochs: expected an integer, got 'none'"),
        ("train dw4 --set nonsense", "--set nonsense: expected a.b=value"),
        ("train qm9-joint --set model.domain.types=Xx", "model.domain.types: expected a list, got 'Xx'"),
        ("train qm9-joint --set model.network.n_layers=2", "unknown key model.network.n_layers"),
        ("train dw4 --resume --start-from dw4", "--resume continues with the weights of the run"),
        ("train dw4 --start-from dw5", "unknown model 'dw5', and no such folder; did you mean dw4? Shipped are: dw4, "),
        ("models dw5", "unknown model 'dw5', and no such folder; did you mean dw4? Shipped are: dw4, "),
        ("sample --model qm8", "unknown model 'qm8', and no such folder; did you mean qm9? Shipped are: dw4, "),
        ("sample --threads 0", "--threads"),
    ],
)
def test_bad_usage(fails, words, message):
    code, line = fails(*words.split())
    assert code == 2
    assert message in line


def test_a_shipped_model_is_trained_further_and_sampled_quietly(molflow, few_particles, tmp_path):
    run, figures = tmp_path / "run", tmp_path / "a.json"
    experiment = folder_of("dw4") / "config.json"
    words = ("train", experiment, "--start-from", "dw4", *SETTINGS, "--out", run, "--json", figures)
    assert molflow(*words, "--quiet", "--threads", 1) == (0, "", "")
    card = json.loads(figures.read_text())
    assert load_state(run)["threads"] == 1
    assert (card["steps"], card["started_from"]["card"]["name"]) == (2, "dw4")
    sample = ("sample", "--model", run, "-n", 4, "--out", tmp_path / "a.npz", "--seed", 1)
    assert molflow(*sample, "-q") == (0, "", "")
    with np.load(tmp_path / "a.npz") as file:
        assert file["positions"].shape == (4, 4, 2)
    code, text, _ = molflow("models", run)
    assert code == 0
    assert f"molflow sample --model {run}" in text


# ---- cards -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", model_names())
def test_a_card_says_all_that_a_reader_asks(molflow, tmp_path, name):
    code, text, err = molflow("models", name, "--json", tmp_path / "a.json")
    assert (code, err) == (0, "")
    titles = [line.split("  ")[0] for line in text.splitlines() if not line.startswith(" ")]
    assert titles == ["model", "for", "trained on", "how", "scores", "beware", "cite", "use"]
    assert "core hours on " in text
    assert ("qm9 itself: 95.28 %" in text) == name.startswith("qm9")
    assert max(map(len, text.splitlines())) < 120
    assert json.loads((tmp_path / "a.json").read_text())["name"] == name


# ---- extras ----------------------------------------------------------------------------------------------------------


def test_a_missing_extra_is_named_before_the_work(fails, monkeypatch, tmp_path):
    for module in ("plotly.offline", "pyarrow", "posebusters", "tblite.interface"):
        monkeypatch.setitem(sys.modules, module, None)
    for words, extra in (
        (["--report", tmp_path / "a.html"], "report"),
        (["--details", tmp_path / "a.parquet"], "parquet"),
        (["--strain", "gfn2-xtb"], "xtb"),
        (["--posebusters"], "posebusters"),
    ):
        code, line = fails("evaluate", QM9, *words)
        assert code == 1
        assert line.endswith(f"pip install 'molflow[{extra}]'")
    assert os.listdir(tmp_path) == ["empty"]


# ---- the shell -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("typed", "expected"),
    [
        ("molflow tem", ["templates"]),
        ("molflow train qm9-r", ["qm9-recipe"]),
        ("molflow sample --model lj13-", ["lj13-cnf"]),
        ("molflow models qm9-s", ["qm9-steps"]),
        ("molflow data two-", ["two-moons"]),
    ],
)
def test_the_shell_completes_names(typed, expected):
    environment = {"_MOLFLOW_COMPLETE": "complete_bash", "COMP_WORDS": typed, "COMP_CWORD": str(typed.count(" "))}
    done = subprocess.run(
        [sys.executable, "-m", "molflow"], env=os.environ | environment, capture_output=True, text=True, check=False
    )
    assert done.stdout.split() == expected, done.stderr
