"""The training state on disk: it loads bit by bit, and damaged files are refused."""

import pytest
import torch

from molflow.errors import MolflowError
from molflow.training.state import STATE, load_state, save_state


@pytest.fixture
def folder(tmp_path):
    return tmp_path


def refused(folder) -> str:
    with pytest.raises(MolflowError) as caught:
        load_state(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def test_training_state_round_trip(folder):
    state = {"flow": {"w": torch.arange(3.0)}, "step": 4, "norms": [1.5], "pending": [{"loss": 0.25}]}
    save_state(folder, state)
    found = load_state(folder)
    assert torch.equal(found.pop("flow")["w"], state.pop("flow")["w"])
    assert found == state


def test_damaged_training_state(folder):
    path = folder / STATE
    assert "nothing to resume" in refused(folder)
    save_state(folder, [1])
    assert refused(folder).startswith(f"{path}: damaged, or not a training state")
    save_state(folder, {"step": 4})
    whole = path.read_bytes()
    for content in (b"", b"\x80", b"PK\x03\x04", whole[:100], whole[:-10]):
        path.write_bytes(content)
        assert refused(folder).startswith(f"{path}: damaged, or not a training state")
