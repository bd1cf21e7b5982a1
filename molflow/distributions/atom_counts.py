"""The number of atoms of a molecule: the first factor of its likelihood."""

from collections.abc import Sequence

import torch
from torch import Tensor, nn


class AtomCounts(nn.Module):
    """Categorical distribution over the number of atoms, with the frequencies of a data set.

    Args:
        frequencies: entry n counts the molecules with n atoms; entry 0 is for zero atoms.
    """

    frequencies: Tensor

    def __init__(self, frequencies: Sequence[int] | Tensor):
        super().__init__()
        counts = torch.as_tensor(frequencies, dtype=torch.float64)
        if counts.ndim != 1 or (counts < 0).any() or not counts.sum() > 0 or counts[0] > 0:
            raise ValueError("frequencies must be counts of molecules by number of atoms, with none of zero atoms")
        self.register_buffer("frequencies", counts, persistent=False)

    def sample(self, n: int, generator: torch.Generator | None) -> Tensor:
        """Draw the atom counts of n molecules, (n,)."""
        return torch.multinomial(self.frequencies, n, replacement=True, generator=generator)

    def log_prob(self, n_atoms: Tensor) -> Tensor:
        """log p(n) in nats; -inf for a size that the data did not have. Same shape as `n_atoms`."""
        n = n_atoms.clamp(max=len(self.frequencies) - 1)
        log_p = (self.frequencies / self.frequencies.sum()).log()[n]
        return torch.where(n_atoms == n, log_p, -torch.inf)
