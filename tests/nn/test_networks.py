"""Laws of every network, the edge-list reference of EGNN, and its derivatives in the order that training takes them."""

import copy

import pytest
import torch
from edge_list_egnn import from_dense
from laws import NETWORKS, random_points, randomize

from molflow.geometry import MeanFreeSpace, Points, project
from molflow.nn import EGNN
from molflow.testing import assert_equivariant
from molflow.volume import jvp, surrogate_decoder_jvp, surrogate_encoder_jvp, vjp


def make(name, dtype=torch.float64):
    """A network, points of mixed sizes, their mask, and the further arguments of the network: (t,) or ()."""
    dim, n_features, build = NETWORKS[name]
    network = randomize(build()).to(dtype)
    points, mask = random_points(dim, n_features, dtype=dtype)
    return network, points, mask, (torch.linspace(0.1, 0.9, len(mask), dtype=dtype),) if network.time else ()


@pytest.fixture(params=NETWORKS)
def case(request):
    return make(request.param)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_equivariance(name, dtype):
    network, points, mask, time = make(name, dtype)
    assert network(*points, mask, *time)[0].abs().max() > 0.1  # a network that does nothing would pass
    assert_equivariant(lambda x, h, mask: network(x, h, mask, *time), *points, mask)


def test_output_is_in_the_space(case):
    network, points, mask, time = case
    dx, dh = network(*points, mask, *time)
    torch.testing.assert_close(project(dx, mask), dx, atol=1e-12, rtol=0)
    assert dx.shape == points.x.shape
    assert dh.shape == points.h.shape


def test_every_parameter_gets_a_gradient(case):
    network, points, mask, time = case
    torch.cat(network(*points, mask, *time), -1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("surrogate", [surrogate_encoder_jvp, surrogate_decoder_jvp])
def test_surrogate_gradients_are_those_of_finite_differences(case, surrogate):
    """Of v^T f'(x) c with the stopped factor c held fixed, for every parameter in a random direction."""
    network, points, mask, time = case
    decoder = randomize(copy.deepcopy(network), seed=1)

    def f(p):
        return p + network(*p, mask, *time)

    def g(z):
        return z + decoder(*z, mask, *time)

    generator = torch.Generator().manual_seed(7)
    (v,) = MeanFreeSpace(mask, points.x.shape[-1], network.n_features).probes(1, generator, torch.float64)
    z = f(points).detach()
    if surrogate is surrogate_encoder_jvp:
        left, right = vjp(g, z)[1](v).detach(), v
    else:
        left, right = v, jvp(g, z, v)[1].detach()

    def value():
        return left.dot(jvp(f, points, right)[1]).sum()

    encoded, reconstruction, terms = surrogate(f, g, points, [v])
    torch.testing.assert_close(torch.cat(encoded, -1), torch.cat(z, -1))
    torch.testing.assert_close(torch.cat(reconstruction, -1), torch.cat(g(z), -1))
    torch.testing.assert_close(terms.sum(), value())
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(terms.sum(), list(parameters.values()), allow_unused=True, retain_graph=True)
    step = 1e-5
    for (name, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, dtype=torch.float64, generator=generator)
        with torch.no_grad():
            ends = []
            for shift in (step, -2 * step):
                parameter += shift * direction
                ends.append(value())
            parameter += step * direction
        expected = (ends[0] - ends[1]) / (2 * step)
        got = torch.zeros(()).double() if gradient is None else (gradient * direction).sum()
        torch.testing.assert_close(got, expected, atol=1e-6, rtol=1e-6, msg=lambda m, name=name: f"{name}: {m}")
    unused = torch.autograd.grad(terms.sum(), list(decoder.parameters()), allow_unused=True)
    assert all(u is None or not u.any() for u in unused)


def test_coincident_points_have_finite_derivatives(case):
    network, points, mask, time = case
    at = Points(torch.zeros_like(points.x).requires_grad_(), points.h)
    value, pushed = jvp(lambda p: Points(*network(*p, mask, *time)), at, points)
    torch.cat([*value, *pushed], -1).square().sum().backward()
    derivatives = [at.x.grad, *(p.grad for p in network.parameters() if p.grad is not None)]
    assert len(derivatives) > 5
    assert all(torch.isfinite(t).all() for t in (*value, *pushed, *derivatives))


def test_a_single_point_does_not_move():
    points, mask = random_points(3, 2, [1, 1])
    dx, dh = randomize(EGNN(2, hidden=8, n_blocks=2)).double()(*points, mask)
    assert not dx.any()
    assert torch.isfinite(dh).all()


def test_wrong_shapes_and_a_missing_time_are_refused():
    points, mask = random_points(3, 2)
    for network, m in [
        (EGNN(3, hidden=8, n_blocks=1), mask),
        (EGNN(2, hidden=8, n_blocks=1, time=True), mask),
        (EGNN(2, hidden=8, n_blocks=1), mask[:, 1:]),
    ]:
        with pytest.raises(RuntimeError):
            network.double()(*points, m)


def test_equals_the_edge_list_reference(case):
    """Output and gradients, on the same weights."""
    dense, points, mask, time = case
    reference = from_dense(dense)
    weights = random_points(points.x.shape[-1], dense.n_features)[0] * 2.0
    for network in (dense, reference):
        weights.dot(network(*points, mask, *time)).sum().backward()
    fast, slow = (torch.cat(network(*points, mask, *time), -1) for network in (dense, reference))
    torch.testing.assert_close(fast, slow, atol=1e-10, rtol=0)
    pairs = [
        (dense.embed.weight, reference.embedding.weight),
        (dense.blocks[0].coordinates.second.weight, reference.blocks[0].update.coord_mlp[2].weight),
        (dense.blocks[0].coordinates.last.weight, reference.blocks[0].update.coord_mlp[4].weight),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=1e-8)
    assert sum(p.numel() for p in dense.parameters()) == sum(p.numel() for p in reference.parameters())
