"""The command line for systems of particles: files, figures, exit codes, and one clear line for whatever is wrong."""

import json
import os
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from experiments import save_experiment
from molflow import load, pretrained
from molflow.cli.options import data_sets
from molflow.data import load_particles
from molflow.energies import get_system
from molflow.report.tables import number
from molflow.training.config import load_experiment

HERE = Path(__file__).parent
QM9 = HERE / "fixtures" / "qm9_200.npz"
TINY = HERE / "training" / "tiny.toml"
DW4 = ('model.domain={kind="particles", n_particles=4, dim=2, scale=1.8}', "data.name=dw4")
LJ13 = ('model.domain={kind="particles", n_particles=13, dim=3}', "data.name=lj13")
SPEEDS = {
    "model", "n", "ms_per_sample", "samples_per_s", "ms_per_effective_sample", "ms_per_sample_with_density",
    "ms_per_effective_sample_with_density", "ess_fraction", "peak_memory_mb", "device", "threads", "batch_size",
}  # fmt: skip

pytestmark = pytest.mark.usefixtures("few_particles")


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """Save a tiny flow with fresh weights as a model folder."""

    def save(*settings, card=()):
        config = load_experiment(TINY, settings)
        folder = tmp_path_factory.mktemp("model")
        torch.manual_seed(0)
        save_experiment(folder, config, card=card)
        return folder

    return save


@pytest.fixture(scope="module")
def model(saved):
    return saved(*DW4)


@pytest.fixture(scope="module")
def stranger(saved, tmp_path_factory):
    """A model of particles whose energy is not known."""
    file = tmp_path_factory.mktemp("data") / "a.npy"
    return saved(
        'model.domain={kind="particles", n_particles=3, dim=2}', f'data={{name="particles", file="{file.as_posix()}"}}'
    )


@pytest.fixture
def record(molflow, tmp_path):
    """Run a command that must work; gives what it shows and the figures that it writes."""

    def run(*words):
        path = tmp_path / "figures.json"
        code, text, err = molflow(*words, "--json", path)
        assert code == 0, err
        return text, json.loads(path.read_text())

    return run


@pytest.fixture
def exact(tmp_path):
    """A file of exact samples, with arrays added."""

    def write(name="exact.npz", system="dw4", n=500, **arrays):
        positions = load_particles(system, "validation")[:n].numpy()
        np.savez(tmp_path / name, **({"positions": positions} | arrays))
        return tmp_path / name

    return write


def test_the_command_line_lists_all_data_sets(molflow):
    assert data_sets()["Data sets"][:6] == ("qm9", "dw4", "lj13", "lj13-unordered", "lj55", "lj55-unordered")
    code, text, _ = molflow("data", "--help")
    assert code == 0
    assert all(name in text for name in data_sets()["Data sets"])


# ---- what works ------------------------------------------------------------------------------------------------------


def test_data(record):
    text, figures = record("data", "dw4")
    assert Path(figures["file"]).is_file()
    assert [figures[f"n_{split}"] for split in ("train", "validation", "test")] == [1000] * 3
    assert (figures["n_particles"], figures["dim"], figures["virial_expected"]) == (4, 2, 6)
    assert figures["known_mean_energy"] == -22.54
    assert 0.5 < figures["acceptance"][0] < 1
    for shown in ("4 particles in 2 dimensions", f"{figures['r_hat']:.4f}", "known: -22.54", "exact: 6"):
        assert shown in text


def test_training_and_sampling(molflow, record, tmp_path):
    settings = [word for setting in (*DW4, "training.max_steps=3") for word in ("--set", setting)]
    assert molflow("train", TINY, *settings, "--out", tmp_path / "run")[0] == 0
    text, figures = record("sample", "-m", tmp_path / "run", "-n", 40, "--seed", 3, "-o", tmp_path / "a.npz")
    assert f"40 configurations are in {tmp_path / 'a.npz'}" in text
    with np.load(tmp_path / "a.npz") as file:
        assert sorted(file.files) == ["log_prob", "positions", "system"]
        assert str(file["system"]) == "dw4"
        x, log_prob = load(tmp_path / "run").sample_and_log_prob(40, seed=3)
        assert np.array_equal(file["positions"], x)
        assert np.array_equal(file["log_prob"], log_prob)
    assert (figures["n"], figures["n_samples"], figures["n_reference"]) == (40, 40, 1000)
    assert (figures["sampling_seed"], figures["correction"], figures["system"]["name"]) == (3, None, "dw4")
    assert 1 / 40 <= figures["ess_fraction"] <= 1
    assert figures["ms_per_sample_with_density"] > 0
    assert "dw4 itself" in text
    assert "29.66" in text


