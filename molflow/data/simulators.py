"""Inverse problems: a prior over parameters theta, and a simulator of observations x given them.

The eight tasks of the benchmark of simulation-based inference (Lueckmann et al., arXiv 2101.04653) are written here and
vectorised. Their observations, true parameters and reference posterior samples are read from the PyPI wheel `sbibm`,
which is never imported. Arm kinematics is a ninth task (Kruse et al., arXiv 2101.10763).
"""

import bz2
import math
from abc import abstractmethod
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, ClassVar

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor
from torch.distributions import Distribution, Independent, LogNormal, MultivariateNormal, Normal, Uniform
from torch.nn.functional import softplus

from molflow.data.base import DataSetConfig, Loaded, Split, hold_out
from molflow.data.densities import split_generator
from molflow.data.registry import DATASETS
from molflow.errors import MolflowError

N_OBSERVATIONS = 10
"""Observations of each task of the benchmark."""


class Simulator(DataSetConfig):
    """Base of inverse problems. As a data set: parameters theta (n, F), with the observation x (n, C) as condition.

    Example:
        >>> from molflow.data import DATASETS
        >>> task = DATASETS["sbi-slcp"]()
        >>> theta = sample_prior(task.prior, 100, torch.Generator().manual_seed(0))
        >>> x = task.simulate(theta, torch.Generator().manual_seed(1))
        >>> theta.shape, x.shape, task.log_likelihood(theta, x).shape
        (torch.Size([100, 5]), torch.Size([100, 8]), torch.Size([100]))

    Attributes:
        seed: of the prior and the simulator.
        parameters: names of the parameters.
        n_observed: C, numbers of an observation.
    """

    task: ClassVar[str] = "vectors"
    parameters: ClassVar[tuple[str, ...]]
    n_observed: ClassVar[int]

    n: int = Field(10_000, ge=20, description="simulations for training and validation, a tenth of them held out")
    seed: int = Field(0, ge=0)

    @model_validator(mode="before")
    @classmethod
    def _name_the_observation(cls, table: Any) -> Any:
        names = [f"x{k + 1}" for k in range(cls.n_observed)]
        if not isinstance(table, dict):
            return table
        if table.get("condition", names) not in (names, tuple(names)):
            raise ValueError(f"the condition is the whole observation, {names[0]} to {names[-1]}; leave it out")
        return table | {"condition": names}

    @property
    @abstractmethod
    def prior(self) -> Distribution:
        """The prior of theta, (F,)."""

    @abstractmethod
    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        """One observation for each parameter vector, (n, F) -> (n, C)."""

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """log p(x | theta) up to a term without theta, nats, for theta (n, F) and x (n, C) or (C,).

        Raises:
            MolflowError: a simulator whose likelihood is not known.
        """
        raise MolflowError(f"{self.name}: the likelihood is not known in closed form")

    def simulations(self, n: int, generator: torch.Generator | None = None) -> tuple[Tensor, Tensor]:
        """n draws of theta from the prior with their observations, float32 (n, F) and (n, C)."""
        theta = sample_prior(self.prior, n, generator)
        return theta, self.simulate(theta, generator)

    def load(self, split: Split) -> Loaded[Tensor]:
        self.check_split(split)
        if split == "test":
            return Loaded(*self.simulations(self.n, split_generator(self.seed, "test")))
        theta, x = self.simulations(self.n, split_generator(self.seed, "train"))
        chosen = hold_out(self.n, split, ("train", "validation"), self.name)
        return Loaded(theta[chosen], x[chosen])

    def split_text(self, n_training: int) -> str:
        return f"{n_training:,} simulations"


class BenchmarkTask(Simulator):
    """A task of sbibm, with the files of its wheel. Observations are numbered from 1 to 10.

    Attributes:
        seed: of the prior and the simulator.
    """

    def observation(self, number: int) -> Tensor:
        """The observation, (C,)."""
        return self._read(number, "observation.csv")[0]

    def true_parameters(self, number: int) -> Tensor:
        """The parameters that the observation was simulated with, (F,)."""
        return self._read(number, "true_parameters.csv")[0]

    def reference_posterior(self, number: int) -> Tensor:
        """10,000 samples of the posterior given the observation, (10000, F)."""
        return self._read(number, "reference_posterior_samples.csv.bz2")

    def _read(self, number: int, name: str) -> Tensor:
        """A table of the wheel, float32.

        Raises:
            MolflowError: another number, no wheel, or a damaged file.
        """
        if not 1 <= number <= N_OBSERVATIONS:
            raise MolflowError(f"{self.name}: observations are numbered from 1 to {N_OBSERVATIONS}, got {number}")
        folder = self.name.removeprefix("sbi-").replace("-", "_")
        path = wheel_folder() / folder / "files" / f"num_observation_{number}" / name
        try:
            content = path.read_bytes()
            text = (bz2.decompress(content) if path.suffix == ".bz2" else content).decode()
            table = np.loadtxt(text.splitlines(), delimiter=",", skiprows=1, dtype=np.float32, ndmin=2)
        except (OSError, ValueError, EOFError) as error:
            raise MolflowError(f"{path}: cannot be read: {error}; {_INSTALL}") from error
        width = self.n_observed if name == "observation.csv" else len(self.parameters)
        if not len(table) or table.shape[1] != width or not np.isfinite(table).all():
            raise MolflowError(f"{path}: expected finite numbers in {width} columns, got {table.shape}; {_INSTALL}")
        return torch.from_numpy(table)


