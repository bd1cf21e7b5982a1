"""The training loop on real QM9: exact resuming, roll-back, averaging, schedule, clipping, and refused arguments."""

import json
import logging
import math
import multiprocessing
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from itertools import pairwise
from pathlib import Path

import pytest
import torch
from torch import nn
from torch.nn.parallel import DistributedDataParallel

from molflow import load, train
from molflow.data import EqualSizeBatches, load_qm9
from molflow.data.batches import Batch
from molflow.errors import MolflowError
from molflow.flows.storage import CARD, WEIGHTS
from molflow.training import loop
from molflow.training.config import OptimizerConfig, load_experiment, read_experiment
from molflow.training.run import AdaptiveClip, schedule
from molflow.training.run import new_run as new_run_
from molflow.training.state import RESUMABLE_KEYS, STATE, load_state, save_state
from molflow.training.tasks import load_splits

TINY = Path(__file__).with_name("tiny.toml")
# A shell that starts pytest in the background lets its children ignore Ctrl-C.
MOLFLOW = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)
from molflow.cli import main
main()
"""


def tiny(*overrides):
    return load_experiment(TINY, overrides)


def run_tiny(folder, *arguments):
    command = [sys.executable, "-c", MOLFLOW, "train", str(TINY), "--out", str(folder), *arguments]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    pipes = {"stderr": subprocess.PIPE, "stdout": subprocess.PIPE}
    return subprocess.Popen(command, text=True, env=environment, start_new_session=True, **pipes)


def wait_for_step_10(process, folder):
    metrics = folder / "metrics.jsonl"
    while process.poll() is None and not (metrics.exists() and '{"step": 10' in metrics.read_text()):
        time.sleep(0.02)


def group_is_alive(group):
    try:
        os.killpg(group, 0)
    except ProcessLookupError:
        return False
    return True


def finish(process):
    out, err = process.communicate(timeout=120)
    return process.returncode, out, err


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_rates(folder):
    return [{key: value for key, value in line.items() if key != "steps_per_s"} for line in lines(folder)]


# ---- runs from beginning to end --------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs") / "new" / "whole"
    code, out, err = finish(run_tiny(folder, "--json", str(folder.parent / "card.json")))
    assert code == 0, err
    assert str(folder) in out
    return folder


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM])
def test_an_ended_run_resumes_exactly(whole_run, tmp_path, number):
    process = run_tiny(tmp_path)
    wait_for_step_10(process, tmp_path)
    process.send_signal(number)
    code, _, err = finish(process)
    saved, logged = load_state(tmp_path)["step"], lines(tmp_path)[-1]["step"]
    assert logged < 24
    if number == signal.SIGKILL:
        assert code == -signal.SIGKILL
        assert saved % 7 == 0
        assert 0 < saved < logged  # so some steps have to be forgotten and done again
    else:
        assert code == 1
        assert err.splitlines()[-1].startswith("molflow: error: interrupted; continue with --resume")
        assert "Traceback" not in err
        assert saved >= logged
        assert load(tmp_path).sample(2, seed=0).mask.any()

    code, _, err = finish(run_tiny(tmp_path, "--resume"))
    assert code == 0, err
    assert without_rates(tmp_path) == without_rates(whole_run)
    assert (tmp_path / WEIGHTS).read_bytes() == (whole_run / WEIGHTS).read_bytes()
    assert (tmp_path / CARD).read_bytes() == (whole_run / CARD).read_bytes()


def resumed_at_7(folder, monkeypatch, gradients):
    """The state after 12 steps of a run that ended in step 10 and was resumed from step 7."""
    crash = [*range(10), "crash"]

    def crashes(objective, *arguments):
        if crash.pop(0) == "crash":
            raise RuntimeError("out of memory")
        return gradients(objective, *arguments)

    config = tiny("training.max_steps=12")
    monkeypatch.setattr(loop, "accumulate_gradients", crashes)
    with pytest.raises(RuntimeError, match="out of memory"):
        train(config, folder)
    assert load_state(folder)["step"] == 7
    monkeypatch.setattr(loop, "accumulate_gradients", gradients)
    return load_state(train(config, folder, resume=True))


def test_a_resumed_run_clips_gradients_as_if_it_had_not_ended(tmp_path, monkeypatch):
    """A huge gradient in step 8 is cut to a limit that follows from all norms before it, most of which were saved."""
    plain = loop.accumulate_gradients

    def gradients(objective, *arguments):
        found = plain(objective, *arguments)
        if arguments[1].initial_seed() == loop.step_seed(0, 8):
            for parameter in objective.parameters():
                parameter.grad *= 1000
        return found

    monkeypatch.setattr(loop, "accumulate_gradients", gradients)
    whole = load_state(train(tiny("training.max_steps=12"), tmp_path / "whole"))
    resumed = resumed_at_7(tmp_path / "resumed", monkeypatch, gradients)
    assert len(whole["norms"]) == 12
    assert resumed["norms"] == whole["norms"]
    assert max(whole["norms"]) < 100 * min(whole["norms"])
    for name, tensor in whole["objective"].items():
        assert torch.equal(resumed["objective"][name], tensor)


PAIRED = (
    "model.average_velocity=true", 'objective={kind = "mean_flow", pairing = "equivariant_optimal_transport"}',
    "training.batch_size=16", "training.micro_batch=9",
)  # fmt: skip


@pytest.fixture(scope="module")
def paired_run(tmp_path_factory):
    """A run without worker processes."""
    return train(tiny(*PAIRED), tmp_path_factory.mktemp("runs") / "paired")


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGINT])
def test_workers_make_the_same_run_and_end_with_it(paired_run, tmp_path, number):
    """Ctrl-C goes to all processes of a terminal; a killed run leaves its workers to end by themselves."""
    options = [word for value in (*PAIRED, "training.workers=2") for word in ("--set", value)]
    process = run_tiny(tmp_path, *options)
    wait_for_step_10(process, tmp_path)
    if number == signal.SIGINT:
        os.killpg(process.pid, number)
    else:
        process.kill()
    code, _, err = finish(process)
    assert code == (1 if number == signal.SIGINT else -number)
    if number == signal.SIGINT:  # after a kill workers can see closed pipes before their own signal comes
        assert "Traceback" not in err
        assert err.splitlines()[-1].startswith("molflow: error: interrupted; continue with --resume")
    assert load_state(tmp_path)["step"] < 24
    deadline = time.monotonic() + 60
    while group_is_alive(process.pid) and time.monotonic() < deadline:
        time.sleep(0.1)
    assert not group_is_alive(process.pid)
    train(tiny(*PAIRED, "training.workers=1"), tmp_path, resume=True)
    assert without_rates(tmp_path) == without_rates(paired_run)
    assert (tmp_path / WEIGHTS).read_bytes() == (paired_run / WEIGHTS).read_bytes()


def test_a_killed_worker_ends_a_run_that_can_be_resumed(tmp_path, monkeypatch):
    step, killed = loop.accumulate_gradients, []

    def kills_a_worker(*arguments):
        if not killed:
            killed.extend(multiprocessing.active_children())
            os.kill(killed[0].pid, signal.SIGKILL)
        return step(*arguments)

    monkeypatch.setattr(loop, "accumulate_gradients", kills_a_worker)
    config = tiny(*PAIRED, "training.workers=1")
    with pytest.raises(MolflowError, match=r"a process that prepares batches ended .*training\.workers = 0"):
        train(config, tmp_path)
    assert load_state(tmp_path)["step"] == 0
    assert not multiprocessing.active_children()


def test_files_of_a_run(whole_run):
    found = lines(whole_run)
    training = [line for line in found if "loss" in line]
    validations = [line for line in found if "validation_nll_encoder" in line]
    assert [line["step"] for line in training] == list(range(2, 25, 2))
    assert [line["step"] for line in validations] == [9, 18, 24]
    assert all(math.isfinite(value) for line in found for value in line.values())
    assert validations[-1].keys() - {"step"} == {
        "validation_loss", "validation_nll_encoder", "validation_nll_decoder", "validation_reconstruction_error",
        "atom_stability", "molecule_stability",
    }  # fmt: skip
    assert all(0 <= line["atom_stability"] <= 1 for line in validations)
    optimizer = OptimizerConfig()
    assert training[-1]["learning_rate"] == pytest.approx(optimizer.learning_rate * optimizer.final_fraction)
    assert training[-1]["latent_nll"] < training[0]["latent_nll"]

    card = json.loads((whole_run / CARD).read_text())
    assert card == json.loads((whole_run.parent / "card.json").read_text())
    assert (card["name"], card["data"], card["seed"], card["steps"]) == ("tiny", "qm9", 0, 24)
    assert (card["domain"], card["representation"]) == ("molecules", "all-atom")
    assert card["validation"] == {key: value for key, value in validations[-1].items() if key != "step"}
    config = read_experiment(whole_run)
    assert sum(config.model.domain.atom_counts) == 100_000
    assert config.optimizer == tiny().optimizer


def test_the_model_is_the_average_of_the_run(whole_run):
    state, model = load_state(whole_run), load(whole_run).state_dict()
    assert all(torch.equal(tensor, state["ema"][f"module.{name}"]) for name, tensor in model.items())
    assert any(not torch.equal(tensor, state["objective"][f"flow.{name}"]) for name, tensor in model.items())


def test_a_finished_run_has_nothing_left_to_resume(whole_run):
    before = {path.name: path.read_bytes() for path in whole_run.iterdir() if path.is_file()}
    train(tiny(), whole_run, resume=True)
    assert {path.name: path.read_bytes() for path in whole_run.iterdir() if path.is_file()} == before


def test_the_objective_knows_the_share_that_has_passed(tmp_path):
    """Two steps without learning, where the weight is `first` and the geometric mean of `first` and 100."""
    still = ["training.max_steps=2", "training.log_every=1", "optimizer.learning_rate=1e-30"]
    losses, reconstructions = {}, []
    for first in (1, 9):
        train(tiny(*still, f"objective.first_beta={first}"), tmp_path / str(first))
        steps = [line for line in lines(tmp_path / str(first)) if "loss" in line]
        losses[first], reconstructions = [s["loss"] for s in steps], [s["reconstruction"] for s in steps]
    between = [after - before for before, after in zip(losses[1], losses[9], strict=True)]
    assert between == pytest.approx([8 * reconstructions[0], (30 - 10) * reconstructions[1]], rel=1e-3)


def test_start_from_weights(whole_run, tmp_path):
    config = tiny("training.max_steps=1", "optimizer.learning_rate=1e-30")
    train(config, tmp_path, start_from=whole_run / WEIGHTS)
    begun, given = load(tmp_path).state_dict(), load(whole_run).state_dict()
    assert all(torch.equal(begun[name], given[name]) for name in given)


def test_a_batch_is_a_pure_function_of_the_seed_and_the_step(whole_run, tmp_path):
    train(tiny("training.max_steps=2", "seed=1"), tmp_path)
    assert lines(tmp_path)[0]["loss"] != lines(whole_run)[0]["loss"]


# ---- losses that are not finite --------------------------------------------------------------------------------------

EXPLODING = "optimizer.learning_rate=1e30"


@pytest.mark.parametrize("checkpoint_every", [7, 1])
def test_roll_back_and_then_an_error(tmp_path, caplog, checkpoint_every):
    """Weights that give no finite loss are never saved, also where a checkpoint was due at their step."""
    with pytest.raises(MolflowError, match=r"not finite at step 11, training data \[\d+, .* after 5 roll-backs"):
        train(tiny(EXPLODING, f"training.checkpoint_every={checkpoint_every}"), tmp_path)
    assert load_state(tmp_path)["step"] == 0
    rolled_back = [message for message in caplog.messages if "no validation_nll" not in message]
    steps = [int(re.search("at step ([0-9]+)", message)[1]) for message in rolled_back]
    assert steps == [1, 3, 5, 7, 9]
    assert all("rolled back to the weights of step 0" in message for message in rolled_back)
    dataset = load_splits(read_experiment(tmp_path))
    begun = new_run_(dataset, torch.device("cpu"), 1, None).objective.flow.state_dict()
    assert all(torch.equal(tensor, begun[name]) for name, tensor in load(tmp_path).state_dict().items())


def test_a_run_whose_last_step_was_rolled_back_is_finished(tmp_path, caplog):
    train(tiny(EXPLODING, "training.max_steps=2"), tmp_path)
    assert len(caplog.messages) == 1
    assert json.loads((tmp_path / CARD).read_text())["steps"] == load_state(tmp_path)["step"] == 2
    assert math.isfinite(lines(tmp_path)[-1]["validation_nll_encoder"])


def test_figures_that_are_not_finite_are_null(tmp_path):
    train(tiny(EXPLODING, "training.max_steps=1"), tmp_path)
    text = (tmp_path / "metrics.jsonl").read_text() + (tmp_path / CARD).read_text()
    assert "NaN" not in text
    assert "Infinity" not in text
    assert lines(tmp_path)[-1]["validation_nll_encoder"] is None


def new_run(*overrides):
    return new_run_(load_splits(tiny(*overrides)), torch.device("cpu"), 10, None)


def test_roll_back_restores_everything_but_the_step():
    run = new_run()
    parameters = [*run.objective.parameters()]

    def some_steps():
        for parameter in parameters:
            parameter.grad = torch.ones_like(parameter)
        run.clip(parameters)
        run.optimizer.step()
        run.scheduler.step()
        run.ema.update_parameters(run.objective.flow)
        run.step += 1
        run.pending.append({"loss": 1.0})

    def snapshot():
        state = run.state()
        moments = [entry["exp_avg"] for entry in state["optimizer"]["state"].values()]
        tensors = [*state["objective"].values(), *state["ema"].values(), *moments]
        return torch.cat([t.flatten() for t in tensors]), [list(run.clip.norms), list(run.pending)]

    some_steps()
    good, before = run.state(), snapshot()
    some_steps()
    with torch.no_grad():
        parameters[0].fill_(math.nan)
    run.roll_back(good, EqualSizeBatches(load_qm9("validation").n_atoms, 8).epoch(0)[0])
    assert torch.equal(snapshot()[0], before[0])
    assert snapshot()[1] == before[1]
    assert (run.step, run.rollbacks) == (3, 1)
    assert run.scheduler.last_epoch == 3  # the schedule belongs to the step, not to the weights
    some_steps()  # must not reach into the saved state
    run.restore(good)
    assert torch.equal(snapshot()[0], before[0])


# ---- the parts -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("decay", "second", "third"), [(0.999, 2 / 11, 3 / 12), (0.2, 2 / 11, 0.2), (0.0, 0.0, 0.0)])
def test_average_by_hand(decay, second, third):
    run = new_run(f"training.ema_decay={decay}")
    flow = run.objective.flow
    for value in (1.0, 2.0, 5.0):
        with torch.no_grad():
            for parameter in flow.parameters():
                parameter.fill_(value)
        run.ema.update_parameters(flow)
    after_two = second * 1 + (1 - second) * 2
    expected = third * after_two + (1 - third) * 5
    assert all(torch.allclose(p, torch.tensor(expected)) for p in run.ema.parameters())


def test_schedule():
    config = OptimizerConfig(warmup_steps=10, final_fraction=0.1)
    factor = [schedule(config, 110, step) for step in range(120)]
    assert factor[:10] == pytest.approx([(k + 1) / 10 for k in range(10)])
    assert factor[10] == max(factor) == 1
    assert factor[60] == pytest.approx(0.55)
    assert all(a > b for a, b in pairwise(factor[10:111]))
    assert factor[110:] == pytest.approx([0.1] * 10)


def clipped(clip, gradient):
    """The gradient after a call, and what the call returned."""
    parameter = nn.Parameter(torch.zeros(1))
    parameter.grad = torch.tensor([gradient])
    return clip([parameter]), parameter.grad.item()


def test_adaptive_clip():
    clip = AdaptiveClip()
    assert clipped(clip, 4.0) == (4, 4)  # nothing to compare with
    assert clipped(clip, -2.0) == (2, -2)
    limit = 1.5 * 3 + 2 * 1
    norm, gradient = clipped(clip, 1000.0)
    assert norm == 1000
    assert gradient == pytest.approx(limit, rel=1e-6)
    assert list(clip.norms) == pytest.approx([4, 2, limit])  # an outlier does not raise the limit by its full size
    for bad in (math.nan, math.inf):
        assert not math.isfinite(clipped(clip, bad)[0])
    assert len(clip.norms) == 3
    for _ in range(60):
        clipped(clip, 1.0)
    assert list(clip.norms) == [1] * 50


def test_the_objective_can_be_distributed(tmp_path):
    objective = new_run().objective
    qm9 = load_qm9("validation")
    data = Batch(qm9.batch(EqualSizeBatches(qm9.n_atoms, 8).epoch(0)[0]))

    def gradients(module):
        module.zero_grad()
        loss, _ = module(data, torch.Generator().manual_seed(0))
        loss.backward()
        return [parameter.grad.clone() for parameter in module.parameters() if parameter.grad is not None]

    alone = gradients(objective)
    torch.distributed.init_process_group("gloo", init_method=f"file://{tmp_path}/meeting", rank=0, world_size=1)
    try:
        together = gradients(DistributedDataParallel(objective, find_unused_parameters=True))
    finally:
        torch.distributed.destroy_process_group()
    assert sum(float(g.abs().sum()) for g in alone) > 0
    assert all(torch.equal(a, b) for a, b in zip(alone, together, strict=True))


# ---- errors and warnings ---------------------------------------------------------------------------------------------


def test_a_folder_with_another_run_is_refused(whole_run):
    before = (whole_run / "metrics.jsonl").read_bytes()
    with pytest.raises(MolflowError, match="holds another run already; continue it with --resume or name another"):
        train(tiny(), whole_run)
    assert (whole_run / "metrics.jsonl").read_bytes() == before


def test_an_unwritable_folder_is_refused():
    with pytest.raises(MolflowError, match="/dev/null/run: cannot be written: Not a directory"):
        train(tiny(), "/dev/null/run")


def test_nothing_to_resume(tmp_path):
    with pytest.raises(MolflowError, match="there is nothing to resume"):
        train(tiny(), tmp_path / "none", resume=True)
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    "change",
    [
        "model.encoder.hidden=9", "seed=5", "training.batch_size=16", "model.average_velocity=true",
        'objective={kind = "free_form", beta = 1.5}',
    ],
)  # fmt: skip
def test_resuming_another_experiment_is_refused(whole_run, change):
    with pytest.raises(MolflowError, match=f"has another {change.partition('=')[0]}.*; resume it with"):
        train(tiny(change), whole_run, resume=True)


def test_resuming_from_other_weights_is_refused(whole_run):
    with pytest.raises(MolflowError, match="leave out --resume or --start-from"):
        train(tiny(), whole_run, resume=True, start_from=whole_run / WEIGHTS)


def test_a_folder_without_a_state_can_be_used(tmp_path):
    """A run that was killed before its first checkpoint leaves such a folder."""
    (tmp_path / "metrics.jsonl").touch()
    train(tiny("training.max_steps=1"), tmp_path)


def test_resuming_from_an_unsuitable_state_is_refused(whole_run, tmp_path):
    folder = shutil.copytree(whole_run, tmp_path / "copy")
    for state in ({"step": 3}, load_state(whole_run) | {"objective": {"w": torch.zeros(2)}}):
        save_state(folder, state)
        with pytest.raises(MolflowError, match=rf"{STATE}: does not fit") as caught:
            train(tiny(), folder, resume=True)
        assert "\n" not in str(caught.value)


@pytest.mark.parametrize("key", sorted(RESUMABLE_KEYS))
def test_resumable_keys_are_keys_of_an_experiment(key):
    table = tiny().model_dump()
    for part in key.split("."):
        table = table[part]


def test_a_compiled_loss_needs_batches_of_one_shape(tmp_path):
    with pytest.raises(MolflowError, match=r"training\.compile needs batches = 'mixed_size'"):
        train(tiny("training.compile=true"), tmp_path)
    assert not list(tmp_path.iterdir())


def test_particles_cannot_be_trained_on_molecules(tmp_path):
    particles = 'model.domain={kind = "particles", n_particles = 4, dim = 2}'
    with pytest.raises(MolflowError, match=r"model\.domain\.kind is particles"):
        train(tiny(particles), tmp_path)


@pytest.mark.parametrize(("max_steps", "warnings"), [(20, 0), (100_000, 1)])
def test_a_large_run_on_a_cpu_gives_a_warning(caplog, max_steps, warnings):
    with caplog.at_level(logging.WARNING), pytest.raises(MolflowError, match="cannot be written"):
        train(tiny(f"training.max_steps={max_steps}", "training.epochs=20"), "/dev/null/run")
    assert len(caplog.messages) == warnings
    assert all("on a CPU take long" in message for message in caplog.messages)
