"""Changes of volume, against a slow Jacobian and on a non-linear pair of maps that invert each other exactly."""

import pytest
import torch
from laws import NETWORKS, random_case, random_points, randomize, with_labels, without_labels
from torch import nn
from torch.nn.functional import softplus

from molflow.geometry import EuclideanSpace, MeanFreeSpace, Points, pair_mask, squared_distances
from molflow.nn import EGNN
from molflow.testing import TOLERANCE, assert_equivariant, assert_inverse, assert_log_det
from molflow.volume import divergence, exact_log_det, jvp, surrogate_decoder_jvp, surrogate_encoder_jvp, vjp

SURROGATES = [surrogate_encoder_jvp, surrogate_decoder_jvp]


class CouplingPair(nn.Module):
    """Features move by what the positions say, then positions by what the features say, then features again.

    With u_i(x) = sum_j exp(-d_ij^2) over the neighbours, and L the graph Laplacian of the weights
    softplus(a (h'_i + h'_j)) / 4:  h' = h + tanh(u(x) w),  x' = (1 + L) x,  h'' = h' exp(tanh(u(x') v)).
    """

    def __init__(self, n_features):
        super().__init__()
        generator = torch.Generator().manual_seed(4)
        for name in ("w", "a", "v"):
            value = torch.randn(n_features, dtype=torch.float64, generator=generator)
            self.register_parameter(name, nn.Parameter(value))

    def crowding(self, x, mask):
        return ((-squared_distances(x)).exp() * pair_mask(mask)).sum(-1, keepdim=True)

    def mixing(self, h, mask):
        s = h @ self.a
        weights = softplus(s.unsqueeze(1) + s.unsqueeze(2)) * pair_mask(mask) / 4
        return torch.eye(mask.shape[1]).to(h) + torch.diag_embed(weights.sum(-1)) - weights

    def forward(self, p, mask):
        real = mask.unsqueeze(-1)
        h = p.h + torch.tanh(self.crowding(p.x, mask) * self.w) * real
        x = self.mixing(h, mask) @ p.x
        return Points(x, h * torch.tanh(self.crowding(x, mask) * self.v).exp())

    def inverse(self, p, mask):
        h = p.h * (-torch.tanh(self.crowding(p.x, mask) * self.v)).exp()
        x = torch.linalg.solve(self.mixing(h, mask), p.x)
        return Points(x, h - torch.tanh(self.crowding(x, mask) * self.w) * mask.unsqueeze(-1))


@pytest.fixture(params=[[4, 4], [5, 2, 4]], ids=str)
def exact_pair(request):
    points, mask = random_points(3, 2, request.param)
    return CouplingPair(2), points, mask, MeanFreeSpace(mask, 3, 2)


def flat_gradient(value, parameters):
    return torch.cat([g.flatten() for g in torch.autograd.grad(value, list(parameters))])


def test_the_exact_pair_is_one(exact_pair):
    pair, points, mask, space = exact_pair
    assert (torch.cat(pair(points, mask), -1) - torch.cat(points, -1)).abs().max() > 0.5
    assert_inverse(pair, pair.inverse, points, mask)
    assert_inverse(pair.inverse, pair, points, mask)
    assert_equivariant(lambda x, h, m: pair(Points(x, h), m) - (x, h), *points, mask)
    _, forward = exact_log_det(lambda p: pair(p, mask), points, space)
    _, backward = exact_log_det(lambda p: pair.inverse(p, mask), pair(points, mask), space)
    torch.testing.assert_close(forward, -backward, atol=1e-10, rtol=0)
    with torch.no_grad():  # by reverse mode
        image, log_det = exact_log_det(lambda p: pair(p, mask), points, space)
    torch.testing.assert_close(log_det, forward.detach(), atol=1e-10, rtol=0)
    torch.testing.assert_close(image, pair(points, mask))


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogate_gradient_over_all_directions_is_that_of_the_log_determinant(exact_pair, surrogate):
    pair, points, mask, space = exact_pair
    basis = list(space.basis(torch.float64))
    probes = [v * len(basis) ** 0.5 for v in basis]
    *_, terms = surrogate(lambda p: pair(p, mask), lambda z: pair.inverse(z, mask), points, probes)
    _, log_det = exact_log_det(lambda p: pair(p, mask), points, space)
    weights = torch.arange(1.0, len(mask) + 1).double()  # tells the configurations of the batch apart
    got, expected = (flat_gradient(value @ weights, pair.parameters()) for value in (terms, log_det))
    assert expected.abs().min() > 1e-3
    torch.testing.assert_close(got, expected, atol=1e-8, rtol=0)


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogate_gradient_over_a_full_set_of_random_probes(surrogate):
    points, mask = random_points(2, 1, [3, 3])
    pair, space = CouplingPair(1), MeanFreeSpace(mask, 2, 1)
    probes = space.probes(7, torch.Generator().manual_seed(0), torch.float64)
    *_, terms = surrogate(lambda p: pair(p, mask), lambda z: pair.inverse(z, mask), points, probes)
    _, log_det = exact_log_det(lambda p: pair(p, mask), points, space)
    got, expected = (flat_gradient(value.sum(), pair.parameters()) for value in (terms, log_det))
    torch.testing.assert_close(got, expected, atol=1e-8, rtol=0)


