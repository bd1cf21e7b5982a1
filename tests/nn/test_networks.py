"""Laws of every network, the edge-list reference of EGNN, and its derivatives in the order that training takes them."""

import copy

import pytest
import torch
from edge_list_egnn import from_dense
from laws import NETWORKS, random_case, random_points, randomize, with_labels

from molflow.config import parse
from molflow.errors import MolflowError
from molflow.geometry import MeanFreeSpace, Points, project
from molflow.nn import EGNN, Chain, ChainConfig, EquivariantTransformer, TensorProductNetwork
from molflow.testing import assert_equivariant
from molflow.volume import jvp, surrogate_decoder_jvp, surrogate_encoder_jvp, vjp


def make(name, dtype=torch.float64):
    """A network, points of mixed sizes, their context, and the times or None."""
    network = randomize(NETWORKS[name].build()).to(dtype)
    sizes = (NETWORKS[name].dim, network.n_features, network.n_labels)
    points, context = random_case(*sizes, dtype=dtype, n_conditions=network.n_conditions)
    times = torch.rand(len(context.mask), network.n_times, generator=torch.Generator().manual_seed(3)).to(dtype)
    return network, points, context, times if network.n_times else None


def call(network, points, context, times):
    joined = with_labels(points, context.labels)
    return Points(*network(*joined, context.mask, times, context.condition))


@pytest.fixture(params=NETWORKS)
def case(request):
    return make(request.param)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", NETWORKS)
def test_equivariance(name, dtype):
    network, points, context, times = make(name, dtype)
    assert call(network, points, context, times).x.abs().max() > 0.1  # a network that does nothing would pass
    joined = with_labels(points, context.labels)

    def rule(x, h, mask):
        return network(x, h, mask, times, context.condition)

    assert_equivariant(rule, *joined, context.mask, rotations=network.equivariant)
    if not network.equivariant:
        with pytest.raises(AssertionError, match="rotation: error"):
            assert_equivariant(rule, *joined, context.mask)


def test_output_is_in_the_space(case):
    network, points, context, times = case
    dx, dh = call(network, points, context, times)
    torch.testing.assert_close(project(dx, context.mask), dx, atol=1e-12, rtol=0)
    assert dx.shape == points.x.shape
    assert dh.shape == points.h.shape


def test_labels_times_and_conditions_matter(case):
    network, points, context, times = case
    given = torch.cat(call(network, points, context, times), -1)
    for i in range(network.n_labels):
        labels = context.labels.clone()
        labels[:, 0, i] += 1
        other = context._replace(labels=labels)
        assert (torch.cat(call(network, points, other, times), -1) - given).abs().max() > 1e-3
    for i in range(network.n_times + network.n_conditions):
        t, condition = (None if values is None else values.clone() for values in (times, context.condition))
        changed, column = (t, i) if i < network.n_times else (condition, i - network.n_times)
        changed[1, column] += 1
        moved = call(network, points, context._replace(condition=condition), t)
        change = (torch.cat(moved, -1) - given).abs().amax((1, 2))
        assert change[1] > 1e-3
        assert not change[[0, 2, 3]].any()


def test_every_parameter_gets_a_gradient(case):
    network, points, context, times = case
    torch.cat(call(network, points, context, times), -1).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.slow
@pytest.mark.parametrize("surrogate", [surrogate_encoder_jvp, surrogate_decoder_jvp])
def test_surrogate_gradients_are_those_of_finite_differences(case, surrogate):
    """Of v^T f'(x) c with the stopped factor c held fixed, for every parameter in a random direction."""
    network, points, context, times = case
    decoder = randomize(copy.deepcopy(network), seed=1)

    def f(p):
        return p + call(network, p, context, times)

    def g(z):
        return z + call(decoder, z, context, times)

    generator = torch.Generator().manual_seed(7)
    (v,) = MeanFreeSpace(context.mask, points.x.shape[-1], network.n_features).probes(1, generator, torch.float64)
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
    network, points, context, times = case
    at = Points(torch.zeros_like(points.x).requires_grad_(), points.h)
    value, pushed = jvp(lambda p: call(network, p, context, times), at, points)
    torch.cat([*value, *pushed], -1).square().sum().backward()
    derivatives = [at.x.grad, *(p.grad for p in network.parameters() if p.grad is not None)]
    assert len(derivatives) > 5
    assert all(torch.isfinite(t).all() for t in (*value, *pushed, *derivatives))


