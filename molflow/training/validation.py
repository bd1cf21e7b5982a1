"""Validation: held-out loss, exact likelihood where the objective trains it, and figures of samples."""

import logging
import math
from typing import Any

import torch
from torch import nn

from molflow.data.batches import Batch
from molflow.flows.base import Flow
from molflow.training.config import ExperimentConfig
from molflow.training.metrics import attempt
from molflow.training.objectives.base import Objective
from molflow.training.tasks.base import Splits

log = logging.getLogger("molflow")

Figures = dict[str, float | None]


def validate(flow: Flow[Any], splits: Splits[Any], teacher: nn.Module | None = None) -> Figures:
    """Held-out loss and figures of samples, and the exact likelihood in nats where it is validated.

    A figure that is not finite, or needs a path that cannot be integrated, is None.
    """
    config = splits.config
    batch = splits.held_out(config.training.validation_molecules)
    objective = config.objective.build(flow, teacher=teacher, energy=splits.target)
    figures: dict[str, Any] = {"validation_loss": math.nan}
    if not len(batch):
        log.warning("no validation loss: the model has the types and compositions of none of the validation data")
    else:
        figures = attempt(["validation_loss"], lambda: [_held_out_loss(objective, batch, config)])
        if splits.validates_likelihood(config.objective):
            names = objective.likelihood_names
            figures |= attempt(names, lambda: objective.likelihood(batch.to(flow.device), config.seed))
    figures |= splits.sample_figures(flow, config.training.validation_samples, config.seed)
    values = {name: float(value) for name, value in figures.items()}
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


@torch.no_grad()
def _held_out_loss(objective: Objective, batch: Batch, config: ExperimentConfig) -> float:
    """The mean over held-out data in batches of the size of training, on which pairing depends."""
    prepare, device = objective.preparation(), objective.flow.device
    drawing, generator = torch.Generator().manual_seed(config.seed), objective.flow.generator(config.seed)
    total = 0.0
    for start in range(0, len(batch), config.training.batch_size):
        part = prepare(batch[start : start + config.training.batch_size], drawing).to(device)
        total += len(part) * float(objective(part, generator)[0])
    return total / len(batch)
