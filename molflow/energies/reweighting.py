"""Averages over the target from samples of a flow: importance weights, resampling, and a Metropolis correction."""

from typing import NamedTuple, Protocol

import torch
from torch import Tensor

from molflow.energies.base import Potential
from molflow.errors import MolflowError


class Proposal(Protocol):
    """A function that draws from q, such as a flow's `sample_and_log_prob`."""

    def __call__(self, n: int, *, seed: int) -> tuple[Tensor, Tensor]:
        """Draw n configurations (n, N, D) and return them with their log density (n,) in nats."""


def log_weights(energy: Potential, x: Tensor, log_q: Tensor) -> Tensor:
    """Log importance weights of samples from q towards exp(-U): -U(x) - log q(x), float64, (n,).

    The mean of the weights is an estimate of Z. An energy of +inf gives the weight 0, that is a log weight of -inf.

    Args:
        energy: U in kT, (n, N, D) -> (n,).
        x: samples of q, (n, N, D).
        log_q: their log density in nats, (n,).

    Raises:
        MolflowError: shapes that do not match, or a sample whose energy is NaN or -inf or whose log_q is not finite;
            the first is named.

    Example:
        >>> x, log_q = molflow.load_pretrained("dw4").sample_and_log_prob(10, seed=0)
        >>> log_weights(molflow.energies.DoubleWell(), x, log_q).shape
        torch.Size([10])
    """
    if log_q.shape != x.shape[:1]:
        raise MolflowError(f"expected one log_q for each of {len(x)} samples, got shape {tuple(log_q.shape)}")
    with torch.no_grad():
        u = energy(x).double()
    _refuse("log_q", log_q, ~log_q.isfinite())
    _refuse("energy", u, u.isnan() | (u == -torch.inf))
    return weigh(u, log_q.detach())


def weigh(energies: Tensor, log_q: Tensor) -> Tensor:
    """-U - log q in float64; -inf, that is no weight, where one of the two is not finite."""
    log_w = -energies.double() - log_q.double()
    return torch.where(energies.isfinite() & log_q.isfinite(), log_w, -torch.inf)


def normalized_weights(log_w: Tensor) -> Tensor:
    """exp(log_w) divided by their sum, (n,). Raises MolflowError if all are zero, or one is NaN or infinite.

    Args:
        log_w: log weights up to a constant, nats, (n,).

    Example:
        >>> normalized_weights(torch.tensor([0.0, 0.0])).tolist()
        [0.5, 0.5]
    """
    _refuse("log weight", log_w, log_w.isnan() | (log_w == torch.inf))
    if not (log_w > -torch.inf).any():
        raise MolflowError(f"all of the {len(log_w)} weights are zero: no sample has a finite energy")
    return log_w.double().softmax(0)


def effective_sample_size(log_w: Tensor) -> float:
    """Kish's effective sample size as a fraction of n: (sum w)^2 / (n sum w^2), from 1 / n to 1.

    Args:
        log_w: log weights up to a constant, nats (n,).

    Raises:
        MolflowError: as `normalized_weights`.

    Example:
        >>> round(effective_sample_size(torch.tensor([0.0, -100.0])), 6)
        0.5
    """
    return 1 / (len(log_w) * float(normalized_weights(log_w).square().sum()))


def resample(x: Tensor, log_w: Tensor, n: int, seed: int) -> Tensor:
    """Draw n of the configurations in proportion to their weights: each n w_i times, rounded up or down at random.

    This is systematic resampling (Douc, Cappe, Moulines, arXiv cs/0507025). Repeats are neighbours in the result.
    Averages over the result are averages over the target, up to the error of weights and resampling.

    Args:
        x: configurations, (m, ...).
        log_w: their log weights, (m,).
        n: number of configurations to return; for few repeats, far fewer than m times the effective sample size.
        seed: seed of the rounding.

    Raises:
        MolflowError: as `normalized_weights`.

    Example:
        >>> x = torch.arange(4.0).reshape(4, 1, 1)
        >>> resample(x, torch.tensor([-100.0, 0.0, 0.0, -100.0]), 4, seed=0).flatten().tolist()
        [1.0, 1.0, 2.0, 2.0]
    """
    offset = torch.rand((), dtype=torch.float64, generator=torch.Generator().manual_seed(seed), device="cpu")
    places = (torch.arange(n, dtype=torch.float64, device="cpu") + offset) / n
    cumulative = normalized_weights(log_w).cpu().cumsum(0)
    index = torch.searchsorted(cumulative / cumulative[-1], places, right=True).clamp(max=len(x) - 1)
    return x[index.to(x.device)]