_INSTALL = "pip install --no-deps sbibm==1.1.0 brings the observations and reference posteriors"


def wheel_folder() -> Path:
    """The folder of tasks in the installed wheel `sbibm`.

    Raises:
        MolflowError: it is not installed.
    """
    try:
        return Path(str(metadata.distribution("sbibm").locate_file("sbibm/tasks")))
    except metadata.PackageNotFoundError as error:
        raise MolflowError(f"the sbibm wheel is not installed: {_INSTALL}") from error


def sample_prior(prior: Distribution, n: int, generator: torch.Generator | None = None) -> Tensor:
    """n draws of a distribution, reproducible by the generator; `torch.distributions` knows only the global one.

    Args:
        prior: of one vector.
        n: number of draws.
        generator: source of randomness; None for torch's own.

    Example:
        >>> prior = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
        >>> sample_prior(prior, 5, torch.Generator().manual_seed(0)).shape
        torch.Size([5, 2])
    """
    seed = int(torch.randint(2**62, (), generator=generator))
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        draws: Tensor = prior.sample((n,))
    return draws


def _box(low: float, high: float, n: int) -> Distribution:
    """The uniform distribution on [low, high]^n; it has density zero, and raises no error, outside."""
    uniform = Uniform(torch.full((n,), low), torch.full((n,), high), validate_args=False)
    return Independent(uniform, 1, validate_args=False)


def _numbered(n: int) -> tuple[str, ...]:
    return tuple(f"theta{k + 1}" for k in range(n))


