"""Templates: each is found by its name, says what it trains, and trains."""

import json
from dataclasses import replace

import pytest

from molflow import MolflowError, load, load_experiment, train
from molflow.data import load_qm9, particles
from molflow.data import qm9 as qm9_module
from molflow.distributions import composition_model
from molflow.energies import Tempering, get_system
from molflow.pretrained import folder_of
from molflow.templates import summary, template_names, template_text

FEW = (
    "training.max_steps=2", "training.batch_size=4", "training.compile=false", "training.validation_molecules=1",
    "training.validation_samples=2",
)  # fmt: skip
QUICKER = {
    "qm9-diffusion": ("model.n_steps=4",),
    "lj55": tuple(f"model.{map}.{size}" for map in ("encoder", "decoder") for size in ("n_blocks=1", "hidden=8")),
    "lj55-cnf": ("model.network.n_blocks=1", "model.network.hidden=8", 'model.solver={method="euler", n_steps=2}'),
}


@pytest.fixture
def little_data(monkeypatch, tmp_path):
    """The first molecules of QM9's splits, chains of a few sweeps, and compositions that are hardly learned."""
    split = {name: indices[:500] for name, indices in qm9_module.qm9_split().items()}
    qm9 = load_qm9("all")
    monkeypatch.setattr(qm9_module, "qm9_split", lambda: split)
    monkeypatch.setattr(qm9_module, "load_qm9", lambda name: qm9.subset(split[name]))
    monkeypatch.setattr(composition_model, "_STEPS", 3)
    quick = Tempering((1.0,), n_burn_in=2, n_samples=4, thinning=1, n_leapfrog=1)
    monkeypatch.setattr(particles, "CHAINS", {"train": 10, "validation": 10, "test": 10})
    monkeypatch.setattr(
        particles, "get_system", lambda name: replace(get_system(name), start_width=2.0, tempering=quick)
    )
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path))


# ---- every template --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in template_names() if name != "qm9-recipe"])
def test_it_trains(name, little_data, tmp_path):
    _trains(name, tmp_path)


def test_the_recipe_trains_from_the_shipped_weights(tmp_path, monkeypatch):
    """Its teacher has the types and compositions of the whole training split."""
    monkeypatch.setattr(composition_model, "_STEPS", 3)
    _trains("qm9-recipe", tmp_path, start_from=folder_of("qm9") / "model.safetensors")


def _trains(name, folder, **start):
    config = load_experiment(name, [*FEW, *QUICKER.get(name, ())])
    train(config, folder / "run", **start)
    assert json.loads((folder / "run" / "card.json").read_text())["steps"] == 2
    assert len(load(folder / "run").sample(2, seed=0)) == 2


def test_without_a_compiler_the_loss_is_not_compiled(little_data, tmp_path, monkeypatch):
    monkeypatch.setenv("CXX", "no-such-compiler")
    few = [each for each in FEW if "compile" not in each]
    config = load_experiment("dw4", few)
    assert config.training.compile == "auto"
    train(config, tmp_path / "run")
    with pytest.raises(MolflowError, match=r"training\.compile: no C\+\+ compiler 'no-such-compiler' was found"):
        train(load_experiment("dw4", [*few, "training.compile=true", "training.device=cpu"]), tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize("name", template_names())
def test_it_says_what_it_is_and_names_its_run_after_itself(name):
    assert 30 < len(summary(name)) < 120
    assert f"molflow train {name}" in template_text(name)
    assert load_experiment(name).name == name
