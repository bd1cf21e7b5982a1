"""Shipped models: each loads, samples and has its card; an unknown name lists the known ones."""

import pytest
import torch
from laws import MOLECULE_FLOWS

from molflow import MolflowError, load_pretrained, pretrained
from molflow.flows import save_model
from molflow.pretrained import folder_of, load_named, model_cards
from molflow.training.config import read_experiment

CONFIGURATION = MOLECULE_FLOWS["molecules-argmax"]


@pytest.mark.parametrize("name", sorted(model_cards()))
def test_every_shipped_model(name):
    card = model_cards()[name]
    assert {"data", "split", "seed", "steps", "versions", "how", "about"} <= card.keys()
    assert all(card["about"][key] for key in ("purpose", "data", "core_hours", "machine", "caveats", "cite"))
    scores, samples = card["scores"], load_pretrained(name).sample(8, seed=0)
    if card["domain"] == "particles":
        # The exact density of a sample of lj13-cnf takes 36 derivatives at 60 points of its path: a second.
        assert scores["n_samples"] >= (1_000 if name == "lj13-cnf" else 10_000)
        assert 0 < scores["ess_fraction"] <= 1
        positions, again = samples, load_named(name).sample(8, seed=0)
    else:
        assert scores["n_molecules"] >= 10_000
        assert scores["atom_stability_interval"][0] < scores["atom_stability"]
        positions, again = samples.positions, load_named(name).sample(8, seed=0).positions
    assert len(positions) == 8
    assert positions.isfinite().all()
    assert torch.equal(again, positions)


@pytest.mark.parametrize("name", sorted(model_cards()))
def test_every_shipped_model_can_be_trained_from(name):
    experiment = read_experiment(folder_of(name))
    assert experiment.data.name == model_cards()[name]["data"]
    assert experiment.model.build().state_dict().keys() == load_pretrained(name).state_dict().keys()


@pytest.fixture
def shelf(tmp_path, monkeypatch):
    """A folder of two models in place of the shipped ones."""
    for seed, name in enumerate(("small", "large")):
        torch.manual_seed(seed)
        save_model(tmp_path / name, CONFIGURATION, CONFIGURATION.build(), {"data": name})
    monkeypatch.setattr(pretrained, "_HERE", tmp_path)
    return tmp_path


def test_models_are_found_by_name(shelf):
    assert model_cards() == {"large": {"data": "large"}, "small": {"data": "small"}}
    small, large, named = (load(name).sample(4, seed=0).positions for load, name in [
        (load_pretrained, "small"), (load_pretrained, "large"), (load_named, "small"),
    ])  # fmt: skip
    assert torch.equal(small, named)
    assert not torch.equal(small, large)


def test_an_unknown_name_lists_the_known_ones(shelf):
    for load, message in ((load_pretrained, ""), (load_named, ", and no such folder")):
        with pytest.raises(
            MolflowError, match=rf"unknown model 'smal'{message}; did you mean small\? Shipped are: large"
        ):
            load("smal")
        with pytest.raises(MolflowError, match=f"unknown model 'qm99'{message}; shipped are: large, small$"):
            load("qm99")


def test_a_folder_by_its_path(shelf, monkeypatch):
    path = shelf / "small"
    expected = load_pretrained("small").sample(4, seed=0).positions
    monkeypatch.setattr(pretrained, "_HERE", shelf / "none")
    assert torch.equal(load_named(str(path)).sample(4, seed=0).positions, expected)
    with pytest.raises(MolflowError, match="unknown model"):
        load_pretrained(str(path))


def test_a_folder_does_not_hide_a_shipped_model(shelf, tmp_path_factory, monkeypatch):
    elsewhere = tmp_path_factory.mktemp("elsewhere")
    (elsewhere / "small").mkdir()
    monkeypatch.chdir(elsewhere)
    assert load_named("small").sample(1, seed=0).mask.any()
