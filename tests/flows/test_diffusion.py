"""Diffusion: a Gaussian, whose predictions, samplers and likelihood are known in closed form, and how it is sampled."""

import math
from itertools import pairwise

import pytest
import torch
from laws import make_flow
from torch import nn
from torch.distributions import Normal

from molflow.flows import AdaptiveSolver, DiffusionFlow, ParticleDomain, VectorDomain, acceleration
from molflow.geometry import squared_norm

WIDTH = 0.4
TIGHT = AdaptiveSolver(rtol=1e-9, atol=1e-9)


class Exact(nn.Module):
    """F = alpha sigma (1 - s^2) p / (alpha^2 s^2 + sigma^2), with which predictions of N(0, s^2) are exact."""

    n_times = 1

    def __init__(self):
        super().__init__()
        self.width = nn.Parameter(torch.tensor(WIDTH, dtype=torch.float64))

    def forward(self, x, *others):
        t = others[-1] * math.pi / 2
        variance = self.width**2
        factor = t.sin() * t.cos() * (1 - variance) / (variance * t.cos() ** 2 + t.sin() ** 2)
        if x.ndim == 2:
            return factor * x
        return factor[..., None] * x, others[0]


DOMAINS = {"vectors": VectorDomain(2), "particles": ParticleDomain(3, 2)}


def exact_flow(domain="vectors", **settings):
    return DiffusionFlow(DOMAINS[domain], Exact(), TIGHT, **settings)


@pytest.fixture(params=DOMAINS)
def domain(request):
    return request.param


def case(flow, n=5, seed=0):
    """Standard normal points and their context."""
    context = flow.domain.sample_context(n, flow.generator(0), flow.device, flow.dtype)
    return flow.domain.space(context.mask).randn(flow.generator(seed), flow.dtype), context


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def tensor_of(point):
    return point if isinstance(point, torch.Tensor) else point.x


def signal(t):
    """alpha^2 and sigma^2."""
    return math.cos(math.pi / 2 * t) ** 2, math.sin(math.pi / 2 * t) ** 2


# ---- a Gaussian ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("t", [0.0, 0.3, 0.8, 1.0])
def test_predictions_are_the_means_given_the_point(domain, t):
    """E[p | p_t] = alpha s^2 p_t / v and E[e | p_t] = sigma p_t / v, with v the variance of p_t."""
    flow = exact_flow(domain)
    points, context = case(flow)
    alpha2, sigma2 = signal(t)
    variance = alpha2 * WIDTH**2 + sigma2
    data, noise = flow.data_and_noise(points, context, torch.full((5,), t, dtype=torch.float64))
    close(tensor_of(data), tensor_of(points) * math.sqrt(alpha2) * WIDTH**2 / variance)
    close(tensor_of(noise), tensor_of(points) * math.sqrt(sigma2) / variance)


@pytest.mark.parametrize("which", ["encoder", "decoder"])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.5, 2.0])
def test_the_likelihood_is_exact_at_any_noise(domain, noise, which):
    flow = exact_flow(domain)
    data = WIDTH * tensor_of(case(flow, seed=1)[0])
    generator = flow.generator(7)
    points, context, _ = flow.to_points(data, generator)
    points, context = flow.add_noise(points, context, noise, generator)
    width = math.hypot(WIDTH, noise)
    dof = flow.domain.space(context.mask).dof
    expected = -squared_norm(points) / (2 * width**2) - dof / 2 * math.log(2 * math.pi * width**2)
    found = flow.likelihood(data, noise=noise, seed=7, which=which)
    close(found.log_prob, expected, 1e-6)
    assert found.reconstruction_error.max() < 1e-6


def test_the_decoder_scales_and_ddim_comes_to_the_same(domain):
    """Of N(0, s^2) the probability flow takes z to s z, and the error of n steps falls with 1 / n."""
    flow = exact_flow(domain)
    z, context = case(flow)
    close(tensor_of(flow.decode(z, context)), WIDTH * tensor_of(z), 1e-7)
    errors = [
        (tensor_of(flow.decode(z, context, n)) - WIDTH * tensor_of(z)).norm().item() / tensor_of(z).norm().item()
        for n in (20, 40, 80, 1000)
    ]
    assert all(1.8 < a / b < 2.2 for a, b in pairwise(errors[:3]))
    assert errors[-1] < 2e-3


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "ode"])
def test_samples_have_the_width_of_the_data(domain, sampler):
    n, dof = 10_000, {"vectors": 2, "particles": 4}[domain]
    samples = exact_flow(domain, sampler=sampler, n_steps=200).sample(n, seed=0, batch_size=n)
    assert (samples.square().sum() / (dof * n)).sqrt().item() == pytest.approx(WIDTH, rel=0.03)
    if domain == "vectors":
        quarters = Normal(0, WIDTH).cdf(samples).histc(4, 0, 1) / (2 * n)
        assert quarters.tolist() == pytest.approx([0.25] * 4, abs=0.015)


