"""Compositions, the multisets of types of points: the first factor of the likelihood where types are given."""

import torch
from torch import Tensor, nn

from molflow.errors import MolflowError

_EMPTY = "this model has no table of compositions yet: train it, or load its weights"


class Compositions(nn.Module):
    """The compositions of a data set with their frequencies: p(c) = count(c) / total.

    Args:
        n_compositions: K, rows of the table; they are filled by `fit` or by loading weights.
        n_types: T.
    """

    table: Tensor
    counts: Tensor

    def __init__(self, n_compositions: int, n_types: int):
        super().__init__()
        self.register_buffer("table", torch.zeros(n_compositions, n_types, dtype=torch.uint8))
        self.register_buffer("counts", torch.zeros(n_compositions, dtype=torch.int64))

    def fit(self, table: Tensor, counts: Tensor) -> None:
        """Store distinct compositions (K, T), numbers of points of each type, and how often each occurs (K,).

        Raises:
            MolflowError: too many types or points for the table's bytes, or its keys of 64 bits.
        """
        if table.max() > 255 or (int(table.max()) + 1) ** table.shape[1] >= 2**63:
            raise MolflowError(f"{table.shape[1]} types with up to {int(table.max())} points of one are too many")
        order = _keys(table, table).argsort()
        self.table.copy_(table[order])
        self.counts.copy_(counts[order])

    def sample(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw n compositions: types (n, N) in ascending order, zero at padding, and their mask (n, N)."""
        if not self.counts.any():
            raise MolflowError(_EMPTY)
        rows = torch.multinomial(self.counts.double(), n, replacement=True, generator=generator)
        ends = self.table[rows].long().cumsum(-1)
        slots = torch.arange(int(ends[:, -1].max()), device=ends.device)
        mask = slots < ends[:, -1:]
        return (ends.unsqueeze(1) <= slots[:, None]).sum(-1) * mask, mask

    def log_prob(self, composition: Tensor) -> Tensor:
        """log p(c) in nats for numbers of points of each type (B, T); -inf for one that the data did not have."""
        if not len(self.counts):
            raise MolflowError(_EMPTY)
        keys, known = _keys(composition, self.table), _keys(self.table, self.table)
        place = torch.searchsorted(known, keys).clamp(max=len(known) - 1)
        is_known = (known[place] == keys) & (composition <= self.table.max()).all(-1)
        log_p = (self.counts.double() / self.counts.sum()).log()
        return torch.where(is_known, log_p[place], -torch.inf)


def _keys(composition: Tensor, table: Tensor) -> Tensor:
    """One whole number for each composition, whose digits are its numbers of points of each type."""
    place = (table.max().long() + 1) ** torch.arange(table.shape[1], device=table.device)
    return (composition.long() * place).sum(-1)
