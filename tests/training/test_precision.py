"""Training with the products of networks in bfloat16: compared with float32 on the first batch, and resumed exactly."""

from pathlib import Path

import pytest
from safetensors.torch import load_file

from molflow import train
from molflow.errors import MolflowError
from molflow.flows import acceleration
from molflow.flows.storage import WEIGHTS
from molflow.training.config import load_experiment, read_experiment

TINY = Path(__file__).with_name("tiny.toml")
FEW = "training.batch_size=8", "training.validation_samples=1", "training.validation_molecules=1"


def tiny(precision, max_steps=3):
    return load_experiment(TINY, [*FEW, f"training.precision={precision}", f"training.max_steps={max_steps}"])


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    return train(tiny("bfloat16"), tmp_path_factory.mktemp("bfloat16"))


def test_weights_stay_in_float32_and_near_those_of_float32(run, tmp_path):
    train(tiny("float32"), tmp_path)
    found, exact = load_file(run / WEIGHTS), load_file(tmp_path / WEIGHTS)
    assert all(found[name].dtype == tensor.dtype for name, tensor in exact.items())
    apart = [(found[name] - tensor).abs().max() for name, tensor in exact.items() if tensor.is_floating_point()]
    assert 0 < max(apart) < 1e-3  # three steps of Adam whose learning rate rises to 7.5e-4
    assert read_experiment(run).training.precision == "bfloat16"


def test_a_run_is_resumed_exactly(run, tmp_path):
    train(tiny("bfloat16", max_steps=2), tmp_path)
    train(tiny("bfloat16"), tmp_path, resume=True)
    assert (tmp_path / WEIGHTS).read_bytes() == (run / WEIGHTS).read_bytes()
    with pytest.raises(MolflowError, match=r"another training\.precision"):
        train(tiny("float32"), run, resume=True)


def test_gradients_that_differ_are_refused_at_the_first_batch(monkeypatch, tmp_path):
    forward = acceleration._forward

    def wrong(*arguments):
        return tuple(1.5 * change for change in forward(*arguments))

    monkeypatch.setattr(acceleration, "_forward", wrong)
    train(tiny("float32"), tmp_path / "exact")
    expected = r"^training\.precision: the gradient of the first batch in bfloat16 differs .* of its norm"
    with pytest.raises(MolflowError, match=expected):
        train(tiny("bfloat16"), tmp_path / "wrong")


def test_vectors_have_no_other_precision(tmp_path):
    file = tmp_path / "moons.toml"
    file.write_text('name = "moons"\ndata.name = "two-moons"\nmodel = {kind = "planar", domain.kind = "vectors"}')
    with pytest.raises(MolflowError, match="no network on point clouds that could use another precision"):
        train(load_experiment(file, ["training.precision=bfloat16"]), tmp_path / "run")
    assert not (tmp_path / "run").exists()
