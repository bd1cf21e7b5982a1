"""Parallel tempering with Hamiltonian moves: samples of exp(-U) on the mean-free space, and their diagnostics.

All chains at all temperatures form one batch, so that a sweep is a few large tensor operations.
"""

from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from molflow.energies.base import Potential, energy_and_gradient
from molflow.errors import MolflowError
from molflow.geometry import MeanFreeSpace
from molflow.progress import progress_bar
from molflow.threads import threads_for

TARGET_ACCEPTANCE = 0.8  # near the optimum of Hamiltonian Monte Carlo in tens of dimensions
_FIRST_STEP = 0.02  # in standard deviations of the start; adapted in burn-in
_JITTER = 0.2  # step sizes vary randomly, so that no vibration stays in phase with the length of a move
_N_DESCENT = 200


@dataclass(frozen=True)
class Tempering:
    """Settings of `parallel_tempering`. A sweep is one Hamiltonian move of every replica, then one round of swaps.

    Attributes:
        temperatures: ascending, in units of the target's temperature; the first is 1.
        n_burn_in: sweeps that are discarded at the start; step sizes adapt only in these.
        n_samples: configurations kept of each chain, at least 4.
        thinning: sweeps between two kept configurations.
        n_leapfrog: steps of a Hamiltonian move; each takes one gradient.

    Raises:
        MolflowError: a value outside these bounds.
    """

    temperatures: tuple[float, ...]
    n_burn_in: int
    n_samples: int
    thinning: int
    n_leapfrog: int

    def __post_init__(self) -> None:
        ladder = self.temperatures
        if ladder[:1] != (1,) or list(ladder) != sorted(set(ladder)):
            raise MolflowError(f"temperatures must ascend from 1, got {ladder}")
        if self.n_burn_in < 0 or self.n_samples < 4 or self.thinning < 1 or self.n_leapfrog < 1:
            raise MolflowError(
                f"expected n_burn_in >= 0, n_samples >= 4, thinning >= 1 and n_leapfrog >= 1, got {self}"
            )


@dataclass(frozen=True)
class Diagnostics:
    """How well chains have mixed. Errors are standard errors of the mean over chains, which are independent.

    Attributes:
        acceptance: acceptance of Hamiltonian moves after burn-in at each temperature.
        step_sizes: leapfrog step size at each temperature.
        swap_acceptance: acceptance of swaps between neighbouring temperatures.
        r_hat: split R-hat of the energy (Gelman et al., Bayesian Data Analysis, section 11.4); it is 1 if all halves
            of chains agree.
        autocorrelation: correlation of the energies of consecutive samples of a chain.
        autocorrelation_time: n_samples Var[mean of a chain] / Var[energy], in samples; 1 for independent samples.
        mean_energy, mean_energy_error: <U> and its error, kT.
        virial, virial_error: mean of x . grad U and its error.
        virial_expected: its exact value at temperature 1, (N - 1) D.
    """

    acceptance: tuple[float, ...]
    step_sizes: tuple[float, ...]
    swap_acceptance: tuple[float, ...]
    r_hat: float
    autocorrelation: float
    autocorrelation_time: float
    mean_energy: float
    mean_energy_error: float
    virial: float
    virial_error: float
    virial_expected: int


class Chains(NamedTuple):
    """The result of `parallel_tempering`: C chains of S samples at temperature 1.

    Attributes:
        positions: mean-free, (C, S, N, D).
        energies: kT, float64 (C, S).
        diagnostics: see `Diagnostics`.
    """

    positions: Tensor
    energies: Tensor
    diagnostics: Diagnostics


