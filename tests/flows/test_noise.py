"""Flows of data with noise: its level, the likelihood at it, and what removes it."""

import math

import pytest
import torch
from laws import ALL_FLOWS, asked, make_flow, random_data, randomize
from torch.distributions import Normal

from molflow.flows import (
    AdaptiveSolver,
    ContinuousFlow,
    DenoiserConfig,
    FixedStepSolver,
    FreeFormConfig,
    NoiseRange,
    VectorDomain,
)
from molflow.flows.domains import ParticlesConfig
from molflow.geometry import squared_norm
from molflow.nn import TransformerConfig

NOISY = [name for name in ALL_FLOWS if "noise" in name]


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def noisy(flow, data, noise, seed):
    """Points with noise as `likelihood` draws it, and their context; what the domain adds."""
    generator = flow.generator(seed)
    points, context, correction = flow.to_points(data, generator, asked(flow).get("condition"))
    return *flow.add_noise(points, context, noise, generator), correction


@pytest.mark.parametrize("which", ["encoder", "decoder"])
@pytest.mark.parametrize("name", [*NOISY, "particles-2d", "vectors-continuous", "vectors-diffusion"])
def test_the_likelihood_is_that_of_points_with_noise(name, which):
    flow = make_flow(name)
    data, noise = random_data(flow), 0.12
    points, context, correction = noisy(flow, data, noise, 3)
    log_p, _ = flow.points_log_prob(points, context, which)
    found = flow.likelihood(data, which=which, seed=3, noise=noise, **asked(flow))
    close(found.log_prob, log_p + correction)
    again = flow.log_prob(data, which=which, seed=4, noise=noise, **asked(flow))
    assert not torch.equal(found.log_prob, again)


@pytest.mark.parametrize("name", NOISY)
def test_by_default_the_noise_is_the_lowest(name):
    flow = make_flow(name)
    data, level = random_data(flow), flow.noise_range.lowest
    assert flow.noise == level
    default = flow.log_prob(data, seed=1, **asked(flow))
    assert torch.equal(default, flow.log_prob(data, seed=1, noise=level, **asked(flow)))
    z, context = noisy(flow, data, level, 0)[:2]
    close(flow.decode(z, context), flow.decode(z, context._replace(noise=None)))
    other = flow.decode(z, context._replace(noise=context.noise * 3))
    assert squared_norm(other - flow.decode(z, context)).max() > 1e-6


@pytest.mark.parametrize("name", NOISY)
@pytest.mark.parametrize("noise", [0.001, 3.0, -1.0, math.nan])
def test_other_noise_is_an_error(name, noise):
    flow = make_flow(name)
    with pytest.raises(ValueError, match=r"noise 0.*to.*got"):
        flow.log_prob(random_data(flow), noise=noise, **asked(flow))


def test_negative_noise_is_an_error():
    flow = make_flow("particles-2d")
    with pytest.raises(ValueError, match="noise must be a number from 0"):
        flow.log_prob(random_data(flow), noise=-0.1)


