"""The training loop.

A step is a function of the state and the step number alone: batches follow from (seed, epoch), noise from (seed, step).
So a run that was killed continues from its checkpoint exactly as if it had not been.
"""

import copy
import json
import logging
import math
import time
from collections import deque
from dataclasses import dataclass
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel
from tqdm import tqdm

from molflow.batch import MoleculeBatch
from molflow.chem import stability
from molflow.data import EqualSizeBatches, MoleculeSet, load_qm9
from molflow.errors import MolflowError
from molflow.flows.base import Flow
from molflow.training.checkpoint import load_state, load_weights, save_model, save_state
from molflow.training.config import ExperimentConfig, OptimizerConfig
from molflow.training.objectives import FreeFormObjective

log = logging.getLogger("molflow")

LARGE_CPU_RUN = 1_000_000  # molecules
MAX_ROLLBACKS = 5  # in a row


class AdaptiveClip:
    """Clip gradients to 1.5 mean + 2 std of the last norms, so that one bad batch cannot throw the weights off."""

    def __init__(self, window: int = 50):
        self.norms: deque[float] = deque(maxlen=window)

    def __call__(self, parameters: list[nn.Parameter]) -> float:
        """Clip in place and return the norm before clipping."""
        limit = 1.5 * float(np.mean(self.norms)) + 2 * float(np.std(self.norms)) if self.norms else math.inf
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        if math.isfinite(norm):
            self.norms.append(min(norm, limit))
        return norm


