"""A model of compositions with an exact probability, which also makes compositions that the training data lack."""

import math

import torch
from torch import Tensor, nn
from tqdm import tqdm

from molflow.distributions.compositions import Compositions
from molflow.distributions.registry import COMPOSITIONS

_HIDDEN = 192
_STEPS, _BATCH, _LEARNING_RATE = 6000, 256, 3e-3  # a minute and a half on one core, for QM9


@COMPOSITIONS.register("model")
class CompositionModel(Compositions):
    """An autoregressive model of the sorted types of a composition: p(c) = prod_i p(t_i | t_1 .. t_(i-1)) p(stop | c).

    A composition is one sequence of types in ascending order, so p(c) is exact and sums to one. A network gives the
    probabilities of the next type and of the end from the numbers of points so far, the last type, and whether the
    number of bond ends of each kind is odd, which is hard to learn. Types below the last one, the end before the first
    point and more than `max_points` points have probability zero.
    """

    ends: Tensor
    n_fitted: Tensor

    def __init__(self, n_types: int, n_compositions: int = 0, max_points: int = 0, ends: Tensor | None = None):
        super().__init__(n_types)
        self.max_points = max_points
        self.register_buffer("ends", torch.zeros(n_types, 0).long() if ends is None else ends, persistent=False)
        self.network = nn.Sequential(
            nn.Linear(2 * n_types + self.ends.shape[1], _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, _HIDDEN),
            nn.SiLU(),
            nn.Linear(_HIDDEN, n_types + 1),
        ).requires_grad_(False)  # `fit` alone trains it, so the optimiser of a flow must not see it
        self.register_buffer("n_fitted", torch.zeros((), dtype=torch.int64))

    @staticmethod
    def sizes(table: Tensor) -> dict[str, int]:
        return {"max_points": int(table.sum(-1).max())}

    @staticmethod
    def possible(composition: Tensor, table: Tensor) -> Tensor:
        return _n_points_fit(composition, CompositionModel.sizes(table)["max_points"])

    def fit(self, table: Tensor, counts: Tensor, seed: int = 0, progress: bool = False) -> None:
        """Maximise the likelihood by Adam on batches drawn by frequency, from the weights as they are."""
        generator = torch.Generator(table.device).manual_seed(seed)
        parameters = list(self.network.requires_grad_(True).parameters())
        optimizer = torch.optim.Adam(parameters, _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        steps = tqdm(range(_STEPS), desc="compositions", unit="step", disable=not progress, dynamic_ncols=True)
        with torch.enable_grad():
            for _ in steps:
                rows = torch.multinomial(counts.double(), _BATCH, replacement=True, generator=generator)
                optimizer.zero_grad()
                (-self._log_prob(table[rows]).mean()).backward()
                optimizer.step()
                schedule.step()
        optimizer.zero_grad()
        self.network.requires_grad_(False)
        self.n_fitted.fill_(int(counts.sum()))

    @property
    def is_fitted(self) -> bool:
        return bool(self.n_fitted > 0)

    @torch.no_grad()
    def sample(self, n: int, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        self.require_fit()
        stop, device = self.n_types, self.n_fitted.device
        counts = torch.zeros(n, stop, dtype=torch.int64, device=device)
        types = torch.full((n, self.max_points + 1), stop, device=device)
        for i in range(self.max_points):
            drawn = torch.multinomial(self._log_next(counts).exp(), 1, generator=generator).squeeze(1)
            types[:, i] = drawn.where(types[:, i - 1] < stop, stop) if i else drawn
            counts = counts + _one_hot(types[:, i], stop)
        mask = types < stop
        width = int(mask.sum(1).max())
        return (types * mask)[:, :width], mask[:, :width]

    @torch.no_grad()
    def log_prob(self, composition: Tensor) -> Tensor:
        self.require_fit()
        fits = _n_points_fit(composition, self.max_points)
        return torch.where(fits, self._log_prob(composition * fits.unsqueeze(-1)), -math.inf)

    def _log_prob(self, composition: Tensor) -> Tensor:
        """log p(c) of compositions that are possible."""
        ends = composition.long().cumsum(-1)
        slots = torch.arange(self.max_points + 1, device=ends.device)
        types = (ends.unsqueeze(1) <= slots[:, None]).sum(-1)  # T from the end of the sequence on, where it stops
        points = _one_hot(types, self.n_types)
        so_far = points.cumsum(1) - points
        log_p = self._log_next(so_far).gather(-1, types.unsqueeze(-1)).squeeze(-1)
        return torch.where(slots <= ends[:, -1:], log_p, 0.0).sum(1)

    def _log_next(self, counts: Tensor) -> Tensor:
        """Log probabilities of the next type and, at index T, of the end: (..., T) -> float64 (..., T + 1)."""
        n, types = counts.sum(-1, keepdim=True), torch.arange(self.n_types, device=counts.device)
        last = ((counts > 0) * types).amax(-1)
        features = counts, _one_hot(last, self.n_types) * (n > 0), self._n_ends(counts) % 2
        dtype = next(self.network.parameters()).dtype
        logits: Tensor = self.network(torch.cat(features, -1).to(dtype)).double()
        allowed = torch.cat([(types >= last.unsqueeze(-1)) & (n < self.max_points), n > 0], -1)
        return logits.masked_fill(~allowed, -math.inf).log_softmax(-1)

    def _n_ends(self, counts: Tensor) -> Tensor:
        """Bond ends of each kind of all points, (..., T) -> (..., E); whole numbers in float32 are exact and fast."""
        return (counts.float() @ self.ends.float()).long()


def _n_points_fit(composition: Tensor, max_points: int) -> Tensor:
    n_points = composition.sum(-1)
    return (n_points > 0) & (n_points <= max_points)


def _one_hot(types: Tensor, n_types: int) -> Tensor:
    """(...) -> (..., T), zero for the type T."""
    return nn.functional.one_hot(types, n_types + 1)[..., :n_types]
