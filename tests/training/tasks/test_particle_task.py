"""The task of particles: data drawn by MCMC, a user's own array, errors, and training runs."""

import itertools
import json
import math
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from molflow import load, train
from molflow.data import load_particles
from molflow.energies import get_system
from molflow.errors import MolflowError
from molflow.flows import ContinuousFlow, IntegrationError
from molflow.flows.storage import CARD
from molflow.training import loop
from molflow.training.config import load_experiment, read_experiment
from molflow.training.tasks import load_splits
from molflow.training.validation import validate

TINY = Path(__file__).parents[1] / "tiny.toml"
DW4 = ("data.name=dw4", "model.domain={kind = 'particles', n_particles = 4, dim = 2, scale = 1.8}")

pytestmark = pytest.mark.usefixtures("few_particles")


def particles(*overrides):
    return load_experiment(TINY, (*DW4, *overrides))


@pytest.fixture
def file(few_particles, tmp_path):
    path = tmp_path / "mine.npy"
    np.save(path, load_particles("dw4", "validation")[:200].numpy())
    return path


@pytest.fixture
def trained(few_particles, tmp_path):
    return train(particles(), tmp_path / "run")


def test_a_run_samples_and_knows_its_density(trained):
    flow = load(trained)
    x, log_q = flow.sample_and_log_prob(50, seed=0)
    assert x.shape == (50, 4, 2)
    assert log_q.isfinite().all()
    assert x.mean(1).abs().max() < 1e-5
    last = json.loads((trained / "metrics.jsonl").read_text().splitlines()[-1])
    assert 0 < last["ess_fraction"] <= 1
    assert math.isfinite(last["validation_nll_decoder"])
    assert json.loads((trained / CARD).read_text())["domain"] == "particles"
    assert read_experiment(trained).data.name == "dw4"


@pytest.mark.parametrize("kind", ["plain_transformer", "egnn"])
def test_only_networks_that_are_not_equivariant_see_data_in_random_orientations(kind, tmp_path):
    """All configurations of the file lie on a line."""
    x = np.zeros((60, 4, 2), dtype=np.float32)
    x[..., 0] = np.random.default_rng(0).normal(size=(60, 4)) * 5
    np.save(tmp_path / "line.npy", x)
    sizes = "dim = 2, n_heads = 2" if kind == "plain_transformer" else "n_inner = 1"
    network = f"{{kind = '{kind}', hidden = 8, n_blocks = 1, {sizes}}}"
    data = f"data={{name = 'particles', file = '{(tmp_path / 'line.npy').as_posix()}'}}"
    small = ("training.batch_size=16", "training.max_steps=2", f"model.encoder={network}", f"model.decoder={network}")
    config = load_experiment(TINY, (DW4[1], data, *small))
    flow, splits = load(train(config, tmp_path / "run")), load_splits(config)
    requests = loop._requests(splits, splits.batches(), 0, 1, loop.takes_turned(flow))
    assert bool(next(requests).batch.data[..., 1].any()) == (kind == "plain_transformer")


def test_warm_up_by_average_velocities(tmp_path):
    network = "{kind = 'transformer', hidden = 8, n_vectors = 2, pair_hidden = 4, n_heads = 2, n_blocks = 1}"
    warm = (f"model.decoder={network}", "model.average_velocity=true", "objective={kind = 'mean_flow'}")
    train(particles(*warm), tmp_path)
    last = json.loads((tmp_path / "metrics.jsonl").read_text().splitlines()[-1])
    assert {"median_energy", "median_energy_4_evaluations", "median_energy_16_evaluations"} <= set(last)


def test_samples_without_a_weight_do_not_end_a_run(monkeypatch):
    data = load_splits(particles())
    flow = data.config.model.build()
    _, log_q = flow.sample_and_log_prob(4, seed=0)
    log_q[0] = torch.inf
    monkeypatch.setattr(flow, "sample_and_log_prob", lambda n, seed, condition: (flow.sample(n, seed=seed), log_q))
    assert 0 < data.sample_figures(flow, 4, 0)["ess_fraction"] <= 0.75
    log_q[:] = torch.nan
    assert math.isnan(data.sample_figures(flow, 4, 0)["ess_fraction"])


def test_batches_are_the_training_configurations():
    data = load_splits(particles("training.batch_size=32"))
    batches = data.batches()
    assert len(batches) == 1000 // 32
    first = data.batch(batches.epoch(0)[0]).data
    torch.testing.assert_close(first, load_particles("dw4", "train")[batches.epoch(0)[0]])
    assert len(data.held_out(7)) == 7
    assert data.energy is get_system("dw4").energy


