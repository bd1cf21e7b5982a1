"""A model of compositions with an exact probability, which also makes compositions that the training data lack."""

import logging
import math
from functools import cache

import torch
from torch import Tensor, nn

from molflow.distributions.compositions import Compositions, Given
from molflow.distributions.constraint import Constraint, Remainders
from molflow.distributions.registry import COMPOSITIONS
from molflow.errors import MolflowError
from molflow.progress import progress_bar

log = logging.getLogger("molflow")

_HIDDEN = 192
_FEW = 5  # effective candidates below which samples are said to rest on them
_CANDIDATES, _FEWEST_CANDIDATES = 4096, 64  # in all, and for each condition, where a constraint is met
_STEPS, _BATCH, _LEARNING_RATE = 6000, 256, 3e-3  # a minute and a half on one core, for QM9


@COMPOSITIONS.register("model")
class CompositionModel(Compositions):
    """An autoregressive model of the sorted types of a composition: p(c) = prod_i p(t_i | t_1 .. t_(i-1)) p(stop | c).

    A composition is one sequence of types in ascending order, so p(c) is exact and sums to one. A network gives the
    probabilities of the next type and of the end from the numbers of points so far, the last type, and whether the
    number of bond ends of each kind is odd, which is hard to learn. Types below the last one, the end before the first
    point and more than `max_points` points have probability zero.

    Conditions are further inputs of the network: C standardised values, and C flags that say which of them are given,
    as in `molflow.flows.conditions`, or the values alone.
    """

    takes_conditions = True

    ends: Tensor
    n_fitted: Tensor

    def __init__(
        self,
        n_types: int,
        n_compositions: int = 0,
        max_points: int = 0,
        ends: Tensor | None = None,
        n_conditions: int = 0,
    ):
        super().__init__(n_types, n_conditions=n_conditions)
        self.max_points = max_points
        self.register_buffer("ends", torch.zeros(n_types, 0).long() if ends is None else ends, persistent=False)
        self.network = nn.Sequential(
            nn.Linear(2 * n_types + self.ends.shape[1] + n_conditions, _HIDDEN),
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

    def fit(
        self, table: Tensor, counts: Tensor, seed: int = 0, progress: bool = False, given: Given | None = None
    ) -> None:
        """Maximise the likelihood by Adam on batches drawn by frequency, from the weights as they are.

        Of optional conditions half are hidden, those of each molecule with a probability of their own.
        """
        generator = torch.Generator(table.device).manual_seed(seed)
        parameters = list(self.network.requires_grad_(True).parameters())
        optimizer = torch.optim.Adam(parameters, _LEARNING_RATE)
        schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, _STEPS)
        steps = progress_bar(range(_STEPS), desc="compositions", unit="step", disable=not progress)
        with torch.enable_grad():
            for _ in steps:
                rows, conditions = self._training_batch(counts, given, generator)
                optimizer.zero_grad()
                (-self._log_prob(table[rows], conditions).mean()).backward()
                optimizer.step()
                schedule.step()
        optimizer.zero_grad()
        self.network.requires_grad_(False)
        self.n_fitted.fill_(int(counts.sum()))

    def _training_batch(
        self, counts: Tensor, given: Given | None, generator: torch.Generator
    ) -> tuple[Tensor, Tensor | None]:
        if given is None:
            return torch.multinomial(counts.double(), _BATCH, replacement=True, generator=generator), None
        chosen = torch.randint(len(given.rows), (_BATCH,), generator=generator, device=counts.device)
        if not given.optional:
            return given.rows[chosen], given.conditions[chosen]
        values, flags = given.conditions[chosen].chunk(2, 1)
        share, random = (torch.rand(_BATCH, n, generator=generator, device=counts.device) for n in (1, flags.shape[1]))
        kept = flags * (random > share)
        return given.rows[chosen], torch.cat([values * kept, kept], 1)

    @property
    def is_fitted(self) -> bool:
        return bool(self.n_fitted > 0)

    @torch.no_grad()
    def sample(
        self,
        n: int,
        generator: torch.Generator | None,
        constraint: Constraint | None = None,
        conditions: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """Draw compositions; with a constraint by sampling-importance-resampling.

        Candidates are drawn type by type among the types that can still lead to the constraint. A candidate has the
        weight w = prod_i (probability of those types at step i), 0 if it cannot be completed, and n of at least 4,096
        candidates are drawn with probabilities proportional to w. Their distribution comes arbitrarily near to
        p(c) / p(constraint) with more candidates, and every one meets the constraint. Compositions of other conditions
        have candidates of their own. A warning says where an effective number of less than five carries the weight.
        """
        self.require_fit()
        conditions = self._conditions(conditions, n)
        if constraint is None:
            types, _ = self._draw(n, generator, None, conditions)
        else:
            types = torch.zeros(n, self.max_points + 1, dtype=torch.int64, device=self.n_fitted.device)
            kinds = dict.fromkeys(map(tuple, conditions.tolist()))
            remainders = self._remainders(constraint)
            for kind in kinds:
                one = conditions.new_tensor(kind)
                places = (conditions == one).all(1).nonzero().squeeze(1)
                n_candidates = max(len(places), _CANDIDATES // len(kinds), _FEWEST_CANDIDATES)
                found, log_weights = self._draw(n_candidates, generator, remainders, one.expand(n_candidates, -1))
                if not log_weights.isfinite().any():
                    raise MolflowError(f"none of {n_candidates:,} compositions of this model has {constraint.words}")
                weights = log_weights.softmax(0)
                if (effective := float(1 / weights.square().sum())) < _FEW:
                    _warn_once(
                        f"compositions with {constraint.words} are rare in this model: all samples rest on about "
                        f"{effective:.1f} of {n_candidates:,} candidates"
                    )
                types[places] = found[torch.multinomial(weights, len(places), replacement=True, generator=generator)]
        mask = types < self.n_types
        width = int(mask.sum(1).max())
        return (types * mask)[:, :width], mask[:, :width]

    @torch.no_grad()
    def log_prob_of(self, constraint: Constraint) -> Tensor:
        """The log of the mean weight of 4,096 candidates, see `sample`: an unbiased estimate of the probability.

        Candidates are those of one seed, so that the result is the same every time.
        """
        self.require_fit()
        generator = torch.Generator(self.n_fitted.device).manual_seed(0)
        try:
            remainders = self._remainders(constraint)
        except MolflowError:
            return torch.tensor(-math.inf, dtype=torch.float64)
        _, log_weights = self._draw(_CANDIDATES, generator, remainders, self._conditions(None, _CANDIDATES))
        return log_weights.logsumexp(0) - math.log(_CANDIDATES)

    def _conditions(self, conditions: Tensor | None, n: int) -> Tensor:
        """Conditions as the network takes them, (n, Q): zero where none is given, and without columns where Q is 0."""
        if conditions is None or not self.n_conditions:
            return torch.zeros(n, self.n_conditions, device=self.n_fitted.device)
        return conditions

    def _remainders(self, constraint: Constraint) -> Remainders:
        """Raises MolflowError for a constraint that no composition meets."""
        remainders = Remainders(constraint, self.max_points)
        if not remainders.can_add(torch.zeros(1, self.n_types, dtype=torch.int64, device=self.n_fitted.device)).any():
            raise constraint.impossible()
        return remainders

    def _draw(
        self, n: int, generator: torch.Generator | None, remainders: Remainders | None, conditions: Tensor
    ) -> tuple[Tensor, Tensor]:
        """Sequences of types (n, max_points + 1), T from their end on, and the log weights of candidates (n,)."""
        stop, device = self.n_types, self.n_fitted.device
        counts = torch.zeros(n, stop, dtype=torch.int64, device=device)
        types = torch.full((n, self.max_points + 1), stop, device=device)
        log_weights = torch.zeros(n, dtype=torch.float64, device=device)
        going = torch.ones(n, dtype=torch.bool, device=device)
        for i in range(self.max_points + (remainders is not None)):  # a candidate pays for its end as well
            log_p = self._log_next(counts, conditions)
            if remainders is not None:
                is_complete = remainders.constraint.holds(counts)
                possible = torch.cat([remainders.can_add(counts), is_complete.unsqueeze(1)], 1)
                log_p = log_p.masked_fill(~possible, -math.inf)
                mass = log_p.logsumexp(1)
                log_weights += torch.where(going, mass, 0.0)
                going = going & mass.isfinite()
                log_p = torch.where(going.unsqueeze(1), log_p - mass.unsqueeze(1), -math.inf)
                log_p[~going, stop] = 0.0
            drawn = torch.multinomial(log_p.exp(), 1, generator=generator).squeeze(1)
            types[:, i] = drawn.where(going, stop)
            going = types[:, i] < stop
            counts = counts + _one_hot(types[:, i], stop)
        return types, log_weights

    @torch.no_grad()
    def log_prob(self, composition: Tensor, conditions: Tensor | None = None) -> Tensor:
        self.require_fit()
        fits = _n_points_fit(composition, self.max_points)
        return torch.where(fits, self._log_prob(composition * fits.unsqueeze(-1), conditions), -math.inf)

    def _log_prob(self, composition: Tensor, conditions: Tensor | None) -> Tensor:
        """log p(c) of compositions that are possible."""
        ends = composition.long().cumsum(-1)
        slots = torch.arange(self.max_points + 1, device=ends.device)
        types = (ends.unsqueeze(1) <= slots[:, None]).sum(-1)  # T from the end of the sequence on, where it stops
        points = _one_hot(types, self.n_types)
        so_far = points.cumsum(1) - points
        given = self._conditions(conditions, len(composition)).unsqueeze(1).expand(-1, so_far.shape[1], -1)
        log_p = self._log_next(so_far, given).gather(-1, types.unsqueeze(-1)).squeeze(-1)
        return torch.where(slots <= ends[:, -1:], log_p, 0.0).sum(1)

    def _log_next(self, counts: Tensor, conditions: Tensor) -> Tensor:
        """Log p of the next type and, at index T, of the end: (..., T) and (..., Q) -> float64 (..., T + 1)."""
        n, types = counts.sum(-1, keepdim=True), torch.arange(self.n_types, device=counts.device)
        last = ((counts > 0) * types).amax(-1)
        features = counts, _one_hot(last, self.n_types) * (n > 0), self._n_ends(counts) % 2, conditions
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


@cache
def _warn_once(words: str) -> None:
    """A warning that is not repeated for each batch of the same samples."""
    log.warning(words)
