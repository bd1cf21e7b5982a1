"""The state of a training run: networks, their average, optimiser, schedule and gradient clipping."""

import copy
import logging
import math
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, TypedDict

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from molflow.checksums import digest, sha256
from molflow.errors import MolflowError
from molflow.flows import acceleration
from molflow.flows.storage import CARD, build_flow, load_weights, read_card
from molflow.training.config import OptimizerConfig
from molflow.training.objectives.base import Objective
from molflow.training.tasks.base import Splits

log = logging.getLogger("molflow")

MAX_ROLLBACKS = 5
"""Roll-backs without a checkpoint between them, after which a run is given up."""


class AdaptiveClip:
    """Clip gradients to 1.5 mean + 2 std of the last norms, so that one bad batch cannot throw the weights off."""

    def __init__(self, window: int = 50):
        self.norms: deque[float] = deque(maxlen=window)

    def __call__(self, parameters: list[nn.Parameter]) -> float:
        """Clip in place and return the norm before clipping."""
        limit = 1.5 * float(np.mean(self.norms)) + 2 * float(np.std(self.norms)) if self.norms else math.inf
        norm = float(nn.utils.clip_grad_norm_(parameters, limit))
        if norm > 0 and math.isfinite(norm):  # a limit of zero would stop training for good
            self.norms.append(min(norm, limit))
        return norm


class Best(TypedDict):
    """The average weights with the lowest validation loss, and how many validations came after them."""

    validation: dict[str, Any]
    weights: dict[str, Tensor]
    since: int