@pytest.mark.parametrize("n_steps", [1, 2, 5])
def test_ancestral_samples_have_the_variance_of_its_steps(n_steps):
    """Followed by the posterior of arXiv 2006.11239, equations 6 and 7, at the mean of p given p_t."""
    variance = 1.0
    for t, s in pairwise(torch.linspace(1, 0, n_steps + 1, dtype=torch.float64).tolist()):
        (alpha2_t, sigma2_t), (alpha2_s, sigma2_s) = signal(t), signal(s)
        beta = 1 - alpha2_t / alpha2_s
        data = math.sqrt(alpha2_t) * WIDTH**2 / (alpha2_t * WIDTH**2 + sigma2_t)
        factor = (math.sqrt(alpha2_s) * beta * data + math.sqrt(1 - beta) * sigma2_s) / sigma2_t
        variance = factor**2 * variance + sigma2_s / sigma2_t * beta
    samples = exact_flow(n_steps=n_steps).sample(50_000, seed=0, batch_size=50_000)
    assert samples.square().mean().item() == pytest.approx(variance, rel=0.02, abs=1e-12)


# ---- sampling --------------------------------------------------------------------------------------------------------


def test_a_step_of_ancestral_sampling_is_a_draw_from_the_posterior():
    flow = make_flow("molecules-diffusion")
    context = flow.domain.sample_context(4, flow.generator(0), flow.device, flow.dtype)
    space = flow.domain.space(context.mask)
    points, t, s = space.randn(flow.generator(1), flow.dtype), 0.7, 0.45
    (alpha2_t, sigma2_t), (alpha2_s, sigma2_s) = signal(t), signal(s)
    beta = 1 - alpha2_t / alpha2_s
    _, noise = flow.data_and_noise(points, context, torch.full((4,), t, dtype=torch.float64))
    mean = (points - noise * (beta / math.sqrt(sigma2_t))) * (1 / math.sqrt(1 - beta))
    expected = mean + space.randn(flow.generator(2), flow.dtype) * math.sqrt(sigma2_s / sigma2_t * beta)
    found = flow._step(points, context, t, s, flow.generator(2))
    close(found.x, expected.x)
    close(found.h, expected.h)
    assert found.h.abs().max() > 0.1


def test_each_sampler_takes_a_number_of_steps():
    ancestral, ddim, ode = (exact_flow(sampler=name, n_steps=7) for name in ("ancestral", "ddim", "ode"))
    z, context = case(ddim, 6, seed=3)
    for n, k in ((None, 7), (4, 4)):
        close(ddim.sample(6, seed=3, n_evaluations=n), ddim.decode(z, context, k))
        for flow in (ancestral, ddim):
            with flow.counted() as evaluations:
                flow.sample(6, seed=3, n_evaluations=n)
            assert evaluations.configurations == 6 * k
        assert (ancestral.sample(6, seed=3, n_evaluations=n) - ddim.decode(z, context, k)).abs().max() > 0.01
    close(ode.sample(6, seed=3), ode.decode(z, context))
    close(ode.sample(6, seed=3, n_evaluations=4), ode.decode(z, context, 4))
    assert [flow.n_evaluations for flow in (ancestral, ddim, ode)] == [7, 7, None]
    assert [flow.has_density(None) for flow in (ancestral, ddim, ode)] == [False, False, True]
    assert not ode.has_density(7)


@pytest.mark.parametrize("sampler", ["ancestral", "ddim", "ode"])
@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_step_is_refused(sampler, n):
    with pytest.raises(ValueError, match=f"n_evaluations must be at least 1, got {n}"):
        exact_flow(sampler=sampler).sample(2, seed=0, n_evaluations=n)


def test_a_trial_of_the_networks_leaves_the_samples_alone(monkeypatch):
    """Whether compiling would repay itself is found out by drawing a few samples."""
    flow = make_flow("molecules-diffusion")
    calls, generate = [], flow.generate
    monkeypatch.setattr(flow, "generate", lambda *given: calls.append(1) or generate(*given))
    expected = flow.sample(6, seed=1, batch_size=4).positions
    untried = len(calls)
    monkeypatch.setattr(acceleration, "_FEW", 0)
    assert flow.sample(6, seed=1, batch_size=4).positions.equal(expected)
    assert len(calls) == 2 * untried + 1
