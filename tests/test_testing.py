"""The assertions of molflow.testing: each of them must fail on something that breaks its law."""

import math

import pytest
import torch
from laws import random_points

from molflow import testing
from molflow.geometry import Points

POINTS, MASK = random_points(2, 1)
BROKEN = {
    "rotation": lambda x, h, mask: (x.abs(), h),
    "reflection": lambda x, h, mask: (torch.stack([-x[..., 1], x[..., 0]], -1) - x, h),
    "translation": lambda x, h, mask: (x, h),
    "permutation": lambda x, h, mask: (0 * x, h.cumsum(1) * mask.unsqueeze(-1)),
    "padding": lambda x, h, mask: (0 * x, h * x.shape[1]),
    "zero padding": lambda x, h, mask: (0 * x, h + 1),
}


@pytest.mark.parametrize("law", BROKEN)
def test_a_network_that_breaks_a_law_is_caught(law):
    with pytest.raises(AssertionError, match=f"^{law}: error"):
        testing.assert_equivariant(BROKEN[law], *POINTS, MASK)


def test_errors_are_those_measured():
    errors = testing.assert_equivariant(lambda x, h, mask: (0 * x, h + 1e-11 * x[..., :1]), *POINTS, MASK)
    assert 1e-13 < errors["reflection"] < 1e-10
    assert errors["padding"] == 0


def handedness(p, mask):
    a, b = (p.h * p.x).sum(1), (p.h**2 * p.x).sum(1)
    return a[:, 0] * b[:, 1] - a[:, 1] * b[:, 0]


CHANGING = {
    "rotation": lambda p, mask: p.x.abs().sum((1, 2)),
    "reflection": handedness,
    "permutation": lambda p, mask: p.x[:, 0].norm(dim=1),
    "padding": lambda p, mask: p.h.mean((1, 2)),
}


@pytest.mark.parametrize("law", CHANGING)
def test_a_density_that_breaks_a_law_is_caught(law):
    with pytest.raises(AssertionError, match=f"^{law}: error"):
        testing.assert_invariant(CHANGING[law], POINTS, MASK)


def test_a_wrong_log_determinant_inverse_or_image_is_caught():
    def double(p, mask):
        return Points(2 * p.x, p.h)

    def right(mask):
        return 2 * (mask.sum(1) - 1).double() * math.log(2)

    torch.testing.assert_close(testing.reference_log_det(double, POINTS, MASK), right(MASK))
    testing.assert_log_det(lambda p, mask: (double(p, mask), right(mask)), POINTS, MASK)
    with pytest.raises(AssertionError, match=r"^log-determinant: error"):
        testing.assert_log_det(lambda p, mask: (double(p, mask), right(mask) + 1e-6), POINTS, MASK)
    with pytest.raises(AssertionError, match=r"^inverse: error"):
        testing.assert_inverse(double, double, POINTS, MASK)
    with pytest.raises(AssertionError, match=r"^mean-free output: error"):
        testing.reference_log_det(lambda p, mask: Points(p.x + 1, p.h), POINTS, MASK)


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_a_density_with_another_integral_is_caught(dim):
    def log_prob(x):
        return torch.distributions.Normal(0.0, 1.0).log_prob((x[:, 0] - x[:, 1]) / 2**0.5).sum(-1)

    testing.assert_integrates_to_one(log_prob, dim, extent=9.0, tolerance=1e-5)
    with pytest.raises(AssertionError, match=r"integrates to 1\.02"):
        testing.assert_integrates_to_one(lambda x: log_prob(x) + 0.02, dim, extent=9.0)
