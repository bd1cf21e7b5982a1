"""Gradients with the products of the networks in bfloat16, which are compared with float32 on the first batch."""

import math
from collections.abc import Callable

import torch
from torch import Tensor

from molflow.errors import MolflowError
from molflow.flows.acceleration import Precision, faster, networks_of
from molflow.training.run import Run

TOLERANCE = 0.1
"""The largest |g - g'| / |g| of the gradients g in float32 and g' in another precision."""


class CheckedPrecision:
    """Computes the gradients of a run with its networks in another precision. Weights and optimiser stay in float32.

    Args:
        run: the run.
        precision: of the products of matrices in the networks.
    """

    def __init__(self, run: Run, precision: Precision):
        self.run, self.precision, self.networks = run, precision, networks_of(run.objective.flow)
        self._checked = precision == "float32"

    def __call__(self, compute: Callable[[], tuple[float, dict[str, float]]]) -> tuple[float, dict[str, float]]:
        """The loss and the figures that `compute` returns, which sets the gradients of the parameters.

        Raises:
            MolflowError: the gradient differs from that in float32 by more than `TOLERANCE`, at the first batch.
        """
        exact = None if self._checked or not math.isfinite(compute()[0]) else self._gradient()
        with faster(self.networks, self.precision):
            result = compute()
        if exact is not None:
            self._checked = True
            difference = float((self._gradient() - exact).norm() / exact.norm())
            if not difference <= TOLERANCE:
                raise MolflowError(
                    f"training.precision: the gradient of the first batch in {self.precision} differs from that in "
                    f"float32 by {difference:.2g} of its norm, more than {TOLERANCE}; use float32"
                )
        return result

    def _gradient(self) -> Tensor:
        return torch.cat([p.grad.flatten() for p in self.run.parameters if p.grad is not None])
