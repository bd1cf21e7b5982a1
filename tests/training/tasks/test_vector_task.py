"""The task of vectors: a conditional model from a user's file, trained, sampled and timed on the command line."""

import json
import re
from pathlib import Path

import numpy as np
import pytest
import torch

from molflow import load, train
from molflow.errors import MolflowError
from molflow.training.config import load_experiment
from molflow.training.tasks import TASKS, load_splits, task_of
from molflow.training.tasks.vectors import marginal_distance

VECTORS = """
name = "vectors"

[data]
name = "vectors"
file = "{file}"
condition = ["y"]

[model]
domain = {{kind = "vectors"}}
encoder = {{kind = "mlp", hidden = 16, n_blocks = 1}}
decoder = {{kind = "mlp", hidden = 16, n_blocks = 1}}

[training]
batch_size = 50
max_steps = 30
validation_molecules = 20
validation_samples = 50
device = "cpu"
"""


@pytest.fixture
def experiment(tmp_path):
    """x = (y, -2 y) + noise, with scales far from one."""
    rng = np.random.default_rng(0)
    y = rng.normal(size=500)
    x = np.stack([5 + y, 100 - 20 * y], 1) + rng.normal(size=(500, 2)) * [0.1, 2]
    np.savez(tmp_path / "x.npz", x=x, condition=y)
    path = tmp_path / "vectors.toml"
    path.write_text(VECTORS.format(file=(tmp_path / "x.npz").as_posix()))
    return path


def test_training_on_arrays(tmp_path):
    network = "{kind='mlp', hidden=8, n_blocks=1}"
    path = tmp_path / "a.toml"
    path.write_text(f"name='a'\nmodel={{domain={{kind='vectors'}}, encoder={network}, decoder={network}}}\n")
    settings = ["training.batch_size=16", "training.max_steps=2", "training.validation_samples=4"]
    x, y = np.random.default_rng(0).normal(size=(50, 2)), np.arange(50.0)[:, None]
    train(load_experiment(path, settings), tmp_path / "run", data=x)
    assert load(tmp_path / "run").sample(3).shape == (3, 2)
    with pytest.raises(MolflowError, match="run: holds another run already, with its data; name another"):
        train(load_experiment(path, settings), tmp_path / "run", data=x)
    train(load_experiment(path, [*settings, "training.max_steps=4"]), tmp_path / "run", data=x, resume=True)
    named = [*settings, "data.name=vectors", "data.file=none", "data.condition=['y']"]
    train(load_experiment(path, named), tmp_path / "given", data=(x, y))
    assert load(tmp_path / "given").conditions.names == ("y",)
    with pytest.raises(MolflowError, match=r"expected vectors \(n, F\) and conditions \(n, C\), got \(50,\)"):
        train(load_experiment(path, settings), tmp_path / "other", data=y[:, 0])


def test_the_model_is_fitted_to_the_training_data(experiment):
    splits = load_splits(load_experiment(experiment))
    domain, conditions = splits.config.model.domain, splits.config.model.conditions
    assert domain.n_features == 2
    assert domain.mean == pytest.approx(splits.training.double().mean(0).tolist())
    assert domain.std == pytest.approx(splits.training.double().std(0).tolist())
    assert (conditions.names, len(conditions.mean)) == (("y",), 1)
    assert len(splits.training) == 400
    batch = splits.batch(splits.batches().epoch(0)[0])
    assert (batch.data.shape, batch.condition.shape) == ((50, 2), (50, 1))
    assert splits.split == "400 vectors of x.npz"
    assert load_splits(splits.config).config == splits.config
    with pytest.raises(MolflowError, match=re.escape("model.domain.n_features is 3; the vectors of vectors have 2")):
        load_splits(load_experiment(experiment, ["model.domain.n_features=3"]))
    conditions = 'model.conditions={names = ["y"]}'
    with pytest.raises(MolflowError, match=re.escape("model.conditions: name the conditions in data.condition")):
        load_splits(load_experiment(experiment, ["data.condition=[]", conditions]))
    with pytest.raises(MolflowError, match=re.escape("the data set vectors is of vectors")):
        load_splits(load_experiment(experiment, ["model.domain={kind='particles', n_particles=2, dim=1}"]))


def test_train_sample_and_benchmark(molflow, experiment, tmp_path):
    run, out, figures = tmp_path / "run", tmp_path / "a.npz", tmp_path / "a.json"
    code, _, err = molflow("train", experiment, "--out", run)
    assert code == 0, err
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    assert last.keys() >= {"validation_nll_encoder", "w1"}
    code, text, err = molflow("sample", "-m", run, "-n", 64, "-o", out, "--cond", "y=1", "--json", figures)
    assert code == 0, err
    assert f"64 vectors are in {out}" in text
    with np.load(out) as file:
        assert sorted(file.files) == ["log_prob", "x"]
        x, log_prob = load(run).sample_and_log_prob(64, seed=0, condition={"y": 1.0})
        assert np.array_equal(file["x"], x)
        assert np.array_equal(file["log_prob"], log_prob)
    record = json.loads(figures.read_text())
    assert (record["n_samples"], record["n_features"]) == (64, 2)
    assert record["mean"] == pytest.approx(x.mean(0).tolist(), rel=1e-4)
    assert molflow("benchmark", "training", "-m", run, "--batch-size", 8, "--json", figures)[0] == 0
    assert json.loads(figures.read_text())["samples_per_s"] > 0
    code, _, err = molflow("benchmark", "sampling", "-m", run, "-n", 8, "--json", figures)
    assert code == 0, err
    assert json.loads(figures.read_text())["ms_per_sample_with_density"] > 0
    assert molflow("sample", "-m", run, "--only", "stable", "--cond", "y=1")[0] == 2


def test_the_distance_of_marginals():
    """A shift by half a standard deviation is 0.5; the same samples have none."""
    x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0)) * torch.tensor([1.0, 100.0])
    shift = 0.5 * x.double().std(0)
    assert float(marginal_distance(x, x)) == 0
    assert float(marginal_distance(x.double() + shift, x)) == pytest.approx(0.5)


@pytest.mark.parametrize("name", TASKS.names())
def test_every_task_has_its_name(name):
    task = TASKS[name]()
    assert task.name == name
    assert Path(task.default_output).suffix in (".sdf", ".npz")


def test_the_task_of_a_flow(experiment):
    flow = load_splits(load_experiment(experiment)).config.model.build()
    assert task_of(flow).name == "vectors"