SMALL = {
    EGNN: {"hidden": 8, "n_blocks": 2},
    EquivariantTransformer: {"hidden": 8, "n_blocks": 2},
    TensorProductNetwork: {"irreps": "8x0e + 2x1o + 2x2e", "pair_channels": 4, "pair_hidden": 4, "n_blocks": 2},
}


@pytest.mark.parametrize("kind", SMALL)
def test_a_single_point_does_not_move(kind):
    points, mask = random_points(3, 2, [1, 1])
    dx, dh = randomize(kind(2, **SMALL[kind])).double()(*points, mask)
    assert not dx.any()
    assert torch.isfinite(dh).all()


@pytest.mark.parametrize("kind", SMALL)
def test_wrong_shapes_and_missing_times_are_refused(kind):
    points, mask = random_points(3, 2)
    t = torch.zeros(len(mask), 1).double()
    for network, m, times in [
        (kind(3, **SMALL[kind]), mask, ()),
        (kind(2, 1, **SMALL[kind]), mask, ()),
        (kind(2, n_times=1, **SMALL[kind]), mask, ()),
        (kind(2, n_times=2, **SMALL[kind]), mask, (t,)),
        (kind(2, **SMALL[kind]), mask, (t,)),
        (kind(2, **SMALL[kind]), mask[:, 1:], ()),
    ]:
        with pytest.raises((RuntimeError, ValueError)):
            network.double()(*points, m, *times)


def test_another_number_of_times_or_conditions_is_refused(case):
    network, points, context, times = case
    given = {"times": (times, network.n_times), "conditions": (context.condition, network.n_conditions)}
    for name, (values, n) in given.items():
        more = torch.zeros(len(context.mask), n + 1).double()
        for wrong in (more, values[:, 1:] if n else more, None if n else more):
            t, condition = (wrong, context.condition) if name == "times" else (times, wrong)
            n_given = 0 if wrong is None else wrong.shape[1]
            with pytest.raises(ValueError, match=f"expected {n} {name}, got {n_given}"):
                call(network, points, context._replace(condition=condition), t)


@pytest.mark.parametrize("name", [n for n, case in NETWORKS.items() if case.n_times == case.n_conditions > 0])
def test_times_and_conditions_are_different_inputs(name):
    network, points, context, times = make(name)
    swapped = call(network, points, context._replace(condition=times), context.condition)
    assert (torch.cat(swapped, -1) - torch.cat(call(network, points, context, times), -1)).abs().max() > 1e-3


def test_sharp_attention_sees_neither_padding_nor_the_point_itself():
    network, points, context, _ = make("transformer-3d-labels")
    with torch.no_grad():
        for pair in network.pairs:
            pair.weights.weight[: pair.n_heads] *= 60
    assert_equivariant(lambda x, h, mask: network(x, h, mask), *with_labels(points, context.labels), context.mask)


@pytest.mark.parametrize("sizes", [(0, 3, 2), (2, 1, 1), (0, 1, 2, 3)])
def test_a_transformer_at_fixed_times(sizes):
    """The same function, scaled, without its times and with its conditions; and the one it is made from stays."""
    network = randomize(EquivariantTransformer(*sizes, **SMALL[EquivariantTransformer])).double()
    points, context = random_case(3, *sizes[:2])
    t = torch.linspace(0.3, 0.8, sizes[2]).double()
    if sizes[3:]:
        context = context._replace(condition=torch.randn(len(context.mask), *sizes[3:]).double())
    expected = call(network, points, context, t.expand(len(context.mask), -1)) * -0.5
    fixed = network.at_times(t, -0.5)
    assert fixed.n_times == 0
    for _ in range(2):
        torch.testing.assert_close(torch.cat(call(fixed, points, context, None), -1), torch.cat(expected, -1))
        fixed = network.at_times(t, -0.5)


