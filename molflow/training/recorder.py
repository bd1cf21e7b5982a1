"""The files that a training run leaves: metrics.jsonl, TensorBoard, and checkpoints with the card of the model.

A checkpoint is the model, its card and, at last, the state. A run that was killed in between continues from the state
before, and writes the model of that state again.
"""

import json
import logging
import os
import platform
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, nullcontext
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch

from molflow.errors import MolflowError
from molflow.files import atomic_path, locked, sweep
from molflow.flows.base import Flow
from molflow.flows.storage import read_card, save_model
from molflow.progress import progress_bar
from molflow.threads import limited_threads
from molflow.training.metrics import mean
from molflow.training.run import Run
from molflow.training.state import STATE, load_state, save_state
from molflow.training.tasks.base import Splits
from molflow.training.validation import validate

log = logging.getLogger("molflow")

METRICS = "metrics.jsonl"


class Recorder:
    """Log, validate and save a run when it is time to.

    A checkpoint that is due is held back until the next step has shown that its weights give a finite loss and
    gradient.

    Args:
        run: the run, at its first step or restored from `folder`.
        splits: data and experiment.
        folder: folder of the run, prepared by `prepare_folder`.
        total_steps: steps of the whole run.
        writes: whether this process writes files and validates: of several that train together, one does.

    Attributes:
        good: the last saved state.
    """

    def __init__(self, run: Run, splits: Splits[Any], folder: Path, total_steps: int, *, writes: bool = True):
        self.run, self.splits, self.folder, self.total_steps = run, splits, folder, total_steps
        self.good = run.state()
        self._candidate: dict[str, Any] | None = None
        self._started, self._first_step = time.monotonic(), run.step
        self._flow = cast(Flow[Any], run.ema.module)
        self._writes = writes
        self._steps_per_epoch = len(splits.batches())

    def __enter__(self) -> "Recorder":
        """Open the log; a new run is saved at once, so that there is always something to resume."""
        with ExitStack() as stack:
            if self._writes:
                self._open(stack)
            self._bar = stack.enter_context(
                progress_bar(
                    total=self.total_steps,
                    initial=self.run.step,
                    desc=self.splits.config.name,
                    unit="step",
                    disable=not self._writes,
                )
            )
            self._stack = stack.pop_all()
        return self

    def _open(self, stack: ExitStack) -> None:
        self._file = stack.enter_context((self.folder / METRICS).open("a", encoding="utf-8"))
        if not (self.folder / STATE).exists():
            self._save(self.good)
        elif steps_of_card(self.folder) != self.run.step:  # the run was killed between its files
            self._save_model()
        self._board = _tensorboard(self.folder, self.run.step)
        if self._board is not None:
            stack.callback(self._board.close)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self._stack.close()

    def checked(self, finite: bool) -> None:
        """Note whether loss and gradient of the present weights are finite; save a checkpoint that waited for it."""
        self._bar.update()
        if self._candidate is not None and finite:
            self.run.rollbacks = 0
            self._save(self._candidate)
        self._candidate = None

    @property
    def stops(self) -> bool:
        """Whether no validation was the best for as long as `training.patience` says."""
        patience, best = self.splits.config.training.patience, self.run.best
        return patience is not None and best is not None and best["since"] >= patience

    def stepped(self) -> None:
        """Log, validate and prepare a checkpoint after a step, each where it is due."""
        run, training = self.run, self.splits.config.training
        unfinished = run.step < self.total_steps
        if run.step % training.log_every == 0:
            self._log()
        if run.step % training.validate_every == 0 and unfinished:
            self._validate()
        if run.step % training.checkpoint_every == 0 and unfinished:
            self._candidate = run.state() | {"rollbacks": 0}

    def interrupted(self) -> None:
        """Save an unfinished run, unless its last step spoiled the weights."""
        if self.run.is_finite:
            self._save(self.run.state())

    def finished(self) -> None:
        """Validate and save a run after its last step; with `training.patience` its best weights are the model.

        Raises:
            MolflowError: the last step left weights that are not finite.
        """
        if not self.run.is_finite:
            raise MolflowError(
                f"the last step left weights that are not finite; {self.folder} holds those of {self.good['step']}"
            )
        if self.good["step"] < self.total_steps:  # also after the very last step was rolled back
            if not self.stops:  # it has just validated
                self._validate()
            self.run.take_best()
            self._save(self.run.state())

    def _log(self) -> None:
        run = self.run
        line = mean(run.pending)
        rate = (run.step - self._first_step) / (time.monotonic() - self._started)
        self._write(**line, learning_rate=float(run.scheduler.get_last_lr()[0]), steps_per_s=rate)
        self._bar.set_postfix(loss=f"{line['loss']:.4g}")
        run.pending = []

    def _validate(self) -> None:
        if self._writes:
            self.run.validation = validate(self._flow, self.splits, self.run.objective.teacher)
            self._write(**self.run.validation)
            if self.splits.config.training.patience is not None:
                self.run.compare()

    def _write(self, **figures: float | None) -> None:
        if not self._writes:
            return
        self._file.write(json.dumps({"step": self.run.step, **figures}) + "\n")
        self._file.flush()
        if self._board is not None:
            for name, value in figures.items():
                if value is not None:
                    self._board.add_scalar(name, value, self.run.step)

    def _save(self, state: dict[str, Any]) -> None:
        """Save model, card, log and state. The state is last: it makes the checkpoint complete."""
        self.good = state
        if not self._writes:
            return
        self._save_model()
        os.fsync(self._file.fileno())
        save_state(self.folder, state | {"experiment": self.splits.config.model_dump(mode="json")})

    def _save_model(self) -> None:
        config = self.splits.config
        save_model(self.folder, config.model, self._flow, self._card(), config.without_model())

    def _card(self) -> dict[str, Any]:
        """Origin of the model; `scores` are filled in when it is measured on many samples."""
        config, step = self.splits.config, self.run.step
        return {
            "name": config.name,
            "data": config.data.name,
            "task": config.model.domain.task,
            "domain": config.model.domain.kind,
            "representation": getattr(config.model.domain, "representation", None),
            "split": self.splits.split,
            "seed": config.seed,
            "steps": step,
            "epochs": round(step / self._steps_per_epoch, 3),
            "versions": {
                "molflow": version("molflow"),
                "torch": torch.__version__,
                "python": platform.python_version(),
            },
            "validation": self.run.validation,
            "scores": None,
            "started_from": self.run.started_from,
        }


