"""Any two networks are a flow: a user's own modules and loop, and what cannot be a flow."""

import re

import pytest
import torch
from torch import nn

import molflow
from molflow.flows import Conditions, FreeFormFlow, VectorDomain


def network(n_in=2, n_out=2, width=64):
    return nn.Sequential(nn.Linear(n_in, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU(), nn.Linear(width, n_out))


class Conditional(nn.Module):
    """m(x, condition)."""

    def __init__(self, features=2, condition=3):
        super().__init__()
        self.network = network(features + condition, features)

    def forward(self, x, condition):
        return self.network(torch.cat([x, condition], 1))


def fit(flow, draw, n_steps=400, lr=5e-3):
    """Train by a user's own loop with the default settings of the loss; draw(n) gives data and perhaps a condition."""
    optimizer = torch.optim.Adam(flow.parameters(), lr)
    for _ in range(n_steps):
        optimizer.zero_grad()
        flow.loss(*draw(256)).backward()
        optimizer.step()


@pytest.mark.slow
def test_a_gaussian_in_400_steps():
    torch.manual_seed(0)
    target = torch.distributions.MultivariateNormal(
        torch.tensor([1.0, -2.0]), torch.tensor([[2.25, 1.35], [1.35, 1.06]])
    )
    flow = FreeFormFlow(network(), network(), features=2)
    fit(flow, lambda n: (target.sample((n,)),))
    x = target.sample((2000,))
    for which in ("encoder", "decoder"):
        assert abs(float((flow.log_prob(x, which=which) - target.log_prob(x)).mean())) < 0.1
    samples = flow.sample(5000, seed=0)
    assert ((samples.mean(0) - target.mean) / target.stddev).abs().max() < 0.15
    torch.testing.assert_close(samples.T.cov(), target.covariance_matrix, atol=0.3, rtol=0)


@pytest.mark.slow
def test_a_conditional_gaussian():
    torch.manual_seed(0)
    shift = torch.tensor([[1.0, 0.0, 0.0], [0.0, 1.0, -1.0]])

    def draw(n):
        condition = torch.randn(n, 3)
        return condition @ shift.T + 0.5 * torch.randn(n, 2), condition

    flow = FreeFormFlow(Conditional(), Conditional(), features=2, condition=3)
    fit(flow, draw)
    for condition in ([1.0, 0.5, -0.5], [-1.0, 0.0, 1.0]):
        samples = flow.sample(4000, condition=condition, seed=0)
        assert (samples.mean(0) - shift @ torch.tensor(condition)).abs().max() < 0.15
        assert (samples.std(0) - 0.5).abs().max() < 0.1


def test_features_make_vectors_without_scales():
    torch.manual_seed(0)
    encoder, decoder = Conditional(), Conditional()
    flow = molflow.FreeFormFlow(encoder, decoder, features=2, condition=3)
    other = FreeFormFlow(encoder, decoder, domain=VectorDomain(2), condition=Conditions(["a", "b", "c"]))
    x, condition = torch.randn(5, 2), torch.randn(5, 3)
    assert torch.equal(flow.log_prob(x, condition=condition), other.log_prob(x, condition=condition))
    assert torch.equal(flow.sample(5, condition=condition, seed=0), other.sample(5, condition=condition, seed=0))
    assert flow.conditions.names == ("c1", "c2", "c3")
    z = torch.randn(5, 2, generator=flow.generator(0))
    assert torch.equal(flow.sample(5, condition=condition, seed=0), decoder(z, condition))  # no skip connection
    loss = flow.loss(x, condition)
    assert loss.shape == ()
    loss.backward()
    assert all(p.grad.any() for p in flow.parameters())


def test_a_domain_or_features():
    for given in ({}, {"features": 2, "domain": VectorDomain(2)}):
        with pytest.raises(ValueError, match="give either features, the length of the vectors, or a domain"):
            FreeFormFlow(network(), network(), **given)
    with pytest.raises(ValueError, match="expected n_features of 1 or more"):
        FreeFormFlow(network(), network(), features=0)
    with pytest.raises(TypeError):
        FreeFormFlow(network(), network(), VectorDomain(2))


class FirstHalf(nn.Module):
    def forward(self, x):
        return x[: len(x) // 2]


class Two(nn.Module):
    def forward(self, x):
        return x, x


@pytest.mark.parametrize(
    ("encoder", "condition", "message"),
    [
        (network(2, 3), None, "must keep the shape of its input: it maps vectors (3, 2) to (3, 3)"),
        (FirstHalf(), None, "must keep the shape of its input: it maps vectors (3, 2) to (1, 2)"),
        (Two(), None, "must keep the shape of its input: it maps vectors (3, 2) to tuple"),
        (network(3), None, "does not take vectors (3, 2): mat1 and mat2 shapes cannot be multiplied (3x2 and 3x64)"),
        (network(), 3, "does not take vectors (3, 2) and conditions (3, 3): Sequential.forward() takes 2"),
        (Conditional(), 2, "does not take vectors (3, 2) and conditions (3, 2): mat1 and mat2 shapes"),
        (Conditional(), None, "does not take vectors (3, 2): Conditional.forward() missing 1 required positional"),
        (nn.Sequential(network(), nn.BatchNorm1d(2)), None, "has a BatchNorm1d (1), which makes the image of a vector"),
        (nn.Sequential(network(), nn.Dropout(0.1)), None, "has a Dropout (1), which is another map at every call"),
        (nn.Sequential(network(), nn.LayerNorm(2)), None, "has a LayerNorm (1), which has wrong gradients"),
    ],
    ids=str,
)
def test_networks_that_cannot_be_a_flow(encoder, condition, message):
    torch.manual_seed(0)
    fine = network() if condition is None else Conditional(2, condition)
    for name, networks in (("encoder", (encoder, fine)), ("decoder", (fine, encoder))):
        with pytest.raises(ValueError, match=re.escape(f"the {name} {message}")):
            FreeFormFlow(*networks, features=2, condition=condition)


@pytest.mark.parametrize("norm", [nn.RMSNorm(16), nn.GroupNorm(1, 16), nn.Dropout(0.0)], ids=str)
def test_layers_that_may_be_in_a_flow(norm):
    torch.manual_seed(0)
    nets = [nn.Sequential(nn.Linear(2, 16), norm, nn.Tanh(), nn.Linear(16, 2)) for _ in range(2)]
    flow = FreeFormFlow(*nets, features=2)
    assert flow.loss(torch.randn(4, 2)).isfinite()
    assert flow.log_prob(torch.randn(4, 2)).shape == (4,)


@pytest.mark.parametrize("condition", [torch.zeros(4, 2), torch.zeros(3, 3), [1.0, 2.0]], ids=str)
def test_a_condition_of_another_width(condition):
    flow = FreeFormFlow(Conditional(), Conditional(), features=2, condition=3)
    with pytest.raises(molflow.MolflowError, match=r"expected conditions \(4, 3\) or \(3,\) for c1, c2, c3, got"):
        flow.loss(torch.zeros(4, 2), condition)
