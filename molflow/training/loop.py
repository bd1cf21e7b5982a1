"""The training loop.

A step is a function of the state and the step number alone: batches follow from (seed, epoch), noise from (seed, step).
So a run that was killed continues from its checkpoint exactly as if it had not been.
"""

import hashlib
import logging
import math
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import closing
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from tqdm import tqdm

from molflow.data.loaders import Batches
from molflow.errors import MolflowError
from molflow.flows.base import Flow
from molflow.flows.config import ParticlesConfig
from molflow.flows.solvers import IntegrationError
from molflow.interrupts import held_interrupts
from molflow.training.ahead import Task, made_ready
from molflow.training.checkpoint import CARD, STATE, load_state, read_config, read_json, save_model, save_state
from molflow.training.config import ExperimentConfig
from molflow.training.dataset import Dataset, load_dataset
from molflow.training.metrics import Metrics, attempt, forget_after, mean
from molflow.training.objectives import Objective, accumulate_gradients, build_objective
from molflow.training.run import Run, new_run

log = logging.getLogger("molflow")

LARGE_CPU_RUN = 1_000_000  # molecules
MAY_CHANGE = {  # between a run and its continuation; another length bends the learning-rate schedule
    "name",
    *(f"training.{key}" for key in ("epochs", "max_steps", "device", "workers", "checkpoint_every", "log_every")),
    *(f"training.{key}" for key in ("validate_every", "validation_molecules", "validation_samples")),
}