def residual(network):
    """The map p + network(p) and its log-determinant, of points that carry their labels and keep them."""

    def function(joined, mask):
        points, context = without_labels(joined, mask, network.n_labels)

        def f(p):
            return p + network(*with_labels(p, context.labels), mask)

        value, log_det = exact_log_det(f, points, MeanFreeSpace(mask, points.x.shape[-1], network.n_features))
        return with_labels(value, context.labels), log_det

    return function


@pytest.mark.parametrize(
    "name", [name for name, case in NETWORKS.items() if not case.n_times and not case.n_conditions]
)
def test_exact_log_det_is_that_of_the_slow_jacobian(name):
    dim, network = NETWORKS[name].dim, randomize(NETWORKS[name].build()).double()
    points, context = random_case(dim, network.n_features, network.n_labels, [4, 2, 3])
    joined, mask = with_labels(points, context.labels), context.mask
    value, log_det = residual(network)(joined, mask)
    expected = with_labels(points + network(*joined, mask), context.labels)
    torch.testing.assert_close(torch.cat(value, -1), torch.cat(expected, -1), atol=1e-12, rtol=0)
    assert log_det.abs().min() > 1e-3
    assert_log_det(residual(network), joined, mask)


def test_exact_log_det_of_a_space_without_dimensions_is_zero():
    points, mask = random_points(3, 0, [1, 1])
    _, log_det = residual(EGNN(0, hidden=4, n_blocks=1).double())(points, mask)
    assert log_det.tolist() == [0, 0]


def test_exact_log_det_is_differentiable():
    points, mask = random_points(2, 1, [3, 2])
    network = randomize(EGNN(1, hidden=6, n_blocks=1)).double()
    weight = network.blocks[0].coordinates.second.weight
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    value = residual(network)(points, mask)[1].sum()
    (gradient,) = torch.autograd.grad(value, [weight])
    ends = []
    with torch.no_grad():
        for shift in (1e-5, -2e-5):
            weight += shift * direction
            ends.append(residual(network)(points, mask)[1].sum())
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, atol=1e-7, rtol=1e-6)


def test_vjp_value_passes_gradients_on_and_pull_back_is_the_transpose(exact_pair):
    pair, points, mask, space = exact_pair
    leaf = Points(points.x.clone().requires_grad_(), points.h.clone().requires_grad_())
    v = space.randn(torch.Generator().manual_seed(0), torch.float64)
    value, pull_back = vjp(lambda p: pair(p, mask), leaf)
    pulled = torch.cat(pull_back(v), -1)
    through = torch.cat(torch.autograd.grad(tuple(value), tuple(leaf), tuple(v)), -1)
    direct = torch.cat(torch.autograd.grad(tuple(pair(leaf, mask)), tuple(leaf), tuple(v)), -1)
    for got in (pulled, through):
        torch.testing.assert_close(got, direct, atol=TOLERANCE[torch.float64], rtol=0)


def slow_divergence(field, points, mask, weights=None):
    """The trace of the ambient Jacobian of P f P, with the projection written out, one configuration at a time."""
    traces = []
    for i, n in enumerate(mask.sum(1).tolist()):
        x, h, real = points.x[i, :n], points.h[i, :n], mask[i : i + 1, :n]

        def flat(y, x=x, h=h, real=real):
            free = y[: x.numel()].view(x.shape)
            free = free - free.mean(0)
            value = field(Points(free[None], y[x.numel() :].view(1, *h.shape)), real)
            return torch.cat([(value.x - value.x.mean(1, keepdim=True)).flatten(), value.h.flatten()])

        jacobian = torch.autograd.functional.jacobian(flat, torch.cat([x.flatten(), h.flatten()]))
        traces.append(jacobian.trace())
    return torch.stack(traces)


@pytest.fixture(params=["egnn-narrow-pairs", "transformer-2d-no-features"])
def field_case(request):
    dim, network = NETWORKS[request.param].dim, randomize(NETWORKS[request.param].build()).double()
    points, mask = random_points(dim, network.n_features, [4, 2, 3])

    def field(p, mask):
        return Points(*network(*p, mask))

    return field, points, mask, MeanFreeSpace(mask, dim, network.n_features)


