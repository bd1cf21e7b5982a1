"""Checkpoints: they come back bit by bit; what is damaged, unfit or a pickle is refused, and nothing is executed."""

import json
import os
import pickle
import shutil
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from molflow.errors import MolflowError
from molflow.training.checkpoint import CARD, CONFIG, STATE, WEIGHTS, load, load_state, save_model, save_state
from molflow.training.config import load_experiment

TINY = Path(__file__).with_name("tiny.toml")
CONFIGURATION = load_experiment(
    TINY, ['model.domain.types=["H", "C", "N", "O", "F"]', "model.domain.atom_counts=[0, 0, 1, 2, 0, 3]"]
)


@pytest.fixture
def flow():
    torch.manual_seed(0)
    return CONFIGURATION.model.build()


@pytest.fixture
def folder(tmp_path, flow):
    save_model(tmp_path, CONFIGURATION, flow, {"name": "tiny"})
    return tmp_path


def refused(function, *arguments) -> str:
    with pytest.raises(MolflowError) as caught:
        function(*arguments)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_round_trip_gives_the_same_bits(folder, flow):
    loaded = load(folder)
    assert not loaded.training
    assert loaded.state_dict().keys() == flow.state_dict().keys()
    assert all(torch.equal(tensor, flow.state_dict()[name]) for name, tensor in loaded.state_dict().items())
    ours, theirs = (f.sample(20, seed=3) for f in (flow, load(folder)))
    assert torch.equal(ours.positions, theirs.positions)
    assert torch.equal(ours.atomic_numbers, theirs.atomic_numbers)
    assert set(ours.n_atoms.tolist()) == {2, 3, 5}
    assert sorted(os.listdir(folder)) == [CARD, CONFIG, WEIGHTS]


def test_files_are_as_readable_as_the_user_wants_them(folder):
    umask = os.umask(0)
    os.umask(umask)
    assert {(folder / name).stat().st_mode & 0o777 for name in (CARD, CONFIG, WEIGHTS)} == {0o666 & ~umask}


@pytest.mark.parametrize("name", [CONFIG, WEIGHTS])
def test_missing_files(folder, name):
    (folder / name).unlink()
    assert f"{folder / name}: " in refused(load, folder)


def test_missing_folder(tmp_path):
    assert refused(load, tmp_path / "none") == f"{tmp_path / 'none'}: no such checkpoint folder"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "config.json: Input should be a valid dictionary"),
        ("{}", "name: Field required; model: Field required"),
    ],
)
def test_damaged_config(folder, content, message):
    (folder / CONFIG).write_text(content)
    assert message in refused(load, folder)


@pytest.mark.parametrize(
    ("domain", "message"),
    [
        ({"atom_counts": []}, "counts of molecules by number of atoms"),
        ({"types": ["H", "Xx"]}, "unknown element 'Xx'"),
        ({"types": ["H", "xx"]}, "'xx' is not a type; expected an element, or one with its hydrogens such as CH3"),
        ({"types": ["C", "CH3"]}, "types of an all-atom representation carry no hydrogens"),
        ({"types": []}, "expected different types of points, at least one, got none"),
        ({"type": []}, "unknown key model.domain.type; did you mean model.domain.types?"),
        ({"kind": "particles"}, "model.domain.n_particles: Field required"),
    ],
)
def test_unfit_config(folder, domain, message):
    table = json.loads((folder / CONFIG).read_text())
    table["model"]["domain"] |= domain
    (folder / CONFIG).write_text(json.dumps(table))
    error = refused(load, folder)
    assert error.startswith(f"{folder / CONFIG}: ")
    assert message in error


def test_truncated_weights(folder):
    path = folder / WEIGHTS
    whole = path.read_bytes()
    for length in (0, 5, 100, len(whole) // 2, len(whole) - 1):
        path.write_bytes(whole[:length])
        assert refused(load, folder).startswith(f"{path}: not a safetensors file")


def change_weights(folder, change):
    weights = load_file(folder / WEIGHTS)
    change(weights)
    save_file(weights, folder / WEIGHTS)
    return refused(load, folder)


def test_wrong_shapes_name_the_tensor_with_both_shapes(folder, flow):
    name, tensor = next((name, tensor) for name, tensor in flow.state_dict().items() if tensor.ndim == 2)
    error = change_weights(folder, lambda weights: weights.update({name: torch.zeros(3, 77)}))
    assert f"{name} has shape (3, 77), config.json asks for {tuple(tensor.shape)}" in error


def test_missing_and_unknown_tensors_are_named(folder, flow):
    name = min(flow.state_dict())
    assert f"lacks {name}" in change_weights(folder, lambda weights: weights.pop(name))
    save_model(folder, CONFIGURATION, flow, {})
    error = change_weights(folder, lambda weights: weights.update(stranger=torch.zeros(1)))
    assert "has an unknown stranger" in error


class Trap:
    """Unpickling this makes a folder."""

    def __init__(self, sentinel: Path):
        self.sentinel = str(sentinel)

    def __reduce__(self):
        return os.mkdir, (self.sentinel,)


TRAPS = {
    "torch": (torch.save, lambda path: torch.load(path, weights_only=False)),
    "pickle": (lambda trap, path: path.write_bytes(pickle.dumps(trap)), lambda path: pickle.loads(path.read_bytes())),  # noqa: S301
}


@pytest.mark.parametrize("kind", TRAPS)
@pytest.mark.parametrize(("name", "read"), [(WEIGHTS, load), (STATE, load_state)])
def test_pickles_are_refused_and_nothing_is_executed(folder, kind, name, read, recwarn):
    sentinel, trap = folder / "sentinel", folder / "trap.pt"
    write, spring = TRAPS[kind]
    write(Trap(sentinel), trap)
    shutil.copy(trap, folder / name)
    assert refused(read, folder).startswith(f"{folder / name}: ")
    assert not sentinel.exists()
    assert not recwarn.list
    spring(trap)
    assert sentinel.exists()  # so the trap was a real one


def test_training_state_round_trip(folder):
    state = {"flow": {"w": torch.arange(3.0)}, "step": 4, "norms": [1.5], "pending": [{"loss": 0.25}]}
    save_state(folder, state)
    found = load_state(folder)
    assert torch.equal(found.pop("flow")["w"], state.pop("flow")["w"])
    assert found == state


def test_damaged_training_state(folder):
    path = folder / STATE
    assert "nothing to resume" in refused(load_state, folder)
    save_state(folder, {"step": 4})
    whole = path.read_bytes()
    for content in (b"", b"\x80", b"PK\x03\x04", whole[:100], whole[:-10]):
        path.write_bytes(content)
        assert refused(load_state, folder).startswith(f"{path}: damaged, or not a training state")
