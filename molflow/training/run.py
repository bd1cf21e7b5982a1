"""The state of a training run: networks, their average, optimiser, schedule and gradient clipping."""

import copy
import logging
import math
from collections import deque
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from molflow.errors import MolflowError
from molflow.flows.base import Flow
from molflow.training.checkpoint import build_flow, load, load_weights, read_config
from molflow.training.config import ExperimentConfig, OptimizerConfig, RegressionObjectiveConfig
from molflow.training.dataset import Dataset
from molflow.training.objectives import Objective, build_objective

log = logging.getLogger("molflow")

MAX_ROLLBACKS = 5  # without a checkpoint between them


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


@dataclass
class Run:
    """Everything that changes in training."""

    objective: Objective
    ema: AveragedModel
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LambdaLR
    clip: AdaptiveClip
    step: int
    pending: list[dict[str, float]]  # steps not yet in the log
    rollbacks: int

    @property
    def parameters(self) -> list[nn.Parameter]:
        """What is trained."""
        return [p for group in self.optimizer.param_groups for p in group["params"]]

    def state(self) -> dict[str, Any]:
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
            }
        )

    def restore(self, state: dict[str, Any]) -> None:
        state = copy.deepcopy(state)
        self.objective.load_state_dict(state["objective"])
        self.ema.load_state_dict(state["ema"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.clip.norms = deque(state["norms"], maxlen=self.clip.norms.maxlen)
        self.step, self.pending, self.rollbacks = state["step"], state["pending"], state["rollbacks"]

    def roll_back(self, good: dict[str, Any], indices: np.ndarray) -> None:
        """Restore the last good weights and go on with the next batch; give up when that does not help."""
        step, rollbacks = self.step, self.rollbacks + 1
        where = f"step {step}, training molecules {indices[:4].tolist()}..."
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


def new_run(data: Dataset, device: torch.device, total_steps: int, start_from: Path | None) -> Run:
    config = data.config
    with torch.random.fork_rng():
        torch.manual_seed(config.seed)
        flow = build_flow(config.model, "model")
    data.fit(flow.domain)
    if start_from is not None:
        load_weights(flow, start_from)
    teacher = _load_teacher(config)
    try:
        objective = build_objective(flow, config.objective, teacher=teacher, energy=data.target).to(device)
        if config.training.compile:
            objective.compile_loss()
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
    return Run(objective, ema, optimizer, scheduler, AdaptiveClip(), step=0, pending=[], rollbacks=0)


def _load_teacher(config: ExperimentConfig) -> Flow | None:
    """The flow that an objective wants imitated.

    Raises:
        MolflowError: there is none, or it is not on the domain of the model.
    """
    if not isinstance(config.objective, RegressionObjectiveConfig):
        return None
    folder = config.objective.teacher
    if read_config(folder).model.domain != config.model.domain:
        raise MolflowError(f"{folder}: its model.domain differs from that of the experiment")
    return load(folder)


def ema_update(decay: float, average: list[Tensor], values: list[Tensor], n_averaged: Tensor | int) -> None:
    """Exponential moving average whose decay grows to its value, so that the random start is forgotten soon."""
    n = float(n_averaged)
    torch._foreach_lerp_(average, values, 1 - min(decay, (1 + n) / (10 + n)))


def schedule(config: OptimizerConfig, total_steps: int, step: int) -> float:
    """Factor of the learning rate: linear warm-up, then cosine decay."""
    if step < config.warmup_steps:
        return (step + 1) / config.warmup_steps
    progress = min(1.0, (step - config.warmup_steps) / max(1, total_steps - config.warmup_steps))
    return config.final_fraction + (1 - config.final_fraction) * 0.5 * (1 + math.cos(math.pi * progress))