def _randn(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.randn(like.shape, generator=generator, dtype=like.dtype)


def _rand(like: Tensor, generator: torch.Generator | None) -> Tensor:
    return torch.rand(like.shape, generator=generator, dtype=like.dtype)


@DATASETS.register("sbi-two-moons")
class TwoMoonsTask(BenchmarkTask):
    """x is a noisy half circle of radius 0.1, shifted by (-|t1 + t2|, t2 - t1) / sqrt 2: two crescents as posterior."""

    parameters = _numbered(2)
    n_observed = 2

    @property
    def prior(self) -> Distribution:
        return _box(-1.0, 1.0, 2)

    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        angle = math.pi * (_rand(theta[:, 0], generator) - 0.5)
        radius = 0.1 + 0.01 * _randn(angle, generator)
        return torch.stack([radius * angle.cos() + 0.25, radius * angle.sin()], 1) + self._shift(theta)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """log N(r; 0.1, 0.01) - log pi r on the half plane that the half circle is in."""
        p = x - self._shift(theta) - theta.new_tensor([0.25, 0.0])
        radius = p.norm(dim=1)
        log_p = Normal(0.1, 0.01).log_prob(radius) - (math.pi * radius).log()
        return torch.where(p[:, 0] >= 0, log_p, -math.inf)

    @staticmethod
    def _shift(theta: Tensor) -> Tensor:
        total, difference = theta.sum(1), theta[:, 1] - theta[:, 0]
        return torch.stack([-total.abs(), difference], 1) / math.sqrt(2)


@DATASETS.register("sbi-gaussian-mixture")
class GaussianMixtureTask(BenchmarkTask):
    """x ~ 1/2 N(theta, 1) + 1/2 N(theta, 0.01) in the plane, with a uniform prior on [-10, 10]^2."""

    parameters = _numbered(2)
    n_observed = 2
    scales: ClassVar[tuple[float, float]] = (1.0, 0.1)

    @property
    def prior(self) -> Distribution:
        return _box(-10.0, 10.0, 2)

    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        wide = _rand(theta[:, :1], generator) < 0.5
        return theta + torch.where(wide, *self.scales) * _randn(theta, generator)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        squared = (x - theta).square().sum(1)
        parts = [-squared / (2 * s**2) - math.log(2 * math.pi * s**2) - math.log(2) for s in self.scales]
        return torch.logsumexp(torch.stack(parts), 0)


@DATASETS.register("sbi-gaussian-linear")
class GaussianLinearTask(BenchmarkTask):
    """x ~ N(theta, 0.1) in ten dimensions, with the prior N(0, 0.1): the posterior is N(x / 2, 0.05)."""

    parameters = _numbered(10)
    n_observed = 10

    @property
    def prior(self) -> Distribution:
        scale = torch.full((10,), math.sqrt(0.1))
        return Independent(Normal(torch.zeros(10), scale, validate_args=False), 1, validate_args=False)

    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        return theta + math.sqrt(0.1) * _randn(theta, generator)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        return -(x - theta).square().sum(1) / 0.2


@DATASETS.register("sbi-gaussian-linear-uniform")
class GaussianLinearUniformTask(GaussianLinearTask):
    """x ~ N(theta, 0.1) in ten dimensions, with a uniform prior on [-1, 1]^10."""

    @property
    def prior(self) -> Distribution:
        return _box(-1.0, 1.0, 10)


@DATASETS.register("sbi-slcp")
class SLCPTask(BenchmarkTask):
    """Simple likelihood, complex posterior: x is four draws of a Gaussian in the plane.

    Its mean is (t1, t2), its standard deviations t3^2 and t4^2, its correlation tanh t5. Signs of t3 and t4 cannot be
    told, so the posterior has four modes.
    """

    parameters = _numbered(5)
    n_observed = 8

    @property
    def prior(self) -> Distribution:
        return _box(-3.0, 3.0, 5)

    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        noise = torch.randn(len(theta), 4, 2, generator=generator, dtype=theta.dtype)
        return self._gaussian(theta).mean.unsqueeze(1).add(noise @ self._gaussian(theta).scale_tril.mT).flatten(1)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        draws = x.expand(len(theta), 8).view(-1, 4, 2)
        log_p: Tensor = self._gaussian(theta.unsqueeze(1)).log_prob(draws).sum(1)
        return log_p

    @staticmethod
    def _gaussian(theta: Tensor) -> MultivariateNormal:
        a, b, rho = theta[..., 2].square(), theta[..., 3].square(), theta[..., 4].tanh()
        jitter = 1e-6  # as in the benchmark
        covariance = torch.stack([a.square() + jitter, rho * a * b, rho * a * b, b.square() + jitter], -1)
        return MultivariateNormal(theta[..., :2], covariance.unflatten(-1, (2, 2)), validate_args=False)


@DATASETS.register("sbi-bernoulli-glm")
class BernoulliGLMTask(BenchmarkTask):
    """A neuron that fires in each of 100 steps with probability sigmoid(X theta): an offset and a filter of length 9.

    X has a column of ones and the white-noise stimulus, delayed by 0 to 8 steps. The observation is X^T y, the
    sufficient statistic of the spikes y. The prior makes filters smooth.
    """

    parameters = ("offset", *(f"filter{k + 1}" for k in range(9)))
    n_observed = 10

    @property
    def prior(self) -> Distribution:
        lag = torch.diag(torch.ones(8), -1)
        difference = torch.eye(9) - lag
        smooth = difference @ difference + torch.diag((torch.arange(9) / 9).sqrt())
        precision = torch.block_diag(torch.tensor([[0.5]]), smooth.T @ smooth)
        return MultivariateNormal(torch.zeros(10), precision_matrix=precision, validate_args=False)

    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        drive = theta @ self.design().to(theta).T
        spikes = (_rand(drive, generator) < drive.sigmoid()).to(theta)
        return spikes @ self.design().to(theta)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        """theta^T X^T y - sum_i log(1 + exp (X theta)_i)."""
        return (theta * x).sum(1) - softplus(theta @ self.design().to(theta).T).sum(1)

    @staticmethod
    def design() -> Tensor:
        """X, float64 (100, 10)."""
        stimulus = np.random.RandomState(42).randn(100).astype(np.float32)
        delayed = [np.concatenate([np.zeros(k), stimulus[: 100 - k]]) for k in range(9)]
        return torch.from_numpy(np.stack([np.ones(100), *delayed], 1))


@DATASETS.register("sbi-sir")
class SIRTask(BenchmarkTask):
    """An epidemic of contact rate beta and recovery rate gamma, among a million with one infected at the start.

    dS = -beta S I / N, dI = beta S I / N - gamma I over 160 days. x counts the infected among 1,000 at ten times.
    """

    parameters = ("beta", "gamma")
    n_observed = 10
    population: ClassVar[float] = 1e6
    n_tested: ClassVar[int] = 1000

    @property
    def prior(self) -> Distribution:
        loc, scale = torch.tensor([0.4, 0.125]).log(), torch.tensor([0.5, 0.2])
        return Independent(LogNormal(loc, scale, validate_args=False), 1, validate_args=False)

    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        share = self._infected(theta.double()).exp().clamp(max=1)
        return _binomial(self.n_tested, share, generator).to(theta.dtype)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        log_share = self._infected(theta.double()).clamp(max=-1e-12)
        log_rest = torch.log(-torch.expm1(log_share))
        return (x * log_share + (self.n_tested - x) * log_rest).sum(1).to(theta.dtype)

    def _infected(self, theta: Tensor) -> Tensor:
        """log I / N on days 0, 17, ..., 153, (n, 10)."""
        beta, gamma = theta.unbind(1)

        def rates(state: Tensor) -> Tensor:
            susceptible, log_infected = state
            new = beta * susceptible
            return torch.stack([-new * log_infected.exp(), new - gamma])

        first = 1 / self.population
        start = torch.stack([torch.full_like(beta, 1 - first), torch.full_like(beta, math.log(first))])
        states = runge_kutta(rates, start, interval=17.0, n_intervals=9, n_steps=170)
        return states[:, 1].T


@DATASETS.register("sbi-lotka-volterra")
class LotkaVolterraTask(BenchmarkTask):
    """Prey p and predators q: dp = alpha p - beta p q, dq = delta p q - gamma q over 20 days, from 30 and 1.

    x is p at ten times, then q, each with log-normal noise of 0.1. The order of theta is alpha, beta, gamma, delta.
    """

    parameters = ("alpha", "beta", "gamma", "delta")
    n_observed = 20

    @property
    def prior(self) -> Distribution:
        loc, scale = torch.tensor([-0.125, -3.0, -0.125, -3.0]), torch.full((4,), 0.5)
        return Independent(LogNormal(loc, scale, validate_args=False), 1, validate_args=False)

    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        log_animals = self._log_animals(theta.double())
        return (log_animals + 0.1 * _randn(log_animals, generator)).exp().to(theta.dtype)

    def log_likelihood(self, theta: Tensor, x: Tensor) -> Tensor:
        error = x.double().log() - self._log_animals(theta.double())
        return (-error.square() / (2 * 0.1**2)).sum(1).to(theta.dtype)

    @staticmethod
    def _log_animals(theta: Tensor) -> Tensor:
        """log p, then log q on days 0, 2.1, ..., 18.9, (n, 20). In logarithms both stay positive."""
        alpha, beta, gamma, delta = theta.unbind(1)

        def rates(state: Tensor) -> Tensor:
            prey, predators = state.exp()
            return torch.stack([alpha - beta * predators, delta * prey - gamma])

        start = torch.tensor([30.0, 1.0]).log().to(theta).unsqueeze(1).expand(2, len(theta))
        states = runge_kutta(rates, start, interval=2.1, n_intervals=9, n_steps=210)
        return states.permute(2, 1, 0).flatten(1).clamp(math.log(1e-10), math.log(1e4))


@DATASETS.register("inverse-kinematics")
class InverseKinematics(Simulator):
    """Where an arm of three segments on a rail ends: a height and three joint angles -> a point in the plane.

    x = (sum_k l_k cos a_k, t1 + sum_k l_k sin a_k) with a_k = t2 + ... + t_(k+1) and l = (0.5, 0.5, 1), without noise.
    The posterior is concentrated on a surface of two dimensions.
    """

    parameters = ("height", "joint1", "joint2", "joint3")
    n_observed = 2
    lengths: ClassVar[tuple[float, float, float]] = (0.5, 0.5, 1.0)

    @property
    def prior(self) -> Distribution:
        scale = torch.tensor([0.25, 0.5, 0.5, 0.5])
        return Independent(Normal(torch.zeros(4), scale, validate_args=False), 1, validate_args=False)

    def simulate(self, theta: Tensor, generator: torch.Generator | None = None) -> Tensor:
        angles, lengths = theta[:, 1:].cumsum(1), theta.new_tensor(self.lengths)
        return torch.stack([angles.cos() @ lengths, theta[:, 0] + angles.sin() @ lengths], 1)


def runge_kutta(
    rates: Callable[[Tensor], Tensor], state: Tensor, interval: float, n_intervals: int, n_steps: int
) -> Tensor:
    """States at the ends of equal intervals, the first one included, (n_intervals + 1, ...).

    Args:
        rates: the time derivative of a state.
        state: at the start.
        interval: length of an interval.
        n_intervals: number of intervals.
        n_steps: steps of the fourth-order method in each interval.
    """
    step, states = interval / n_steps, [state]
    for _ in range(n_intervals):
        for _ in range(n_steps):
            first = rates(state)
            second = rates(state + step / 2 * first)
            third = rates(state + step / 2 * second)
            fourth = rates(state + step * third)
            state = state + step / 6 * (first + 2 * (second + third) + fourth)
        states.append(state)
    return torch.stack(states)


def _binomial(n: int, share: Tensor, generator: torch.Generator | None) -> Tensor:
    """Successes among n independent trials with probability `share`."""
    return torch.binomial(torch.full_like(share, n), share, generator=generator)