def test_exact_divergence_is_the_trace_of_the_jacobian(field_case):
    field, points, mask, space = field_case
    value, trace = divergence(lambda p: field(p, mask), points, space)
    expected = slow_divergence(field, points, mask)
    assert expected.abs().min() > 1e-2
    torch.testing.assert_close(trace, expected, atol=1e-8, rtol=0)
    torch.testing.assert_close(torch.cat(value, -1), torch.cat(field(points, mask), -1), atol=1e-12, rtol=0)


@pytest.mark.parametrize("probes", [MeanFreeSpace.rademacher, MeanFreeSpace.randn])
def test_the_estimate_of_the_divergence_has_the_exact_one_as_its_mean(field_case, probes):
    field, points, mask, _ = field_case
    n = 3000
    many = Points(*(t.repeat_interleave(n, 0) for t in points))
    mask = mask.repeat_interleave(n, 0)
    space = MeanFreeSpace(mask, points.x.shape[-1], points.h.shape[-1])
    v = probes(space, torch.Generator().manual_seed(0), torch.float64)
    with torch.no_grad():
        estimates = divergence(lambda p: field(p, mask), many, space, [v])[1].view(-1, n)
        expected = divergence(lambda p: field(p, mask), many, space, [v, v])[1].view(-1, n)
    torch.testing.assert_close(estimates, expected, atol=1e-12, rtol=0)  # several probes are averaged
    exact = divergence(lambda p: field_case[0](p, field_case[2]), points, field_case[3])[1].detach()
    error = (estimates.mean(1) - exact) / (estimates.std(1) / n**0.5)
    assert error.abs().max() < 3


def test_the_divergence_of_a_space_without_dimensions_is_zero():
    points, mask = random_points(3, 0, [1, 1])
    network = EGNN(0, hidden=4, n_blocks=1).double()
    value, trace = divergence(lambda p: Points(*network(*p, mask)), points, MeanFreeSpace(mask, 3))
    assert trace.tolist() == [0, 0]
    assert not value.x.any()


def test_the_divergence_is_differentiable():
    points, mask = random_points(2, 1, [3, 2])
    network = randomize(EGNN(1, hidden=6, n_blocks=1)).double()
    weight = network.blocks[0].coordinates.second.weight
    direction = torch.randn(weight.shape, dtype=torch.float64, generator=torch.Generator().manual_seed(0))

    def trace():
        return divergence(lambda p: Points(*network(*p, mask)), points, MeanFreeSpace(mask, 2, 1))[1].sum()

    (gradient,) = torch.autograd.grad(trace(), [weight])
    ends = []
    with torch.no_grad():
        for shift in (1e-5, -2e-5):
            weight += shift * direction
            ends.append(trace())
    torch.testing.assert_close((gradient * direction).sum(), (ends[0] - ends[1]) / 2e-5, atol=1e-7, rtol=1e-6)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_rademacher_probes(dtype):
    """They have unit coordinates, padding does not change them, and every sign is as likely as the other."""
    mask = torch.arange(4) < torch.tensor([4, 2, 1]).unsqueeze(1)
    space, wide = (MeanFreeSpace(m, 3, 2) for m in (mask, nn.functional.pad(mask, (0, 2))))
    v, w = (s.rademacher(torch.Generator().manual_seed(0), dtype) for s in (space, wide))
    assert v.x.dtype == v.h.dtype == dtype
    expected = space.coordinate_mask().to(dtype)
    torch.testing.assert_close(space.coordinates(v).abs(), expected, atol=1e-5, rtol=0)
    torch.testing.assert_close(v.squared_norm(), space.dof.to(dtype), atol=1e-5, rtol=0)
    torch.testing.assert_close(w.x[:, :4], v.x, atol=0, rtol=0)
    assert not w.x[:, 4:].any()
    many = MeanFreeSpace(mask[:1].expand(20000, -1), 3, 2)
    c = many.coordinates(many.rademacher(torch.Generator().manual_seed(0), dtype))
    covariance = c.T @ c / len(c)
    assert (covariance - torch.eye(len(covariance))).abs().max() < 5 / 20000**0.5


# ---- plain tensor functions ------------------------------------------------------------------------------------------


