"""A user's energy on the command line: train, sample, correct and score a chain; and models never execute it."""

import json
import re
import sys

import numpy as np
import pytest
import torch

from molflow import load, load_experiment, train
from molflow.energies import OwnEnergy, Tempering, parallel_tempering
from molflow.errors import MolflowError
from molflow.flows import ParticleDomain
from molflow.training.config import read_experiment
from molflow.training.tasks import load_splits

TINY = "name = 'chain'\n[data]\nname = 'particles'\nfile = 'chain.npz'\nbonds = [[0, 1], [1, 2]]\n" + (
    "[model]\nkind = 'free_form'\n[model.domain]\nkind = 'particles'\nn_particles = 3\ndim = 2\n"
    "[model.encoder]\nkind = 'egnn'\nhidden = 8\nn_blocks = 1\nn_inner = 1\n"
    "[model.decoder]\nkind = 'egnn'\nhidden = 8\nn_blocks = 1\nn_inner = 1\n"
    "[training]\nbatch_size = 32\nmax_steps = 3\nvalidation_samples = 20\nvalidation_molecules = 10\n"
)
CODE = """
from pathlib import Path
Path("executed").touch()

def energy(x):
    bonds = (x[:, 1:] - x[:, :-1]).norm(dim=-1)
    return 8 * (bonds - 1).square().sum(1) + 0.1 * (x - x.mean(1, keepdim=True)).square().sum((1, 2))
"""


@pytest.fixture(scope="module")
def chains():
    """Samples of the energy, (500, 3, 2)."""
    namespace = {}
    exec(CODE.replace('Path("executed").touch()', ""), namespace)
    generator = torch.Generator().manual_seed(0)
    start = torch.randn(100, 3, 2, generator=generator)
    settings = Tempering((1.0,), n_burn_in=60, n_samples=5, thinning=4, n_leapfrog=8)
    found = parallel_tempering(OwnEnergy(namespace["energy"], start), start, settings, generator)
    return found.positions.flatten(0, 1).numpy()


@pytest.fixture
def folder(chains, tmp_path, monkeypatch):
    """An experiment, its data and the module of its energy, whose import leaves a file; gives the module's name."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "chain.toml").write_text(TINY)
    np.savez("chain.npz", positions=chains)
    name = re.sub(r"\W", "_", f"energy_of_{tmp_path.name}")
    (tmp_path / f"{name}.py").write_text(CODE)
    return name


def test_train_sample_correct_and_score(folder, molflow, tmp_path, caplog):
    caplog.set_level("INFO", logger="molflow")
    energy = f"{folder}:energy"
    code, _, err = molflow("train", "chain.toml", "--energy", energy)
    assert code == 0, err
    for line in (
        "torch tensors, batched, gradients by autograd",
        "does not change under reflection",
        "at kT = 1 have 4",
    ):
        assert line in caplog.text
    assert "permutation" not in caplog.text, "no two particles of a chain are alike"
    flow = load("runs/chain")
    assert flow.domain.species == (0, 1, 2)
    sample = ("sample", "-m", "runs/chain", "-n", 60)
    code, text, err = molflow(*sample, "--energy", energy, "--correct", "importance", "-o", "c.npz", "--json", "c.json")
    assert code == 0, err
    assert "each was taken in proportion to its weight" in text
    assert json.loads((tmp_path / "c.json").read_text())["system"]["name"] == energy
    assert molflow(*sample, "-o", "a.npz")[0] == 0
    words = (
        "evaluate",
        "a.npz",
        "--energy",
        energy,
        "--reference",
        "chain.npz",
        "-m",
        "runs/chain",
        "--json",
        "e.json",
    )
    code, _, err = molflow(*words)
    assert code == 0, err
    figures = json.loads((tmp_path / "e.json").read_text())
    assert (figures["n_samples"], figures["n_reference"]) == (60, 500)
    assert 0 < figures["ess_fraction"] <= 1
    assert figures["disagreement"] > 0


def test_a_model_never_executes_the_energy_that_it_names(folder, molflow, tmp_path):
    train(load_experiment("chain.toml", [f"data.energy={folder}:energy"]), "run")
    assert (tmp_path / "executed").exists()
    (tmp_path / "executed").unlink()
    del sys.modules[folder]
    load("run")
    assert molflow("sample", "-m", "run", "-n", 5, "-o", "a.npz")[0] == 0
    code, _, err = molflow("sample", "-m", "run", "-n", 5, "--correct", "importance", "-o", "b.npz")
    assert code == 1
    assert "name it by --energy" in err
    molflow("evaluate", "a.npz", "--reference", "dw4", "-m", "run")
    for config in (read_experiment(tmp_path / "run"), load_experiment("run/config.json")):
        with pytest.raises(MolflowError, match=r"is code, which a config\.json cannot ask for: give --energy"):
            load_splits(config)
    code, _, err = molflow("train", "run/config.json", "--out", "other")
    assert code == 1
    assert "give --energy" in err
    assert not (tmp_path / "executed").exists()
    assert molflow("train", "run/config.json", "--energy", f"{folder}:energy", "--out", "other")[0] == 0


def test_a_chain_without_bonds_is_found_out(folder, caplog):
    """By its energy, which permutations change, or by its distances, where there is no energy."""
    with pytest.raises(
        MolflowError, match=r"under permutation of like particles; tell particles apart by data\.species"
    ):
        load_splits(load_experiment("chain.toml", [f"data.energy={folder}:energy", "data.bonds=[]"]))
    load_splits(load_experiment("chain.toml"))
    assert "differ in their mean distance" not in caplog.text
    load_splits(load_experiment("chain.toml", ["data.bonds=[]"]))
    assert "particles 0 and 1 differ in their mean distance to the others" in caplog.text


@pytest.mark.parametrize(
    ("setting", "message"),
    [
        ("data.bonds=[[0, 3]]", r"data.bonds: \[0, 3\] is not a pair of two of the 3 particles"),
        ("data.species=['A']", "data.species: expected one for each of 3 particles, got 1"),
        ("model.domain.species=[0, 0, 1]", r"model.domain.species: \[0, 0, 1\] are not those of the data, \[0, 1, 2\]"),
    ],
)
def test_species_that_do_not_fit(folder, setting, message):
    with pytest.raises(MolflowError, match=message):
        load_splits(load_experiment("chain.toml", [setting]))


def test_species_of_the_data_become_labels_of_the_model(folder):
    config = load_splits(load_experiment("chain.toml", ["data.bonds=[]", "data.species=['O', 'H', 'H']"])).config
    assert config.model.domain.species == (0, 1, 1)
    domain = config.model.domain.build()
    points, context, _ = domain.to_points(torch.randn(2, 3, 2), None)
    assert points.h.shape == (2, 3, 0)
    assert context.labels[0].tolist() == [[1, 0], [0, 1], [0, 1]]
    flow = config.model.build()
    x = flow.sample(4, seed=0)
    swapped, other = x[:, [0, 2, 1]], x[:, [1, 0, 2]]
    torch.testing.assert_close(flow.log_prob(swapped), flow.log_prob(x), atol=1e-3, rtol=0)
    randomized = flow.double()
    for parameter in randomized.parameters():
        parameter.data += 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(1))
    assert (randomized.log_prob(other.double()) - randomized.log_prob(x.double())).abs().max() > 1e-6


def test_species_count_from_zero():
    with pytest.raises(ValueError, match="expected 3 numbers that count from 0, got"):
        ParticleDomain(3, 2, species=(1, 2, 2))