def train(
    config: ExperimentConfig, folder: str | Path, *, resume: bool = False, start_from: Path | None = None
) -> Path:
    """Train a flow and leave its checkpoint, with metrics.jsonl, in `folder`.

    Args:
        config: the experiment.
        folder: made if it does not exist; must not hold another run unless `resume`.
        resume: continue the run in `folder` from its last checkpoint.
        start_from: weights (model.safetensors) to begin with in place of random ones.

    Returns:
        `folder`.

    Raises:
        MolflowError: the folder holds another run, cannot be written, or holds nothing to resume; the loss stays
            not finite after roll-backs; a worker process ended.
        KeyboardInterrupt: after the step under way and a checkpoint.
    """
    folder = Path(folder)
    if resume and start_from is not None:
        raise MolflowError("a resumed run goes on with its own weights; leave out --resume or --start-from")
    if not resume and start_from is None and config.objective.needs_teacher:
        raise MolflowError("objective.target lagrangian has a teacher: start from weights learned by flow matching")
    dataset = load_dataset(config)
    config, batches = dataset.config, dataset.batches()
    device = _device(config.training.device)
    total_steps = min(config.training.epochs * len(batches), config.training.max_steps or sys.maxsize)
    n_molecules = total_steps * batches.batch_size
    if device.type == "cpu" and n_molecules > LARGE_CPU_RUN:
        log.warning("%d %s on a CPU take long; a GPU would be much faster", n_molecules, dataset.kind)

    run = new_run(dataset, device, total_steps, start_from)
    metrics_path = folder / "metrics.jsonl"
    if resume:
        _resume(run, config, folder)
        forget_after(metrics_path, run.step)
    else:
        _make_folder(folder)
    flow, ema_flow = run.objective.flow, cast(Flow, run.ema.module)
    good = run.state()
    generator = torch.Generator(device)
    started, first_step = time.monotonic(), run.step
    before: dict[str, Any] = (
        read_json(folder / CARD) if resume else {"validation": {}, "started_from": _origin(start_from)}
    )
    last_validation: dict[str, float | None] = before["validation"]
    origin = before["started_from"]

    prepare = run.objective.preparation()
    fresh: dict[str, Any] | None = None  # a state that is good if the next step is

    def checkpoint(state: dict[str, Any]) -> None:
        nonlocal good
        good = state
        save_state(folder, good)
        card = _card(dataset, run.step, len(batches), last_validation)
        save_model(folder, config, ema_flow, card | {"started_from": origin})

    if not resume:
        checkpoint(good)  # so that there is always something to resume

    with (
        metrics_path.open("a", encoding="utf-8") as metrics_file,
        tqdm(total=total_steps, initial=run.step, desc=config.name, unit="step", dynamic_ncols=True) as bar,
        closing(Metrics(metrics_file, folder, run.step)) as metrics,
        held_interrupts() as interrupted,  # half a step cannot be resumed
        made_ready(prepare, _tasks(dataset, batches, run.step, total_steps), config.training.workers) as ready,
    ):
        for indices, drawn in ready:
            batch = drawn.to(device)
            generator.manual_seed(_seed(config.seed, run.step))
            run.optimizer.zero_grad(set_to_none=True)
            try:
                loss, parts = accumulate_gradients(run.objective, batch, generator, config.training.micro_batch)
            except IntegrationError as error:
                log.warning("step %d: %s", run.step, error)
                loss, parts = math.nan, {}
            norm = run.clip(run.parameters)
            bar.update()
            if not (math.isfinite(norm) and math.isfinite(loss)):
                fresh = None
                run.roll_back(good, indices)
                continue
            if fresh is not None:  # saved only now: its weights have just given a finite loss and gradient
                run.rollbacks = 0
                checkpoint(fresh)
                fresh = None
            run.optimizer.step()
            run.scheduler.step()
            run.ema.update_parameters(flow)
            run.pending.append(dict(loss=loss, gradient_norm=norm, molecules=len(batch), **parts))
            run.step += 1

            if run.step % config.training.log_every == 0:
                line = mean(run.pending)
                rate = (run.step - first_step) / (time.monotonic() - started)
                metrics.write(run.step, **line, learning_rate=run.scheduler.get_last_lr()[0], steps_per_s=rate)
                bar.set_postfix(loss=f"{line['loss']:.4g}")
                run.pending = []
            if run.step % config.training.validate_every == 0 and run.step < total_steps:
                last_validation = validate(ema_flow, dataset, run.objective.teacher)
                metrics.write(run.step, **last_validation)
            if run.step % config.training.checkpoint_every == 0 and run.step < total_steps:
                fresh = run.state() | {"rollbacks": 0}
            if interrupted():
                if _is_finite(flow):
                    checkpoint(run.state())
                raise KeyboardInterrupt
        if not _is_finite(flow):
            raise MolflowError(
                f"the last step left weights that are not finite; {folder} holds those of {good['step']}"
            )
        if good["step"] < total_steps:  # also where the very last step was rolled back
            last_validation = validate(ema_flow, dataset, run.objective.teacher)
            metrics.write(run.step, **last_validation)
            checkpoint(run.state())
    return folder