class MetropolisSamples(NamedTuple):
    """The result of `independent_metropolis`.

    Attributes:
        x: configurations, (n, N, D): all chains at one step, then all at the next.
        acceptance: fraction of proposals accepted after burn-in.
    """

    x: Tensor
    acceptance: float


def independent_metropolis(
    energy: Potential, propose: Proposal, n: int, n_chains: int, seed: int, n_burn_in: int = 50
) -> MetropolisSamples:
    """Draw from exp(-U) by Metropolis-Hastings with independent proposals, many chains at once.

    A chain at x moves to a proposal x' with probability min(1, w(x') / w(x)), w = exp(-U) / q, and stays otherwise. Its
    first state is a proposal. The bias of this start decays in burn-in at least as fast as (1 - 1 / max w)^t, for
    weights of mean 1. The number of proposals is (n_burn_in + ceil(n / n_chains)) n_chains.

    Args:
        energy: U in kT, (n, N, D) -> (n,).
        propose: draws samples of q with their log density, such as a flow's `sample_and_log_prob`.
        n: number of configurations to return.
        n_chains: number of chains that run in parallel, at most n.
        seed: seed of proposals and decisions.
        n_burn_in: number of steps of each chain that are discarded, at least 1.

    Raises:
        MolflowError: n_chains outside 1..n, n_burn_in below 1, or as `log_weights`.

    Example:
        >>> flow = molflow.load_pretrained("dw4")
        >>> energy = molflow.energies.DoubleWell()
        >>> x, acceptance = independent_metropolis(energy, flow.sample_and_log_prob, n=100, n_chains=10, seed=0)
        >>> x.shape, acceptance > 0.5
        (torch.Size([100, 4, 2]), True)
    """
    if not 1 <= n_chains <= n or n_burn_in < 1:
        raise MolflowError(f"expected 1 <= n_chains <= n and n_burn_in >= 1, got {n_chains}, {n} and {n_burn_in}")
    generator = torch.Generator().manual_seed(seed)
    steps = n_burn_in - (-n // n_chains)
    # The proposals need another seed, or noise and decisions would be made of the same random numbers.
    x, log_q = propose(steps * n_chains, seed=int(torch.randint(2**31, (), generator=generator, device="cpu")))
    log_w = log_weights(energy, x, log_q).cpu().view(steps, n_chains)
    threshold = torch.rand(steps, n_chains, dtype=torch.float64, generator=generator, device="cpu").log()

    chain, path, moves = torch.arange(n_chains, device="cpu"), [], []
    current = chain.clone()
    for step in range(1, steps):
        proposal = step * n_chains + chain
        weight = log_w.flatten()[current]
        accept = (log_w[step] - weight > threshold[step]) | (weight == -torch.inf)
        current = torch.where(accept, proposal, current)
        path.append(current)
        moves.append(accept)
    kept = torch.cat(path[n_burn_in - 1 :])[:n]
    return MetropolisSamples(x[kept.to(x.device)], float(torch.cat(moves[n_burn_in - 1 :]).double().mean()))


def _refuse(what: str, values: Tensor, wrong: Tensor) -> None:
    if wrong.any():
        i = int(wrong.nonzero()[0])
        raise MolflowError(f"sample {i}: {what} is {float(values[i])}; expected finite numbers")
