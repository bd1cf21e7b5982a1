"""Losses as modules: data in, one number out, so that `DistributedDataParallel` and `torch.compile` can wrap them."""

from typing import Any

import torch
from torch import Tensor, nn

from molflow.flows.free_form import FreeFormFlow
from molflow.training.config import ObjectiveConfig


class FreeFormObjective(nn.Module):
    """beta |p - g(f(p))|^2 - log p(f(p)) - surrogate - correction, averaged over the batch (arXiv 2310.16624)."""

    def __init__(self, flow: FreeFormFlow, config: ObjectiveConfig):
        super().__init__()
        self.flow, self.config = flow, config

    def forward(self, data: Any, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss, and the means of its parts for the log."""
        terms = self.flow.terms(data, generator, self.config.n_probes, self.config.surrogate)
        parts = {
            "reconstruction": terms.reconstruction.detach().mean(),
            "latent_nll": terms.latent.detach().mean(),
            "correction": terms.correction.detach().mean(),
        }
        return terms.loss(self.config.beta), parts


def accumulate_gradients(
    objective: nn.Module, data: Any, generator: torch.Generator | None, micro_batch: int | None = None
) -> tuple[float, dict[str, float]]:
    """Add the gradient of the mean loss of a batch to the parameters' gradients, a part of the batch at a time.

    Memory follows the part, not the batch.

    Args:
        objective: (data, generator) -> (loss, parts), means over what it is given.
        data: anything with a length that can be sliced.
        generator: source of the noise.
        micro_batch: configurations in a part; by default all.

    Returns:
        The loss and its parts, means over the batch.
    """
    total = len(data)
    sums: dict[str, float] = {}
    for start in range(0, total, micro_batch or total):
        piece = data[start : start + (micro_batch or total)]
        share = len(piece) / total
        loss, parts = objective(piece, generator)
        (loss * share).backward()
        for name, value in {"loss": loss, **parts}.items():
            sums[name] = sums.get(name, 0.0) + share * value.item()
    return sums.pop("loss"), sums