@pytest.mark.parametrize("which", ["encoder", "decoder"])
@pytest.mark.parametrize("noise", [0.0, 0.01, 0.5, 2.0])
def test_a_continuous_flow_gives_the_density_at_any_noise(noise, which):
    """The paths of N(0, 0.3^2) have the velocity (t - (1 - t) 0.3^2) x / ((1 - t)^2 0.3^2 + t^2)."""

    class Velocity(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.width = torch.nn.Parameter(torch.tensor(0.3, dtype=torch.float64))

        def forward(self, x, condition, t):
            variance = self.width**2
            return (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2) * x

    flow = ContinuousFlow(VectorDomain(2), Velocity(), AdaptiveSolver(rtol=1e-9, atol=1e-9))
    x = torch.randn(5, 2, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 0.3
    points = noisy(flow, x, noise, 7)[0]
    expected = Normal(0.0, math.hypot(0.3, noise)).log_prob(points).sum(1)
    found = flow.likelihood(x, noise=noise, seed=7, which=which)
    close(found.log_prob, expected, 1e-6)
    assert found.reconstruction_error.max() < 1e-6


def test_a_continuous_flow_takes_one_level():
    flow = make_flow("vectors-continuous")
    points, context, _ = flow.to_points(random_data(flow), None)
    points, context = flow.add_noise(points, context, torch.linspace(0.1, 0.2, 4), None)
    with pytest.raises(ValueError, match="one level of noise"):
        flow.encode(points, context)


def test_levels_of_training_are_uniform_in_their_logarithm():
    noise, n = NoiseRange(lowest=0.02, highest=0.5), 20_000
    levels = noise.draw(n, torch.Generator().manual_seed(0), torch.float64)
    assert levels.min() >= 0.02
    assert levels.max() <= 0.5
    scaled = noise.scaled(levels).sort().values
    close(scaled, torch.linspace(-1, 1, n, dtype=torch.float64), 0.03)


def test_errors_count_by_their_share_of_the_noise():
    flow = make_flow("particles-noise-conditional")
    data, condition = random_data(flow), asked(flow)["condition"]
    terms = flow.terms(data, condition, flow.generator(0))
    points, context, _ = flow.to_points(data, None, condition)
    _, context = flow.add_drawn_noise(points, context, flow.generator(0))
    close(terms.weight, flow.noise_range.highest / context.noise)
    expected = 7 * terms.weight * terms.reconstruction + terms.latent - terms.surrogate - terms.correction
    close(terms.loss(7.0), expected.mean())
    assert (make_flow("particles-2d").terms(data, None, flow.generator(0)).weight == 1).all()


def test_samples_are_denoised_and_densities_are_not():
    flow = make_flow("composed-environment-noise")
    drawn, _ = flow.sample_and_log_prob(6, seed=0)
    assert torch.equal(flow.sample(6, seed=0).positions, drawn.positions)
    assert flow.has_density(None)
    velocity = randomize(TransformerConfig(hidden=6, n_vectors=2, n_heads=1, n_blocks=1).build(0, 5, 1)).double()
    flow.denoiser, flow.denoiser_times = velocity, (0.2, 0.05, 0.0)
    assert not flow.has_density(None)
    with flow.counted() as evaluations:
        samples = flow.sample(6, seed=0)
    assert evaluations.configurations == 6 + 12
    assert torch.equal(flow.sample_and_log_prob(6, seed=0)[0].positions, drawn.positions)
    heavy = [batch.positions[batch.atomic_numbers > 1] for batch in (samples, drawn)]
    assert (heavy[0] - heavy[1]).abs().max() > 1e-3


def test_a_denoiser_follows_a_path_to_the_data():
    """It is the end of the path of the continuous flow whose velocity it has."""
    flow, path = make_flow("composed-environment-noise"), make_flow("composed-environment-continuous")
    flow.denoiser, flow.denoiser_times = path.network, (0.4, 0.3, 0.2, 0.1, 0.0)
    points, context, _ = flow.to_points(random_data(flow), None)
    euler = FixedStepSolver(method="euler", n_steps=4)
    end = path.integrate(points * 0.6, context, 0.4, 0.0, solver=euler).points
    close(flow.denoise(points, context).x, end.x, 1e-7)


@pytest.mark.parametrize("times", [(0.1,), (1.0, 0.0), (0.1, 0.2, 0.0), (0.2, 0.1)])
def test_times_of_a_denoiser_fall_to_the_data(times):
    with pytest.raises(ValueError, match="times must fall from below 1 to 0"):
        DenoiserConfig(times=times)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"noise": NoiseRange(), "average_velocity": True}, "takes two times and no noise"),
        ({"denoiser": DenoiserConfig()}, "a denoiser needs noise to remove"),
    ],
)
def test_parts_that_do_not_fit(settings, message):
    with pytest.raises(ValueError, match=message):
        FreeFormConfig(domain=ParticlesConfig(n_particles=2, dim=2), **settings).build()


def test_a_range_has_two_ends():
    with pytest.raises(ValueError, match="lowest must be below highest"):
        NoiseRange(lowest=0.2, highest=0.1)
