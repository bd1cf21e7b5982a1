"""Resuming refuses what would not continue the run, and mends a checkpoint that a kill left incomplete."""

import hashlib
import json
import shutil
import signal

import numpy as np
import pytest
import torch

from molflow import train
from molflow.data.vectors import save_vectors
from molflow.errors import MolflowError
from molflow.files import locked
from molflow.flows.storage import CARD, CONFIG, WEIGHTS, load
from molflow.training.config import ExperimentConfig, read_experiment
from molflow.training.recorder import METRICS, Recorder
from molflow.training.state import STATE, load_state
from molflow.training.tasks import load_splits
from molflow.training.validation import validate

MODEL = {"kind": "free_form", "domain": {"kind": "vectors"}}
NETWORK = {"kind": "resnet", "hidden": 8, "n_blocks": 1}
POINTS = np.random.default_rng(0).normal(size=(64, 2)).astype(np.float32)
CHECKPOINT = (CONFIG, WEIGHTS, CARD, STATE)


def experiment(**training):
    lengths = {"max_steps": 6, "batch_size": 16, "checkpoint_every": 3, "log_every": 1, "validate_every": 10**6}
    return ExperimentConfig.model_validate({
        "name": "points",
        "data": {"name": "vectors", "file": "vectors.npz"},
        "model": MODEL | {"encoder": NETWORK, "decoder": NETWORK},
        "training": lengths | training,
    })  # fmt: skip


