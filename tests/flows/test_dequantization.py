"""Laws of every dequantizer: types come back, q is a normalised density, and the bound is one."""

import math

import pytest
import torch
from laws import random_points

from molflow.flows import DEQUANTIZERS

DRAWS = 100_000
NORMAL = torch.distributions.Normal(torch.zeros(()).double(), 1.0)

# P(support of q(. | c)) for a standard normal h with K entries, in closed form.
SUPPORT = {
    "argmax": lambda k: 1 / k,
    "scaled_one_hot": lambda k: 1 / k,
    "variational": lambda k: (
        float(NORMAL.cdf(torch.tensor(2.0)) - NORMAL.cdf(torch.tensor(1.0)))
        * float(NORMAL.cdf(torch.tensor(1.0)) - 0.5) ** (k - 1)
    ),
}


@pytest.fixture(params=DEQUANTIZERS)
def name(request):
    return request.param


def make(name, n_types):
    """A dequantizer whose types differ from each other, wide enough to reach all of its support."""
    dequantizer = DEQUANTIZERS[name](n_types).double()
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        dequantizer.mean.add_(0.3 * torch.randn(n_types, n_types, dtype=torch.float64, generator=generator))
        dequantizer.log_std.fill_(math.log(1.3))
    return dequantizer


def draw(dequantizer, n_types, c=1):
    """h (DRAWS, K) and log q(h | c) (DRAWS,) of one-atom molecules of type c."""
    types = torch.full((DRAWS, 1), c)
    with torch.no_grad():
        h, log_q = dequantizer(types, torch.ones_like(types, dtype=torch.bool), torch.Generator().manual_seed(0))
    return h.squeeze(1), log_q


def test_types_come_back(name):
    types = torch.arange(5).repeat(2000, 1)
    h, _ = DEQUANTIZERS[name](5)(types, torch.ones_like(types, dtype=torch.bool), torch.Generator().manual_seed(0))
    assert torch.equal(DEQUANTIZERS[name](5).quantize(h), types)


def test_scaled_one_hot_features_differ_by_a_quarter():
    types = torch.arange(5).repeat(200, 1)
    mask = torch.ones_like(types, dtype=torch.bool)
    h, _ = DEQUANTIZERS["scaled_one_hot"](5)(types, mask, torch.Generator().manual_seed(0))
    expected = 0.25 * torch.nn.functional.one_hot(types, 5) - 0.0625
    assert (h - expected).std() < 0.02
    assert (h - expected).mean().abs() < 0.001


def test_padding_changes_nothing_and_is_zero(name):
    dequantizer = make(name, 3)
    _, mask = random_points(3, 0)
    wide = torch.nn.functional.pad(mask, (0, 2))
    types = torch.arange(wide.numel()).view(wide.shape) % 3 * wide - (~wide).long()  # -1 at padding, as domains have it
    h, log_q = dequantizer(types[:, :-2], mask, torch.Generator().manual_seed(0))
    wide_h, wide_log_q = dequantizer(types, wide, torch.Generator().manual_seed(0))
    torch.testing.assert_close(wide_h[:, :-2], h, rtol=0, atol=0)
    torch.testing.assert_close(wide_log_q, log_q, rtol=0, atol=1e-12)
    assert not wide_h[~wide].any()
    assert torch.equal(dequantizer.quantize(h)[mask], types[:, :-2][mask])


def test_log_det_is_that_of_the_jacobian(name):
    dequantizer = make(name, 4)
    u = 2 * torch.randn(6, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    for c in range(4):
        for row in u:
            jacobian = torch.autograd.functional.jacobian(
                lambda v, c=c: dequantizer.transform(v, torch.tensor(c))[0], row
            )
            log_det = dequantizer.transform(row, torch.tensor(c))[1].sum()
            torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet, atol=1e-10, rtol=0)


def test_log_q_is_normalised(name):
    """E_q[1{h in A} / q(h)] is the volume of any A inside the support; A is a box that both supports contain."""
    n_types = 2
    h, log_q = draw(make(name, n_types), n_types)
    shifted = h - torch.tensor([0.0, 1.0])
    weights = (-log_q).exp() * ((shifted > 0.2) & (shifted < 0.8)).all(1)
    error = weights.std() / DRAWS**0.5
    assert error < 0.02 * 0.36
    assert abs(weights.mean() - 0.6**n_types) < 3 * error


def test_the_bound_holds_and_is_tight_under_importance_weights(name):
    """For h ~ N(0, 1): E_q[log p - log q] <= log P(support), and E_q[p / q] is that probability."""
    n_types = 3
    h, log_q = draw(make(name, n_types), n_types)
    log_weights = NORMAL.log_prob(h).sum(1) - log_q
    weights = log_weights.exp()
    probability = SUPPORT[name](n_types)
    assert log_weights.mean() + 3 * log_weights.std() / DRAWS**0.5 < math.log(probability)
    assert abs(weights.mean() - probability) < 3 * weights.std() / DRAWS**0.5
    assert weights.std() / DRAWS**0.5 < 0.02 * probability


def test_parameters_get_gradients(name):
    dequantizer = make(name, 3)
    types = torch.arange(3).repeat(4, 1)
    h, log_q = dequantizer(types, torch.ones_like(types, dtype=torch.bool), torch.Generator().manual_seed(0))
    (h.square().sum() + log_q.sum()).backward()
    assert all((p.grad != 0).all() for p in dequantizer.parameters())
