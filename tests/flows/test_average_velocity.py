"""Decoders that are average velocities: several evaluations refine the one."""

import math
from itertools import pairwise

import pytest
import torch
from laws import FREE_FORM, PARTICLE_FLOWS, asked, make_flow, random_case, randomize
from torch import nn

from molflow.errors import MolflowError
from molflow.flows import Conditions, ContinuousFlow, FreeFormFlow, ParticleDomain, VectorDomain, refined, unroll
from molflow.flows.networks import euler_steps
from molflow.flows.sampling import latents
from molflow.geometry import Context, Points
from molflow.nn import EGNN, MLP, EquivariantTransformer, TransformerConfig

PLAIN = [name for name in FREE_FORM if "average-velocity" not in name]


@pytest.fixture
def flow():
    return make_flow("composed-united-average-velocity")


@pytest.fixture
def case(flow):
    return random_case(3, 0, flow.domain.n_labels)


class Velocity(nn.Module):
    """u(z, r, t) = function(x, r, t), as a network."""

    n_times = 2

    def __init__(self, function):
        super().__init__()
        self.function = function

    def forward(self, x, h, mask, times):
        r, t = times[:, 0, None, None], times[:, 1, None, None]
        return self.function(x, r, t) * mask.unsqueeze(-1), h


def particles(function):
    return FreeFormFlow(EGNN(0, hidden=4, n_blocks=1), Velocity(function), domain=ParticleDomain(5, 2)).double()


def close(a, b, atol=1e-12):
    torch.testing.assert_close(torch.cat(a, -1), torch.cat(b, -1), atol=atol, rtol=0)


@pytest.mark.parametrize("k", [1, 2, 5])
def test_evaluations_are_the_recursion(flow, case, k):
    z, context = case
    x = z.x
    for i in range(k, 0, -1):
        late, early = ((i - 1) / k) ** 2, (i / k) ** 2
        times = torch.tensor([late, early]).double().expand(len(x), 2)
        dx, _ = flow.decoder(x, context.labels, context.mask, times)
        x = x - dx * (early - late)
    close(flow.decode(z, context, k), Points(x, z.h), atol=1e-8)  # rounding grows in a rough field


def test_one_evaluation_is_the_default_and_the_one_with_a_density(flow, case):
    z, context = case
    close(flow.decode(z, context), flow.decode(z, context, 1), atol=0)
    close(flow.decode_with_log_det(z, context)[0], flow.decode(z, context))
    several = flow.decode(z, context, 2)
    assert (several.x - flow.decode(z, context).x).abs().max() > 0.1


def test_samples_take_the_given_number_of_evaluations(flow):
    z, context, _ = next(latents(flow, 6, None, flow.generator(3), 1.0, 6))
    sampled = flow.sample(6, seed=3, n_evaluations=3)
    expected = flow.domain.from_points(flow.decode(z, context, 3), context)
    drawn = context.mask  # hydrogens come after these
    ours, theirs = (batch.positions[:, : drawn.shape[1]][drawn] for batch in (sampled, expected))
    torch.testing.assert_close(ours, theirs, atol=1e-8, rtol=0)
    assert (sampled.positions - flow.sample(6, seed=3).positions).abs().max() > 0.1


def test_a_constant_velocity_gives_the_same_for_each_number_of_evaluations():
    z, context = random_case(2, 0, 0, [5, 5])
    step = torch.randn(2, 5, 2, generator=torch.Generator().manual_seed(0)).double()
    flow = particles(lambda x, r, t: step)
    for k in (1, 2, 3, 10):
        close(flow.decode(z, context, k), Points(z.x - step, z.h))


def test_an_exact_average_velocity_gives_the_same_for_each_number_of_evaluations():
    """dp/dt = a p has p_r = p_t e^(a (r - t)), so u = p_t (1 - e^(a (r - t))) / (t - r)."""
    z, context = random_case(2, 0, 0, [5, 5])
    flow = particles(lambda x, r, t: x * (1 - (0.8 * (r - t)).exp()) / (t - r))
    for k in (1, 2, 3, 10):
        close(flow.decode(z, context, k), Points(z.x * math.exp(-0.8), z.h))