@dataclass
class Run:
    """Everything that changes in training.

    Attributes:
        objective: the loss, which holds the flow.
        ema: the exponential moving average of the flow.
        optimizer: optimiser of the trained parameters.
        scheduler: schedule of the learning rate.
        clip: gradient clipping, with the norms that it remembers.
        step: number of the next step.
        pending: figures of steps that are not in the log yet.
        rollbacks: roll-backs since the last checkpoint.
        fingerprints: hashes of what the run learns from, which a continuation must have too.
        validation: figures of the last validation.
        started_from: origin of the weights that the run started from; None for random ones.
        best: None without `training.patience`, and before the first validation.
    """

    objective: Objective
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    clip: AdaptiveClip
    step: int
    pending: list[dict[str, float]]
    rollbacks: int
    fingerprints: dict[str, str | None]
    validation: dict[str, Any]
    started_from: dict[str, Any] | None
    best: Best | None = None

    @property
    def parameters(self) -> list[nn.Parameter]:
        """The trained parameters."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    @property
    def is_finite(self) -> bool:
        """Whether all weights of the flow are finite."""
        return all(bool(parameter.isfinite().all()) for parameter in self.objective.flow.parameters())

    def update(self, figures: dict[str, float]) -> None:
        """Take a step along the gradients, and remember its figures for the log."""
        self.optimizer.step()
        self.scheduler.step()
        self.ema.update_parameters(self.objective.flow)
        self.pending.append(figures)
        self.step += 1

    def state(self) -> dict[str, Any]:
        """A copy of everything, as `restore` takes it."""
        return copy.deepcopy(
            {
                "objective": self.objective.state_dict(),
                "ema": self.ema.state_dict(),
                "optimizer": self.optimizer.state_dict(),
                "scheduler": self.scheduler.state_dict(),
                "norms": list(self.clip.norms),
                "step": self.step,
                "pending": self.pending,
                "rollbacks": self.rollbacks,
                "fingerprints": self.fingerprints,
                "validation": self.validation,
                "started_from": self.started_from,
                "best": self.best,
                "threads": torch.get_num_threads(),
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        """Return to a state."""
        state = copy.deepcopy(state)
        self.objective.load_state_dict(state["objective"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.clip.norms = deque(state["norms"], maxlen=self.clip.norms.maxlen)
        self.step, self.pending, self.rollbacks = state["step"], state["pending"], state["rollbacks"]
        self.validation, self.started_from = state["validation"], state["started_from"]
        self.best = state.get("best")

    def compare(self) -> None:
        """Remember the average weights if their criterion is the lowest so far; None is no number."""
        criterion = self.objective.criterion(self.validation)
        lowest = None if self.best is None else self.objective.criterion(self.best["validation"])
        if criterion is not None and (lowest is None or criterion < lowest):
            weights = copy.deepcopy(self.ema.module.state_dict())
            self.best = {"validation": self.validation, "weights": weights, "since": 0}
        elif self.best is not None:
            self.best["since"] += 1

    def take_best(self) -> None:
        """Make the best weights the average."""
        if self.best is not None:
            self.ema.module.load_state_dict(self.best["weights"])
            self.validation = self.best["validation"]

    def roll_back(self, good: dict[str, Any], indices: np.ndarray) -> None:
        """Restore the last good weights and go on with the next batch.

        Raises:
            MolflowError: that has not helped `MAX_ROLLBACKS` times.
        """
        step, rollbacks = self.step, self.rollbacks + 1
        where = f"step {step}, training data {indices[:4].tolist()}..."
        if rollbacks > MAX_ROLLBACKS:
            raise MolflowError(
                f"loss or gradient not finite at {where}, after {MAX_ROLLBACKS} roll-backs without a checkpoint"
            )
        log.warning("loss or gradient not finite at %s: rolled back to the weights of step %d", where, good["step"])
        self.restore(good)
        self.step, self.rollbacks = step + 1, rollbacks
        self.scheduler.last_epoch = self.step
        for group, base, factor in zip(
            self.optimizer.param_groups, self.scheduler.base_lrs, self.scheduler.lr_lambdas, strict=True
        ):
            group["lr"] = base * factor(self.step)


def new_run(
    splits: Splits[Any], device: torch.device, total_steps: int, start_from: Path | None, resume: bool = False
) -> Run:
    """A run at its beginning.

    Args:
        splits: data and experiment.
        device: device of the networks.
        total_steps: length of the learning-rate schedule.
        start_from: weights to begin with in place of random ones.
        resume: the state of an earlier run will be loaded, so nothing is fitted to the data.

    Raises:
        MolflowError: the model, its weights, the objective and the data do not fit together.
    """
    config = splits.config
    compiled = _is_compiled(config.training.compile, splits.one_shape)
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        flow = build_flow(config.model, "model")
    if start_from is not None:
        load_weights(flow, start_from)
    elif not resume:
        splits.fit(flow.domain)
    acceleration.check(flow, None, config.training.precision)
    teacher = config.objective.load_teacher(config.model)
    try:
        objective = config.objective.build(flow, teacher=teacher, energy=splits.target).to(device)
        if compiled:
            objective.compile_loss(dynamic=config.training.compile == "dynamic")
            log.info("the loss is compiled, which can take minutes; --set training.compile=false leaves it out")
    except ValueError as error:
        raise MolflowError(f"objective: {error}") from error
    optimizer = torch.optim.AdamW(
        [p for p in objective.parameters() if p.requires_grad],
        lr=config.optimizer.learning_rate,
        weight_decay=config.optimizer.weight_decay,
    )
    ema = AveragedModel(flow, multi_avg_fn=partial(ema_update, config.training.ema_decay))
    factor = partial(schedule, config.optimizer, total_steps)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, factor)
    taught_by = None if teacher is None else digest(teacher.state_dict())
    fingerprints = {"data": splits.fingerprint(), "teacher": taught_by}
    return Run(objective, ema, optimizer, scheduler, AdaptiveClip(), 0, [], 0, fingerprints, {}, origin(start_from))


def origin(weights: Path | None) -> dict[str, Any] | None:
    """Checksum of the weights that a run starts from, and the card beside them, which names its own origin."""
    if weights is None:
        return None
    folder = weights.parent
    return {"sha256": sha256(weights), "card": read_card(folder) if (folder / CARD).exists() else None}


def _is_compiled(asked: bool | Literal["auto", "dynamic"], one_shape: bool) -> bool:
    """Whether to compile the loss.

    Raises:
        MolflowError: it is asked for, and batches differ in shape.
    """
    if asked == "auto":
        return one_shape and acceleration.has_compiler()
    if asked is True and not one_shape:
        raise MolflowError(
            "training.compile needs batches = 'mixed_size': every other shape would be compiled anew; "
            "or set it to 'dynamic', which compiles one code for all shapes"
        )
    return bool(asked)


def ema_update(decay: float, average: list[Tensor], values: list[Tensor], n_averaged: Tensor | int) -> None:
    """Exponential moving average whose decay grows to its final value, so that it soon forgets the random start."""
    n = float(n_averaged)
    torch._foreach_lerp_(average, values, 1 - min(decay, (1 + n) / (10 + n)))


def schedule(config: OptimizerConfig, total_steps: int, step: int) -> float:
    """Factor of the learning rate: linear warm-up, then cosine decay."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    return config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
