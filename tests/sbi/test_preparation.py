"""Bounds of priors and features of observations."""

import pytest
import torch
from torch.distributions import (
    Categorical,
    Dirichlet,
    Exponential,
    Independent,
    LogNormal,
    MultivariateNormal,
    Normal,
    Uniform,
    constraints,
)

from molflow.errors import MolflowError
from molflow.sbi.preparation import Bounds, Observations

INF = torch.inf
ONE, TWO = torch.ones(2), torch.tensor([1.0, 2.0])


class Mixed(Normal):
    """One parameter without bounds, one between 0 and 3, one above 1, one below -1."""

    support = constraints.cat(
        [constraints.real, constraints.interval(0.0, 3.0), constraints.greater_than(1.0), constraints.less_than(-1.0)],
        lengths=[1, 1, 1, 1],
    )
    event_shape = torch.Size([4])

    def __init__(self):
        self._batch_shape = torch.Size()
        self._validate_args = False


@pytest.mark.parametrize(
    ("prior", "low", "high"),
    [
        (None, [-INF, -INF], [INF, INF]),
        (MultivariateNormal(ONE, torch.eye(2)), [-INF, -INF], [INF, INF]),
        (Independent(Normal(ONE, 1.0), 1), [-INF, -INF], [INF, INF]),
        (Independent(Uniform(-ONE, TWO), 1), [-1, -1], [1, 2]),
        (Independent(LogNormal(ONE, 1.0), 1), [0, 0], [INF, INF]),
        (Independent(Exponential(ONE), 1), [0, 0], [INF, INF]),
        (Mixed(), [-INF, 0, 1, -INF], [INF, 3, INF, -1]),
    ],
    ids=lambda value: type(value).__name__,
)
def test_bounds_of_priors(prior, low, high):
    bounds = Bounds.of(prior, len(low))
    assert (bounds.low.tolist(), bounds.high.tolist()) == (low, high)


@pytest.mark.parametrize(
    ("prior", "message"),
    [
        (Uniform(torch.zeros(2), ONE), r"expected a prior of vectors \(2,\), got event shape \(\)"),
        (Independent(Normal(torch.zeros(3), 1.0), 1), r"got event shape \(3,\)"),
        (Dirichlet(ONE), "the support of the prior, Simplex.* is not a box"),
        (Independent(Categorical(torch.ones(2, 3)), 1), "is not a box"),
    ],
)
def test_priors_that_cannot_be_used(prior, message):
    with pytest.raises(MolflowError, match=message):
        Bounds.of(prior, 2)


def test_parameters_without_bounds_and_back():
    bounds = Bounds.of(Mixed(), 4)
    theta = torch.tensor([[-2.0, 1.0, 1.5, -4.0], [5.0, 2.9, 7.0, -1.1]]).double()
    u, log_det = bounds.free(theta)
    torch.testing.assert_close(bounds.bound(u), theta)
    assert bounds.contain(theta).all()
    assert not bounds.contain(torch.tensor([[0.0, 3.1, 2.0, -2.0], [0.0, 1.0, 0.9, -2.0]])).any()
    jacobian = torch.autograd.functional.jacobian(lambda t: bounds.free(t)[0].sum(0), theta).transpose(0, 1)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet)


def test_a_uniform_prior_becomes_a_gaussian():
    prior = Independent(Uniform(-ONE, TWO), 1)
    bounds = Bounds.of(prior, 2)
    theta = torch.tensor([[0.3, -0.2], [0.9, 1.9]]).double()
    u, log_det = bounds.free(theta)
    gaussian = Normal(0.0, 1.0).log_prob(u).sum(-1)
    torch.testing.assert_close(gaussian + log_det, prior.log_prob(theta).double())


def test_parameters_at_a_bound_stay_finite():
    bounds = Bounds.of(Mixed(), 4)
    u, log_det = bounds.free(torch.tensor([[0.0, 0.0, 1.0, -1.0], [0.0, 3.0, 1.0, -1.0]]))
    assert u.isfinite().all()
    assert log_det.isfinite().all()
    assert bounds.contain(bounds.bound(1e3 * u)).all()


def observations():
    """A Gaussian, a log-normal, a count with zeros, and a number that never changes."""
    generator = torch.Generator().manual_seed(0)
    normal = torch.randn(2000, 2, generator=generator)
    counts = torch.poisson(3 * normal[:, 1].exp(), generator=generator)
    return torch.stack([normal[:, 0], normal[:, 1].mul(3).exp(), counts, torch.full((2000,), 2.0)], 1)


def test_skewed_numbers_are_taken_as_logarithms():
    x = observations()
    seen = Observations.of(x)
    assert seen.offset.isnan().tolist() == [True, False, False, True]
    assert (seen.offset[1], seen.offset[2]) == (0, 1)
    features = seen.features(x)
    expected = torch.stack([x[:, 0], x[:, 1].log(), (x[:, 2] + 1).log()], 1).double()
    torch.testing.assert_close(features, expected, atol=1e-6, rtol=1e-6)
    assert seen.features(-torch.ones(1, 4)).isfinite().all()


def test_numbers_outside_of_the_simulations():
    seen = Observations.of(observations())
    assert seen.strange(torch.tensor([0.0, 1.0, 3.0, 2.0])) == []
    assert seen.strange(torch.tensor([9.0, 1.0, -1.0, 2.5])) == [1, 3, 4]