@pytest.mark.parametrize("name", PLAIN)
def test_several_evaluations_of_another_decoder_are_refused(name):
    flow = make_flow(name)
    with pytest.raises(MolflowError, match="only an average velocity can use more"):
        flow.sample(2, seed=0, n_evaluations=2, **asked(flow, 2))


@pytest.mark.parametrize("name", ["composed-united-average-velocity", *PARTICLE_FLOWS])
def test_no_evaluation_is_refused(name):
    flow = make_flow(name)
    with pytest.raises(ValueError, match="n_evaluations must be at least 1, got 0"):
        flow.sample(2, seed=0, n_evaluations=0, **asked(flow, 2))


def test_a_decoder_with_one_time_is_none():
    assert not FreeFormFlow(EGNN(0), randomize(EGNN(0, n_times=1)), domain=ParticleDomain(3, 2)).has_average_velocity
    assert particles(lambda x, r, t: x).has_average_velocity


def test_stages_take_no_times():
    config = TransformerConfig(hidden=4, n_blocks=1, n_stages=2)
    assert len(config.build(2, 1).stages) == 2
    with pytest.raises(ValueError, match="several stages takes no times; set n_stages = 1 or average_velocity = false"):
        config.build(2, 1, 2)


def test_times_are_those_of_each_configuration(flow):
    """u(z, r, t) of a batch is u of each of its configurations with its own times."""
    z, context = random_case(3, 0, flow.domain.n_labels, [3, 3, 3])
    r, t = torch.tensor([0.0, 0.2, 0.5]).double(), torch.tensor([1.0, 0.3, 0.5]).double()
    together = flow.average_velocity(z, context, r, t)
    for i in range(3):
        one = slice(i, i + 1)
        alone = flow.average_velocity(
            Points(z.x[one], z.h[one]), Context(context.mask[one], context.labels[one]), r[one], t[one]
        )
        close(alone, Points(together.x[one], together.h[one]))


TIMES = [1, 0.4, 0.15, 0]
SMALL = {"hidden": 12, "n_vectors": 4, "pair_hidden": 6, "n_heads": 2, "n_blocks": 1}


def test_unrolled_it_is_one_evaluation_with_the_same_result(flow, case):
    z, context = case
    expected = z
    for t, r in pairwise(TIMES):
        times = (torch.full((len(z.x),), time).double() for time in (r, t))
        expected = expected - flow.average_velocity(expected, context, *times) * (t - r)
    unrolled = unroll(flow, TIMES)
    assert not unrolled.has_average_velocity
    close(unrolled.decode(z, context), expected, atol=1e-8)
    assert (expected.x - flow.decode(z, context).x).abs().max() > 0.1


def test_an_encoder_unrolled_backward_runs_from_data_to_latents(flow, case):
    points, context = case
    expected = points
    for t, r in pairwise(TIMES[::-1]):
        times = (torch.full((len(points.x),), time).double() for time in (r, t))
        expected = expected + flow.average_velocity(expected, context, *times) * (r - t)
    unrolled = unroll(flow, TIMES, backward=flow)
    close(unrolled.encode(points, context), expected, atol=1e-8)
    close(unrolled.decode(points, context), unroll(flow, TIMES).decode(points, context), atol=0)
    close(unroll(flow, TIMES).encode(points, context), flow.encode(points, context), atol=0)


def test_unrolled_from_a_continuous_flow_each_map_makes_steps_of_euler(flow, case):
    points, context = case
    network = randomize(EquivariantTransformer(flow.domain.n_features, flow.domain.n_labels, 1, **SMALL)).double()
    path = ContinuousFlow(flow.domain, network)

    def steps(times):
        result = points
        for t, r in pairwise(times):
            result = result - path.velocity(result, context, torch.tensor(t).double()) * (t - r)
        return result

    close(unroll(flow, TIMES, backward=path).encode(points, context), steps(TIMES[::-1]), atol=1e-6)
    unrolled = unroll(path, TIMES)
    close(unrolled.encode(points, context), steps(TIMES[::-1]), atol=1e-6)
    close(unrolled.decode(points, context), steps(TIMES), atol=1e-6)


