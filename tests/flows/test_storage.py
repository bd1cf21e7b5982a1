"""Models on disk: they load bit by bit; a damaged or unsuitable file or a pickle is refused and never executed."""

import json
import os
import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from molflow.checksums import digest
from molflow.errors import MolflowError
from molflow.flows import FreeFormConfig
from molflow.flows.domains import MoleculesConfig
from molflow.flows.storage import (
    CARD,
    CONFIG,
    WEIGHTS,
    load,
    load_weights,
    read_card,
    read_weights,
    save_model,
    save_weights,
)
from molflow.flows.zoo import PlanarConfig
from molflow.nn import EGNNConfig
from molflow.pretrained import folder_of, model_names
from molflow.training.state import STATE, load_state

NETWORK = EGNNConfig(hidden=8, pair_hidden=4, n_blocks=1, n_inner=1)
DOMAIN = MoleculesConfig(types=("H", "C", "N", "O", "F"), atom_counts=(0, 0, 1, 2, 0, 3))
CONFIGURATION = FreeFormConfig(domain=DOMAIN, encoder=NETWORK, decoder=NETWORK)


@pytest.fixture
def flow():
    torch.manual_seed(0)
    return CONFIGURATION.build()


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
    assert refused(load, tmp_path / "none") == f"{tmp_path / 'none'}: no such model folder"


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("", "not JSON"),
        ("{", "not JSON"),
        ("[]", "config.json: has no model; expected format, model and experiment"),
        ("{}", "config.json: has no model; expected format, model and experiment"),
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
        ({"types": ["C", "CH3"]}, "types of the all-atom representation carry no hydrogens"),
        ({"types": []}, "expected different types of points, at least one, got none"),
        ({"type": []}, "unknown key model.domain.type; did you mean model.domain.types?"),
        ({"kind": "particles"}, "model.domain.n_particles is missing"),
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


def test_a_flipped_bit_anywhere_in_the_weights_is_refused(tmp_path):
    """Only in the name of the checksum it goes unseen, and there no weight is damaged."""
    config = PlanarConfig(domain={"kind": "vectors", "n_features": 2}, n_transforms=3)
    save_model(tmp_path, config, flow := config.build(), {})
    path = tmp_path / WEIGHTS
    whole, expected = path.read_bytes(), {key: tensor.clone() for key, tensor in flow.state_dict().items()}
    name = whole.index(b'"sha256"')
    for position, bit in enumerate(np.random.default_rng(0).integers(8, size=len(whole))):
        flipped = bytearray(whole)
        flipped[position] ^= 1 << bit
        path.write_bytes(flipped)
        try:
            load_weights(flow, path)
        except MolflowError:
            continue
        assert name < position <= name + len("sha256")
        assert all(torch.equal(tensor, expected[key]) for key, tensor in flow.state_dict().items())


def test_equal_tensors_are_stored_once(tmp_path):
    """Large ones, with equal bits, types and shapes."""
    a, path = torch.randn(40, 50, generator=torch.Generator().manual_seed(0)), tmp_path / WEIGHTS
    weights = {
        "a": a, "b": a.clone(), "c": a.double(), "d": a.clone().view(50, 40), "e": a.clone(), "f": -a,
        "small": torch.ones(3), "small too": torch.ones(3),
    }  # fmt: skip
    save_weights(weights, path)
    assert load_file(path).keys() == weights.keys() - {"b", "e"}
    read = read_weights(path)
    assert read.keys() == weights.keys()
    assert all(torch.equal(read[name], weights[name]) and read[name].dtype == weights[name].dtype for name in weights)


@pytest.mark.parametrize("equal", ["[", "[]", "3", '{"b": "none"}', '{"b": ["a"]}', '{"b": null}', "[" * 100_000])
def test_a_damaged_list_of_equal_tensors(tmp_path, equal):
    save_file({"a": torch.ones(2)}, tmp_path / WEIGHTS, {"equal_tensors": equal})
    with pytest.raises(MolflowError, match=r"model\.safetensors: the weights are damaged: their list of equal tensors"):
        read_weights(tmp_path / WEIGHTS)


def test_damaged_weights_are_named(folder, flow):
    path = folder / WEIGHTS
    damaged = bytearray(path.read_bytes())
    damaged[-1] ^= 1  # the last bit of the exponent of a number, which stays finite
    path.write_bytes(damaged)
    assert refused(load, folder) == (
        f"{path}: the weights are damaged: they do not have the checksum that is stated in it"
    )
    assert refused(load_weights, flow, path).startswith(f"{path}: the weights are damaged")


def test_damaged_weights_of_a_shipped_model(tmp_path):
    """Their checksum is in the card."""
    folder = shutil.copytree(folder_of("dw4"), tmp_path / "dw4")
    load(folder)
    with (folder / WEIGHTS).open("r+b") as file:
        file.seek(-2, os.SEEK_END)
        file.write(b"\x80")
    assert refused(load, folder).endswith("they do not have the checksum that is stated in card.json")
    (folder / CARD).unlink()
    load(folder)


@pytest.mark.parametrize("name", model_names())
def test_shipped_weights_have_a_checksum(name):
    assert read_card(folder_of(name))["weights_sha256"] == digest(read_weights(folder_of(name) / WEIGHTS))


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