def test_the_default_file_of_particles(molflow, model, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert molflow("sample", "-m", model, "-n", 4)[0] == 0
    assert os.listdir() == ["particles.npz"]


def test_sampled_scores_are_those_of_the_file(record, model, tmp_path):
    out = tmp_path / "a.npz"
    _, sampled = record("sample", "-m", model, "-n", 60, "-o", out)
    _, scored = record("evaluate", out)
    assert scored.pop("model") is None
    assert scored.pop("system") == sampled["system"]
    assert {key for key in scored if sampled[key] is None} == {key for key, value in scored.items() if value is None}
    numbers = {key: value for key, value in scored.items() if value is not None}
    assert {key: sampled[key] for key in numbers} == pytest.approx(numbers, rel=1e-4)


@pytest.mark.parametrize("kT", [1, 1.5])
def test_annealed_samples(record, model, tmp_path, kT):
    text, figures = record(
        "sample", "-m", model, "-n", 100, "--correct", "annealing", "--kT", kT, "-o", tmp_path / "a.npz"
    )
    correction = figures["correction"]
    assert f"took {correction['n_gradients']:,} evaluations of the energy and its gradient for each sample" in text
    assert correction["inverse_temperatures"][-1] == 1
    assert correction["n_distinct"] > 60
    assert figures["system"]["name"] == ("dw4" if kT == 1 else "dw4 at kT = 1.5")
    assert (figures["n_reference"] > 0) == (kT == 1)


@pytest.mark.parametrize("kind", ["importance", "metropolis"])
def test_corrected_samples_follow_the_target(record, model, tmp_path, kind):
    out, plain = tmp_path / "a.npz", tmp_path / "b.npz"
    text, figures = record("sample", "-m", model, "-n", 300, "--correct", kind, "-o", out)
    correction = figures["correction"]
    with np.load(out) as file:
        assert sorted(file.files) == ["positions", "system"]
        positions = file["positions"]
    distinct = len({x.tobytes() for x in positions})
    assert (len(positions), correction["kind"], correction["n_distinct"]) == (300, kind, distinct)
    assert correction["n_proposals"] == figures["n"] == (300 if kind == "importance" else 450)
    assert f"{distinct} of the 300 configurations are distinct" in text
    assert (figures["ess"], figures["n_samples"]) == (None, 300)
    _, uncorrected = record("sample", "-m", model, "-n", 300, "-o", plain)
    assert figures["mean_energy"] < uncorrected["median_energy"]
    if kind == "importance":
        assert correction["ess_fraction"] == pytest.approx(uncorrected["ess_fraction"], rel=1e-3)
        assert figures["mean_energy"] == pytest.approx(uncorrected["reweighted_mean_energy"], abs=0.5)
        with np.load(plain) as file:
            assert {x.tobytes() for x in positions} < {x.tobytes() for x in file["positions"]}
    else:
        assert 0 < correction["acceptance"] < 1


def test_the_density_can_be_left_out(record, fails, model, tmp_path):
    out = tmp_path / "a.npz"
    _, figures = record("sample", "-m", model, "-n", 30, "--no-density", "-o", out)
    with np.load(out) as file:
        assert sorted(file.files) == ["positions", "system"]
    assert figures["ess"] is None
    assert "ms_per_sample" in figures
    code, message = fails("sample", "-m", model, "--no-density", "--correct", "importance")
    assert (code, "needs the density" in message) == (2, True)
    assert fails("sample", "-m", "qm9", "--no-density")[0] == 2


def test_several_evaluations_have_no_density(record, fails, saved, tmp_path):
    network = "{kind='transformer', hidden=8, n_vectors=2, pair_hidden=4, n_heads=2, n_blocks=1}"
    average = saved(*DW4, f"model.decoder={network}", "model.average_velocity=true")
    out = tmp_path / "a.npz"
    text, figures = record("sample", "-m", average, "-n", 8, "-k", 3, "-o", out)
    with np.load(out) as file:
        assert sorted(file.files) == ["positions", "system"]
    assert (figures["ess"], figures["evaluations"]) == (None, 3)
    assert "ms per sample " in text
    _, speeds = record("benchmark", "sampling", "-m", average, "-n", 8, "-k", 3)
    assert (speeds["ess_fraction"], speeds["ms_per_sample_with_density"], speeds["n_densities"]) == (None, None, None)
    code, line = fails("sample", "-m", average, "-k", 3, "--correct", "importance", "-o", out)
    assert (code, line) == (
        2,
        "--correct needs the density of samples: leave out --no-density and --evaluations",
    )


def test_a_continuous_flow_has_a_density_by_its_own_solver_alone(record, saved, tmp_path):
    domain = "domain={kind='particles', n_particles=4, dim=2, scale=1.8}"
    network = "network={kind='egnn', hidden=8, n_blocks=1, n_inner=0}"
    model = f"model={{kind='continuous', {domain}, {network}, solver={{method='midpoint', n_steps=2}}}}"
    folder, out = saved(model, "data.name=dw4"), tmp_path / "a.npz"
    for words, expected, fields in (
        ((), 4, ["log_prob", "positions", "system"]),
        (("-k", 3), 3, ["positions", "system"]),
        (("-k", 1), 1, ["positions", "system"]),
    ):
        _, figures = record("sample", "-m", folder, "-n", 8, "--force", "-o", out, *words)
        assert figures["evaluations"] == expected
        with np.load(out) as file:
            assert sorted(file.files) == fields
    _, speeds = record("benchmark", "sampling", "-m", folder, "-n", 8)
    assert (speeds["evaluations"], speeds["n_densities"]) == (4, 8)


def test_particles_of_an_unknown_energy_are_counted_and_timed(record, fails, stranger, tmp_path):
    out = tmp_path / "a.npz"
    text, figures = record("sample", "-m", stranger, "-n", 8, "-o", out)
    assert (figures["n_samples"], figures["n_particles"], figures["dim"]) == (8, 3, 2)
    assert "ms per sample with density" in text
    with np.load(out) as file:
        assert (str(file["system"]), file["log_prob"].shape) == ("", (8,))
    _, speeds = record("benchmark", "sampling", "-m", stranger, "-n", 8)
    assert speeds["ess_fraction"] is None
    assert speeds["ms_per_sample_with_density"] > 0
    code, line = fails("evaluate", out)
    assert (code, line) == (1, f"{out}: does not say which system it is of; name it with --reference")
    code, line = fails("sample", "-m", stranger, "--correct", "metropolis", "-o", out)
    assert code == 1
    assert "was not trained on a system whose energy is known" in line


def test_samples_without_a_density_have_no_weight_and_are_counted(record, tmp_path):
    x = load_particles("dw4", "test")[:3].numpy()
    np.savez(tmp_path / "a.npz", positions=x, log_prob=np.array([-8, np.nan, np.inf]), system="dw4")
    text, scores = record("evaluate", tmp_path / "a.npz")
    assert ["without", "a", "finite", "log", "density", "2"] in [line.split() for line in text.splitlines()]
    assert (scores["n_nonfinite_log_prob"], scores["ess"]) == (2, pytest.approx(1))


def test_evaluate_several_files(record, model, exact, tmp_path):
    """Flat arrays are read too, and what one file names is said of all."""
    sampled, flat = tmp_path / "a.npz", tmp_path / "b.npy"
    record("sample", "-m", model, "-n", 50, "-o", sampled)
    np.save(flat, load_particles("dw4", "train").numpy().reshape(-1, 8))
    text, figures = record("evaluate", flat, sampled, exact())
    assert figures.keys() == {str(flat), str(sampled), str(tmp_path / "exact.npz")}
    assert [each["n_samples"] for each in figures.values()] == [1000, 50, 500]
    assert figures[str(flat)]["w1_energy"] < 0.3 < figures[str(sampled)]["w1_energy"]
    assert (figures[str(flat)]["ess"], figures[str(sampled)]["ess"] > 0) == (None, True)
    head, first = text.splitlines()[:2]
    assert "dw4 itself" in head
    assert first.split() == ["configurations", "1,000", "50", "500", "1,000"]


def test_a_perfect_density_has_equal_weights(record, exact):
    x = load_particles("dw4", "validation")[:500]
    _, figures = record("evaluate", exact(log_prob=-get_system("dw4").energy(x).numpy() - 29.66), "--reference", "dw4")
    assert figures["ess_fraction"] == pytest.approx(1, abs=1e-4)
    assert figures["reweighted_log_z"] == pytest.approx(29.66, abs=1e-3)


def test_the_likelihood_of_a_model(record, model, exact, tmp_path, monkeypatch):
    monkeypatch.setattr("molflow.training.tasks.particles._MINUTE", 96 * 30)
    text, figures = record("evaluate", exact(), "--reference", "dw4", "--model", model)
    assert "NLL of 30 test configurations" in text
    assert (figures["n_nll_encoder"], figures["n_nll_decoder"], figures["n_reconstruction"]) == (30, 30, 30)
    flow, x = load(model), load_particles("dw4", "test")[:30]
    for which in ("encoder", "decoder"):
        likelihood = flow.likelihood(x, which=which)
        assert figures[f"nll_{which}"] == pytest.approx(-float(likelihood.log_prob.mean()), rel=1e-4)
    error = 1.8 * float(likelihood.reconstruction_error.mean())  # in the units of the positions
    assert figures["reconstruction_error"] == pytest.approx(error, rel=1e-4)


def test_a_report(molflow, model, tmp_path):
    out, page = tmp_path / "a.npz", tmp_path / "new" / "page.html"
    assert molflow("sample", "-m", model, "-n", 50, "-o", out)[0] == 0
    code, text, _ = molflow("evaluate", out, "--report", page, "--distance", "3-0")
    assert code == 0
    assert f"The report is in {page}" in text
    html = page.read_text(encoding="utf-8")
    assert "Boltzmann evaluation: dw4" in html
    assert "along the distance r of particles 0 and 3, in kT" in html


@pytest.mark.parametrize(
    ("options", "code", "message"),
    [
        (["--distance", "0-1"], 2, "--distance is for the page of --report"),
        (["--distance", "0:1", "--report", "PAGE"], 2, "--distance 0:1: expected two particles, from 0, such as 0-4"),
        (["--distance", "1-4", "--report", "PAGE"], 1, "the distance 1-4: expected two of the 4 particles, from 0"),
    ],
)
def test_a_distance_that_does_not_exist(fails, exact, tmp_path, options, code, message):
    options = [str(tmp_path / "a.html") if word == "PAGE" else word for word in options]
    found, line = fails("evaluate", exact(), "--reference", "dw4", *options)
    assert (found, message in line) == (code, True)


def test_benchmark_sampling(record, model):
    text, figures = record("benchmark", "sampling", "-m", model, "-n", 60, "--batch-size", 32)
    assert figures.keys() >= SPEEDS
    assert (figures["n"], figures["n_densities"], figures["batch_size"]) == (60, 60, 32)
    assert figures["samples_per_s"] == pytest.approx(1e3 / figures["ms_per_sample"])
    cost = figures["ms_per_sample"] / figures["ess_fraction"]
    assert figures["ms_per_effective_sample"] == pytest.approx(cost)
    assert figures["ms_per_sample_with_density"] > figures["ms_per_sample"]
    assert "ms per effective sample" in text


@pytest.mark.parametrize("settings", [DW4, LJ13, (*DW4, 'objective={kind="free_form", energy_weight=0.5}')])
def test_benchmark_training(record, saved, settings):
    _, figures = record("benchmark", "training", "-m", saved(*settings), "--batch-size", 8)
    assert (figures["n_particles"], figures["dim"]) == ((13, 3) if settings is LJ13 else (4, 2))
    assert figures["samples_per_s"] == pytest.approx(8e3 / figures["ms_per_step"])
    assert figures["peak_memory_mb"] > 0
    assert "molecules_per_s" not in figures


def test_models_of_molecules_and_of_particles_stand_apart(molflow, record, saved, model, tmp_path, monkeypatch):
    _, figures = record("evaluate", _sampled(molflow, model, tmp_path), "--model", model)
    card = {"data": "dw4", "task": "particles", "domain": "particles", "epochs": 2, "scores": figures}
    os.symlink(saved(*DW4, card=card), tmp_path / "dw4")
    molecules = ('model.domain.types=["C"]', "model.domain.atom_counts=[0, 1]")
    os.symlink(saved(*molecules, card={"data": "qm9", "task": "molecules", "domain": "molecules"}), tmp_path / "mol")
    monkeypatch.setattr(pretrained, "_HERE", tmp_path)
    text, cards = record("models")
    assert cards.keys() == {"dw4", "mol"}
    of_molecules, of_particles = text.split("\n model", 1)
    assert "molecule stability" in of_molecules
    assert "stability" not in of_particles
    for shown in ("dw4", "effective sample size", number(figures["nll_decoder"], figures["nll_decoder_error"]), "7.12"):
        assert shown in of_particles


def _sampled(molflow, model, folder):
    assert molflow("sample", "-m", model, "-n", 50, "-o", folder / "sampled.npz")[0] == 0
    return folder / "sampled.npz"


def test_an_interrupted_sample_keeps_finished_samples(interrupted, model, tmp_path):
    out = tmp_path / "a.npz"

    def ready(shown):
        return "of 2000000" in shown and "sampling: 0 of" not in shown

    line = interrupted(ready, "sample", "-m", model, "-n", 2_000_000, "-o", out, "--batch-size", 16)
    with np.load(out) as file:
        kept = len(file["positions"])
        assert file["log_prob"].shape == (kept,)
    assert line == f"molflow: error: interrupted; {out} keeps the {kept} configurations that were finished"
    assert 0 < kept < 2_000_000
    assert os.listdir(tmp_path) == ["a.npz"]


def test_samples_are_written_before_the_reference_is_drawn(interrupted, model, tmp_path, monkeypatch):
    out, cache = tmp_path / "a.npz", tmp_path / "cache"
    monkeypatch.setenv("MOLFLOW_CACHE", str(cache))
    line = interrupted(
        lambda shown: "exact samples of dw4, is drawn now" in shown, "sample", "-m", model, "-n", 20, "-o", out
    )
    assert line == f"molflow: error: interrupted; 20 configurations are in {out}, without scores"
    with np.load(out) as file:
        assert len(file["positions"]) == 20
    assert not list(cache.glob("*"))


def test_a_closed_pipe_costs_no_file(into_closed_pipe, exact, tmp_path):
    page, figures = tmp_path / "page.html", tmp_path / "a.json"
    assert into_closed_pipe("evaluate", exact(), "--reference", "dw4", "--report", page, "--json", figures) == (1, "")
    assert json.loads(figures.read_text())["n_samples"] == 500
    assert "Boltzmann evaluation: dw4" in page.read_text(encoding="utf-8")


# ---- bad usage: exit code 2 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["data", "dw4", "--source", "wheel"], "--source is not an option of dw4"),
        (["sample", "-m", "MODEL", "--only", "stable"], "--only is for molecules; MODEL is a model of particles"),
        (["sample", "-m", "MODEL", "--novelty"], "--novelty is for molecules; MODEL is a model of particles"),
        (["sample", "--correct", "importance"], "--correct is for particles; qm9 is a model of molecules"),
        (["evaluate", "EXACT", "--reference", "dw4", "--novelty"], "--novelty is for molecules; dw4 is a system"),
        (
            ["evaluate", "EXACT", "COPY", "--reference", "dw4", "--report", "a.html"],
            "--report of particles is for one file",
        ),
        (["evaluate", QM9, "--reference", "qm9", "--model", "MODEL"], "--model is for particles"),
        (["benchmark", "training", "-m", "MODEL", "--n-atoms", 4], "--n-atoms is for molecules; MODEL is a model"),
    ],
)
def test_bad_usage(fails, model, exact, tmp_path_factory, words, message):
    names = {"MODEL": str(model), "EXACT": str(exact())}
    names["COPY"] = shutil.copy(names["EXACT"], tmp_path_factory.mktemp("copy") / "copy.npz")
    code, line = fails(*(names.get(word, word) for word in words))
    assert code == 2
    assert message.replace("MODEL", str(model)) in line