def test_a_users_array_takes_the_place_of_the_data(file):
    data = load_splits(particles(f"data.file='{file}'"))
    assert len(data.training) == 180
    assert len(data.validation) == 20
    both = torch.cat([data.training, data.validation])
    torch.testing.assert_close(both.sum(), torch.from_numpy(np.load(file)).sum(), atol=1e-2, rtol=0)
    assert data.energy is get_system("dw4").energy
    unknown = load_splits(particles("data.name=particles", f"data.file='{file}'"))
    assert unknown.energy is None
    assert unknown.split == "180 configurations of mine.npy"
    assert unknown.sample_figures(unknown.config.model.build(), 3, 0) == {}


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.name=qm9"], "model.domain.kind is particles; the data set qm9 is of molecules"),
        (["model.domain={kind = 'molecules'}"], "model.domain.kind is molecules; the data set dw4 is of particles"),
        (["data.name=lj13"], "lj13 has 13 particles in 3 dimensions, got 4 and 2"),
        (["data.name=particles", "data.file='none.npy'"], "none.npy"),
    ],
)
def test_a_model_that_does_not_fit_the_data_is_named(overrides, message):
    with pytest.raises(MolflowError, match=re.escape(message)):
        load_splits(particles(*overrides))


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (["data.name=particles"], r"data\.file is missing"),
        (["data={name='qm9', file='a.npy'}"], r"unknown key data\.file"),
    ],
)
def test_a_file_and_a_name_go_together(overrides, message):
    with pytest.raises(MolflowError, match=message):
        particles(*overrides)


def test_a_file_of_another_shape_says_so(tmp_path):
    np.save(tmp_path / "x.npy", np.zeros((20, 5, 2)))
    with pytest.raises(MolflowError, match=r"x\.npy: expected configurations of shape \(n, 4, 2\), got \(20, 5, 2\)"):
        load_splits(particles(f"data.file='{tmp_path / 'x.npy'}'"))


def test_a_file_of_the_other_convention_is_found_out(tmp_path):
    domain = "model.domain={kind = 'particles', n_particles = 13, dim = 3}"
    np.save(tmp_path / "x.npy", load_particles("lj13", "validation").numpy())
    with pytest.raises(MolflowError, match="convention"):
        load_splits(particles("data.name=lj13-unordered", domain, f"data.file='{tmp_path / 'x.npy'}'"))


