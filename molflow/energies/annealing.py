"""Sequential Monte Carlo from samples of a flow to exp(-U): reweight, resample, and move by Hamiltonian Monte Carlo."""

import math
from typing import NamedTuple

import torch
from torch import Tensor

from molflow.energies.base import Potential, energy_and_gradient
from molflow.energies.mcmc import TARGET_ACCEPTANCE, State, hamiltonian_move
from molflow.energies.reweighting import effective_sample_size, log_weights, resample
from molflow.errors import MolflowError
from molflow.geometry import MeanFreeSpace

_STARTS = [5 ** (k / 32) for k in range(-32, 33)]  # inverse temperatures to begin at, 1 among them
_KEPT = 0.9  # effective sample size that a change of temperature keeps
_MOST_STAGES = 100


class Annealed(NamedTuple):
    """The result of `anneal`.

    Attributes:
        x: configurations of exp(-U) / Z with equal weights, (n, N, D).
        inverse_temperatures: of the stages; the last is 1.
        ess_fractions: effective sample size of the weights at each stage, before resampling.
        log_z: estimate of log Z, nats.
        acceptance: of the moves at the last stage.
        n_gradients: evaluations of the energy with its gradient, for each configuration.
    """

    x: Tensor
    inverse_temperatures: tuple[float, ...]
    ess_fractions: tuple[float, ...]
    log_z: float
    acceptance: float
    n_gradients: int


def anneal(energy: Potential, x: Tensor, log_q: Tensor, seed: int, n_moves: int = 10, n_leapfrog: int = 10) -> Annealed:
    """Turn samples of q into samples of exp(-U) / Z through densities exp(-b_k U), b_0 to 1 (arXiv cond-mat/9610209).

    b_0 is the inverse temperature that q fits best, by the effective sample size of exp(-b U) / q from 0.2 to 5; so a
    flow that was trained at another temperature begins there. Each b_k keeps 90 % of the effective sample size of
    b_(k-1). At each the configurations are resampled and moved by `n_moves` Hamiltonian moves, whose step size follows
    the acceptance. Moves need the energy alone, and neither the flow nor its density.

    Args:
        energy: U in kT, (n, N, D) -> (n,), differentiable.
        x: samples of q, (n, N, D).
        log_q: their log density, nats, (n,).
        seed: of resampling and moves.
        n_moves: at each stage.
        n_leapfrog: gradients of a move.

    Raises:
        MolflowError: as `log_weights`, or more than 100 stages.

    Example:
        >>> flow = molflow.load_pretrained("dw4")
        >>> x, log_q = flow.sample_and_log_prob(200, seed=0)
        >>> annealed = anneal(molflow.energies.DoubleWell(), x, log_q, seed=0, n_moves=2)
        >>> annealed.x.shape, abs(annealed.log_z - 29.66) < 0.3
        (torch.Size([200, 4, 2]), True)
    """
    generator = torch.Generator(x.device).manual_seed(seed)
    space = MeanFreeSpace(torch.ones(x.shape[:2], dtype=torch.bool, device=x.device), x.shape[2])
    log_weights(energy, x, log_q)  # refuses energies that are not numbers
    state = State(x, *energy_and_gradient(energy, x))
    stages: list[float] = []
    sizes: list[float] = []
    n_gradients, log_z = 1, 0.0
    log_step, acceptance = torch.log(0.02 * x.std()), torch.zeros(())
    starts = {b: effective_sample_size(-b * state.energy.double() - log_q.double()) for b in _STARTS}
    beta = max(starts, key=starts.__getitem__)
    log_w = -beta * state.energy.double() - log_q.double()
    while True:
        stages.append(beta)
        sizes.append(effective_sample_size(log_w))
        log_z += float(torch.logsumexp(log_w, 0)) - math.log(len(log_w))
        seed = int(torch.randint(2**31, (), generator=generator, device=x.device))
        chosen = resample(torch.arange(len(x), device=x.device), log_w, len(x), seed)
        state = State(*(values[chosen] for values in state))
        for _ in range(n_moves):
            betas, steps = torch.full_like(state.energy, beta), log_step.exp().expand(len(x))
            state, probability = hamiltonian_move(energy, state, betas, steps, n_leapfrog, space, generator)
            acceptance = probability.mean()
            log_step = log_step + 0.5 * (acceptance - TARGET_ACCEPTANCE)
            n_gradients += n_leapfrog
        if beta == 1:
            return Annealed(state.x, tuple(stages), tuple(sizes), log_z, float(acceptance), n_gradients)
        if len(stages) == _MOST_STAGES:
            raise MolflowError(f"annealing did not reach the target in {_MOST_STAGES} stages, but {beta:.4g} of 1")
        following = _next(beta, state.energy.double())
        log_w, beta = (beta - following) * state.energy.double(), following


def _next(beta: float, u: Tensor) -> float:
    """The inverse temperature nearest to 1 that keeps enough of the effective sample size, by bisection."""
    near, far = beta, 1.0
    if effective_sample_size((beta - far) * u) >= _KEPT:
        return far
    for _ in range(30):
        middle = (near + far) / 2
        near, far = (middle, far) if effective_sample_size((beta - middle) * u) >= _KEPT else (near, middle)
    return near
