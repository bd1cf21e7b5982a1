"""The latent distribution: a Gaussian on the space of a flow."""

from typing import Generic

import torch
from torch import Tensor

from molflow.geometry import P, Space

TEMPERATURES = 1e-6, 1e6
"""The least and the greatest temperature: beyond them latents or their densities leave the range of float32."""


class StandardNormal(Generic[P]):
    """N(0, T^2) on a space: density (2 pi T^2)^(-dof/2) exp(-|z|^2 / (2 T^2)), normalised on the space.

    Args:
        space: of the latents.
        temperature: T, the standard deviation; 1 in training, below 1 to sample closer to the modes.
    """

    def __init__(self, space: Space[P], temperature: float = 1.0):
        low, high = TEMPERATURES
        if not low <= temperature <= high:
            raise ValueError(f"the latent temperature must be a number from {low:g} to {high:g}, got {temperature}")
        self.space: Space[P] = space
        self.temperature = temperature

    def sample(self, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> P:
        """One draw for each configuration of the space."""
        return self.space.randn(generator, dtype) * self.temperature

    def log_prob(self, z: P) -> Tensor:
        """Log density of each latent, nats, (B,)."""
        log_p = self.space.log_normal(z * (1 / self.temperature))
        log_t = torch.tensor(self.temperature, dtype=log_p.dtype, device=log_p.device).log()
        return log_p - self.space.dof.to(log_p.dtype) * log_t