def test_a_chain_is_its_stages_one_after_another():
    network, points, context, _ = make("chain-of-transformers")
    moved = points
    for stage in network.stages:
        moved = moved + call(stage, moved, context, None)
    torch.testing.assert_close(torch.cat(call(network, points, context, None), -1), torch.cat(moved - points, -1))
    with pytest.raises(ValueError, match="expected 0 times, got 1"):
        call(network, points, context, torch.zeros(len(context.mask), 1).double())
    one = Chain([network.stages[0]])
    torch.testing.assert_close(
        one(*with_labels(points, context.labels), context.mask),
        network.stages[0](*with_labels(points, context.labels), context.mask),
    )


def test_factors_scale_the_input_of_a_stage():
    network, points, context, _ = make("chain-with-factors")
    first, second = network.stages
    moved = points + call(first, points, context, None)
    shrunk = Points(moved.x - 0.3 * project(moved.x, context.mask), 0.7 * moved.h)
    expected = shrunk + call(second, shrunk, context, None) - points
    torch.testing.assert_close(torch.cat(call(network, points, context, None), -1), torch.cat(expected, -1))


def test_chains_in_a_chain_are_one_chain():
    inner = NETWORKS["chain-with-factors"].config
    outer = ChainConfig(stages=[inner, inner.stages[0]], factors=[0.5, 0.2]).build(2, 1)
    assert [type(stage).__name__ for stage in outer.stages] == [
        "EquivariantTransformer",
        "EGNN",
        "EquivariantTransformer",
    ]
    assert outer.factors == (0.5, 0.7, 0.2)


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({"stages": []}, "stages"),
        ({"stages": [{"kind": "mlp"}]}, "only networks on point clouds"),
        ({"stages": [{"kind": "egnn"}], "factors": [1.0, 0.5]}, "factors: expected 1, one for each of stages, got 2"),
    ],
)
def test_chains_that_cannot_be(table, message):
    with pytest.raises(MolflowError, match=message):
        parse(ChainConfig, table, "here")


def test_heads_must_divide_the_width():
    with pytest.raises(ValueError, match=r"hidden \(10\) must be a multiple of n_heads \(4\)"):
        EquivariantTransformer(0, hidden=10, n_heads=4)


@pytest.mark.parametrize("name", [name for name, case in NETWORKS.items() if case.config.kind == "egnn"])
def test_equals_the_edge_list_reference(name):
    """Output and gradients, on the same weights."""
    dense, points, context, times = make(name)
    reference = from_dense(dense)
    weights = random_points(points.x.shape[-1], dense.n_features)[0] * 2.0
    for network in (dense, reference):
        weights.dot(call(network, points, context, times)).sum().backward()
    fast, slow = (torch.cat(call(network, points, context, times), -1) for network in (dense, reference))
    torch.testing.assert_close(fast, slow, atol=1e-10, rtol=0)
    pairs = [
        (dense.embed.weight, reference.embedding.weight),
        (dense.blocks[0].coordinates.second.weight, reference.blocks[0].update.coord_mlp[2].weight),
        (dense.blocks[0].coordinates.last.weight, reference.blocks[0].update.coord_mlp[4].weight),
    ]
    for a, b in pairs:
        torch.testing.assert_close(a.grad, b.grad, atol=1e-10, rtol=1e-8)
    assert sum(p.numel() for p in dense.parameters()) == sum(p.numel() for p in reference.parameters())