class VectorCoupling(nn.Module):
    """A non-linear map of vectors with an exact inverse: y_2 = x_2 e^(tanh(x_1 W)) + x_1 V, then halves swap."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(5)
        self.w, self.v = (nn.Parameter(torch.randn(2, 2, dtype=torch.float64, generator=generator)) for _ in range(2))

    def forward(self, x):
        a, b = x.chunk(2, 1)
        return torch.cat([b * torch.tanh(a @ self.w).exp() + a @ self.v, a], 1)

    def inverse(self, y):
        b, a = y.chunk(2, 1)
        return torch.cat([a, (b - a @ self.v) * (-torch.tanh(a @ self.w)).exp()], 1)


@pytest.fixture
def vectors():
    x = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))
    return VectorCoupling(), x, EuclideanSpace(5, 4)


def jacobians(function, x):
    return torch.autograd.functional.jacobian(lambda p: function(p).sum(0), x, create_graph=True).transpose(0, 1)


def test_log_det_of_a_tensor_function_is_that_of_autograd(vectors):
    pair, x, space = vectors
    torch.testing.assert_close(pair.inverse(pair(x)), x)
    value, log_det = exact_log_det(pair, x, space)
    assert torch.equal(value, pair(x))
    expected = torch.linalg.slogdet(jacobians(pair, x)).logabsdet
    torch.testing.assert_close(log_det, expected, atol=1e-12, rtol=0)
    got, right = (flat_gradient(ld.sum(), [pair.w, pair.v]) for ld in (log_det, expected))
    torch.testing.assert_close(got, right, atol=1e-10, rtol=0)
    assert right[:4].abs().min() > 1e-3


def test_divergence_of_a_tensor_function_is_the_trace_of_autograd(vectors):
    pair, x, space = vectors
    value, trace = divergence(pair, x, space)
    assert torch.equal(value, pair(x))
    expected = torch.einsum("bii->b", jacobians(pair, x))
    torch.testing.assert_close(trace, expected, atol=1e-12, rtol=0)
    probes = space.probes(4, torch.Generator().manual_seed(0), torch.float64)
    torch.testing.assert_close(divergence(pair, x, space, probes)[1], expected, atol=1e-10, rtol=0)


@pytest.mark.parametrize("draw", ["rademacher", "randn"])
def test_the_estimate_for_a_tensor_function_has_the_exact_divergence_as_its_mean(vectors, draw):
    pair, x, _ = vectors
    n = 4000
    space = EuclideanSpace(5 * n, 4)
    v = getattr(space, draw)(torch.Generator().manual_seed(0), torch.float64)
    with torch.no_grad():
        estimates = divergence(pair, x.repeat_interleave(n, 0), space, [v])[1].view(5, n)
        exact = divergence(pair, x, EuclideanSpace(5, 4))[1]
    assert ((estimates.mean(1) - exact) / (estimates.std(1) / n**0.5)).abs().max() < 3.5


@pytest.mark.parametrize("surrogate", SURROGATES)
def test_surrogate_of_a_tensor_function_has_the_gradient_of_the_log_determinant(vectors, surrogate):
    pair, x, space = vectors
    for probes in (
        [v * 2.0 for v in space.basis(torch.float64)],
        space.probes(4, torch.Generator().manual_seed(0), torch.float64),
    ):
        z, reconstruction, terms = surrogate(pair, pair.inverse, x, probes)
        torch.testing.assert_close(z, pair(x))
        torch.testing.assert_close(reconstruction, x)
        weights = torch.arange(1.0, 6.0).double()
        expected = torch.linalg.slogdet(jacobians(pair, x)).logabsdet
        got, right = (flat_gradient(value @ weights, [pair.w]) for value in (terms, expected))
        torch.testing.assert_close(got, right, atol=1e-8, rtol=0)


def test_jvp_and_vjp_of_a_tensor_function(vectors):
    pair, x, space = vectors
    v = space.randn(torch.Generator().manual_seed(2), torch.float64)
    value, pushed = jvp(pair, x, v)
    pulled = vjp(pair, x)[1](v)
    jacobian = jacobians(pair, x)
    assert torch.equal(value, pair(x))
    torch.testing.assert_close(pushed, torch.einsum("bij,bj->bi", jacobian, v))
    torch.testing.assert_close(pulled, torch.einsum("bij,bi->bj", jacobian, v))


def test_many_dimensions_are_done_in_chunks(vectors, monkeypatch):
    pair, x, space = vectors
    expected = exact_log_det(pair, x, space)[1]
    monkeypatch.setattr("molflow.volume.DERIVATIVES_AT_ONCE", 5)
    torch.testing.assert_close(exact_log_det(pair, x, space)[1], expected, atol=1e-12, rtol=0)


def test_a_function_without_parameters_needs_no_network():
    value, log_det = exact_log_det(lambda x: 2 * x, torch.zeros(3, 5), EuclideanSpace(3, 5))
    assert not value.any()
    torch.testing.assert_close(log_det, torch.full((3,), 5 * 0.6931472))
