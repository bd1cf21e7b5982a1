"""The training loop, for one process or several (`molflow.training.distributed`).

A step is a function of the state and the step number alone: batches follow from (seed, epoch), noise from (seed, step).
So a killed run continues from its checkpoint exactly as if it had not been killed, with the same number of threads.
"""

import logging
import math
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import nn

from molflow.data.loaders import Batches
from molflow.data.vectors import VectorFile, save_vectors
from molflow.errors import MolflowError
from molflow.flows.acceleration import compiler, has_compiler
from molflow.flows.solvers import IntegrationError
from molflow.interrupts import held_interrupts
from molflow.training.config import ExperimentConfig
from molflow.training.distributed import Ranks, joined_ranks
from molflow.training.objectives.accumulation import accumulate_gradients
from molflow.training.pairing import turn
from molflow.training.precision import CheckedPrecision
from molflow.training.prefetch import Request, naming_deaths, prefetch
from molflow.training.recorder import Recorder, forget_after, new_folder, resumed_folder
from molflow.training.run import Run, new_run
from molflow.training.state import STATE, restore_run
from molflow.training.tasks import load_splits
from molflow.training.tasks.base import Splits

log = logging.getLogger("molflow")

LARGE_CPU_RUN = 1_000_000
"""Training examples in all epochs, above which a run on a CPU is warned of."""


def train(
    config: ExperimentConfig,
    folder: str | Path,
    *,
    data: Any = None,
    resume: bool = False,
    start_from: Path | None = None,
) -> Path:
    """Train a flow and leave its checkpoint, with metrics.jsonl, in `folder`.

    Args:
        config: the experiment.
        data: vectors (n, F) to train on in place of those of the experiment, or a pair of them and their conditions
            (n, C), which `config.data.condition` names. They are kept in `folder` as vectors.npz, which a resumed
            run reads again.
        folder: made if it does not exist; must not hold another run unless `resume`.
        resume: continue the run in `folder` from its last checkpoint, with the same number of processes exactly.
        start_from: weights (model.safetensors) to begin with in place of random ones.

    Returns:
        `folder`.

    Raises:
        MolflowError: the folder holds another run, is trained in by another program, cannot be written, or holds
            nothing to resume, or a run with another configuration, other data or another teacher; the loss stays not
            finite after roll-backs; a worker process ended.
        KeyboardInterrupt: after the step in progress and a checkpoint.

    Example:
        >>> import pathlib
        >>> text = "name = 'moons'\\ndata = {name = 'two-moons'}\\n"
        >>> text += "model = {kind = 'planar', domain = {kind = 'vectors'}}"
        >>> _ = pathlib.Path("moons.toml").write_text(text)
        >>> config = molflow.load_experiment("moons.toml", ["training.max_steps=2", "training.batch_size=16"])
        >>> molflow.train(config, "run").name
        'run'
        >>> molflow.load("run").sample(3, seed=0).shape
        torch.Size([3, 2])
    """
    folder = Path(folder)
    _check_start(config, resume, start_from)
    with joined_ranks(device_of(config).type) as ranks, ExitStack() as stack:
        state = stack.enter_context(resumed_folder(folder, writes=ranks.leads)) if resume else None
        with ranks.leader_first():
            if data is not None:
                config = _with_vectors(config, folder, data, resume or not ranks.leads)
            splits = load_splits(config)
        _check_patience(splits)
        batches, training, device = splits.batches(), splits.config.training, device_of(config)
        total_steps = min(training.epochs * len(batches), training.max_steps or sys.maxsize)
        _warn_of_length(total_steps * batches.batch_size, splits.task.noun, device)
        run = new_run(splits, device, total_steps, start_from, resume)
        if state is not None:
            restore_run(run, splits.config, state, folder)
        if ranks.leads:
            forget_after(folder, run.step) if state is not None else stack.enter_context(new_folder(folder))
        _train(run, splits, folder, total_steps, ranks)
    return folder