def content(folder):
    return {name: hashlib.sha256((folder / name).read_bytes()).hexdigest() for name in CHECKPOINT}


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Folders of one run after 3 and after 6 steps."""
    folder = tmp_path_factory.mktemp("runs")
    run = train(experiment(max_steps=3), folder / "run", data=POINTS)
    shutil.copytree(run, folder / "half")
    train(experiment(), run, data=POINTS, resume=True)
    return folder / "half", run


@pytest.fixture
def run(runs, tmp_path):
    """A copy of the run of 6 steps, at the place where it was made."""
    kept = shutil.copytree(runs[1], tmp_path / "kept")
    yield runs[1]
    shutil.rmtree(runs[1])
    shutil.copytree(kept, runs[1])


@pytest.mark.parametrize("last", [None, *CHECKPOINT])
def test_a_checkpoint_that_a_kill_left_incomplete_is_mended(runs, run, last):
    """Of a checkpoint some files are of the old step, from any place in their order on."""
    before = content(run)
    for name in () if last is None else CHECKPOINT[CHECKPOINT.index(last) :]:
        shutil.copy(runs[0] / name, run / name)
    if last in (WEIGHTS, CARD):
        (run / CARD).unlink()
    train(experiment(), run, data=POINTS, resume=True)
    assert content(run) == before


def test_a_card_never_stands_beside_weights_of_another_step(run, monkeypatch):
    """A program that is killed while it writes a checkpoint leaves no card until the last moment."""
    seen = []

    def fsync(descriptor):
        seen.append((run / CARD).exists())

    monkeypatch.setattr("os.fsync", fsync)
    (run / STATE).unlink()
    train(experiment(max_steps=1), run, data=POINTS)
    assert seen.count(False) >= 3


def test_other_data_under_the_same_name_are_refused(run):
    save_vectors(run / "vectors.npz", POINTS + 1e-6)
    with pytest.raises(MolflowError, match="its run has other content of its data; resume it with"):
        train(experiment(), run, data=POINTS, resume=True)


def test_every_flipped_bit_is_refused(run):
    path = run / STATE
    whole = path.read_bytes()
    for place in np.random.default_rng(0).integers(0, 8 * len(whole), 200).tolist():
        flipped = bytearray(whole)
        flipped[place // 8] ^= 1 << place % 8
        path.write_bytes(flipped)
        with pytest.raises(MolflowError, match=f"{STATE}: damaged, or not a training state"):
            load_state(run)


def test_a_state_of_an_older_version_is_read_with_a_warning(run, caplog):
    state = load_state(run)
    for key in ("fingerprints", "experiment", "threads", "validation", "started_from"):
        del state[key]
    torch.save(state, run / STATE)
    train(experiment(max_steps=7), run, data=POINTS, resume=True)
    assert "of an older version of molflow, so data and teacher are not checked" in caplog.text
    assert load_state(run)["step"] == 7


def test_a_folder_where_another_program_trains_is_refused(run, tmp_path):
    (tmp_path / "new").mkdir()
    for folder, resume in [(run, True), (tmp_path / "new", False)]:
        with locked(folder, "trains"), pytest.raises(MolflowError, match=f"{folder}: another program trains there"):
            train(experiment(max_steps=7), folder, data=POINTS, resume=resume)
    assert sorted(path.name for path in (tmp_path / "new").iterdir()) == [".lock", "vectors.npz"]


def test_a_run_continues_with_the_number_of_threads_that_it_began_with(run):
    before = torch.get_num_threads()
    torch.set_num_threads(before + 1)
    try:
        train(experiment(max_steps=7), run, data=POINTS, resume=True)
        assert torch.get_num_threads() == before + 1
    finally:
        torch.set_num_threads(before)
    assert load_state(run)["threads"] == before


def test_files_of_a_killed_run_are_swept(run):
    left = run / f".{WEIGHTS}.0123abcd.tmp"
    left.touch()
    train(experiment(), run, data=POINTS, resume=True)
    assert not left.exists()


# ---- the best weights ------------------------------------------------------------------------------------------------


def overfitted(folder, **training):
    """A run on 40 vectors that the flow soon knows by heart; its validation losses."""
    lengths = {"epochs": 1000, "max_steps": 400, "validate_every": 10, "checkpoint_every": 30}
    config = ExperimentConfig.model_validate({
        "name": "small",
        "data": {"name": "vectors", "file": "vectors.npz"},
        "model": {"kind": "glow", "domain": {"kind": "vectors"}},
        "optimizer": {"learning_rate": 1e-2, "warmup_steps": 1},
        "training": lengths | {"batch_size": 32, "ema_decay": 0.5} | training,
    })  # fmt: skip
    train(config, folder, data=torch.randn(40, 2, generator=torch.Generator().manual_seed(0)))
    return losses_of(folder)


def validations_of(folder):
    lines = map(json.loads, (folder / METRICS).read_text().splitlines())
    return [line for line in lines if "validation_loss" in line]


def losses_of(folder):
    return [line["validation_loss"] for line in validations_of(folder)]


def likelihoods_of(folder, beta):
    """NLL of the encoder + beta e^2 at each validation, by which the weights of a free-form flow are chosen."""
    rows = validations_of(folder)
    return [row["validation_nll_encoder"] + beta * row["validation_reconstruction_error"] ** 2 for row in rows]


def test_patience_ends_a_run_and_keeps_its_best_weights(tmp_path):
    losses = overfitted(tmp_path / "a", patience=3)
    best = losses.index(min(losses))
    assert len(losses) < 40
    assert losses[-1] > min(losses)
    assert len(losses) - 1 - best == 3
    experiment = read_experiment(tmp_path / "a")
    found = validate(load(tmp_path / "a"), load_splits(experiment))["validation_loss"]
    assert found == pytest.approx(min(losses), abs=1e-6)
    card = json.loads((tmp_path / "a" / CARD).read_text())
    assert card["validation"]["validation_loss"] == min(losses)
    before = content(tmp_path / "a")[WEIGHTS]
    train(experiment, tmp_path / "a", resume=True)
    assert content(tmp_path / "a")[WEIGHTS] == before
    assert len(losses_of(tmp_path / "a")) == len(losses)


def own_molecules(folder, monkeypatch, validation):
    """An experiment on eight small molecules and others for validation."""
    monkeypatch.setenv("MOLFLOW_CACHE", str(folder / "cache"))
    (folder / "a.smi").write_text("CC\nCCC\nCCO\nCCCC\nCCN\nCCCO\nCCOC\nCCCN\n")
    (folder / "b.smi").write_text(validation)
    return ExperimentConfig.model_validate({
        "name": "own",
        "data": {"file": folder / "a.smi", "validation_file": folder / "b.smi", "test_file": folder / "b.smi"},
        "model": {
            "kind": "free_form",
            "domain": {"kind": "composed_molecules", "representation": "united-atom"},
            "encoder": {"kind": "egnn", "hidden": 8, "n_blocks": 1},
            "decoder": {"kind": "egnn", "hidden": 8, "n_blocks": 1},
        },
        "training": {
            "max_steps": 40, "epochs": 1000, "batch_size": 3, "batches": "equal_cost", "patience": 1,
            "validate_every": 2, "checkpoint_every": 3, "validation_samples": 2,
        },
        "optimizer": {"learning_rate": 0.05, "warmup_steps": 1},
    })  # fmt: skip


def test_patience_and_batches_of_equal_cost_continue_exactly(tmp_path, monkeypatch):
    config = own_molecules(tmp_path, monkeypatch, "CCC\nCCO\n")
    train(config, tmp_path / "whole")
    losses, likelihoods = losses_of(tmp_path / "whole"), likelihoods_of(tmp_path / "whole", config.objective.beta)
    assert likelihoods.index(min(likelihoods)) == len(likelihoods) - 2 < 18
    card = json.loads((tmp_path / "whole" / CARD).read_text())
    assert card["validation"]["validation_loss"] == losses[-2]

    step = Recorder.stepped

    def interrupted(recorder):
        step(recorder)
        if recorder.run.step % 3 == 1:
            signal.raise_signal(signal.SIGINT)

    signal.signal(signal.SIGINT, signal.default_int_handler)  # a background job of a shell ignores it
    monkeypatch.setattr(Recorder, "stepped", interrupted)
    with pytest.raises(KeyboardInterrupt):
        train(config, tmp_path / "parts")
    monkeypatch.setattr(Recorder, "stepped", step)
    train(config, tmp_path / "parts", resume=True)
    assert losses_of(tmp_path / "parts") == losses
    assert load_state(tmp_path / "parts")["step"] == load_state(tmp_path / "whole")["step"]
    assert content(tmp_path / "parts")[WEIGHTS] == content(tmp_path / "whole")[WEIGHTS]


def test_patience_without_a_validation_loss_is_refused(tmp_path, monkeypatch):
    config = own_molecules(tmp_path, monkeypatch, "COCOC\n")
    with pytest.raises(MolflowError, match=r"training\.patience: there is no validation loss"):
        train(config, tmp_path / "none")


def test_without_patience_a_run_goes_on_to_its_end(tmp_path):
    losses = overfitted(tmp_path / "a", max_steps=60)
    assert len(losses) == 6
    experiment = read_experiment(tmp_path / "a")
    found = validate(load(tmp_path / "a"), load_splits(experiment))["validation_loss"]
    assert found == pytest.approx(losses[-1], abs=1e-6)
