"""A posterior: a conditional flow over parameters, with the bounds of its prior and the range of its simulations."""

import logging
import math
import operator
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from molflow.errors import MolflowError
from molflow.evaluation.posterior import Coverage, expected_coverage
from molflow.files import read_json, write_json
from molflow.flows.base import Flow, FlowConfig
from molflow.flows.continuous import ContinuousConfig, ContinuousFlow
from molflow.flows.free_form import FreeFormConfig
from molflow.flows.storage import CONFIG, read_model_config, save_model
from molflow.flows.storage import load as load_flow
from molflow.flows.unrolling import unroll
from molflow.nn import EulerStepsConfig
from molflow.report.posterior import corner_figure
from molflow.sbi.preparation import Bounds, Observations

log = logging.getLogger("molflow")

POSTERIOR = "posterior.json"
_FORMAT = 2  # 1 mapped a parameter between two bounds by the logit
UNROLLED = 16
"""Steps of Euler's method in a posterior of one evaluation."""


class Posterior:
    """p(theta | x) for any observation x, from one flow that was trained on simulations.

    Samples cost one evaluation of the network each if the flow is a free-form flow, and log-densities are exact.

    Args:
        flow: over u, the parameters without bounds, given the features of observations.
        bounds: of the parameters.
        observations: that the flow was trained on.
        names: of the parameters.
        config: that the flow was built by, which `save` needs.

    Example:
        >>> prior = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
        >>> theta, x = molflow.sbi.simulate(lambda theta: theta + 0.1 * torch.randn(theta.shape), prior, 100)
        >>> posterior = molflow.sbi.train(theta, x, prior=prior, epochs=1)
        >>> samples = posterior.sample((10,), x=[0.5, 0.5], seed=0)
        >>> samples.shape, posterior.log_prob(samples, x=[0.5, 0.5]).shape
        (torch.Size([10, 2]), torch.Size([10]))
    """

    def __init__(
        self,
        flow: Flow[Tensor],
        bounds: Bounds,
        observations: Observations,
        names: Sequence[str],
        config: FlowConfig | None = None,
    ):
        self.flow, self.bounds, self.observations, self.names = flow, bounds, observations, tuple(names)
        self.config = config

    def __repr__(self) -> str:
        return f"Posterior({type(self.flow).__name__}, {', '.join(self.names)} | {len(self.observations.low)} numbers)"

    def sample(self, shape: Sequence[int] = (1,), x: Any = None, *, seed: int | None = None) -> Tensor:
        """Draw parameters given an observation.

        Args:
            shape: of the samples, such as (1000,).
            x: the observation, (C,) or (1, C).
            seed: the same seed gives the same samples; None for a new one.

        Returns:
            theta, float32 (*shape, F), within the bounds of the prior.

        Raises:
            MolflowError: an observation of another length or that is not finite, a shape without samples, or samples
                that are not finite, as of an observation far from all simulations.
        """
        n = _size_of(shape)
        features = self._features(self._observation(x)).expand(n, -1)
        return self._sample(features, seed).view(*shape, -1)

    def log_prob(self, theta: Any, x: Any = None) -> Tensor:
        """The log-density of parameters given an observation, nats; -inf outside the bounds of the prior.

        Args:
            theta: (n, F) or (F,).
            x: the observation, (C,) or (1, C), or (n, C), one for each theta.

        Returns:
            float64 (n,), or () for one theta.

        Raises:
            MolflowError: parameters or observations of another length, parameters that are NaN, or an observation that
                is not finite.
        """
        theta = torch.as_tensor(theta, dtype=torch.float64)
        if theta.ndim not in (1, 2) or theta.shape[-1] != len(self.names):
            raise MolflowError(f"expected theta (n, {len(self.names)}), got {tuple(theta.shape)}")
        if theta.isnan().any():
            raise MolflowError("expected parameters that are numbers, got NaN")
        rows = theta.view(-1, len(self.names))
        x = torch.as_tensor(x, dtype=torch.float64) if x is not None else x
        several = isinstance(x, Tensor) and x.ndim == 2 and len(x) == len(rows) > 1
        given = self._check_width(x) if several else self._observation(x).expand(len(rows), -1)
        inside = self.bounds.contain(rows)
        log_p = torch.full((len(rows),), -torch.inf, dtype=torch.float64)
        if inside.any():
            u, log_det = self.bounds.free(rows[inside])
            features = self.observations.features(given[inside])
            log_p[inside] = self.flow.log_prob(u.to(self.flow.dtype), condition=features).double().cpu() + log_det
        return log_p.view(theta.shape[:-1])

    def coverage(self, theta: Tensor, x: Tensor, n_samples: int = 100, seed: int = 0) -> Coverage:
        """Expected coverage over simulations that the flow was not trained on, a few hundred at least (TARP).

        Args:
            theta: (n, F), drawn from the prior.
            x: (n, C), simulated from theta.
            n_samples: posterior samples of each.
            seed: of the samples, and of the points that regions are around.

        Raises:
            MolflowError: theta and x of different number or of another length.
        """
        return expected_coverage(theta, self.samples_of(theta, x, n_samples, seed), seed=seed)

    def samples_of(self, theta: Tensor, x: Tensor, n_samples: int, seed: int = 0) -> Tensor:
        """Posterior samples of each of n simulations, (n, n_samples, F), for `molflow.evaluation.calibration_ranks`."""
        theta, x = torch.as_tensor(theta), self._check_width(x)
        if theta.shape != (len(x), len(self.names)):
            raise MolflowError(f"expected theta ({len(x)}, {len(self.names)}) for x, got {tuple(theta.shape)}")
        features = self.observations.features(x).repeat_interleave(n_samples, 0)
        return self._sample(features, seed).view(len(x), n_samples, -1)

    def corner(self, x: Any, n: int = 5000, truth: Any = None, *, beside: Mapping[str, Any] | None = None) -> Any:
        """A corner plot of the posterior, a plotly figure: `.show()`, or `.write_html("corner.html")`.

        Args:
            x: the observation.
            n: number of samples.
            truth: true parameters to mark, (F,).
            beside: label -> further samples (m, F) to draw in the same figure.

        Raises:
            MolflowError: plotly is not installed; as `sample`.
        """
        samples = {"posterior": self.sample((n,), x, seed=0).numpy(), **(beside or {})}
        return corner_figure(samples, self.names, truth)

    def unrolled(self, n_steps: int = UNROLLED) -> "Posterior":
        """The posterior of a velocity with a sample for one evaluation of a deeper network, see `molflow.flows.unroll`.

        Its decoder makes n_steps of Euler's method from noise at time 1 to parameters at 0, at times (k / n_steps)^2,
        as narrow posteriors need short steps near 0. Its encoder makes them backward, so densities are those of an
        approximate inverse; the first posterior has the exact ones.

        Raises:
            MolflowError: a flow that is not continuous.

        Example:
            >>> prior = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
            >>> theta, x = molflow.sbi.simulate(lambda theta: theta + 0.1 * torch.randn_like(theta), prior, 100, seed=0)
            >>> posterior = molflow.sbi.train(theta, x, prior=prior, epochs=1, flow="continuous")
            >>> posterior.unrolled().sample((5,), x=[0.5, 0.5]).shape
            torch.Size([5, 2])
        """
        if not isinstance(self.flow, ContinuousFlow):
            raise MolflowError(f"only the posterior of a continuous flow can be unrolled, not of {self.flow}")
        times, config = quadratic_times(n_steps), None
        if isinstance(self.config, ContinuousConfig):
            decoder, encoder = (EulerStepsConfig(velocity=self.config.network, times=t) for t in (times, times[::-1]))
            shared = {"domain": self.config.domain, "conditions": self.config.conditions}
            config = FreeFormConfig(**shared, encoder=encoder, decoder=decoder)
        return Posterior(unroll(self.flow, times), self.bounds, self.observations, self.names, config)

    def save(self, folder: str | Path) -> None:
        """Write the posterior into a new folder, from which `molflow.sbi.load` reads it.

        Raises:
            MolflowError: a flow of which no configuration is known, a folder that holds a model already, or one that
                cannot be written.

        Example:
            >>> prior = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
            >>> theta, x = molflow.sbi.simulate(lambda theta: theta + 0.1 * torch.randn_like(theta), prior, 100, seed=0)
            >>> molflow.sbi.train(theta, x, prior=prior, epochs=1).save("saved")
            >>> molflow.sbi.load("saved").sample((5,), x=[0.5, 0.5]).shape
            torch.Size([5, 2])
        """
        if self.config is None:
            raise MolflowError("the posterior does not know the configuration of its flow: Posterior(..., config=...)")
        if (Path(folder) / CONFIG).exists():
            raise MolflowError(f"{folder}: holds a model already; name another folder")
        try:
            save_model(folder, self.config, self.flow, {"name": "posterior", "task": "vectors"})
        except OSError as error:
            raise MolflowError(f"{folder}: cannot be written: {error.strerror}") from error
        self.save_beside(Path(folder))

    def save_beside(self, folder: Path) -> None:
        """Write what is not the flow's into the folder of the flow."""
        tensors = {
            "low": self.bounds.low, "high": self.bounds.high,
            "smallest": self.observations.low, "largest": self.observations.high, "offset": self.observations.offset,
        }  # fmt: skip
        numbers = {key: [v if abs(v) < torch.inf else None for v in t.tolist()] for key, t in tensors.items()}
        write_json(folder / POSTERIOR, {"format": _FORMAT, "names": self.names, **numbers})

    def _sample(self, features: Tensor, seed: int | None) -> Tensor:
        u = self.flow.sample(len(features), condition=features, seed=seed, batch_size=10_000)
        theta: Tensor = self.bounds.bound(u.cpu()).float()
        return theta

    def _features(self, x: Tensor) -> Tensor:
        return self.observations.features(x.unsqueeze(0))

    def _observation(self, x: Any) -> Tensor:
        """One observation (C,), with a warning if it is outside of the simulations."""
        if x is None:
            raise MolflowError(f"give an observation: x=..., {len(self.observations.low)} numbers")
        row = self._check_width(torch.as_tensor(x, dtype=torch.float64))
        if len(row) != 1:
            raise MolflowError(f"expected one observation ({row.shape[1]},), got {tuple(torch.as_tensor(x).shape)}")
        if strange := self.observations.strange(row[0]):
            numbers = ", ".join(map(str, strange))
            log.warning("the observation is outside of all simulations in number %s: the posterior is a guess", numbers)
        return row[0]

    def _check_width(self, x: Any) -> Tensor:
        """Observations as float64 (n, C)."""
        x = torch.as_tensor(x, dtype=torch.float64)
        width = len(self.observations.low)
        if x.ndim not in (1, 2) or x.shape[-1] != width:
            raise MolflowError(f"expected observations of {width} numbers, got {tuple(x.shape)}")
        if not x.isfinite().all():
            raise MolflowError("expected finite observations")
        rows: Tensor = x.view(-1, width)
        return rows