@dataclass
class Run:
    """Everything that changes in training."""

    objective: FreeFormObjective
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    clip: AdaptiveClip
    step: int
    pending: list[dict[str, float]]  # steps not yet in the log
    rollbacks: int

    def state(self) -> dict[str, Any]:
        return copy.deepcopy(
            {
                "flow": self.objective.flow.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "norms": list(self.clip.norms),
                "step": self.step,
                "pending": self.pending,
                "rollbacks": self.rollbacks,
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        self.objective.flow.load_state_dict(state["flow"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.clip.norms = deque(state["norms"], maxlen=self.clip.norms.maxlen)
        self.step, self.pending, self.rollbacks = state["step"], state["pending"], state["rollbacks"]


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
            not finite after roll-backs.
    """
    folder = Path(folder)
    training_set, validation_set = load_qm9("train"), load_qm9("validation")
    config = _with_atom_counts(config, training_set)
    device = _device(config.training.device)
    batches = EqualSizeBatches(training_set.n_atoms, config.training.batch_size, config.seed)
    total_steps = config.training.epochs * len(batches)
    if device.type == "cpu" and config.training.epochs * len(training_set) > LARGE_CPU_RUN:
        log.warning("%d molecules on a CPU take long; a GPU would be much faster", total_steps * batches.batch_size)

    run = _new_run(config, device, total_steps, start_from)
    metrics_path = folder / "metrics.jsonl"
    if resume:
        run.restore(load_state(folder))
        _forget_after(metrics_path, run.step)
    else:
        _make_folder(folder)
    validation = _batch(validation_set, np.arange(min(config.training.validation_molecules, len(validation_set))))
    flow, ema_flow = run.objective.flow, cast(Flow, run.ema.module)
    parameters = [p for p in run.objective.parameters() if p.requires_grad]
    good = run.state()
    generator = torch.Generator(device)
    started, first_step = time.monotonic(), run.step
    last_validation: dict[str, float] = {}

    def checkpoint() -> None:
        save_state(folder, good)
        save_model(folder, config, ema_flow, _card(config, run.step, batches, last_validation))

    with (
        metrics_path.open("a", encoding="utf-8") as metrics_file,
        tqdm(total=total_steps, initial=run.step, desc=config.name, unit="step", dynamic_ncols=True) as bar,
    ):
        metrics = _Metrics(metrics_file, folder)
        try:
            while run.step < total_steps:
                epoch, first = divmod(run.step, len(batches))
                for indices in batches.epoch(epoch)[first:]:
                    data = _batch(training_set, indices).to(device)
                    generator.manual_seed(_seed(config.seed, run.step))
                    loss, parts = run.objective(data, generator)
                    run.optimizer.zero_grad(set_to_none=True)
                    loss.backward()
                    norm = run.clip(parameters)
                    if not (math.isfinite(norm) and math.isfinite(float(loss))):
                        _roll_back(run, good, indices)
                        continue
                    run.optimizer.step()
                    run.scheduler.step()
                    run.ema.update_parameters(flow)
                    run.pending.append(_floats(loss=loss, gradient_norm=norm, molecules=len(data), **parts))
                    run.step += 1
                    bar.update()

                    if run.step % config.training.log_every == 0:
                        line = _mean(run.pending)
                        rate = (run.step - first_step) / (time.monotonic() - started)
                        metrics.write(run.step, **line, learning_rate=run.scheduler.get_last_lr()[0], steps_per_s=rate)
                        bar.set_postfix(loss=f"{line['loss']:.4g}")
                        run.pending = []
                    if run.step % config.training.validate_every == 0 or run.step == total_steps:
                        last_validation = validate(ema_flow, validation, config, run.step)
                        metrics.write(run.step, **last_validation)
                    if run.step % config.training.checkpoint_every == 0 or run.step == total_steps:
                        run.rollbacks = 0
                        good = run.state()
                        checkpoint()
        except KeyboardInterrupt:
            good = run.state()
            checkpoint()
            raise
    return folder


def validate(flow: Flow, data: MoleculeBatch, config: ExperimentConfig, seed: int) -> dict[str, float]:
    """Exact negative log-likelihood (nats a molecule, both maps), reconstruction error, and stability of samples."""
    data = data.to(flow.device)
    with torch.no_grad():
        encoder = flow.likelihood(data, which="encoder", seed=config.seed)
        decoder = flow.likelihood(data, which="decoder", seed=config.seed)
        samples = flow.sample(config.training.validation_samples, seed=seed)
    atoms, molecules = stability(samples.positions, samples.atomic_numbers, samples.mask)
    return _floats(
        validation_nll_encoder=-encoder.log_prob.mean(),
        validation_nll_decoder=-decoder.log_prob.mean(),
        validation_reconstruction_error=encoder.reconstruction_error.mean(),
        atom_stability=atoms.sum() / samples.mask.sum(),
        molecule_stability=molecules.float().mean(),
    )


class _Metrics:
    """Lines of metrics.jsonl, and TensorBoard where it is installed."""

    def __init__(self, file: Any, folder: Path):
        self.file = file
        self.board = None
        if find_spec("tensorboard"):
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(folder / "tensorboard"))

    def write(self, step: int, **values: Any) -> None:
        self.file.write(json.dumps({"step": step, **values}) + "\n")
        self.file.flush()
        if self.board is not None:
            for name, value in values.items():
                self.board.add_scalar(name, value, step)


def _new_run(config: ExperimentConfig, device: torch.device, total_steps: int, start_from: Path | None) -> Run:
    torch.manual_seed(config.seed)
    flow = config.model.build()
    if start_from is not None:
        load_weights(flow, start_from)
    objective = FreeFormObjective(flow.to(device), config.objective)
    optimizer = torch.optim.AdamW(
        objective.parameters(), lr=config.optimizer.learning_rate, weight_decay=config.optimizer.weight_decay
    )
    ema = AveragedModel(flow, avg_fn=partial(_ema, config.training.ema_decay))
    factor = partial(_schedule, config.optimizer, total_steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    return Run(objective, ema, optimizer, scheduler, AdaptiveClip(), step=0, pending=[], rollbacks=0)


def _ema(decay: float, average: Tensor, value: Tensor, n_averaged: Tensor | int) -> Tensor:
    """Exponential moving average whose decay grows to its value, so that the random start is forgotten soon."""
    n = float(n_averaged)
    return average.lerp(value, 1 - min(decay, (1 + n) / (10 + n)))


def _schedule(config: OptimizerConfig, total_steps: int, step: int) -> float:
    """Factor of the learning rate: linear warm-up, then cosine decay."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    return config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))


def _seed(seed: int, step: int) -> int:
    return int(np.random.SeedSequence([seed, step]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def _roll_back(run: Run, good: dict[str, Any], indices: np.ndarray) -> None:
    """Restore the last good weights and go on with the next batch; give up when that does not help."""
    step, rollbacks = run.step, run.rollbacks + 1
    where = f"step {step}, training molecules {indices[:4].tolist()}..."
    if rollbacks > MAX_ROLLBACKS:
        raise MolflowError(f"loss or gradient not finite at {where}, after {MAX_ROLLBACKS} roll-backs in a row")
    log.warning("loss or gradient not finite at %s: rolled back to the weights of step %d", where, good["step"])
    run.restore(good)
    run.step, run.rollbacks = step + 1, rollbacks


def _batch(molecules: MoleculeSet, indices: np.ndarray) -> MoleculeBatch:
    return MoleculeBatch(*(torch.from_numpy(array) for array in molecules.padded(indices)))


def _with_atom_counts(config: ExperimentConfig, molecules: MoleculeSet) -> ExperimentConfig:
    domain = config.model.domain
    if domain.kind != "molecules" or domain.atom_counts:
        return config
    counts = tuple(np.bincount(molecules.n_atoms).tolist())
    model = config.model.model_copy(update={"domain": domain.model_copy(update={"atom_counts": counts})})
    return config.model_copy(update={"model": model})


def _device(name: str) -> torch.device:
    if name == "auto":
        name = "cuda" if torch.cuda.is_available() else "cpu"
    if name == "cuda" and not torch.cuda.is_available():
        raise MolflowError("training.device is cuda, but torch finds no CUDA device here")
    return torch.device(name)


def _make_folder(folder: Path) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        (folder / "metrics.jsonl").open("x").close()
    except FileExistsError as error:
        raise MolflowError(f"{folder}: holds another run already; continue it with --resume or name another") from error
    except OSError as error:
        raise MolflowError(f"{folder}: cannot be written: {error.strerror}") from error


def _forget_after(path: Path, step: int) -> None:
    """Drop the log lines of steps that a killed run did after its last checkpoint: they will be done again."""
    lines = path.read_text(encoding="utf-8").splitlines() if path.exists() else []
    kept = []
    for line in lines:
        try:
            kept += [line] if json.loads(line)["step"] <= step else []
        except ValueError:  # the line that was being written
            break
    path.write_text("".join(line + "\n" for line in kept), encoding="utf-8")


def _floats(**values: Tensor | float) -> dict[str, float]:
    return {name: float(value) for name, value in values.items()}


def _mean(rows: list[dict[str, float]]) -> dict[str, float]:
    return {name: sum(row[name] for row in rows) / len(rows) for name in rows[0]} if rows else {"loss": math.nan}


def _card(config: ExperimentConfig, step: int, batches: EqualSizeBatches, scores: dict[str, float]) -> dict[str, Any]:
    return {
        "name": config.name,
        "data": config.data.name,
        "split": "train (100,000 molecules; RandomState(0) permutation)",
        "seed": config.seed,
        "steps": step,
        "epochs": round(step / len(batches), 3),
        "torch": torch.__version__,
        "scores": scores,
    }
