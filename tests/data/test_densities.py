"""Densities in the plane: normalised, and those of their samples."""

import math

import pytest
import torch

from molflow.data import DATASETS
from molflow.data.densities import PlaneDensity
from molflow.errors import MolflowError

NAMES = ("two-moons", "eight-gaussians", "pinwheel", "checkerboard", "rings")


@pytest.fixture(params=NAMES)
def density(request):
    return DATASETS[request.param](n=20_000)


def grid(extent=6.0, n=240):
    """Midpoints of a grid on [-extent, extent]^2, and the area that each stands for."""
    step = 2 * extent / n
    line = (torch.arange(n, dtype=torch.float64) + 0.5) * step - extent
    return torch.cartesian_prod(line, line), step**2


def test_all_are_data_sets():
    assert {name for name in NAMES if issubclass(DATASETS[name], PlaneDensity)} == set(NAMES)


def test_the_density_integrates_to_one(density):
    x, area = grid()
    total = sum(float(density.log_prob(part).exp().sum()) for part in x.split(20_000)) * area
    assert abs(total - 1) < 1e-5


def test_samples_have_the_density(density):
    """Counts in 12 x 12 cells agree with the integrals of the density over them."""
    x = density.load("train").data.double()
    points, area = grid()
    mass = torch.cat([density.log_prob(part) for part in points.split(20_000)]).exp() * area
    expected = torch.bincount(cell_of(points), mass, minlength=144)
    counts = torch.bincount(cell_of(x), minlength=144)
    assert counts[expected < 1e-9].sum() == 0
    error = (len(x) * expected.clamp(min=1e-9) * (1 - expected)).sqrt()
    assert ((counts - len(x) * expected).abs() < 5 * error + 2).all()


def cell_of(x):
    cell = ((x.clamp(-5.999, 5.999) + 6) // 1).long()
    return 12 * cell[:, 0] + cell[:, 1]


def test_splits_are_reproducible_and_different(density):
    first, again = density.load("train").data, type(density)(n=20_000).load("train").data
    assert torch.equal(first, again)
    assert first.shape == (20_000, 2)
    for other in (density.load("test").data, type(density)(n=20_000, seed=1).load("train").data):
        assert not torch.isin(other, first).all(1).any()


def test_entropies_in_closed_form():
    """Eight Gaussians that hardly overlap, and a uniform density on an area of 32."""
    for name, entropy in (
        ("eight-gaussians", math.log(8) + 1 + math.log(2 * math.pi * 0.09)),
        ("checkerboard", math.log(32)),
    ):
        density = DATASETS[name](n=20_000)
        log_p = density.log_prob(density.load("test").data.double())
        assert abs(float(-log_p.mean()) - entropy) < 4 * float(log_p.std()) / 20_000**0.5 + 1e-3


@pytest.mark.parametrize("noise", [0.05, 0.15])
def test_a_finer_quadrature_changes_nothing(noise):
    """Two moons: the integral over the angle, by the midpoint rule with a hundred times as many nodes."""
    moons = DATASETS["two-moons"](noise=noise)
    x = moons.sample(20, torch.Generator().manual_seed(0)).double()
    n = 20_000
    upper = moons._moon(math.pi * (torch.arange(n, dtype=torch.float64) + 0.5) / n)
    squared = (x.unsqueeze(1) - torch.cat([upper, -upper])).square().sum(2)
    expected = torch.logsumexp(-squared / (2 * noise**2), 1) - math.log(2 * n * 2 * math.pi * noise**2)
    torch.testing.assert_close(moons.log_prob(x), expected, atol=1e-6, rtol=0)


def test_they_have_no_conditions():
    with pytest.raises(MolflowError, match="rings: has no quantities to condition on"):
        DATASETS["rings"](condition=("radius",)).load("train")