# ---- bad input: exit code 1 ------------------------------------------------------------------------------------------


def test_particles_go_to_npz(fails, model):
    code, line = fails("sample", "-m", model, "-o", "a.sdf")
    assert (code, line) == (2, "a.sdf: configurations of particles go to an .npz file, not to '.sdf'")


X = np.zeros((3, 4, 2))


@pytest.mark.parametrize(
    ("arrays", "words", "message"),
    [
        ({"system": "dw4"}, ["--reference", "lj13"], "holds samples of dw4, expected lj13"),
        ({"system": "dw4"}, ["--reference", "qm9"], "holds samples of dw4, expected qm9"),
        ({"system": ""}, ["--reference", "qm9"], "holds configurations of particles, expected molecules"),
        ({"system": "dw5"}, [], "samples of the unknown system 'dw5'; known are dw4, lj13"),
        ({"system": "lj13"}, [], "expected configurations of shape (n, 13, 3), got (3, 4, 2)"),
        ({}, ["--reference", "lj55"], "expected configurations of shape (n, 55, 3), got (3, 4, 2)"),
        ({"log_prob": np.zeros(2)}, [], "log_prob: expected 3 numbers, got float64 of shape (2,)"),
        ({"log_prob": np.array(["a"] * 3)}, [], "log_prob: expected 3 numbers, got <U1 of shape (3,)"),
        ({"log_prob": np.array([None] * 3)}, [], "not a readable .npy or .npz file of plain numbers"),
        ({"positions": np.full((3, 4, 2), np.inf)}, [], "configuration 0: expected finite coordinates"),
    ],
)
def test_evaluate_refuses_bad_files(fails, tmp_path, arrays, words, message):
    path = tmp_path / "a.npz"
    np.savez(path, **({"positions": X, "system": "dw4"} | arrays))
    if "system" not in arrays and words:
        np.savez(path, positions=X)
    code, line = fails("evaluate", path, *words)
    assert code == 1
    assert message in line


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("a.sdf", "a.sdf: dw4 is a system of particles; expected their configurations in an .npz or .npy file"),
        ("a.npy", "a.npy: not a readable .npy or .npz file of plain numbers"),
        ("none.npz", "none.npz: no such file"),
    ],
)
def test_evaluate_refuses_files_without_an_array(fails, tmp_path, name, message):
    (tmp_path / "a.sdf").write_text("nonsense")
    (tmp_path / "a.npy").write_text("nonsense")
    code, line = fails("evaluate", tmp_path / name, "--reference", "dw4")
    assert code == 1
    assert message in line


def test_evaluate_refuses_the_other_convention(fails, exact):
    path = exact(system="lj13", n=1000)
    code, line = fails("evaluate", path, "--reference", "lj13-unordered")
    assert code == 1
    assert line.startswith(f"{path}: obeys the ordered Lennard-Jones convention, expected the unordered one")


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (LJ13, "a model of 13 particles in 3 dimensions; dw4 has 4 in 2"),
        (['model.domain.types=["C"]', "model.domain.atom_counts=[0, 1]"], "expected a model of particles"),
    ],
)
def test_evaluate_refuses_another_kind_of_model(fails, saved, exact, settings, message):
    code, line = fails("evaluate", exact(), "--reference", "dw4", "--model", saved(*settings))
    assert code == 1
    assert message in line


@pytest.mark.parametrize("option", ["--json", "--report"])
def test_an_unwritable_place_is_found_first(fails, exact, option):
    code, line = fails("evaluate", exact(), "--reference", "dw4", "--model", "no such model", option, "/dev/null/a")
    assert code == 1
    assert line.startswith("/dev/null/a: ")