def validate(flow: Flow, dataset: Dataset, teacher: nn.Module | None = None) -> dict[str, float | None]:
    """Held-out loss and figures of samples; where the likelihood is trained, also the exact one, nats.

    Of a flow trained by flow matching the exact likelihood is computed for particles only, whose dimensions are few.
    What is not finite, or needs a path that cannot be followed, is None.
    """
    config = dataset.config
    data = dataset.held_out(config.training.validation_molecules)
    objective = build_objective(flow, config.objective, teacher=teacher, energy=dataset.target)
    figures = attempt(["validation_loss"], lambda: [_held_out_loss(objective, data, config)])
    data = data.to(flow.device)
    if config.objective.kind == "free_form":
        encoder = flow.likelihood(data, which="encoder", seed=config.seed)
        decoder = flow.likelihood(data, which="decoder", seed=config.seed)
        figures |= {
            "validation_nll_encoder": -encoder.log_prob.mean(),
            "validation_nll_decoder": -decoder.log_prob.mean(),
            "validation_reconstruction_error": encoder.reconstruction_error.mean(),
        }
    few_dimensions = isinstance(config.model.domain, ParticlesConfig)
    if config.objective.kind == "likelihood" or (config.objective.kind == "flow_matching" and few_dimensions):

        def of_solver() -> tuple[Tensor, Tensor]:
            likelihood = flow.likelihood(data, seed=config.seed)
            return -likelihood.log_prob.mean(), likelihood.reconstruction_error.mean()

        figures |= attempt(["validation_nll", "validation_reconstruction_error"], of_solver)
    figures |= dataset.sample_figures(flow, config.training.validation_samples, config.seed)
    values = {name: float(value) for name, value in figures.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


@torch.no_grad()
def _held_out_loss(objective: Objective, data: Any, config: ExperimentConfig) -> float:
    """The mean over held-out data in batches of the size of training, on which pairing depends."""
    prepare, device = objective.preparation(), objective.flow.device
    drawing, generator = torch.Generator().manual_seed(config.seed), objective.flow.generator(config.seed)
    total = 0.0
    for start in range(0, len(data), config.training.batch_size):
        batch = prepare(data[start : start + config.training.batch_size], drawing).to(device)
        total += len(batch) * float(objective(batch, generator)[0])
    return total / len(data)


def _tasks(dataset: Dataset, batches: Batches, first: int, total_steps: int) -> Iterator[Task]:
    """What each step from `first` on takes: a pure function of the configuration and the step."""
    step = first
    while step < total_steps:
        epoch, done = divmod(step, len(batches))
        for indices in batches.epoch(epoch)[done : done + total_steps - step]:
            yield Task(indices, dataset.batch(indices), _seed(dataset.config.seed, step))
            step += 1


def _resume(run: Run, config: ExperimentConfig, folder: Path) -> None:
    """Put a run into the state saved in `folder`, which must be of the same experiment."""
    state = load_state(folder)
    if differing := _differences(read_config(folder).model_dump(), config.model_dump()):
        raise MolflowError(
            f"{folder}: its run has another {differing[0]}; resume it with the configuration it began with"
        )
    try:
        run.restore(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise MolflowError(f"{folder / STATE}: does not fit the configuration of the run") from error


def _differences(saved: dict[str, Any], given: dict[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of two configurations that differ, but for what a resumed run may change."""
    keys = []
    for name, value in saved.items():
        key, other = prefix + name, given.get(name)
        if isinstance(value, dict) and isinstance(other, dict):
            keys += _differences(value, other, f"{key}.")
        elif value != other and key not in MAY_CHANGE:
            keys.append(key)
    return keys


def _is_finite(flow: Flow) -> bool:
    return all(bool(p.isfinite().all()) for p in flow.parameters())


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _origin(weights: Path | None) -> dict[str, Any] | None:
    """Where a run started from: the checksum of the weights, and the card beside them, which names its own origin."""
    if weights is None:
        return None
    card = weights.parent / CARD
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {"sha256": digest, "card": read_json(card) if card.exists() else None}


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MolflowError("training.device is cuda, but torch finds no CUDA device here")
    return torch.device(name)


def _make_folder(folder: Path) -> None:
    if (folder / STATE).exists():
        raise MolflowError(f"{folder}: holds another run already; continue it with --resume or name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").write_text("")
    except OSError as error:
        raise MolflowError(f"{folder}: cannot be written: {error.strerror}") from error


def _card(dataset: Dataset, step: int, steps_an_epoch: int, validation: dict[str, float | None]) -> dict[str, Any]:
    """What a model is made of; `scores` are filled in when it is measured on many samples."""
    config = dataset.config
    return {
        "name": config.name,
        "data": config.data.name,
        "domain": config.model.domain.kind,
        "representation": getattr(config.model.domain, "representation", None),
        "split": dataset.split,
        "seed": config.seed,
        "steps": step,
        "epochs": round(step / steps_an_epoch, 3),
        "versions": {"molflow": version("molflow"), "torch": torch.__version__, "python": platform.python_version()},
        "validation": validation,
        "scores": None,
    }
