"""Diffusion (arXiv 2006.11239, 2011.13456): a network predicts the noise in data that are gradually replaced by it."""

import math
from itertools import pairwise
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.flows.base import FlowConfig
from molflow.flows.conditions import Conditions
from molflow.flows.continuous import ODEFlow
from molflow.flows.domains.base import Data, Domain
from molflow.flows.networks import build_network
from molflow.flows.registry import FLOWS
from molflow.flows.solvers import AdaptiveSolver, Solver, SolverChoice
from molflow.geometry import Context, P, scale
from molflow.nn import EGNNConfig, Network

SamplerName = Literal["ancestral", "ddim", "ode"]


@FLOWS.register("diffusion")
class DiffusionConfig(FlowConfig):
    """`DiffusionFlow`, on any network of one time.

    Attributes:
        domain, conditions, solver, sampler: as in `DiffusionFlow`.
    """

    trained_by: ClassVar[str] = "diffusion"
    network: Network = EGNNConfig()
    solver: SolverChoice = AdaptiveSolver()
    sampler: SamplerName = "ancestral"
    n_steps: int = Field(1000, gt=0, description="steps of the samplers ancestral and ddim")

    def build(self) -> "DiffusionFlow[Any]":
        domain, conditions = self.build_domain()
        network = build_network(self.network, domain, conditions, 1)
        return DiffusionFlow(domain, network, self.solver, conditions, self.sampler, self.n_steps)


def path_coefficients(t: Tensor) -> tuple[Tensor, Tensor]:
    """alpha = cos(pi t / 2) and sigma = sin(pi t / 2), the cosine schedule (arXiv 2102.09672) without its offset.

    alpha^2 + sigma^2 = 1, so the path alpha p + sigma e keeps the variance of data with unit variance.
    """
    angle = math.pi / 2 * t
    return angle.cos(), angle.sin()


class DiffusionFlow(ODEFlow[Data]):
    """Variance-preserving paths p_t = alpha p + sigma e from data p at time 0 to noise e at time 1.

    With the output F of the network the prediction of e is sigma p_t + alpha F, and that of p is alpha p_t - sigma F
    (arXiv 2202.00512). At time 1, where p_t says nothing about p, the prediction of e is then p_t and both are finite.
    The velocity of the probability flow, alpha' p + sigma' e with both predicted, is pi / 2 F. It gives encoder,
    decoder and likelihood (arXiv 2011.13456). Steps of `n_evaluations` in `decode` are those of `ddim`.

    A step of a sampler from time t to s < t, equally spaced, with noise ratio r = (sigma_s / alpha_s) / (sigma_t /
    alpha_t), standard normal n and predictions p', e' (arXiv 2010.02502, equation 12):

    ancestral: p_s = alpha_s p' + sigma_s (r e' + sqrt(1 - r^2) n), a draw from q(p_s | p_t, p = p') (arXiv 2006.11239);
    ddim: p_s = alpha_s p' + sigma_s e'.

    The sampler `ode` is the map of the decoder by the solver, so its samples have the density that the flow gives.

    Args:
        domain, network, solver, conditions: as in `ODEFlow`.
        sampler: of `sample`.
        n_steps: of the samplers ancestral and ddim, where `sample` is given no `n_evaluations`.

    Example:
        >>> domain = molflow.flows.VectorDomain(2)
        >>> flow = DiffusionFlow(domain, molflow.nn.MLP(2, n_times=1), sampler="ddim", n_steps=10)
        >>> flow.sample(5, seed=0).shape
        torch.Size([5, 2])
    """

    def __init__(
        self,
        domain: Domain[Data],
        network: nn.Module,
        solver: Solver | None = None,
        conditions: Conditions | None = None,
        sampler: SamplerName = "ancestral",
        n_steps: int = 1000,
    ):
        super().__init__(domain, network, solver, conditions)
        self.sampler, self.n_steps = sampler, n_steps

    @property
    def n_evaluations(self) -> int | None:
        return self.solver.n_evaluations if self.sampler == "ode" else self.n_steps

    def has_density(self, n_evaluations: int | None) -> bool:
        return self.sampler == "ode" and n_evaluations is None

    def velocity(self, points: P, context: Context, t: Tensor) -> P:
        return self.output(points, context, t) * (math.pi / 2)

    def path_at(self, noise: float) -> tuple[float, float]:
        angle = math.atan(noise)
        return 2 / math.pi * angle, math.cos(angle)

    def data_and_noise(self, points: P, context: Context, t: Tensor) -> tuple[P, P]:
        """Predictions of p and of e in p_t = alpha p + sigma e at times t, (B,)."""
        output = self.output(points, context, t)
        alpha, sigma = path_coefficients(t)
        data = scale(points, alpha) - scale(output, sigma)
        return data, scale(points, sigma) + scale(output, alpha)

    def generate(self, latent: P, context: Context, n_evaluations: int | None, generator: torch.Generator) -> P:
        if n_evaluations is None and self.sampler != "ode":
            n_evaluations = self.n_steps
        if self.sampler != "ancestral" or n_evaluations is None or n_evaluations < 1:  # which `decode` refuses
            return self.decode(latent, context, n_evaluations)
        return self._steps(latent, context, 0.0, n_evaluations, generator)

    def _steps(
        self, latent: P, context: Context, end: float, n_steps: int, generator: torch.Generator | None = None
    ) -> P:
        """Those of `ancestral` with a generator, those of `ddim` without."""
        points = latent
        for t, s in pairwise(torch.linspace(1, end, n_steps + 1, dtype=torch.float64, device="cpu").tolist()):
            points = self._step(points, context, t, s, generator)
        return points

    def _step(self, points: P, context: Context, t: float, s: float, generator: torch.Generator | None) -> P:
        """The point at time s of one at time t."""
        at = torch.full((len(context.mask),), t, dtype=self.dtype, device=context.mask.device)
        data, noise = self.data_and_noise(points, context, at)
        early, late = math.pi / 2 * s, math.pi / 2 * t
        if generator is not None:
            ratio = math.tan(early) / math.tan(late)
            fresh = self.domain.space(context.mask).randn(generator, self.dtype)
            noise = noise * ratio + fresh * math.sqrt(1 - ratio**2)
        return data * math.cos(early) + noise * math.sin(early)