def parallel_tempering(
    energy: Potential,
    start: Tensor,
    settings: Tempering,
    generator: torch.Generator,
    progress: bool = False,
) -> Chains:
    """Draw from exp(-U) on the mean-free space: C independent chains, each with a replica at every temperature T_k.

    Replica k has the density exp(-U / T_k). It moves by Hamiltonian Monte Carlo with unit masses (Neal, arXiv
    1206.1901), its step size adapted in burn-in to an acceptance of 0.8. Neighbours swap with the probability
    min(1, exp((1/T_k - 1/T_l) (U_k - U_l))). Chains begin at `start`, relaxed by a short steepest descent.

    Args:
        energy: U in kT, (..., N, D) -> (...), differentiable and invariant under translations.
        start: positions, (C, N, D); its dtype and device are used throughout. float32 is precise enough for energies
            below 10,000 kT.
        settings: see `Tempering`.
        generator: source of randomness, on the device of `start`.
        progress: show a progress bar on stderr.

    Raises:
        MolflowError: fewer than two chains, energies of another shape, a start whose energy or gradient is not finite,
            or an energy that changes under translations.

    Example:
        >>> system = molflow.energies.get_system("dw4")
        >>> start = system.start_width * torch.randn(4, 4, 2, generator=torch.Generator().manual_seed(0))
        >>> settings = Tempering((1.0, 2.0), n_burn_in=20, n_samples=5, thinning=2, n_leapfrog=5)
        >>> chains = parallel_tempering(system.energy, start, settings, torch.Generator().manual_seed(0))
        >>> chains.positions.shape  # chains, samples, N, D
        torch.Size([4, 5, 4, 2])
    """
    if start.ndim != 3 or len(start) < 2:
        raise MolflowError(f"expected the start of two chains or more, (C, N, D), got {tuple(start.shape)}")
    replicas = _Replicas(energy, start, settings, generator)
    n_chains, n_samples, thinning = len(start), settings.n_samples, settings.thinning
    positions = start.new_empty(n_chains, n_samples, *start.shape[1:])
    energies, virials = torch.empty(2, n_chains, n_samples, dtype=torch.float64, device=start.device)
    accepted, swapped = [], []
    numbers = len(settings.temperatures) * start.numel() * (start.shape[1] - 1) // 2
    with (
        threads_for(numbers),
        progress_bar(
            total=settings.n_burn_in + n_samples * thinning, desc="MCMC", unit=" sweeps", disable=not progress
        ) as bar,
    ):
        for sweep in range(settings.n_burn_in):
            replicas.adapt(replicas.move(), sweep)
            replicas.swap(sweep % 2)
            bar.update()
        for sweep in range(n_samples * thinning):
            accepted.append(replicas.move())
            swapped.append(replicas.swap(sweep % 2))
            bar.update()
            if (sweep + 1) % thinning == 0:
                x, u, gradient = (values[:n_chains] for values in replicas.state)
                sample = sweep // thinning
                positions[:, sample], energies[:, sample] = x, u
                virials[:, sample] = (x * gradient).sum((1, 2))

    mean_energy, mean_energy_error = _mean_and_error(energies)
    virial, virial_error = _mean_and_error(virials)
    centred, variance = energies - energies.mean(), energies.var()
    diagnostics = Diagnostics(
        acceptance=tuple(torch.stack(accepted).mean(0).tolist()),
        step_sizes=tuple(replicas.step_sizes.tolist()),
        swap_acceptance=tuple(torch.stack(swapped).nanmean(0).tolist()),
        r_hat=split_r_hat(energies),
        autocorrelation=float((centred[:, 1:] * centred[:, :-1]).mean() / variance),
        autocorrelation_time=float(n_samples * energies.mean(1).var() / variance),
        mean_energy=mean_energy,
        mean_energy_error=mean_energy_error,
        virial=virial,
        virial_error=virial_error,
        virial_expected=(start.shape[1] - 1) * start.shape[2],
    )
    return Chains(positions, energies, diagnostics)


def split_r_hat(values: Tensor) -> float:
    """Potential scale reduction of C chains of S numbers, (C, S), each split into two halves of n = S // 2.

    sqrt(((n - 1) / n W + B) / W) with W the mean variance within a half and B the variance of the means of the halves.

    Args:
        values: (C, S).

    Example:
        >>> split_r_hat(torch.randn(50, 200, generator=torch.Generator().manual_seed(0))) < 1.01
        True
    """
    n = values.shape[1] // 2
    halves = torch.cat([values[:, :n], values[:, -n:]])
    return float(((n - 1) / n + halves.mean(1).var() / halves.var(1).mean()).sqrt())


def _mean_and_error(values: Tensor) -> tuple[float, float]:
    """The mean over independent chains (C, S) and its standard error."""
    means = values.mean(1)
    return float(means.mean()), float(means.std() / len(means) ** 0.5)


class State(NamedTuple):
    """Positions (K C, N, D), energies (K C,) and gradients (K C, N, D), temperature after temperature."""

    x: Tensor
    energy: Tensor
    gradient: Tensor


def hamiltonian_move(
    energy: Potential,
    state: State,
    beta: Tensor,
    step: Tensor,
    n_leapfrog: int,
    space: MeanFreeSpace,
    generator: torch.Generator,
) -> tuple[State, Tensor]:
    """One move of each configuration in the density exp(-b U), with unit masses; the state, and the acceptance (B,).

    Args:
        energy: U.
        state: of B configurations.
        beta: b of each, (B,).
        step: mean step size of each, (B,).
        n_leapfrog: steps.
        space: of the configurations.
        generator: source of step sizes, momenta and decisions.
    """

    def rand() -> Tensor:
        return torch.rand(beta.shape, generator=generator, dtype=beta.dtype, device=beta.device)

    step = step * (1 + _JITTER * (2 * rand() - 1))
    drift, kick = step[:, None, None], (step * beta)[:, None, None]
    momentum = space.randn(generator, beta.dtype).x
    before, first = beta * state.energy + 0.5 * momentum.square().sum((1, 2)), state
    momentum = momentum - 0.5 * kick * state.gradient
    for _ in range(n_leapfrog):
        x = state.x + drift * momentum
        state = State(x, *energy_and_gradient(energy, x))
        momentum = momentum - kick * state.gradient
    momentum = momentum + 0.5 * kick * state.gradient  # the last kick is half of one

    after = beta * state.energy + 0.5 * momentum.square().sum((1, 2))
    probability = (before - after).clamp(max=0).exp().nan_to_num(0)
    accept = rand() < probability
    wide = accept[:, None, None]
    x = space.project((state.x, state.x[..., :0])).x  # without it, rounding errors would add up
    return (
        State(
            torch.where(wide, x, first.x),
            torch.where(accept, state.energy, first.energy),
            torch.where(wide, state.gradient, first.gradient),
        ),
        probability,
    )


