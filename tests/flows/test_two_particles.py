"""A flow fitted to two particles is still a normalised density: it is integrated over its whole space."""

import math

import pytest
import torch

from molflow.flows import FreeFormConfig
from molflow.flows.domains import ParticlesConfig
from molflow.geometry import Context
from molflow.nn import EGNNConfig
from molflow.testing import assert_integrates_to_one, assert_invariant


def shell(n: int, dim: int, generator: torch.Generator) -> torch.Tensor:
    """Pairs (n, 2, dim) at distance sqrt 2 |N(1.5, 0.4)|: a fuzzy shell, far from a Gaussian."""
    direction = torch.nn.functional.normalize(torch.randn(n, dim, generator=generator), dim=1)
    y = (1.5 + 0.4 * torch.randn(n, 1, generator=generator)) * direction
    return torch.stack([y, -y], 1) / math.sqrt(2)


@pytest.fixture(scope="module", params=[2, 3])
def fitted(request):
    """A float64 flow after 200 steps of training in float32, and the number of coordinates."""
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = EGNNConfig(hidden=16, n_blocks=2, n_inner=0)
        domain = ParticlesConfig(n_particles=2, dim=request.param)
        flow = FreeFormConfig(domain=domain, encoder=network, decoder=network).build()
    generator = torch.Generator().manual_seed(0)
    optimizer = torch.optim.Adam(flow.parameters())
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=5e-3, total_steps=200)
    for _ in range(200):
        optimizer.zero_grad()
        flow.terms(shell(128, request.param, generator), None, generator).loss(beta=20.0).backward()
        optimizer.step()
        schedule.step()
    return flow.double(), request.param


def test_fit_beats_the_best_gaussian(fitted):
    flow, dim = fitted
    x = shell(5000, dim, torch.Generator().manual_seed(1)).double()
    variance = float(x.square().sum() / (len(x) * dim))
    gaussian = dim / 2 * (1 + math.log(2 * math.pi * variance))
    likelihood = flow.likelihood(x)
    assert -likelihood.log_prob.mean() < gaussian - 0.1
    assert likelihood.reconstruction_error.mean() < 0.02


def test_fitted_density_integrates_to_one(fitted):
    flow, dim = fitted
    x = shell(20, dim, torch.Generator().manual_seed(1)).double()
    points, context, _ = flow.domain.to_points(x, None)

    def log_prob(p, mask):
        return flow.points_log_prob(p, Context(mask, p.h), "encoder")[0]

    assert_invariant(log_prob, points, context.mask)  # so one direction will do
    assert_integrates_to_one(flow.log_prob, dim, extent=10.0, tolerance=0.01)


def test_samples_lie_on_the_shell(fitted):
    flow, _ = fitted
    x, log_q = flow.sample_and_log_prob(5000, seed=0)
    radius = x.square().sum((1, 2)).sqrt()
    assert abs(radius.mean() - 1.5) < 0.05
    assert abs(radius.std() - 0.4) < 0.06
    torch.testing.assert_close(log_q.mean(), flow.log_prob(x).mean(), atol=0.02, rtol=0)