def _train(run: Run, splits: Splits[Any], folder: Path, total_steps: int, ranks: Ranks) -> None:
    """Do the steps that are left."""
    batches, training, device = splits.batches(), splits.config.training, device_of(splits.config)
    objective, compute = ranks.distribute(run.objective), CheckedPrecision(run, training.precision)
    requests = _requests(splits, batches, run.step, total_steps, takes_turned(run.objective.flow))
    with (
        naming_deaths(),
        Recorder(run, splits, folder, total_steps, writes=ranks.leads) as recorder,
        held_interrupts() as interrupted,  # half a step cannot be resumed
        prefetch(run.objective.preparation(), requests, training.workers) as prepared,
    ):
        for indices, batch in prepared:
            if training.patience is not None and ranks.any(recorder.stops):
                break
            run.objective.share = run.step / total_steps
            on_device = batch.to(device)
            run.objective.initialize(on_device)
            loss, figures = compute(partial(_gradients, run, objective, on_device, splits.config, ranks))
            norm = run.clip(run.parameters)
            finite = math.isfinite(norm) and math.isfinite(loss)
            recorder.checked(finite)
            if not finite:
                run.roll_back(recorder.good, indices)
                continue
            run.update({"loss": loss, "gradient_norm": norm, "molecules": len(batch), **figures})
            recorder.stepped()
            if ranks.any(interrupted()):  # they stop at the same step
                recorder.interrupted()
                ranks.wait()
                raise KeyboardInterrupt
        recorder.finished()


def takes_turned(flow: nn.Module) -> bool:
    """Whether a flow is trained on data in random orientations, as one of its networks does not follow rotations."""
    return any(not getattr(network, "equivariant", True) for network in flow.modules())


def step_seed(seed: int, step: int) -> int:
    """The seed of the noise of a step."""
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _gradients(
    run: Run, objective: nn.Module, batch: Any, config: ExperimentConfig, ranks: Ranks
) -> tuple[float, dict[str, float]]:
    """Compute the gradients of a batch; the loss and its parts, NaN where a path cannot be integrated."""
    run.optimizer.zero_grad(set_to_none=True)
    generator = run.objective.flow.generator(step_seed(config.seed, run.step))
    try:
        return accumulate_gradients(objective, batch, generator, config.training.micro_batch, ranks)
    except IntegrationError as error:  # in the backward pass
        if ranks.size > 1:  # the others wait for the gradient
            raise
        log.warning("step %d: %s", run.step, error)
        return math.nan, {}


def _requests(splits: Splits[Any], batches: Batches, first: int, total_steps: int, turned: bool) -> Iterator[Request]:
    """The data of each step from `first` on: a pure function of the configuration and the step.

    Networks that are not equivariant get them `turned`, in random orientations.
    """
    step = first
    while step < total_steps:
        epoch, done = divmod(step, len(batches))
        for indices in batches.epoch(epoch)[done : done + total_steps - step]:
            batch, seed = splits.batch(indices), step_seed(splits.config.seed, step)
            yield Request(indices, turn(batch, seed) if turned else batch, seed)
            step += 1


def _with_vectors(config: ExperimentConfig, folder: Path, data: Any, resume: bool) -> ExperimentConfig:
    """The experiment on arrays, which are written into the folder of a new run."""
    path = folder / "vectors.npz"
    if not resume:
        if (folder / STATE).exists():
            raise MolflowError(f"{folder}: holds another run already, with its data; name another")
        save_vectors(path, *data) if isinstance(data, tuple) else save_vectors(path, data)
    kind = type(config.data) if isinstance(config.data, VectorFile) else VectorFile
    return config.model_copy(update={"data": kind(file=path, condition=config.data.condition)})


def _check_start(config: ExperimentConfig, resume: bool, start_from: Path | None) -> None:
    if resume and start_from is not None:
        raise MolflowError("a resumed run continues with its own weights; leave out --resume or --start-from")
    if not resume and start_from is None and (reason := config.objective.needs_weights):
        raise MolflowError(reason)
    if config.training.compile in (True, "dynamic") and device_of(config).type == "cpu" and not has_compiler():
        raise MolflowError(
            f"training.compile: no C++ compiler {compiler()!r} was found; install one, or set it to false"
        )


def _check_patience(splits: Splits[Any]) -> None:
    training = splits.config.training
    if training.patience is not None and not len(splits.held_out(training.validation_molecules)):
        raise MolflowError(
            "training.patience: there is no validation loss, as the model has the types and compositions of none of "
            "the validation data; take model.domain.compositions = 'model', or leave patience out"
        )


def _warn_of_length(n_examples: int, kind: str, device: torch.device) -> None:
    if device.type == "cpu" and n_examples > LARGE_CPU_RUN:
        log.warning("%d %s on a CPU take long; a GPU would be much faster", n_examples, kind)


def device_of(config: ExperimentConfig) -> torch.device:
    """The device of training."""
    name = config.training.device
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MolflowError("training.device is cuda, but torch finds no CUDA device here")
    return torch.device(name)
