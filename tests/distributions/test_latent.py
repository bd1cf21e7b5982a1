"""The standard normal of a space: normalised, equal to an ordinary normal in coordinates, sampled as it says."""

import pytest
import torch
from laws import random_points

from molflow.distributions import StandardNormal
from molflow.geometry import EuclideanSpace, MeanFreeSpace, Points
from molflow.testing import assert_integrates_to_one, assert_invariant


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_log_prob_is_that_of_the_coordinates(temperature):
    points, mask = random_points(3, 2)
    space = MeanFreeSpace(mask, 3, 2)
    each = torch.distributions.Normal(torch.zeros(()).double(), temperature).log_prob(space.coordinates(points))
    expected = (each * space.coordinate_mask()).sum(1)
    got = StandardNormal(space, temperature).log_prob(points)
    torch.testing.assert_close(got, expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_integrates_to_one(dim):
    def log_prob(x):
        space = MeanFreeSpace(torch.ones(x.shape[:2], dtype=torch.bool), dim)
        return StandardNormal(space, 1.3).log_prob(Points(x, x[..., :0]))

    assert_integrates_to_one(log_prob, dim, extent=12.0, tolerance=1e-5)


def test_is_invariant():
    points, mask = random_points(3, 2)
    assert_invariant(lambda p, m: StandardNormal(MeanFreeSpace(m, 3, 2)).log_prob(p), points, mask)


def test_samples_have_its_second_moment():
    space = MeanFreeSpace(torch.arange(4).expand(20_000, 4) < 3, 2, 1)
    z = StandardNormal(space, 0.5).sample(torch.Generator().manual_seed(0), torch.float64)
    torch.testing.assert_close(torch.cat(space.project(z), -1), torch.cat(z, -1), atol=1e-12, rtol=0)
    y = space.coordinates(z)
    expected = 0.25 * torch.diag(space.coordinate_mask()[0].double())
    torch.testing.assert_close(y.T @ y / len(y), expected, atol=0.01, rtol=0)


@pytest.mark.parametrize("temperature", [1.0, 0.6])
def test_on_vectors_it_is_the_ordinary_normal(temperature):
    latent = StandardNormal(EuclideanSpace(3, 4), temperature)
    z = latent.sample(torch.Generator().manual_seed(0), torch.float64)
    assert torch.equal(
        z, temperature * torch.randn(3, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    )
    expected = torch.distributions.Normal(torch.zeros(()).double(), temperature).log_prob(z).sum(1)
    torch.testing.assert_close(latent.log_prob(z), expected, atol=1e-12, rtol=0)


@pytest.mark.parametrize("temperature", [0.0, -1.0, float("nan")])
def test_temperature_must_be_positive(temperature):
    with pytest.raises(ValueError, match="temperature must be a number from 1e-06 to 1e"):
        StandardNormal(MeanFreeSpace(torch.ones(1, 2, dtype=torch.bool), 3), temperature)