class _Replicas:
    """C chains at each of K temperatures, and their moves."""

    def __init__(self, energy: Potential, start: Tensor, settings: Tempering, generator: torch.Generator):
        n_chains, n_particles, dim = start.shape
        self.energy, self.n_leapfrog, self.generator = energy, settings.n_leapfrog, generator
        self.beta = 1 / start.new_tensor(settings.temperatures)
        mask = torch.ones(len(self.beta) * n_chains, n_particles, dtype=torch.bool, device=start.device)
        self.space = MeanFreeSpace(mask, dim)
        _check_start(energy, start)
        self.state = self._evaluate(self._project(_descend(energy, start).repeat(len(self.beta), 1, 1)))
        self.log_step = torch.log(_FIRST_STEP * start.std() * torch.ones_like(self.beta))

    @property
    def step_sizes(self) -> Tensor:
        return self.log_step.exp()

    def move(self) -> Tensor:
        """One Hamiltonian move of every replica; returns the acceptance at each temperature, (K,)."""
        beta, step = self._per_replica(self.beta), self._per_replica(self.step_sizes)
        self.state, probability = hamiltonian_move(
            self.energy, self.state, beta, step, self.n_leapfrog, self.space, self.generator
        )
        return probability.view(len(self.beta), -1).mean(1)

    def adapt(self, acceptance: Tensor, sweep: int) -> None:
        """Adjust the step sizes towards the target acceptance, with a gain that decreases over sweeps."""
        self.log_step = self.log_step + (acceptance - TARGET_ACCEPTANCE) * max(0.05, (1 + sweep / 10) ** -0.5)

    def swap(self, first: int) -> Tensor:
        """Try to swap temperatures `first` and `first` + 1, and every second pair from there.

        Returns:
            The acceptance between neighbours, (K - 1,), NaN for pairs that were not tried.
        """
        u = self.state.energy.view(len(self.beta), -1)
        probability = ((self.beta[:-1] - self.beta[1:]).unsqueeze(1) * (u[:-1] - u[1:])).clamp(max=0).exp()
        accept = self._rand(probability.shape) < probability
        accept[1 - first :: 2] = False
        source = torch.arange(u.numel(), device=u.device).view(u.shape)
        source[:-1] += accept * u.shape[1]
        source[1:] -= accept * u.shape[1]
        self.state = State(*(values[source.flatten()] for values in self.state))
        rates = probability.mean(1)
        rates[1 - first :: 2] = torch.nan
        return rates

    def _evaluate(self, x: Tensor) -> State:
        return State(x, *energy_and_gradient(self.energy, x))

    def _project(self, x: Tensor) -> Tensor:
        return self.space.project((x, x[..., :0])).x

    def _per_replica(self, per_temperature: Tensor) -> Tensor:
        return per_temperature.repeat_interleave(len(self.space.mask) // len(self.beta))

    def _rand(self, shape: torch.Size) -> Tensor:
        beta = self.beta
        return torch.rand(shape, generator=self.generator, dtype=beta.dtype, device=beta.device)


def _check_start(energy: Potential, start: Tensor) -> None:
    u, gradient = energy_and_gradient(energy, start)
    if u.shape != start.shape[:1]:
        raise MolflowError(f"expected one energy for each of {len(start)} configurations, got shape {tuple(u.shape)}")
    finite = u.isfinite() & gradient.isfinite().all(2).all(1)
    if not finite.all():
        i = int((~finite).nonzero()[0])
        raise MolflowError(f"start of chain {i}: its energy is {u[i]:g}; expected finite energies and gradients")
    drift, size = gradient.sum(1).abs().max(), gradient.abs().sum(1).max()
    if drift > 1e-3 * size:
        raise MolflowError("the energy changes under translations; expected one that depends on relative positions")


def _descend(energy: Potential, x: Tensor) -> Tensor:
    """Move down the gradient in steps of fixed length. Hamiltonian moves cannot leave the steep walls of overlaps."""
    length = 0.05 * x.std()
    for i in range(_N_DESCENT):
        gradient = energy_and_gradient(energy, x)[1]
        steepest = gradient.square().sum(2).amax(1).sqrt().clamp(min=1e-12)
        x = x - (1 - i / _N_DESCENT) * length * gradient / steepest[:, None, None]
    return x
