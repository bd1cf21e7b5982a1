"""The latent distribution: a Gaussian with zero centroid, joined with an independent Gaussian of features."""

import torch
from torch import Tensor

from molflow.geometry import MeanFreeSpace, Points


class MeanFreeNormal:
    """N(0, T^2) on a mean-free space: density (2 pi T^2)^(-dof/2) exp(-|z|^2 / (2 T^2)), nats, normalised on the space.

    Args:
        space: where the latent lives.
        temperature: T, the standard deviation; 1 in training, below 1 to sample closer to the modes.
    """

    def __init__(self, space: MeanFreeSpace, temperature: float = 1.0):
        if not temperature > 0:
            raise ValueError(f"the latent temperature must be positive, got {temperature}")
        self.space, self.temperature = space, temperature

    def sample(self, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> Points:
        return self.space.randn(generator, dtype) * self.temperature

    def log_prob(self, z: Points) -> Tensor:
        """Log density of each latent, nats, (B,)."""
        log_t = torch.tensor(self.temperature, dtype=z.x.dtype, device=z.x.device).log()
        return self.space.log_normal(z * (1 / self.temperature)) - self.space.dof.to(z.x.dtype) * log_t