def quadratic_times(n_steps: int = UNROLLED) -> tuple[float, ...]:
    """Times (k / n_steps)^2 from 1 down to 0.

    Example:
        >>> quadratic_times(2)
        (1.0, 0.25, 0.0)
    """
    return tuple((k / n_steps) ** 2 for k in range(n_steps, -1, -1))


def load(folder: str | Path, device: torch.device | str = "cpu") -> Posterior:
    """The posterior that `molflow.sbi.train(..., folder=...)` left in a folder.

    Args:
        folder: of the run.
        device: where its weights go.

    Raises:
        MolflowError: a missing or damaged file.

    Example:
        >>> prior = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
        >>> theta, x = molflow.sbi.simulate(lambda theta: theta + 0.1 * torch.randn_like(theta), prior, 100, seed=0)
        >>> _ = molflow.sbi.train(theta, x, prior=prior, epochs=1, folder="posterior")
        >>> load("posterior").sample((5,), x=[0.5, 0.5]).shape
        torch.Size([5, 2])
    """
    path = Path(folder) / POSTERIOR
    content = read_json(path)
    if isinstance(content, dict) and "names" in content and content.get("format") != _FORMAT:
        raise MolflowError(f"{path}: of another version of molflow; train the posterior again")
    keys = ("low", "high", "smallest", "largest", "offset")
    empty = {"low": -torch.inf, "high": torch.inf, "offset": torch.nan}
    try:
        low, high, *observed = (
            torch.tensor([empty[key] if v is None else v for v in content[key]], dtype=torch.float64) for key in keys
        )
        names = [str(name) for name in content["names"]]
        if not low.shape == high.shape == (len(names),) or len({tensor.shape for tensor in observed}) > 1:
            raise ValueError("different lengths")
    except (ArithmeticError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise MolflowError(f"{path}: not the file of a posterior") from error
    config = read_model_config(Path(folder))
    return Posterior(load_flow(folder, device), Bounds(low, high), Observations(*observed), names, config)


def _size_of(shape: Sequence[int]) -> int:
    """The number of samples of a shape. Raises MolflowError for anything else than numbers above 0."""
    try:
        sizes = tuple(map(operator.index, shape))
    except TypeError:
        sizes = (0,)
    if any(size < 1 for size in sizes):
        raise MolflowError(f"expected a shape of samples such as (1000,), got {shape!r}")
    return math.prod(sizes)