@contextmanager
def new_folder(folder: Path) -> Iterator[None]:
    """Make the folder of a new run, and keep other programs from training there within a block.

    Raises:
        MolflowError: it holds another run, another program trains there, or it cannot be written.
    """
    try:
        folder.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MolflowError(f"{folder}: cannot be written: {error.strerror}") from error
    with locked(folder, "trains"):
        if (folder / STATE).exists():
            raise MolflowError(f"{folder}: holds another run already; continue it with --resume or name another")
        sweep(folder)
        (folder / METRICS).write_text("")
        yield


@contextmanager
def resumed_folder(folder: Path, *, writes: bool = True) -> Iterator[dict[str, Any]]:
    """Yield the state of the run in a folder, and keep other programs from training there within a block.

    The last digits of sums depend on the number of threads, so torch uses as many as the run began with.

    Args:
        folder: of the run.
        writes: as in `Recorder`; a process that does not write relies on the one that does.

    Raises:
        MolflowError: nothing to resume, another program trains there, or the state is damaged.
    """
    with locked(folder, "trains") if writes and (folder / STATE).exists() else nullcontext():
        state = load_state(folder)
        if writes:
            sweep(folder)
        threads = torch.get_num_threads()
        begun = state.get("threads", threads)
        if begun != threads:
            log.info("the run continues with %d threads, as it began, so that it is exact", begun)
        with limited_threads(begun):
            yield state


def steps_of_card(folder: Path) -> int | None:
    """The step of the model in a folder; None if its card is missing or damaged."""
    try:
        steps: int | None = read_card(folder).get("steps")
        return steps
    except MolflowError:
        return None


def forget_after(folder: Path, step: int) -> None:
    """Drop the log lines of steps after the last checkpoint of a killed run: they will be done again."""
    path = folder / METRICS
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = []
    for line in lines:
        try:
            kept += [line] if json.loads(line)["step"] <= step else []
        except ValueError:  # the line that was being written
            break
    with atomic_path(path) as temporary:
        temporary.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's files; None where it is not installed."""
    if not find_spec("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)
