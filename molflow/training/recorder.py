"""The files that a training run leaves: metrics.jsonl, TensorBoard, and checkpoints with the card of the model."""

import hashlib
import json
import platform
import time
from contextlib import ExitStack
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from types import TracebackType
from typing import Any, cast

import torch
from tqdm import tqdm

from molflow.errors import MolflowError
from molflow.files import atomic_path, read_json
from molflow.flows.base import Flow
from molflow.flows.storage import CARD, save_model
from molflow.training.metrics import mean
from molflow.training.run import Run
from molflow.training.state import STATE, save_state
from molflow.training.tasks.base import Splits
from molflow.training.validation import Figures, validate

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
        started_from: origin of the weights that a new run starts from; None for random ones and for a resumed run.
        writes: whether this process writes files and validates: of several that train together, one does.

    Attributes:
        good: the last saved state.
    """

    def __init__(
        self,
        run: Run,
        splits: Splits[Any],
        folder: Path,
        total_steps: int,
        started_from: dict[str, Any] | None = None,
        *,
        writes: bool = True,
    ):
        self.run, self.splits, self.folder, self.total_steps = run, splits, folder, total_steps
        self.good = run.state()
        self._candidate: dict[str, Any] | None = None
        self._started, self._first_step = time.monotonic(), run.step
        self._flow = cast(Flow[Any], run.ema.module)
        self._validation: Figures = {}
        self._started_from, self._writes = started_from, writes
        self._steps_per_epoch = len(splits.batches())

    def __enter__(self) -> "Recorder":
        """Open the log; a new run is saved at once, so that there is always something to resume."""
        with ExitStack() as stack:
            if self._writes:
                self._open(stack)
            self._bar = stack.enter_context(
                tqdm(
                    total=self.total_steps,
                    initial=self.run.step,
                    desc=self.splits.config.name,
                    unit="step",
                    dynamic_ncols=True,
                    disable=not self._writes,
                )
            )
            self._stack = stack.pop_all()
        return self

    def _open(self, stack: ExitStack) -> None:
        if (self.folder / STATE).exists():
            card = read_json(self.folder / CARD)
            self._validation, self._started_from = card["validation"], card["started_from"]
        else:
            self._save(self.good)
        self._file = stack.enter_context((self.folder / METRICS).open("a", encoding="utf-8"))
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
        """Validate and save a run after its last step.

        Raises:
            MolflowError: the last step left weights that are not finite.
        """
        if not self.run.is_finite:
            raise MolflowError(
                f"the last step left weights that are not finite; {self.folder} holds those of {self.good['step']}"
            )
        if self.good["step"] < self.total_steps:  # also after the very last step was rolled back
            self._validate()
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
            self._validation = validate(self._flow, self.splits, self.run.objective.teacher)
            self._write(**self._validation)

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
        self.good = state
        if not self._writes:
            return
        save_state(self.folder, state)
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
            "validation": self._validation,
            "scores": None,
            "started_from": self._started_from,
        }


def prepare_folder(folder: Path) -> None:
    """Make the folder of a new run.

    Raises:
        MolflowError: it holds another run, or cannot be written.
    """
    if (folder / STATE).exists():
        raise MolflowError(f"{folder}: holds another run already; continue it with --resume or name another")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / METRICS).write_text("")
    except OSError as error:
        raise MolflowError(f"{folder}: cannot be written: {error.strerror}") from error


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


def origin(weights: Path | None) -> dict[str, Any] | None:
    """Checksum of the weights that a run starts from, and the card beside them, which names its own origin."""
    if weights is None:
        return None
    card = weights.parent / CARD
    digest = hashlib.sha256(weights.read_bytes()).hexdigest()
    return {"sha256": digest, "card": read_json(card) if card.exists() else None}


def _tensorboard(folder: Path, step: int) -> Any:
    """A writer of TensorBoard's files; None where it is not installed."""
    if not find_spec("tensorboard"):
        return None
    from torch.utils.tensorboard import SummaryWriter

    return SummaryWriter(str(folder / "tensorboard"), purge_step=step)
