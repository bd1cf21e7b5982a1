"""Continuous normalizing flows (arXiv 1806.07366, 1810.01367): points move along a velocity that a network gives."""

import copy
import math
from abc import abstractmethod
from collections.abc import Callable, Sequence
from typing import Any, ClassVar, NamedTuple, Self, TypeAlias

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn

from molflow.distributions import StandardNormal
from molflow.errors import MolflowError
from molflow.flows.base import Flow, FlowConfig, Likelihood, Which
from molflow.flows.conditions import Conditions
from molflow.flows.domains.base import Data, Domain
from molflow.flows.networks import build_network, euler_steps, evaluate, pass_again, passes
from molflow.flows.quadrature import along_path
from molflow.flows.registry import DIVERGENCES, FLOWS
from molflow.flows.scaffold import sample_around
from molflow.flows.solvers import AdaptiveSolver, FixedStepSolver, Solution, Solver, SolverChoice
from molflow.geometry import Context, P, Points, Space, point_of, squared_norm, tensors_of
from molflow.nn import EGNNConfig, Network
from molflow.volume import Map, divergence

Integrand: TypeAlias = Callable[[Map[Any], Any], tuple[Any, tuple[Tensor, ...]]]


@DIVERGENCES.register("exact")
def no_probe(space: Space[Any], generator: torch.Generator | None, dtype: torch.dtype) -> None:
    """The exact divergence needs no probe."""


@DIVERGENCES.register("rademacher")
def rademacher_probe(space: Space[P], generator: torch.Generator | None, dtype: torch.dtype) -> P:
    """Random signs in an orthonormal basis, the probe of least variance."""
    return space.rademacher(generator, dtype)


@DIVERGENCES.register("gaussian")
def gaussian_probe(space: Space[P], generator: torch.Generator | None, dtype: torch.dtype) -> P:
    """A standard normal vector."""
    return space.randn(generator, dtype)