@pytest.mark.parametrize("conditional", [False, True])
def test_on_vectors_both_maps_make_steps_of_euler(conditional):
    network = randomize(MLP(2, n_times=1, n_conditions=3 * conditional, hidden=8)).double()
    path = ContinuousFlow(VectorDomain(2), network, conditions=Conditions(["a", "b", "c"]) if conditional else None)
    unrolled = unroll(path.double(), TIMES)
    x = torch.randn(5, 2, dtype=torch.float64)
    _, context, _ = path.domain.to_points(x, None)
    condition = torch.randn(5, 3, dtype=torch.float64) if conditional else None
    context = context._replace(condition=condition)
    for found, times in ((unrolled.decode(x, context), TIMES), (unrolled.encode(x, context), TIMES[::-1])):
        torch.testing.assert_close(found, euler_steps(lambda p, t: path.velocity(p, context, t), x, times))
    assert unrolled.decoder.velocity is not network


def test_one_stage_is_the_decoder_itself(flow, case):
    unrolled = unroll(flow, [1, 0])
    assert isinstance(unrolled.decoder, EquivariantTransformer)
    close(unrolled.decode(*case), flow.decode(*case), atol=1e-8)


def test_refined_it_goes_on_along_the_path_of_a_velocity(flow, case):
    """g(z) times 1 - t is a point of the path at time t, twice."""
    z, context = case
    network = randomize(EquivariantTransformer(flow.domain.n_features, flow.domain.n_labels, 1, **SMALL)).double()
    path = ContinuousFlow(flow.domain, network)
    plain = unroll(flow, TIMES)
    decoded = plain.decode(z, context)
    expected = euler_steps(lambda p, t: path.velocity(p, context, t), decoded * 0.7, [0.3, 0.1, 0])
    expected = euler_steps(lambda p, t: path.velocity(p, context, t), expected * 0.8, [0.2, 0])
    deeper = refined(plain, path, [0.3, 0.1, 0, 0.2, 0])
    close(deeper.decode(z, context), expected, atol=1e-6)
    close(deeper.encode(z, context), plain.encode(z, context), atol=0)
    assert len(deeper.decoder.stages) == len(TIMES) - 1 + 3
    assert (expected.x - decoded.x).abs().max() > 0.1


@pytest.mark.parametrize("times", [[], [0], [1, 0], [0.2, 0.1], [0.1, 0.2, 0], [0.2, 0, 1, 0], [0.2, 0, 0.1]])
def test_refining_needs_times_from_below_one_to_zero(flow, times):
    network = EquivariantTransformer(flow.domain.n_features, flow.domain.n_labels, 1, **SMALL).double()
    with pytest.raises(MolflowError, match="times must fall from below 1 to 0"):
        refined(unroll(flow, TIMES), ContinuousFlow(flow.domain, network), times)
    with pytest.raises(MolflowError, match="without noise and without times"):
        refined(flow, ContinuousFlow(flow.domain, network), TIMES[1:])


def test_unrolling_with_features():
    """Features of points move as positions do."""
    flow = FreeFormFlow(EGNN(0), randomize(EquivariantTransformer(2, 1, 2, **SMALL)), domain=ParticleDomain(3, 2))
    flow = flow.double()
    z, context = random_case(2, 2, 1, [3, 3])
    half = torch.full((2,), 0.5).double()
    middle = z - flow.average_velocity(z, context, half, 2 * half) * 0.5
    expected = middle - flow.average_velocity(middle, context, 0 * half, half) * 0.5
    close(unroll(flow, [1, 0.5, 0]).decode(z, context), expected, atol=1e-8)


@pytest.mark.parametrize("times", [[], [1], [1, 1, 0], [0.9, 0], [1, 0.5], [1, 0.2, 0.4, 0]])
def test_unrolling_needs_times_from_one_to_zero(flow, times):
    with pytest.raises(MolflowError, match="times must fall from 1 to 0"):
        unroll(flow, times)


@pytest.mark.parametrize("name", PLAIN)
def test_other_decoders_cannot_be_unrolled(name):
    with pytest.raises(MolflowError, match="only a velocity on vectors, or a transformer that is a velocity"):
        unroll(make_flow(name), TIMES)