def test_a_continuous_flow_is_trained_by_likelihood(tmp_path):
    """Validated, saved with its solver, loaded again, and sampled with its density."""
    table = "{kind = 'continuous', domain = {kind = 'particles', n_particles = 4, dim = 2, scale = 1.8}"
    network = "network = {kind = 'egnn', hidden = 8, n_blocks = 1, n_inner = 0}"
    solver = "solver = {method = 'rk4', n_steps = 2}"
    objective = "objective={kind = 'likelihood', kinetic_energy = 0.01}"
    overrides = ("data.name=dw4", f"model={table}, {network}, {solver}}}", objective, "training.max_steps=9")
    folder = train(load_experiment(TINY, overrides), tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert {"loss", "latent_nll", "log_det", "kinetic_energy", "evaluations"} <= set(lines[0])
    assert lines[0]["evaluations"] == 8
    assert {"validation_nll", "validation_reconstruction_error", "ess_fraction"} <= set(lines[-1])
    flow = load(folder)
    assert (flow.solver.method, flow.solver.n_steps) == ("rk4", 2)
    x, log_q = flow.sample_and_log_prob(5, seed=0)
    assert x.shape == (5, 4, 2)
    torch.testing.assert_close(flow.log_prob(x), log_q, atol=0.1, rtol=0)


CONTINUOUS = "{{kind = 'continuous', domain = {{kind = 'particles', n_particles = 4, dim = 2, scale = 1.8}}, {}}}"
NETWORK = "network = {kind = 'egnn', hidden = 8, n_blocks = 1, n_inner = 0}"


def continuous(solver, *overrides):
    model = "model=" + CONTINUOUS.format(f"{NETWORK}, solver = {solver}")
    return load_experiment(TINY, ("data.name=dw4", model, *overrides))


@pytest.mark.parametrize("pairing", ["none", "equivariant_optimal_transport"])
def test_a_continuous_flow_is_trained_by_flow_matching(tmp_path, pairing):
    objective = f"objective={{kind = 'flow_matching', pairing = '{pairing}'}}"
    config = continuous("{method = 'rk4', n_steps = 2}", objective, "training.batch_size=32")
    folder = train(config, tmp_path / "run")
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    assert all(line["flow_matching"] == line["loss"] for line in lines if "loss" in line)
    assert lines[-1].keys() == {
        "step", "validation_loss", "validation_nll", "validation_reconstruction_error", "ess_fraction", "median_energy",
    }  # fmt: skip
    assert all(math.isfinite(value) for value in lines[-1].values())
    assert load(folder).sample(5, seed=0, n_evaluations=3).shape == (5, 4, 2)


def test_a_validation_whose_paths_cannot_be_followed_is_without_its_figures(tmp_path, caplog):
    """A solver of few steps; what needs none is still measured."""
    solver = "{method = 'dopri5', max_steps = 1, rtol = 1e-12, atol = 1e-12}"
    folder = train(continuous(solver, "objective={kind = 'flow_matching'}"), tmp_path / "run")
    last = json.loads((folder / "metrics.jsonl").read_text().splitlines()[-1])
    assert math.isfinite(last["validation_loss"])
    assert {name for name, value in last.items() if value is None} == {
        "validation_nll", "validation_reconstruction_error", "ess_fraction", "median_energy",
    }  # fmt: skip
    assert "no validation_nll, validation_reconstruction_error: " in caplog.text
    assert "no ess_fraction, median_energy: " in caplog.text
    assert json.loads((folder / CARD).read_text())["validation"]["ess_fraction"] is None


def test_the_held_out_loss_is_a_mean_over_batches_of_the_size_of_training():
    """As pairing over more configurations shortens the way; a rest counts by its configurations."""
    config = continuous(
        "{method = 'rk4', n_steps = 2}",
        "objective={kind = 'flow_matching', pairing = 'optimal_transport'}",
        "training.batch_size=8",
        "training.validation_molecules=20",
    )
    dataset = load_splits(config)
    flow = config.model.build()
    data = dataset.held_out(20)
    objective = config.objective.build(flow)
    prepare, generator = objective.preparation(), torch.Generator().manual_seed(config.seed)
    parts = [data[start : start + 8] for start in (0, 8, 16)]
    losses = [objective(prepare(part, generator))[0].item() for part in parts]
    expected = (8 * losses[0] + 8 * losses[1] + 4 * losses[2]) / 20
    assert validate(flow, dataset)["validation_loss"] == pytest.approx(expected, rel=1e-5)


def test_a_continuous_flow_needs_another_objective(tmp_path):
    model = "model={kind = 'continuous', domain = {kind = 'particles', n_particles = 4, dim = 2}}"
    needed = r"encoder, decoder, reverse_terms \(model\.kind = 'free_form'\)"
    with pytest.raises(MolflowError, match=f"objective: the free_form objective needs a flow with {needed}"):
        train(load_experiment(TINY, ("data.name=dw4", model, "objective.kind=free_form")), tmp_path / "run")


def test_a_batch_whose_paths_cannot_be_followed_is_rolled_back(tmp_path, monkeypatch, caplog):
    """As one whose loss is not finite; where every batch fails, the run ends."""
    table = "{kind = 'continuous', domain = {kind = 'particles', n_particles = 4, dim = 2}"
    network = "network = {kind = 'egnn', hidden = 4, n_blocks = 1, n_inner = 0}"
    model = f"model={table}, {network}, solver = {{method = 'euler', n_steps = 1}}}}"
    settings = ("data.name=dw4", model, "objective={kind = 'likelihood'}", "training.max_steps=9")
    config, terms, bad = load_experiment(TINY, settings), ContinuousFlow.terms, iter([False, False, True])

    def fails(flow, *arguments):
        if next(bad, False):
            raise IntegrationError("the step of the solver vanished")
        return terms(flow, *arguments)

    monkeypatch.setattr(ContinuousFlow, "terms", fails)
    train(config, tmp_path / "once")
    assert "the step of the solver vanished" in caplog.text
    assert "at step 2, training data" in caplog.text
    assert "rolled back" in caplog.text
    bad = itertools.repeat(True)
    with pytest.raises(MolflowError, match=r"not finite at step 5.*after 5 roll-backs"):
        train(config, tmp_path / "always")