@FLOWS.register("continuous")
class ContinuousConfig(FlowConfig):
    """`ContinuousFlow`, on any network of one time.

    Attributes:
        domain, conditions, solver: as in `ContinuousFlow`.
    """

    trained_by: ClassVar[str] = "flow_matching"
    network: Network = EGNNConfig()
    solver: SolverChoice = AdaptiveSolver()
    last_step: float = Field(
        0.0,
        ge=0,
        lt=1,
        description="length of the last of the Euler steps that n_evaluations asks for; 0: as the others",
    )
    times: tuple[float, ...] | None = Field(
        None,
        description="of the Euler steps of a sample, from 1 down to 0 and, for a closer look, again from below 1 down "
        "to 0; by default samples follow the solver",
    )

    @field_validator("times")
    @classmethod
    def _check(cls, times: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if times is not None:
            passes(times, start_from_noise=True)
        return times

    def build(self) -> "ContinuousFlow[Any]":
        domain, conditions = self.build_domain()
        network = build_network(self.network, domain, conditions, 1)
        return ContinuousFlow(domain, network, self.solver, conditions, self.last_step, self.times)


class Path(NamedTuple):
    """The end of a path.

    Attributes:
        points: at the end.
        integrals: of further quantities over time along the path, (B,) each.
        n_evaluations: how often the velocity was evaluated.
    """

    points: Any
    integrals: tuple[Tensor, ...]
    n_evaluations: int


class ContinuousTerms(NamedTuple):
    """The terms of the negative log-likelihood, one number per configuration, (B,).

    Attributes:
        latent: -log p(z), nats.
        log_det: log |det dz/dp|, or an unbiased estimate of it, nats.
        kinetic_energy: the integral of |f|^2 over the path, per degree of freedom (arXiv 2002.02798).
        correction: what the domain adds to the log-likelihood, nats.
        n_evaluations: of the velocity, for the whole batch.
    """

    latent: Tensor
    log_det: Tensor
    kinetic_energy: Tensor
    correction: Tensor
    n_evaluations: int

    def nll(self, kinetic_energy: float = 0.0) -> Tensor:
        """-log p(data) + kinetic_energy int |f|^2 dt / dof, (B,)."""
        return self.latent - self.log_det - self.correction + kinetic_energy * self.kinetic_energy


class ODEFlow(Flow[Data]):
    """dp/dt = f(p, context, t) on the space of the domain, from data at time 0 to latents at time 1.

    log p(p_0) = log p(p_1) + int_0^1 div f dt, where the divergence is the trace of df/dp on that space. The likelihood
    and the density of samples compute it exactly, with one derivative for each dimension, along paths that are more
    exact than those of samples (`AdaptiveSolver.density_tolerance`, `quadrature`); training may estimate it.

    Such a flow learns from paths p_t = alpha p + sigma e between data p and noise e. Data with noise, p + s e, are
    points of these paths at the time when sigma / alpha = s, divided by alpha. Their likelihood starts at that time,
    where the velocity is smooth. That holds for noise e that was drawn by itself: where training pairs it with data
    (`objective.pairing`), points with unpaired noise are less likely under the paths than they should be.

    Implementing one: write `velocity`, `path_at` and `_steps`.

    Args:
        domain: what the flow is a distribution over.
        network: (x, h, mask, t) -> (dx, dh) with one time, as in `molflow.nn`; on vectors (x, condition, t) -> y.
        solver: how paths are followed, by default dopri5 with tolerances of 1e-4.
        conditions: as in `Flow`.
    """

    def __init__(
        self,
        domain: Domain[Data],
        network: nn.Module,
        solver: Solver | None = None,
        conditions: Conditions | None = None,
    ):
        super().__init__(domain, conditions)
        self.network, self.solver = network, solver or AdaptiveSolver()
        self.guidance = 1.0

    @abstractmethod
    def velocity(self, points: P, context: Context, t: Tensor) -> P:
        """f(p, context, t) at times t, (B,) or one for all."""

    @abstractmethod
    def path_at(self, noise: float) -> tuple[float, float]:
        """The time of the paths when sigma / alpha is this noise, and alpha at that time."""

    @abstractmethod
    def _steps(self, latent: P, context: Context, end: float, n_steps: int) -> P:
        """The point at time `end` by as many steps from the latent at time 1, one evaluation each."""

    @property
    def n_evaluations(self) -> int | None:
        return self.solver.n_evaluations

    @property
    def takes_evaluations(self) -> bool:
        return True

    def has_density(self, n_evaluations: int | None) -> bool:
        return n_evaluations is None

    def output(self, points: P, context: Context, t: Tensor) -> P:
        """The output of the network at times t, (B,) or one for all; with guidance that of `guided`."""
        first = tensors_of(points)[0]
        times = t.to(first.dtype).expand(len(first)).unsqueeze(-1)
        output = evaluate(self.network, points, context, times)
        if self.guidance == 1:
            return output
        assert context.condition is not None
        without = context._replace(condition=torch.zeros_like(context.condition))
        free = evaluate(self.network, points, without, times)
        return free + (output - free) * self.guidance

    def guided(self, weight: float) -> Self:
        """The same flow with classifier-free guidance (arXiv 2207.12598): v = v_0 + w (v_c - v_0).

        v_c is the velocity under the condition and v_0 that without any. w = 1 is the flow itself; a larger w follows
        the condition more closely and gives less varied samples. Each step evaluates the network twice.

        Raises:
            MolflowError: a flow without optional conditions.
        """
        if self.conditions is None or not self.conditions.optional:
            raise MolflowError("guidance needs a model whose conditions are optional (training.condition_dropout)")
        flow = copy.copy(self)
        flow.guidance = weight
        return flow

    def integrate(
        self,
        points: Any,
        context: Context,
        start: float,
        end: float,
        integrand: Integrand | None = None,
        n_integrals: int = 0,
        solver: Solver | None = None,
    ) -> Path:
        """Follow paths from one time to another; `follow` gives points between them.

        Args:
            points: at time `start`.
            context: of the points.
            start: 0 is at the data, 1 at the latents.
            end: where to go, back or forth.
            integrand: (f at this time, p) -> f(p), and quantities (B,) to be integrated over time along the path.
            n_integrals: how many quantities.
            solver: in place of the flow's own.

        Raises:
            IntegrationError: the path cannot be integrated; the message says at what time and what to change.
        """
        solved, sizes = self._solve(points, context, (start, end), integrand, n_integrals, solver)
        joined, *integrals = (states[-1] for states in solved.states)
        return Path(point_of(joined.split(sizes, -1)), tuple(integrals), solved.n_evaluations)

    def follow(self, points: P, context: Context, times: Sequence[float]) -> list[P]:
        """The points of paths at all times but the first, which is that of `points`; raises as `integrate`."""
        solved, sizes = self._solve(points, context, times)
        return [point_of(joined.split(sizes, -1)) for joined in solved.states[0][1:]]  # type: ignore[misc]

    def _solve(
        self,
        points: Any,
        context: Context,
        times: Sequence[float],
        integrand: Integrand | None = None,
        n_integrals: int = 0,
        solver: Solver | None = None,
    ) -> tuple[Solution, list[int]]:
        """Points, joined along their last axis, and integrals at some times; and the widths of what was joined."""
        tensors = tensors_of(points)
        sizes = [tensor.shape[-1] for tensor in tensors]

        def rate(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            def field(p: Any) -> Any:
                return self.velocity(p, context, t)

            at: Any = point_of(state[0].split(sizes, -1))
            if integrand is None:
                return (torch.cat(tensors_of(field(at)), -1),)
            found = integrand(field, at)
            return (torch.cat(tensors_of(found[0]), -1), *found[1])

        zeros = [tensors[0].new_zeros(len(tensors[0]))] * n_integrals
        state = (torch.cat(tensors, -1), *zeros)
        return (solver or self.solver).integrate(rate, state, times, self.network.parameters()), sizes

    def encode(self, points: P, context: Context) -> P:
        start, alpha = self._path_in(context)
        return self.integrate(points * alpha, context, start, 1.0).points  # type: ignore[no-any-return]

    def decode(self, latent: P, context: Context, n_evaluations: int | None = None) -> P:
        """Latent points -> data points, by the flow's solver, or by as many steps as evaluations are given.

        Raises:
            IntegrationError: the path cannot be integrated.
            ValueError: less than one evaluation.
        """
        if n_evaluations is not None and n_evaluations < 1:
            raise ValueError(f"n_evaluations must be at least 1, got {n_evaluations}")
        end, alpha = self._path_in(context)
        if n_evaluations is None:
            points = self.integrate(latent, context, 1.0, end).points
        else:
            points = self._steps(latent, context, end, n_evaluations)
        return points * (1 / alpha)  # type: ignore[no-any-return]

    def encode_with_log_det(self, points: P, context: Context) -> tuple[P, Tensor]:
        start, alpha = self._path_in(context)
        z, log_det = self._with_log_det(points * alpha, context, start, 1.0)
        return z, log_det + self._log_det_of_scaling(alpha, context)

    def decode_with_log_det(self, latent: P, context: Context) -> tuple[P, Tensor]:
        end, alpha = self._path_in(context)
        points, log_det = self._with_log_det(latent, context, 1.0, end)
        return points * (1 / alpha), log_det - self._log_det_of_scaling(alpha, context)

    def points_likelihood(self, points: P, context: Context, which: Which, compare: bool = False) -> Likelihood:
        return super(ODEFlow, self.precise()).points_likelihood(points, context, which, compare)

    def precise(self) -> Self:
        """The same flow with the solver for paths whose density is computed."""
        flow = copy.copy(self)
        flow.solver = self.solver.for_density()
        return flow

    def _path_in(self, context: Context) -> tuple[float, float]:
        """The time at which paths carry the noise of a context, and alpha at that time."""
        if context.noise is None:
            return 0.0, 1.0
        levels = context.noise.unique()
        if len(levels) > 1:
            raise ValueError("this flow takes one level of noise for all configurations")
        return self.path_at(float(levels))

    def _log_det_of_scaling(self, factor: float, context: Context) -> Tensor:
        return self.domain.space(context.mask).dof.to(self.dtype) * math.log(factor)

    def _with_log_det(self, points: P, context: Context, start: float, end: float) -> tuple[P, Tensor]:
        """The end of paths and the log-determinant: for equal steps of the same steps, else by quadrature."""
        if self.solver.n_evaluations is not None:
            path = self.integrate(points, context, start, end, self._divergence_along(context), 1)
            return path.points, path.integrals[0]
        precise = self.precise()

        def follow(points: P, context: Context, times: Sequence[float]) -> list[P]:
            return precise.follow(points, context, [start, *times])

        def trace(points: P, context: Context, time: float) -> Tensor:
            t = torch.tensor(time, dtype=self.dtype, device=self.device)
            return divergence(lambda p: self.velocity(p, context, t), points, self.domain.space(context.mask))[1]

        return along_path(follow, trace, points, context, start, end)

    def _divergence_along(self, context: Context) -> Integrand:
        space = self.domain.space(context.mask)

        def integrand(field: Map[P], at: P) -> tuple[P, tuple[Tensor, ...]]:
            velocity, trace = divergence(field, at, space)
            return velocity, (trace,)

        return integrand

    def nll(
        self,
        data: Data,
        condition: Any = None,
        generator: torch.Generator | None = None,
        *,
        divergence: str = "rademacher",
        n_probes: int = 1,
        kinetic_energy: float = 0.0,
    ) -> Tensor:
        """Negative log-likelihood for training, nats (B,), plus kinetic_energy int |f|^2 dt / dof (arXiv 2002.02798).

        Args:
            data, condition, generator: as in `Flow.nll`.
            divergence: a name in `DIVERGENCES`: "exact", or how probes of Hutchinson's estimate are drawn.
            n_probes: of the estimate.
            kinetic_energy: weight of the regularisation.
        """
        return self.terms(data, condition, generator, divergence, n_probes).nll(kinetic_energy)

    def nll_terms(
        self,
        data: Data,
        condition: Any = None,
        generator: torch.Generator | None = None,
        *,
        kinetic_energy: float = 0.0,
        **settings: Any,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`nll`, and its terms by name for the log of a training run; arguments as in `nll`."""
        terms = self.terms(data, condition, generator, **settings)
        return terms.nll(kinetic_energy), {
            "latent_nll": terms.latent,
            "log_det": terms.log_det,
            "kinetic_energy": terms.kinetic_energy,
            "correction": terms.correction,
            "evaluations": terms.latent.new_tensor(float(terms.n_evaluations)),
        }

    def terms(
        self,
        data: Data,
        condition: Any = None,
        generator: torch.Generator | None = None,
        divergence: str = "rademacher",
        n_probes: int = 1,
    ) -> ContinuousTerms:
        """The terms of `nll` for a batch of data; probes are drawn once and stay fixed along the path."""
        points, context, correction = self.to_points(data, generator, condition)
        draw, space = DIVERGENCES[divergence], self.domain.space(context.mask)
        probes = [draw(space, generator, self.dtype) for _ in range(n_probes)]
        return self.terms_of_points(points, context, correction, None if probes[0] is None else probes)

    def terms_of_points(
        self, points: P, context: Context, correction: Tensor, probes: Sequence[P] | None = None
    ) -> ContinuousTerms:
        """`terms` for points and probes that are given; without probes the divergence is exact."""
        space = self.domain.space(context.mask)
        dof = space.dof_or_one(self.dtype)

        def integrand(field: Map[P], at: P) -> tuple[P, tuple[Tensor, ...]]:
            velocity, trace = divergence(field, at, space, probes)
            return velocity, (trace, squared_norm(velocity) / dof)

        path = self.integrate(points, context, 0.0, 1.0, integrand, 2)
        log_det, kinetic_energy = path.integrals
        latent = -StandardNormal(space).log_prob(path.points)
        return ContinuousTerms(latent, log_det, kinetic_energy, correction, path.n_evaluations)


class ContinuousFlow(ODEFlow[Data]):
    """A network is the velocity; paths between data and noise are straight, p_t = (1 - t) p + t e.

    Args:
        domain, network, solver, conditions: as in `ODEFlow`.
        last_step: length of the last of the Euler steps that `n_evaluations` asks for, from this time to the data at
            time 0; 0 makes all steps equal. A short one sets the finest scale of the data, such as bond lengths.
        times: of the Euler steps of `sample`, unless a number of evaluations is asked for; by default it follows the
            solver. After they have fallen from 1 to 0 they may fall from a time below 1 again: the errors of a sample
            then count as noise, and the velocity removes them. More samples are right so, and they are less varied:
            they follow the flow less closely than its densities do.

    Example:
        >>> domain = molflow.flows.VectorDomain(2)
        >>> flow = ContinuousFlow(domain, molflow.nn.MLP(2, n_times=1))
        >>> flow.sample(5, seed=0, n_evaluations=4).shape
        torch.Size([5, 2])
    """

    straight_paths: ClassVar[bool] = True
    keeps_points: ClassVar[bool] = True

    def __init__(
        self,
        domain: Domain[Data],
        network: nn.Module,
        solver: Solver | None = None,
        conditions: Conditions | None = None,
        last_step: float = 0.0,
        times: Sequence[float] | None = None,
    ):
        super().__init__(domain, network, solver, conditions)
        self.last_step = last_step
        self.passes = passes(times, start_from_noise=True) if times else []

    @property
    def n_evaluations(self) -> int | None:
        return sum(len(part) - 1 for part in self.passes) or self.solver.n_evaluations

    def velocity(self, points: P, context: Context, t: Tensor) -> P:
        return self.output(points, context, t)

    def path_at(self, noise: float) -> tuple[float, float]:
        return noise / (1 + noise), 1 / (1 + noise)

    def generate(self, latent: P, context: Context, n_evaluations: int | None, generator: torch.Generator) -> P:
        if context.fixed is None:
            if n_evaluations is None and self.passes:
                return self._by_passes(latent, context)
            return super().generate(latent, context, n_evaluations, generator)
        assert isinstance(latent, Points)
        ends = torch.tensor([1.0, 0.0], device="cpu")
        times = self._euler(n_evaluations or self.n_evaluations or 20).times(ends)
        return sample_around(self, latent, context, times.tolist(), generator)

    def _by_passes(self, latent: P, context: Context) -> P:
        first, *others = self.passes

        def velocity(points: P, t: Tensor) -> P:
            return self.velocity(points, context, t)

        return pass_again(velocity, euler_steps(velocity, latent, first), others)

    def _steps(self, latent: P, context: Context, end: float, n_steps: int) -> P:
        """By Euler's method; all steps are equal, or with `last_step` all but the last."""
        return self.integrate(latent, context, 1.0, end, solver=self._euler(n_steps)).points  # type: ignore[no-any-return]

    def _euler(self, n_steps: int) -> FixedStepSolver:
        return FixedStepSolver(method="euler", n_steps=n_steps, last_step=self.last_step, adjoint=self.solver.adjoint)
