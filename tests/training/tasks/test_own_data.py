"""Data sets of a user's own, one class or function each: a model is trained on them, sampled and scored."""

import json
from pathlib import Path

import numpy as np
import pytest
import torch

from molflow.chem import read_structures
from molflow.data import DATASETS, DataSetConfig, Loaded, MoleculeSet
from molflow.energies import ENERGIES, DoubleWell, System
from molflow.evaluation import inspect_all

TINY = Path(__file__).parents[1] / "tiny.toml"


@pytest.fixture
def figures(molflow, tmp_path):
    """Train a few steps on a data set and sample the model; gives the card, the figures and the file of samples."""

    def run(out, *settings):
        words = [word for setting in (*settings, "training.max_steps=3") for word in ("--set", setting)]
        code, _, err = molflow("train", TINY, *words, "--out", tmp_path / "run")
        assert code == 0, err
        words = ("-n", 12, "-o", tmp_path / out, "--json", tmp_path / "a.json")
        code, _, err = molflow("sample", "-m", tmp_path / "run", *words)
        assert code == 0, err
        card, record = (json.loads((tmp_path / name).read_text()) for name in ("run/card.json", "a.json"))
        return card, record, tmp_path / out

    return run


def test_molecules(figures):
    if "waters" not in DATASETS:

        @DATASETS.register("waters")
        class Waters(DataSetConfig):
            task = "molecules"

            def load(self, split):
                shape = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
                noise = np.random.default_rng(len(split)).normal(size=(64, 3, 3))
                return Loaded(MoleculeSet((shape + 0.02 * noise).reshape(-1, 3), [8, 1, 1] * 64, [3] * 64))

            def split_text(self, n_training):
                return f"{n_training} molecules of water"

    card, record, out = figures("a.sdf", "data.name=waters", "training.batch_size=16")
    assert (card["data"], card["split"]) == ("waters", "64 molecules of water")
    assert (record["n_molecules"], record["reference_scores"]) == (12, None)
    assert record["protocol"].startswith("RDKit rdDetermineBonds")
    assert {number for structure in read_structures(out) for number in structure.atomic_numbers.tolist()} <= {1, 8}


@pytest.mark.parametrize("condition", ["", ", properties={mu='debye'}, condition=['mu']"])
def test_validation_data_that_the_model_cannot_make(figures, tmp_path, monkeypatch, condition):
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path / "cache"))
    (tmp_path / "a.csv").write_text(
        "smiles,mu,part\n" + "CCO,1,train\nCCO,2,train\n" * 4 + "CCCN,1,validation\nCCF,1,test\n"
    )
    data = f"data={{file='{tmp_path / 'a.csv'}', split='part'{condition}}}"
    hidden = ["training.condition_dropout=0.3"] if condition else []
    card, record, out = figures("a.xyz", data, "model.domain.kind=composed_molecules", "training.batch_size=4", *hidden)
    assert card["validation"]["validation_loss"] is None
    assert record["n_molecules"] == 12
    stable = sum(report.stable for report in inspect_all(read_structures(out), bonds="perceived", workers=0))
    assert record["metrics"]["molecule_stability"]["count"] == stable


@pytest.mark.usefixtures("few_particles")
def test_an_energy(figures):
    name = "stiff-wells"
    if name not in ENERGIES:
        ENERGIES.register(name)(lambda: System(name, DoubleWell(), start_width=2.0))
    domain = "model.domain={kind='particles', n_particles=4, dim=2, scale=1.8}"
    card, record, out = figures("a.npz", f"data.name={name}", domain)
    assert (card["data"], card["domain"]) == (name, "particles")
    assert (record["system"]["name"], record["n_reference"]) == (name, 1000)
    assert record["ess_fraction"] > 0
    with np.load(out) as file:
        assert str(file["system"]) == name


def test_vectors(figures):
    if "spiral" not in DATASETS:

        @DATASETS.register("spiral")
        class Spiral(DataSetConfig):
            task = "vectors"
            noise: float = 0.1

            def load(self, split):
                generator = torch.Generator().manual_seed(self.splits.index(split))
                angle = torch.rand(1000, generator=generator) * 4 * torch.pi
                spiral = angle.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1) / 4
                return Loaded(spiral + self.noise * torch.randn(1000, 2, generator=generator))

    network = "{kind='mlp', hidden=8, n_blocks=1}"
    model = f"model={{domain={{kind='vectors'}}, encoder={network}, decoder={network}}}"
    card, record, _ = figures("a.npz", "data={name='spiral', noise=0.05}", model)
    assert (card["data"], record["n_samples"], record["n_features"]) == ("spiral", 12, 2)
