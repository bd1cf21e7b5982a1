"""Continuous normalizing flows (arXiv 1806.07366, 1810.01367): points move along a velocity that a network gives."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn

from molflow.distributions import MeanFreeNormal
from molflow.flows.base import Flow
from molflow.flows.domains import Data, Domain
from molflow.flows.solvers import AdaptiveSolver, FixedStepSolver, Solver
from molflow.geometry import Context, MeanFreeSpace, Points
from molflow.registry import Registry
from molflow.volume import Map, divergence

Integrand = Callable[[Map, Points], tuple[Points, tuple[Tensor, ...]]]

DIVERGENCES: Registry[Callable[..., Points] | None] = Registry("divergence")
"""Name -> draw of a probe vector."""
DIVERGENCES.register("rademacher")(MeanFreeSpace.rademacher)
DIVERGENCES.register("gaussian")(MeanFreeSpace.randn)


@DIVERGENCES.register("exact")
def _no_probe(*arguments: object) -> Points:
    raise ValueError("the exact divergence takes no probes")


class Path(NamedTuple):
    """Where a path ends.

    Attributes:
        points: at the end.
        integrals: of further quantities over time along the path, (B,) each.
        n_evaluations: how often the velocity was evaluated.
    """

    points: Points
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

    def loss(self, kinetic_energy: float = 0.0) -> Tensor:
        """The mean of -log p(data) + kinetic_energy int |f|^2 dt / dof."""
        return (self.latent - self.log_det - self.correction + kinetic_energy * self.kinetic_energy).mean()


class ContinuousFlow(Flow[Data]):
    """dp/dt = f(p, context, t) on the mean-free space of positions and features, from data at time 0 to latents at 1.

    log p(p_0) = log p(p_1) + int_0^1 div f dt, where the divergence is the trace of df/dp on that space, of
    (n - 1) D + n F dimensions. The likelihood and the density of samples take it exactly, one derivative for each
    dimension; training may estimate it.

    Args:
        domain: what the flow is a distribution over.
        network: (x, h, mask, t) -> (dx, dh) with one time, as in `molflow.nn`.
        solver: how paths are followed, by default dopri5 with tolerances of 1e-4.
    """

    def __init__(self, domain: Domain[Data], network: nn.Module, solver: Solver | None = None):
        super().__init__(domain)
        self.network, self.solver = network, solver or AdaptiveSolver()

    @property
    def n_evaluations(self) -> int | None:
        return self.solver.n_evaluations

    @property
    def takes_evaluations(self) -> bool:
        return True

    def has_density(self, n_evaluations: int | None) -> bool:
        return n_evaluations is None

    def velocity(self, points: Points, context: Context, t: Tensor) -> Points:
        """f(p, context, t) at times t, (B,) or one for all."""
        times = t.to(points.x.dtype).expand(len(points.x)).unsqueeze(-1)
        return Points(*self.network(points.x, torch.cat([points.h, context.labels], -1), context.mask, times))

    def integrate(
        self,
        points: Points,
        context: Context,
        start: float,
        end: float,
        integrand: Integrand | None = None,
        n_integrals: int = 0,
        solver: Solver | None = None,
    ) -> Path:
        """Follow paths from one time to another.

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
        sizes = [points.x.shape[-1], points.h.shape[-1]]

        def rate(t: Tensor, state: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
            def field(p: Points) -> Points:
                return self.velocity(p, context, t)

            at = Points(*state[0].split(sizes, -1))
            velocity, quantities = (field(at), ()) if integrand is None else integrand(field, at)
            return torch.cat(velocity, -1), *quantities

        nothing = points.x.new_zeros(len(points.x))
        state = torch.cat(points, -1), *[nothing] * n_integrals
        solved = (solver or self.solver).integrate(rate, state, start, end, self.network.parameters())
        joined, *integrals = solved.state
        return Path(Points(*joined.split(sizes, -1)), tuple(integrals), solved.n_evaluations)

    def encode(self, points: Points, context: Context) -> Points:
        return self.integrate(points, context, 0.0, 1.0).points

    def decode(self, latent: Points, context: Context, n_evaluations: int | None = None) -> Points:
        """Latent points -> data points, by the flow's solver, or by as many Euler steps as evaluations are given.

        Raises:
            IntegrationError: the path cannot be integrated.
            ValueError: less than one evaluation.
        """
        if n_evaluations is not None and n_evaluations < 1:
            raise ValueError(f"n_evaluations must be at least 1, got {n_evaluations}")
        euler = n_evaluations and FixedStepSolver(method="euler", n_steps=n_evaluations, adjoint=self.solver.adjoint)
        return self.integrate(latent, context, 1.0, 0.0, solver=euler or None).points

    def encode_with_log_det(self, points: Points, context: Context) -> tuple[Points, Tensor]:
        return self._with_log_det(points, context, 0.0, 1.0)

    def decode_with_log_det(self, latent: Points, context: Context) -> tuple[Points, Tensor]:
        return self._with_log_det(latent, context, 1.0, 0.0)

    def _with_log_det(self, points: Points, context: Context, start: float, end: float) -> tuple[Points, Tensor]:
        space = self.domain.space(context.mask)

        def integrand(field: Map, at: Points) -> tuple[Points, tuple[Tensor, ...]]:
            velocity, trace = divergence(field, at, space)
            return velocity, (trace,)

        path = self.integrate(points, context, start, end, integrand, 1)
        return path.points, path.integrals[0]

    def nll(
        self,
        data: Data,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        divergence: str = "rademacher",
        n_probes: int = 1,
        kinetic_energy: float = 0.0,
    ) -> Tensor:
        """-log p(data) + kinetic_energy int |f|^2 dt / dof in nats, (B,); the divergence is estimated with probes."""
        return self.nll_terms(
            data, condition, generator, divergence=divergence, n_probes=n_probes, kinetic_energy=kinetic_energy
        )[0]

    def nll_terms(
        self,
        data: Data,
        condition: Tensor | None = None,
        generator: torch.Generator | None = None,
        *,
        divergence: str = "rademacher",
        n_probes: int = 1,
        kinetic_energy: float = 0.0,
    ) -> tuple[Tensor, dict[str, Tensor]]:
        """`nll`, and the terms that it consists of by name."""
        terms = self.terms(data, generator, divergence, n_probes, condition)
        nll = terms.latent - terms.log_det - terms.correction + kinetic_energy * terms.kinetic_energy
        return nll, {
            "latent_nll": terms.latent,
            "log_det": terms.log_det,
            "kinetic_energy": terms.kinetic_energy,
            "correction": terms.correction,
            "evaluations": torch.tensor(float(terms.n_evaluations)),
        }

    def terms(
        self,
        data: Data,
        generator: torch.Generator | None,
        kind: str = "rademacher",
        n_probes: int = 1,
        condition: Tensor | None = None,
    ) -> ContinuousTerms:
        """The terms of the training loss for a batch of data; probes are drawn once and stay fixed along the path."""
        points, context, correction = self.to_points(data, generator, condition)
        space = self.domain.space(context.mask)
        probes = [DIVERGENCES[kind](space, generator, self.dtype) for _ in range(n_probes)] if kind != "exact" else None
        return self.terms_of_points(points, context, correction, probes)

    def terms_of_points(
        self, points: Points, context: Context, correction: Tensor, probes: Sequence[Points] | None = None
    ) -> ContinuousTerms:
        """`terms` where the data are points already and the probes are drawn; without any, the divergence is exact."""
        space = self.domain.space(context.mask)
        dof = space.dof_or_one(points.x.dtype)

        def integrand(field: Map, at: Points) -> tuple[Points, tuple[Tensor, ...]]:
            velocity, trace = divergence(field, at, space, probes)
            return velocity, (trace, velocity.squared_norm() / dof)

        path = self.integrate(points, context, 0.0, 1.0, integrand, 2)
        log_det, kinetic_energy = path.integrals
        latent = -MeanFreeNormal(space).log_prob(path.points)
        return ContinuousTerms(latent, log_det, kinetic_energy, correction, path.n_evaluations)
