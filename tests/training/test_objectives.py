"""Objectives: laws that all obey, and each against a calculation by hand, finite differences or a closed form."""

import copy
import dataclasses
import math
import pickle
from itertools import pairwise

import pytest
import torch
from laws import asked, make_flow, random_data, randomize
from torch import nn
from torch._dynamo.utils import counters

from molflow.batch import MoleculeBatch
from molflow.data.batches import Batch
from molflow.errors import MolflowError
from molflow.flows import (
    ConditionsConfig,
    ContinuousConfig,
    ContinuousFlow,
    DiffusionConfig,
    DiffusionFlow,
    FreeFormConfig,
    FreeFormFlow,
)
from molflow.flows.acceleration import faster, networks_of
from molflow.flows.domains import ComposedMoleculesConfig, ParticleDomain, VectorDomain, VectorsConfig
from molflow.flows.networks import transform
from molflow.flows.solvers import FixedStepSolver
from molflow.geometry import Points, scale, squared_norm
from molflow.nn import EGNN, Chain, EGNNConfig, MLPConfig, TransformerConfig
from molflow.training.metrics import mean
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.accumulation import accumulate_gradients
from molflow.training.objectives.diffusion import DiffusionObjectiveConfig
from molflow.training.objectives.flow_matching import FlowMatchingObjectiveConfig
from molflow.training.objectives.free_form import FreeFormObjectiveConfig
from molflow.training.objectives.inversion import InversionObjectiveConfig
from molflow.training.objectives.likelihood import LikelihoodObjectiveConfig
from molflow.training.objectives.mean_flow import MeanFlowObjectiveConfig, interval_times
from molflow.training.objectives.regression import RegressionObjectiveConfig
from molflow.training.pairing import NEED_POSITIONS, PAIRINGS, random_orthogonal
from molflow.training.paths import DrawPaths, single_times
from molflow.volume import surrogate_encoder_jvp

TARGETS = ["mean_flow", "lagrangian"]
CONTINUOUS_KINDS = ["flow_matching", "likelihood"]
ON_NETWORK = [*CONTINUOUS_KINDS, "diffusion"]
"""Objectives of flows with one network."""

SETTINGS = {
    "regression": {"teacher": "a run", "evaluations": 3},
    "stages": {"teacher": "a run", "times": (1.0, 0.3, 0.0), "longest_step": 0.4},
}
"""Settings of the objectives that have no defaults for all of them."""

ON_VECTORS = [kind for kind in OBJECTIVES if kind != "stages"]


@pytest.fixture
def flow():
    return make_flow("composed-united-average-velocity")


def flow_for(kind, domain="molecules"):
    """A flow that the objective can train; on vectors one with two conditions."""
    continuous = kind in CONTINUOUS_KINDS
    if kind == "stages":
        return make_flow("composed-united-stages")
    if kind == "diffusion" and domain == "molecules":
        return make_flow("composed-united-diffusion")
    if domain == "molecules":
        return make_flow(f"composed-united-{'continuous-transformer' if continuous else 'average-velocity'}")
    parts = {
        "domain": VectorsConfig(n_features=3),
        "conditions": ConditionsConfig(names=("a", "b"), mean=(1, 0), std=(2, 3)),
    }
    if kind == "diffusion":
        config = DiffusionConfig(**parts, network=MLPConfig(hidden=8))
    elif continuous:
        config = ContinuousConfig(**parts, network=MLPConfig(hidden=8), solver=FixedStepSolver(method="rk4", n_steps=2))
    else:
        config = FreeFormConfig(
            **parts, encoder=MLPConfig(hidden=8), decoder=MLPConfig(hidden=8), average_velocity=True
        )
    return randomize(config.build()).double()


def batch_for(flow):
    if flow.conditions is None:
        return Batch(random_data(flow))
    return Batch(torch.randn(4, 3, generator=rng(1)).double(), torch.randn(4, 2, generator=rng(2)).double())


def build(flow, kind, **settings):
    """Any objective with its defaults; the teacher, for those that want one, differs from the flow."""
    if flow.conditions is not None and "pairing" in OBJECTIVES[kind].model_fields:
        settings = {"pairing": "none"} | settings
    config = OBJECTIVES[kind](**SETTINGS.get(kind, {}), **settings)
    return config.build(flow, teacher=teacher_for(flow, kind))


def teacher_for(flow, kind):
    if kind == "stages":
        return make_flow("composed-united-continuous-transformer", seed=1)
    return randomize(copy.deepcopy(flow), seed=1) if kind == "regression" else None


def mean_flow(flow, **options):
    return MeanFlowObjectiveConfig(**options).build(flow)


def flow_matching(flow, **options):
    return FlowMatchingObjectiveConfig(**options).build(flow)


def batch_of(objective, data, generator):
    """What a training step makes of data."""
    return objective.preparation()(data if isinstance(data, Batch) else Batch(data), generator)


def loss_of(objective, data, generator):
    """The loss and the means of its parts, as in a training step."""
    loss, parts = objective(batch_of(objective, data, generator), generator)
    return loss, {name: value.mean() for name, value in parts.items() if value.numel()}


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def gradients(flow, loss):
    parameters = {name: p for name, p in flow.named_parameters() if p.requires_grad}
    found = torch.autograd.grad(loss, list(parameters.values()), allow_unused=True)
    return {name: g for name, g in zip(parameters, found, strict=True) if g is not None}


def close(a, b, atol=1e-10, **kwargs):
    torch.testing.assert_close(a, b, atol=atol, rtol=0, **kwargs)


class Scale(nn.Module):
    """dx = factor x, as a network."""

    def __init__(self, factor):
        super().__init__()
        self.factor = nn.Parameter(torch.tensor(factor))

    def forward(self, x, h, mask):
        return self.factor * x, h


class Velocity(nn.Module):
    """u(z, r, t) = function(x, r, t) on the points' mean-free positions, as a network."""

    n_times = 2

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.anchor = nn.Parameter(torch.zeros(()))

    def forward(self, x, h, mask, times):
        r, t = times[:, 0, None, None], times[:, 1, None, None]
        return self.function(x, r, t) * mask.unsqueeze(-1) + 0 * self.anchor, h


def particles(function):
    return FreeFormFlow(EGNN(0, hidden=4, n_blocks=1), Velocity(function), domain=ParticleDomain(4, 2)).double()


# ---- laws ------------------------------------------------------------------------------------------------------------


@pytest.fixture(
    params=[(kind, "molecules") for kind in OBJECTIVES] + [(kind, "vectors") for kind in ON_VECTORS], ids="-".join
)
def case(request):
    """The name of an objective, a flow that it can train, and data with their conditions."""
    kind, domain = request.param
    flow = flow_for(kind, domain)
    return kind, flow, batch_for(flow)


def test_loss_is_a_number_and_its_parts_are_for_the_log(case):
    kind, flow, batch = case
    loss, parts = loss_of(build(flow, kind), batch, rng())
    assert loss.shape == ()
    assert loss.requires_grad
    assert loss.isfinite()
    assert all(value.shape == () and value.isfinite() and not value.requires_grad for value in parts.values())


def test_the_generator_decides_the_loss(case):
    kind, flow, batch = case
    objective = build(flow, kind)
    state = torch.random.get_rng_state()
    first = loss_of(objective, batch, rng())[0]
    assert torch.equal(loss_of(objective, batch, rng())[0], first)
    assert not torch.equal(loss_of(objective, batch, rng(1))[0], first)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_each_objective_trains_its_networks(case):
    kind, flow, batch = case
    loss, _ = loss_of(build(flow, kind), batch, rng())
    found = {name: g for name, g in gradients(flow, loss).items() if g.abs().max() > 0}
    networks = {
        **dict.fromkeys(("mean_flow", "stages"), ("decoder",)),
        **dict.fromkeys(ON_NETWORK, ("network",)),
        "inversion": ("encoder",),
    }
    trained = networks.get(kind, ("encoder", "decoder"))
    assert found.keys() == {name for name, _ in flow.named_parameters() if name.startswith(trained)}


def test_batches_are_prepared_without_the_networks(case):
    """So that a worker process can prepare them; most objectives need no preparation."""
    kind, flow, batch = case
    prepare = build(flow, kind).preparation()
    assert b"molflow.nn" in pickle.dumps(flow)
    assert b"molflow.nn" not in pickle.dumps(prepare)
    prepared = prepare(batch, rng())
    assert len(prepared) == len(batch)
    assert len(prepared[1:3].to("cpu")) == 2
    assert (prepared is batch) == (kind not in ("mean_flow", "flow_matching"))


@pytest.mark.parametrize("micro_batch", [1, 3])
def test_the_parts_of_a_batch_draw_the_noise_of_the_whole(case, micro_batch):
    """So the loss, its figures and its gradient do not depend on the parts."""
    kind, flow, batch = case
    objective = build(flow, kind)
    prepared = batch_of(objective, batch, rng())

    def step(micro_batch):
        objective.zero_grad()
        figures = accumulate_gradients(objective, prepared, rng(1), micro_batch)
        return figures, {name: p.grad for name, p in objective.named_parameters() if p.grad is not None}

    (loss, parts), found = step(micro_batch)
    (expected, means), whole = step(None)
    assert loss == pytest.approx(expected, abs=1e-10)
    assert parts == pytest.approx(means, abs=1e-10)
    torch.testing.assert_close(found, whole, rtol=1e-8, atol=1e-10)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_gradients_in_bfloat16_are_near_those_in_float32(kind):
    """Those through forward-mode derivatives and solvers too."""
    flow = flow_for(kind).float()
    objective, batch = build(flow, kind).float(), Batch(random_data(flow, torch.float32))

    def gradient():
        return torch.cat([g.flatten() for g in gradients(flow, loss_of(objective, batch, rng())[0]).values()])

    exact = gradient()
    with faster(networks_of(flow), "bfloat16"):
        rounded = gradient()
    assert rounded.dtype == torch.float32
    assert 1e-5 < (rounded - exact).norm() / exact.norm() < 0.1
    assert gradient().equal(exact)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_padding_does_not_change_the_loss(kind):
    """The noise of the real points is the same, and with it the rest; pairing draws nothing for padding."""
    flow = flow_for(kind)
    objective, data = build(flow, kind), random_data(flow)
    wide = type(data)(
        nn.functional.pad(data.positions, (0, 0, 0, 2)),
        *(nn.functional.pad(t, (0, 2)) for t in (data.atomic_numbers, data.mask, data.hydrogens)),
    )
    close(loss_of(objective, wide, rng())[0], loss_of(objective, data, rng())[0], atol=1e-8)


@pytest.mark.parametrize("kind", ON_VECTORS)
def test_the_condition_decides_the_loss(kind):
    """In the user's units: (1, 0) and (3, 3) are 0 and 1 to the networks, and a part of a batch keeps its own."""
    flow = flow_for(kind, "vectors")
    objective, batch = build(flow, kind), batch_for(flow)
    loss, _ = loss_of(objective, batch, rng())
    other = Batch(batch.data, batch.condition.flip(0))
    assert not torch.equal(loss_of(objective, other, rng())[0], loss)
    unit = Batch(batch.data, torch.tensor([3.0, 3.0]).double().expand(4, 2))
    expected, _ = loss_of(objective, unit, rng())
    flow.conditions.mean.zero_(), flow.conditions.std.fill_(1)
    close(loss_of(objective, Batch(batch.data, torch.ones(4, 2).double()), rng())[0], expected)
    assert torch.equal(other[1:3].condition, other.condition[1:3])


@pytest.mark.parametrize("kind", ON_VECTORS)
def test_a_condition_is_required_or_refused(kind):
    flow = flow_for(kind, "vectors")
    with pytest.raises(MolflowError, match="this model needs a condition: a, b"):
        loss_of(build(flow, kind), batch_for(flow).data, rng())
    flow = flow_for(kind)
    objective = build(flow, kind, **({"pairing": "none"} if kind in ("mean_flow", "flow_matching") else {}))
    with pytest.raises(MolflowError, match="made without conditions"):
        loss_of(objective, Batch(random_data(flow), torch.zeros(4, 1)), rng())


@pytest.mark.parametrize(
    "name", ["particles-2d", "particles-continuous", "particles-diffusion", "composed-united-average-velocity"]
)
@pytest.mark.parametrize("kind", OBJECTIVES)
def test_a_flow_serves_exactly_the_objectives_that_the_error_names(kind, name):
    served = {
        "particles-2d": {"free_form", "inversion", "regression", "likelihood"},
        "particles-continuous": {"flow_matching", "likelihood"},
        "particles-diffusion": {"diffusion", "likelihood"},
    }
    served = served.get(name, set(OBJECTIVES) - {"flow_matching", "stages", "diffusion"})
    flow = make_flow(name)
    if kind in served:
        teacher = make_flow("particles-continuous")
        objective = OBJECTIVES[kind](**SETTINGS.get(kind, {})).build(flow, teacher=teacher)
        assert objective.flow is flow
        return
    remedy = {
        "flow_matching": "(model.kind = 'continuous')",
        "diffusion": "(model.kind = 'diffusion')",
        "mean_flow": "model.average_velocity = true",
        "stages": "(a decoder or encoder of several n_stages)",
    }.get(kind, "(model.kind = 'free_form')")
    with pytest.raises(ValueError, match=f"the {kind} objective needs a flow with ") as caught:
        OBJECTIVES[kind](**SETTINGS.get(kind, {})).build(flow)
    message, _, named = str(caught.value).partition(f"a {type(flow).__name__} can be trained by: ")
    assert remedy in message
    assert set(named.split(", ")) == served


@pytest.mark.parametrize(
    ("kind", "key", "wrong", "near"),
    [
        ("free_form", "surrogate", "encoder_jpv", "encoder_jvp"),
        ("flow_matching", "pairing", "aligned", "alignment"),
        ("mean_flow", "pairing", "optimal_transprot", "optimal_transport"),
        ("likelihood", "divergence", "rademache", "rademacher"),
    ],
)
def test_an_unknown_name_is_an_error_with_the_nearest_one(kind, key, wrong, near):
    with pytest.raises(ValueError, match=rf"unknown {key} '{wrong}'; did you mean {near}\?"):
        OBJECTIVES[kind](**{key: wrong})


# ---- free-form -------------------------------------------------------------------------------------------------------


def test_free_form_is_the_loss_of_the_terms(flow):
    objective = FreeFormObjectiveConfig(beta=7.0, n_probes=2, surrogate="decoder_jvp").build(flow)
    data = random_data(flow)
    loss, parts = objective(Batch(data), rng())
    terms = flow.terms(data, None, rng(), 2, "decoder_jvp")
    close(loss, terms.loss(7.0))
    close(parts["reconstruction"], terms.reconstruction.mean())
    close(parts["latent_nll"], terms.latent.mean())
    close(parts["correction"], terms.correction.mean())


@pytest.mark.parametrize(("share", "beta"), [(0, 4), (0.5, 20), (1, 100)])
def test_the_weight_of_the_reconstruction_rises_geometrically(flow, share, beta):
    objective = FreeFormObjectiveConfig(first_beta=4.0).build(flow)
    objective.share = share
    data = random_data(flow)
    close(objective(Batch(data), rng())[0], flow.terms(data, None, rng()).loss(beta))


def test_a_frozen_decoder_stays_out_of_the_gradient(flow):
    data = random_data(flow)
    whole, frozen = (
        gradients(flow, FreeFormObjectiveConfig(frozen_decoder=choice).build(flow)(Batch(data), rng())[0])
        for choice in (False, True)
    )
    assert {name.split(".")[0] for name in whole} == {"encoder", "decoder"}
    assert frozen.keys() == {name for name in whole if name.startswith("encoder")}
    for name in frozen:
        close(frozen[name], whole[name])


# ---- flow matching ---------------------------------------------------------------------------------------------------


def drawn(objective, data, generator):
    """Points on paths, their velocity, context and times, as the objective draws them."""
    paths = batch_of(objective, data, generator)
    return paths.at, paths.velocity, paths.context, paths.r, paths.t


class Field(nn.Module):
    """f(x, t) = function(x, t) on positions, as the network of a continuous flow."""

    n_times = 1

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.anchor = nn.Parameter(torch.zeros((), dtype=torch.float64))

    def forward(self, x, h, mask, times):
        return self.function(x, times[:, :, None]) * mask.unsqueeze(-1) + 0 * self.anchor, h


def velocity_flow(function, n_particles=4, dim=2):
    return ContinuousFlow(ParticleDomain(n_particles, dim), Field(function))


@pytest.mark.parametrize("kind", ["flow_matching", "mean_flow"])
@pytest.mark.parametrize("domain", ["composed-united", "molecules"])
def test_paths_lead_from_the_data_to_the_noise(kind, domain):
    """Written by hand: p_t = (1 - t) p + t z, with features of the dequantiser where types are generated."""
    name = {
        ("flow_matching", "composed-united"): "composed-united-continuous-transformer",
        ("mean_flow", "composed-united"): "composed-united-average-velocity",
    }.get((kind, domain), "molecules-continuous")
    flow = make_flow(name)
    if kind == "mean_flow" and domain == "molecules":
        pytest.skip("no such flow in the registry")
    objective = build(flow, kind, pairing="none")
    data = random_data(flow)
    paths = batch_of(objective, data, rng())
    generator = rng()
    points, context, _ = flow.to_points(data, generator)
    noise = flow.domain.space(context.mask).randn(generator, torch.float64)
    for p, z, at, velocity in zip(points, noise, paths.at, paths.velocity, strict=True):
        t = paths.t[:, None, None]
        close(at, (1 - t) * p + t * z)
        close(velocity, z - p)
        assert not at.requires_grad
    assert torch.equal(paths.context.mask, context.mask)
    assert torch.equal(paths.context.labels, context.labels)
    assert paths.at.h.shape[-1] == flow.domain.n_features


@pytest.mark.parametrize("loss_exponent", [0.0, 0.5, 1.0])
@pytest.mark.parametrize("kind", ["flow_matching", "mean_flow"])
def test_flow_matching_by_hand(kind, loss_exponent):
    """The mean of |f(p_t, t) - (z - p)|^2 by configuration, over degrees of freedom, to 1 - loss_exponent."""
    flow = flow_for(kind)
    options = {"average_fraction": 0} if kind == "mean_flow" else {}
    objective = build(flow, kind, **{"loss_exponent": loss_exponent, **options})
    data = random_data(flow)
    at, velocity, context, r, t = drawn(objective, data, rng())
    assert torch.equal(r, t)
    if kind == "mean_flow":
        u, _ = flow.decoder(at.x, context.labels, context.mask, torch.stack([t, t], 1))
    else:
        u, _ = flow.network(at.x, context.labels, context.mask, t[:, None])
    dof = 3 * (context.mask.sum(1) - 1)
    errors = (u - velocity.x).square().sum((1, 2)) / dof
    expected = (errors / (errors.detach() + 1e-3) ** loss_exponent).mean()
    loss, parts = loss_of(objective, data, rng())
    close(loss, expected)
    assert parts.keys() == {"flow_matching"}
    close(parts["flow_matching"], errors.mean())
    ours, theirs = gradients(flow, loss), gradients(flow, expected)
    assert ours.keys() == theirs.keys()
    for name in ours:
        close(ours[name], theirs[name], atol=1e-9)


def test_the_velocity_of_a_gaussian_is_the_minimum():
    """For data of width s and independent noise E[v | p_t] = (t - (1 - t) s^2) / ((1 - t)^2 s^2 + t^2) p_t."""
    s = 0.6
    data = s * ParticleDomain(4, 2).space(torch.ones(20_000, 4, dtype=torch.bool)).randn(rng(1), torch.float64).x

    def exact(x, t):
        return (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) * x

    losses = {
        change: loss_of(
            flow_matching(velocity_flow(lambda x, t, c=change: exact(x, t) + c * x), pairing="none"), data, rng()
        )[0].item()
        for change in (-0.05, 0.0, 0.05)
    }
    assert losses[0.0] < min(losses[-0.05], losses[0.05])
    _, _, _, _, t = drawn(flow_matching(velocity_flow(exact), pairing="none"), data, rng())
    left = (s**2 / ((1 - t) ** 2 * s**2 + t**2)).mean()  # the variance of v given p_t
    assert losses[0.0] == pytest.approx(left.item(), rel=0.02)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_a_flow_learns_the_width_of_its_data(pairing):
    """Every pairing leaves the distributions of data and noise, so the learned field carries one to the other."""
    s = 0.5
    data = s * ParticleDomain(3, 2).space(torch.ones(512, 3, dtype=torch.bool)).randn(rng(1), torch.float64).x

    class Widths(nn.Module):
        """f = rate(t) p, the rate linear between nine times."""

        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.zeros(9, dtype=torch.float64))

        def forward(self, x, h, mask, times):
            place = (times[:, 0] * 8).clamp(0, 7.999)
            low = place.floor().long()
            rate = torch.lerp(self.rate[low], self.rate[low + 1], place - low)
            return rate[:, None, None] * x, h

    flow = ContinuousFlow(ParticleDomain(3, 2), Widths(), FixedStepSolver(method="rk4", n_steps=40))
    objective = flow_matching(flow, pairing=pairing)
    prepare, generator = objective.preparation(), rng()
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.05)
    for _ in range(150):
        optimizer.zero_grad()
        first = int(torch.randint(512 - 64, (1,), generator=generator))
        objective(prepare(Batch(data[first : first + 64]), generator), None)[0].backward()
        optimizer.step()
    samples = flow.sample(4000, seed=0)
    assert samples.square().mean().sqrt().item() == pytest.approx(data.square().mean().sqrt().item(), rel=0.06)


def test_the_parts_of_a_batch_are_those_of_the_whole(flow):
    """A slice of paths keeps its configurations with their times, so a batch in parts has the gradient of the whole."""
    objective, data = mean_flow(flow, average_fraction=0.75), random_data(flow)
    batch = batch_of(objective, data, rng())
    assert batch.n_intervals == 3
    pieces = [batch[:2], batch[2:4], batch[3:]]
    assert [(len(p), p.n_intervals) for p in pieces] == [(2, 2), (2, 1), (1, 0)]
    loss, parts = accumulate_gradients(objective, batch, None)
    whole = [p.grad.clone() for p in flow.decoder.parameters()]
    flow.zero_grad()
    again, more = accumulate_gradients(objective, batch, None, micro_batch=2)
    assert again == pytest.approx(loss)
    assert more.keys() == parts.keys()
    for p, g in zip(flow.decoder.parameters(), whole, strict=True):
        close(p.grad, g)


@pytest.mark.parametrize("kind", ["flow_matching", "mean_flow"])
def test_pairing_shortens_the_way(kind):
    """With a velocity of zero the error is that of the path itself."""
    flow = flow_for(kind)
    nn.init.zeros_((flow.decoder if kind == "mean_flow" else flow.network).move.weight)
    data = random_data(flow)
    data = type(data).concatenate([data] * 8)
    turned, _ = random_orthogonal(Points(data.positions, data.positions[..., :0]), rng())
    data = dataclasses.replace(data, positions=turned)
    options = {"loss_exponent": 0.0, **({"average_fraction": 0} if kind == "mean_flow" else {})}
    errors = {}
    for pairing in PAIRINGS:
        objective = build(flow, kind, **{"pairing": pairing, **options})
        errors[pairing] = sum(loss_of(objective, data, rng(i))[0].item() for i in range(10))
    assert errors["optimal_transport"] < 0.8 * errors["none"]
    assert errors["alignment"] < 0.8 * errors["none"]
    assert errors["equivariant_optimal_transport"] < 0.9 * min(errors["optimal_transport"], errors["alignment"])


@pytest.mark.parametrize("pairing", ["alignment", "equivariant_optimal_transport"])
def test_alignment_makes_the_loss_indifferent_to_the_pose_of_the_data(pairing):
    """Data are turned at random first, so a rare pose in the data set cannot be learned."""
    flow = velocity_flow(lambda x, t: x * torch.tensor([1.0, 0.0]).double())  # not equivariant on purpose
    flat = torch.tensor([[-1.0, 0], [1.0, 0], [2.0, 0], [-2.0, 0]]).double().expand(50, 4, 2)
    objective, generator = flow_matching(flow, pairing=pairing), rng()
    lying, standing = (
        sum(loss_of(objective, x, generator)[0].item() for _ in range(40)) for x in (flat, flat.flip(-1))
    )
    assert abs(lying - standing) < 0.03 * lying


# ---- mean flow -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(("fraction", "parts"), [(0, {"flow_matching"}), (1, {"average_velocity"})])
def test_parts_are_those_there_are(flow, fraction, parts):
    assert loss_of(mean_flow(flow, average_fraction=fraction), random_data(flow), rng())[1].keys() == parts


def test_parts_are_means_of_their_configurations(flow):
    objective, data = mean_flow(flow, pairing="none", loss_exponent=0), random_data(flow)
    loss, parts = loss_of(objective, data, rng())
    close(loss, (parts["average_velocity"] + parts["flow_matching"]) / 2)  # two of four


def test_times_both_ways():
    """Every other pair is exchanged; what is learned of each is the same rule."""
    r, t, *_ = interval_times(MeanFlowObjectiveConfig(), 1000, rng())
    back, forth, *_ = interval_times(MeanFlowObjectiveConfig(both_ways=True), 1000, rng())
    odd = torch.arange(1000) % 2 == 1
    close(torch.where(odd, forth, back), r)
    close(torch.where(odd, back, forth), t)
    assert (back > forth).sum() == 250, "half of those with r < t"


def test_times():
    config = MeanFlowObjectiveConfig(average_fraction=0.5, from_latent_fraction=0.2)
    r, t, n = interval_times(config, 20_000, rng())
    assert n == 10_000
    assert ((r >= 0) & (r <= t) & (t <= 1)).all()
    assert torch.equal(r[n:], t[n:])
    assert (r[:n] < t[:n]).all()
    assert abs(float((t[:n] == 1).double().mean()) - 0.2) < 0.02
    assert r[:n].min() < 0.01
    assert r[:n].max() > 0.9
    r, t, *none = single_times(20_000, rng())
    assert none == [0]
    assert torch.equal(r, t)
    assert ((t > 0) & (t < 1)).all()
    assert abs(float(t.median()) - 0.5) < 0.02
    assert abs(float((t / (1 - t)).log().std()) - 1.2) < 0.03


def test_log_uniform_times():
    """A share of times is log-uniform: a third of it lies in each power of ten; the others stay as they were."""
    usual, mixed = (single_times(30_000, rng(), share).t for share in (0, 0.6))
    log = mixed[:18_000].log10()
    close(log.histc(3, -3, 0) / 18_000, torch.full((3,), 1 / 3), atol=0.02)
    assert torch.equal(mixed[18_000:], usual[18_000:])
    config = MeanFlowObjectiveConfig(average_fraction=1, from_latent_fraction=1, log_uniform_fraction=0.5)
    r, t, _ = interval_times(config, 30_000, rng())
    assert (t == 1).all()
    expected = 0.5 / 3 + 0.5 * 0.01 ** (1 / 1.5)  # log-uniform ones, and u^(3/2)
    assert abs(float((r < 0.01).double().mean()) - expected) < 0.01


def target_of(flow, target, at, context, velocity, r, t, step=1e-5):
    """What the average velocity should be at r < t, by central differences."""

    def u(points, r, t):
        return flow.average_velocity(points, context, r, t)

    if target == "mean_flow":  # v - (t - r) du/dt along (v, 0, 1)
        ahead, behind = (u(at + velocity * h, r, t + h) for h in (step, -step))
        return velocity - (ahead - behind) * (0.5 / step) * (t - r)
    arrived = at - u(at, r, t) * (t - r)  # v at its image + (t - r) du/dr
    return u(arrived, r, r) + (u(at, r + step, t) - u(at, r - step, t)) * (0.5 / step) * (t - r)


@pytest.mark.parametrize("target", TARGETS)
def test_the_loss_and_its_gradient_by_finite_differences(flow, target):
    """The target is a constant: the gradient is that of the network at (p_t, r, t) alone."""
    objective = mean_flow(flow, target=target, average_fraction=1, pairing="none", loss_exponent=0)
    data = random_data(flow)
    at, velocity, context, r, t = drawn(objective, data, rng())
    with torch.no_grad():
        wanted = target_of(flow, target, at, context, velocity, r, t)
    assert (wanted - velocity).squared_norm().min() > 1e-3  # it is another than that of flow matching
    errors = (flow.average_velocity(at, context, r, t) - wanted).squared_norm() / flow.domain.space(context.mask).dof
    loss, parts = loss_of(objective, data, rng())
    close(loss, errors.mean(), atol=1e-6)
    close(parts["average_velocity"], errors.mean(), atol=1e-6)
    ours, theirs = gradients(flow, loss), gradients(flow, errors.mean())
    assert ours.keys() == theirs.keys()
    for name in ours:
        close(ours[name], theirs[name], atol=1e-6)


@pytest.mark.parametrize("target", TARGETS)
def test_where_r_is_t_the_target_is_the_velocity(flow, target):
    """In a batch of both kinds, each configuration has the error of its own kind."""
    objective, data = (
        mean_flow(flow, target=target, average_fraction=0.5, pairing="none", loss_exponent=0),
        random_data(flow),
    )
    at, velocity, context, r, t = drawn(objective, data, rng())
    with torch.no_grad():
        averaged = target_of(flow, target, at, context, velocity, r, t)
        u = flow.average_velocity(at, context, r, t)
        dof = flow.domain.space(context.mask).dof
        _, parts = loss_of(objective, data, rng())
    close(parts["average_velocity"], ((u - averaged).squared_norm() / dof)[:2].mean(), atol=1e-6)
    close(parts["flow_matching"], ((u - velocity).squared_norm() / dof)[2:].mean())


def test_the_mean_flow_target_in_closed_form():
    """u = a x (r + t^2) has du/dt = a (v (r + t^2) + 2 t x) along the path."""
    flow = particles(lambda x, r, t: 0.7 * x * (r + t**2))
    objective = mean_flow(flow, average_fraction=1, pairing="none", loss_exponent=0)
    data = torch.randn(6, 4, 2, generator=rng(1)).double()
    at, velocity, _, r, t = drawn(objective, data, rng())
    x, v, r, t = at.x, velocity.x, r[:, None, None], t[:, None, None]
    error = 0.7 * x * (r + t**2) - v + (t - r) * 0.7 * (v * (r + t**2) + 2 * t * x)
    close(loss_of(objective, data, rng())[0], error.square().sum((1, 2)).mean() / 6)


def test_an_exact_average_velocity_is_its_own_lagrangian_target():
    """Of the field v(x) = a x: x (1 - e^(a (r - t))) / (t - r), and v itself for r = t."""

    def exact(x, r, t):
        gap = t - r
        safe = torch.where(gap == 0, 1.0, gap)
        return x * torch.where(gap == 0, 0.8, -torch.expm1(-0.8 * safe) / safe)

    for function, vanishes in ((exact, True), (lambda x, r, t: exact(x, r, t) * 1.01, False)):
        objective = mean_flow(particles(function), target="lagrangian", average_fraction=1, loss_exponent=0)
        loss, _ = loss_of(objective, torch.randn(6, 4, 2, generator=rng()).double(), rng())
        assert (loss < 1e-20) == vanishes


def test_an_exact_average_velocity_is_its_own_mean_flow_target():
    """Where all data are one point p: then v = (p_t - p) / t and u = v for every r, as the paths are straight."""
    flow = particles(lambda x, r, t: x / t)
    objective = mean_flow(flow, average_fraction=1, loss_exponent=0, pairing="none")
    assert loss_of(objective, torch.zeros(6, 4, 2).double(), rng())[0] < 1e-20


# ---- inversion -------------------------------------------------------------------------------------------------------


def test_inversion_is_the_error_of_the_latent(flow):
    data = random_data(flow)
    loss, parts = InversionObjectiveConfig().build(flow)(Batch(data), rng())
    generator = rng()
    _, context, _ = flow.to_points(data, generator)
    z = flow.domain.space(context.mask).randn(generator, torch.float64)
    error = (flow.encode(flow.decode(z, context), context) - z).squared_norm()
    close(loss, error.mean())
    assert parts == {}


class Scaled(nn.Module):
    """x -> a x, as what is added to x."""

    def __init__(self, a):
        super().__init__()
        self.a = nn.Parameter(torch.tensor(a, dtype=torch.float64))

    def forward(self, x, h, mask):
        return (self.a - 1) * x, h


@pytest.mark.parametrize(("a", "zero"), [(0.5, True), (0.6, False)])
def test_inversion_vanishes_for_an_exact_pair_and_leaves_the_decoder(a, zero):
    flow = FreeFormFlow(Scaled(a), Scaled(2.0), domain=ParticleDomain(3, 2))
    loss, _ = InversionObjectiveConfig().build(flow)(Batch(torch.zeros(5, 3, 2).double()), rng())
    loss.backward()
    assert (float(loss.detach()) < 1e-25) == zero
    assert (float(flow.encoder.a.grad.abs()) < 1e-12) == zero
    assert flow.decoder.a.grad is None


# ---- regression ------------------------------------------------------------------------------------------------------


def regression(flow, teacher, **options):
    return RegressionObjectiveConfig(teacher="a run", **options).build(flow, teacher=teacher)


@pytest.mark.parametrize("loss_exponent", [0.0, 0.5])
def test_regression_is_the_error_of_both_maps_on_the_pairs_of_the_teacher(flow, loss_exponent):
    teacher, data = randomize(copy.deepcopy(flow), seed=1), random_data(flow)
    loss, parts = regression(flow, teacher, evaluations=5, loss_exponent=loss_exponent)(Batch(data), rng())
    generator = rng()
    _, context, _ = flow.to_points(data, generator)
    space = flow.domain.space(context.mask)
    z = space.randn(generator, torch.float64)
    points = teacher.decode(z, context, 5)
    pairs = {"decoder_error": (flow.decode(z, context), points), "encoder_error": (flow.encode(points, context), z)}
    errors = {name: (a - b).squared_norm() / space.dof for name, (a, b) in pairs.items()}
    close(loss, sum((e / (e.detach() + 1e-3) ** loss_exponent).mean() for e in errors.values()))
    for name, e in errors.items():
        close(parts[name], e.sqrt().mean())
    assert not any(p.requires_grad for p in teacher.parameters())


def test_regression_vanishes_for_the_teacher_and_its_inverse():
    """Paths dx/dt = x from 1 to 0, times 1/e in the limit; in four steps of the teacher it is a product."""
    teacher = particles(lambda x, r, t: x)
    factor = math.prod(1 - (a * a - b * b) for b, a in pairwise(k / 4 for k in range(5)))
    for wrong, vanishes in ((1.0, True), (1.02, False)):
        flow = FreeFormFlow(Scaled(wrong / factor), Scaled(factor), domain=ParticleDomain(4, 2))
        loss, _ = regression(flow, teacher, evaluations=4)(Batch(torch.zeros(5, 4, 2).double()), rng())
        assert (float(loss.detach()) < 1e-25) == vanishes


def test_regression_needs_a_teacher_that_takes_evaluations(flow):
    with pytest.raises(ValueError, match="needs a flow as teacher"):
        RegressionObjectiveConfig(teacher="a run").build(flow)
    with pytest.raises(ValueError, match="decoder for one evaluation"):
        regression(flow, make_flow("composed-all-atom"), evaluations=2)
    with pytest.raises(ValueError, match=r"set objective\.evaluations"):
        regression(flow, flow)


def test_a_continuous_flow_is_a_teacher_by_its_own_solver():
    teacher = make_flow("composed-united-continuous-transformer")
    loss, _ = regression(make_flow("composed-united-average-velocity"), teacher)(Batch(random_data(teacher)), rng())
    assert loss.isfinite()


# ---- stages ----------------------------------------------------------------------------------------------------------


def stages(flow, teacher, **options):
    return OBJECTIVES["stages"](teacher="a run", **options).build(flow, teacher=teacher)


def test_stages_follow_the_teacher_from_their_own_inputs():
    """The loss is the formula, with the steps of the teacher written out."""
    flow, teacher = make_flow("composed-united-stages"), make_flow("composed-united-continuous-transformer", seed=1)
    objective = stages(flow, teacher, times=(1.0, 0.4, 0.0), longest_step=0.3, distance_weight=2.0)
    data = random_data(flow)
    loss, parts = objective(Batch(data), rng())
    generator = rng()
    _, context, _ = flow.to_points(data, generator)
    space = flow.domain.space(context.mask)
    p, expected = space.randn(generator, torch.float64), 0.0
    for i, times in enumerate([(1.0, 0.7, 0.4), (0.4, 0.2, 0.0)]):
        q = p
        for t, r in pairwise(times):
            q = q - teacher.velocity(q, context, torch.tensor(t).double()) * (t - r)
        image = transform(flow.decoder.stages[i], p, context)
        e = (image - q).squared_norm() / space.dof / (times[0] - times[-1]) ** 2
        close(parts[f"stage_{i + 1}"], e.sqrt().mean())
        expected = expected + (e / (e.detach() + 1e-3).sqrt()).mean()
        p = Points(image.x.detach(), image.h.detach())
    distances = [(torch.pdist(image.x[b, m]) - torch.pdist(q.x[b, m])).abs().mean() for b, m in enumerate(context.mask)]
    close(parts["distances"], torch.stack(distances).mean(), atol=1e-6)
    close(loss, expected + 2.0 / 0.4 * parts["distances"], atol=1e-8)


def test_stages_that_are_steps_of_the_teacher_have_nothing_to_learn():
    teacher, times = make_flow("composed-united-continuous-transformer"), (1.0, 0.5, 0.2, 0.0)
    steps = [teacher.network.at_times(torch.tensor([t]).double(), r - t) for t, r in pairwise(times)]
    flow = FreeFormFlow(Scaled(1.0), Chain(steps), domain=teacher.domain)
    batch = Batch(random_data(teacher))
    assert stages(flow, teacher, times=times, longest_step=1.0)(batch, rng())[0].item() < 1e-9
    assert stages(flow, teacher, times=times, longest_step=0.2)(batch, rng())[0].item() > 1e-3


def test_stages_of_an_encoder_follow_the_path_back():
    """From data with noise, which are on the path at time s / (1 + s)."""
    teacher, times, s = make_flow("composed-united-continuous-transformer"), (1.0, 0.5, 0.2, 0.0), 0.1
    points, context, _ = teacher.to_points(random_data(teacher), None)
    settings = {"times": times, "map": "encoder", "longest_step": 0.1, "noise": s}
    encoder = Chain([TransformerConfig(hidden=6, n_vectors=2, n_heads=1, n_blocks=1).build(0, 5) for _ in range(3)])
    flow = FreeFormFlow(encoder.double(), Scaled(1.0), domain=teacher.domain)
    objective = stages(flow, teacher, **settings)
    loss, parts = objective(Batch(random_data(teacher)), rng())
    start, _ = teacher.add_noise(points, context, s, rng())
    first = s / (1 + s)
    euler = FixedStepSolver(method="euler", n_steps=2)
    target = teacher.integrate(start * (1 - first), context, first, 0.2, solver=euler).points
    image = transform(encoder.stages[0], start, context)
    e = (image - target).squared_norm() / teacher.domain.space(context.mask).dof / 0.2**2
    close(parts["stage_1"], e.sqrt().mean(), atol=1e-8)
    assert parts.keys() == {"stage_1", "stage_2", "stage_3"}
    assert set(gradients(flow, loss)) == {f"encoder.{name}" for name, _ in encoder.named_parameters()}


def test_stages_need_times_and_a_teacher():
    flow, teacher = make_flow("composed-united-stages"), make_flow("composed-united-continuous-transformer")
    with pytest.raises(ValueError, match="4 times are those of 3 stages, the decoder has 2"):
        stages(flow, teacher, times=(1.0, 0.5, 0.2, 0.0))
    with pytest.raises(ValueError, match="needs a continuous flow as teacher"):
        stages(flow, flow, times=(1.0, 0.5, 0.0))
    scaled = Chain(flow.decoder.stages, [1.0, 0.9])
    with pytest.raises(ValueError, match="stages of the decoder scale their input"):
        stages(FreeFormFlow(flow.encoder, scaled, domain=flow.domain), teacher, times=(1.0, 0.5, 0.0))
    for times in ((1.0, 0.5), (1.0, 0.5, 0.5, 0.0), (0.9, 0.5, 0.0), (1.0, 0.0)):
        with pytest.raises(ValueError, match="times must fall from 1 to 0"):
            stages(flow, teacher, times=times)


# ---- what does not go together ---------------------------------------------------------------------------------------


def test_settings_that_the_likelihood_of_a_flow_does_not_take_are_refused():
    flow = make_flow("particles-2d")
    with pytest.raises(ValueError, match="likelihood of a FreeFormFlow takes no divergence, n_probes; leave it out"):
        LikelihoodObjectiveConfig(divergence="exact", n_probes=2).build(flow)


@pytest.mark.parametrize("pairing", NEED_POSITIONS)
def test_pairings_that_rotate_are_refused_for_vectors(pairing):
    with pytest.raises(ValueError, match=f"pairing {pairing} rotates positions, which these data lack"):
        build(flow_for("flow_matching", "vectors"), "flow_matching", pairing=pairing)


def test_optimal_transport_is_refused_under_a_condition():
    """It would make the noise depend on the condition, and samples are drawn from independent noise."""
    flow = flow_for("flow_matching", "vectors")
    objective = build(flow, "flow_matching", pairing="optimal_transport")
    with pytest.raises(MolflowError, match="would make the noise depend on the condition"):
        batch_of(objective, batch_for(flow), rng())


@pytest.mark.parametrize(
    ("kind", "message"),
    [
        ("free_form", "only the surrogate decoder_jvp"),
        ("inversion", "cannot be compiled"),
        ("likelihood", "cannot be compiled"),
    ],
)
def test_these_losses_cannot_be_compiled(kind, message):
    with pytest.raises(ValueError, match=rf"{message}.*training\.compile = false"):
        build(flow_for(kind), kind).compile_loss()


# ---- diffusion -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ["molecules-diffusion", "particles-diffusion-conditional", "vectors-diffusion"])
def test_diffusion_by_hand(name):
    """The mean of |e' - e|^2 over degrees of freedom, e' = sigma p_t + alpha F at p_t = alpha p + sigma e."""
    flow = make_flow(name)
    data, condition = random_data(flow), asked(flow).get("condition")
    loss, parts = loss_of(DiffusionObjectiveConfig().build(flow), Batch(data, condition), rng())
    generator = rng()
    points, context, _ = flow.to_points(data, generator, condition)
    space = flow.domain.space(context.mask)
    noise = space.randn(generator, torch.float64)
    t = math.pi / 2 * torch.rand(4, generator=generator, dtype=torch.float64)
    at = scale(points, t.cos()) + scale(noise, t.sin())
    predicted = scale(at, t.sin()) + scale(flow.output(at, context, 2 / math.pi * t), t.cos())
    close(loss, (squared_norm(predicted - noise) / space.dof).mean())
    assert parts == {}


def test_the_noise_of_a_gaussian_is_the_minimum():
    """For data of width s it is the mean over times of alpha^2 s^2 / (alpha^2 s^2 + sigma^2), the variance of e."""
    s, n = 0.6, 40_000
    data = s * torch.randn(n, 2, generator=rng(1), dtype=torch.float64)

    class Output(nn.Module):
        def __init__(self, factor):
            super().__init__()
            self.factor = nn.Parameter(torch.tensor(factor, dtype=torch.float64))

        def forward(self, x, condition, t):
            t = math.pi / 2 * t
            exact = t.sin() * t.cos() * (1 - s**2) / (s**2 * t.cos() ** 2 + t.sin() ** 2)
            return self.factor * exact * x

    losses = [
        loss_of(DiffusionObjectiveConfig().build(DiffusionFlow(VectorDomain(2), Output(c))), data, rng())[0].item()
        for c in (0.9, 1.0, 1.1)
    ]
    assert losses[1] < min(losses[0], losses[2])
    t = math.pi / 2 * torch.linspace(0, 1, 2001, dtype=torch.float64)
    signal = s**2 * t.cos() ** 2
    assert losses[1] == pytest.approx((signal / (signal + t.sin() ** 2)).mean().item(), rel=0.02)


# ---- a batch in parts ------------------------------------------------------------------------------------------------


class Mean(nn.Module):
    """The mean of w x, a figure that all parts have and one that only parts of two have."""

    def __init__(self):
        super().__init__()
        self.w = nn.Parameter(torch.tensor(3.0))

    def forward(self, data, generator):
        parts = {"always": data.mean()} | ({"twos": data.sum()} if len(data) == 2 else {})
        return self.w * data.mean(), parts


@pytest.mark.parametrize("micro_batch", [None, 1, 2, 3, 5, 9])
def test_a_batch_in_parts_has_the_gradient_of_the_whole(micro_batch):
    objective, data = Mean(), torch.tensor([1.0, 2, 4, 8, 16])
    loss, parts = accumulate_gradients(objective, data, None, micro_batch)
    assert loss == pytest.approx(3 * 6.2)
    assert objective.w.grad.item() == pytest.approx(6.2)
    assert parts["always"] == pytest.approx(6.2)
    assert parts.get("twos") == {2: pytest.approx((3 + 12) / 2), 3: pytest.approx(24)}.get(micro_batch)


def test_parts_of_one_lack_figures_and_the_log_can_do_without(flow):
    data = random_data(flow)
    rows = []
    for batch in (data[:1], data, data[1:2]):
        objective = mean_flow(flow)
        loss, parts = accumulate_gradients(objective, batch_of(objective, batch, rng()), None)
        rows.append({"loss": loss, **parts})
    assert "average_velocity" not in rows[0]
    line = mean(rows)
    assert line["average_velocity"] == rows[1]["average_velocity"]
    assert line["loss"] == pytest.approx(sum(row["loss"] for row in rows) / 3)


def test_the_teacher_is_a_frozen_copy_of_the_decoder(flow):
    objective = mean_flow(flow, target="lagrangian")
    before = {name: tensor.clone() for name, tensor in objective.teacher.state_dict().items()}
    loss, _ = loss_of(objective, random_data(flow), rng())
    loss.backward()
    with torch.no_grad():
        for parameter in flow.decoder.parameters():
            parameter += 1
    assert all(torch.equal(tensor, before[name]) for name, tensor in objective.teacher.state_dict().items())
    assert all(parameter.grad is None for parameter in objective.teacher.parameters())
    assert mean_flow(flow).teacher is None


# ---- by energy -------------------------------------------------------------------------------------------------------


def quadratic(x):
    return x.square().sum((-2, -1))


def test_training_by_energy_is_the_mirror_image():
    """(1 - w) times the free-form loss and w times that of the pair with its maps exchanged, written by hand."""
    flow = make_flow("particles-2d")
    data, weight, beta = random_data(flow), 0.25, 7.0
    config = FreeFormObjectiveConfig(beta=beta, energy_weight=weight)
    loss, parts = config.build(flow, energy=quadratic)(Batch(data), rng())

    generator = rng()
    forward = flow.terms(data, None, generator).loss(beta)
    _, context, _ = flow.to_points(data, None)
    space = flow.domain.space(context.mask)
    z = space.randn(generator, flow.dtype)
    (v,) = space.probes(1, generator, flow.dtype)
    p, returned, surrogate = surrogate_encoder_jvp(
        lambda z: flow.decode(z, context), lambda p: flow.encode(p, context), z, [v]
    )
    energy = quadratic(flow.domain.from_points(p, context))
    mirror = (beta * (z - returned).squared_norm() + energy - surrogate).mean()
    close(loss, (1 - weight) * forward + weight * mirror)
    close(parts["energy"], energy.mean())
    assert {"reconstruction", "latent_reconstruction"} <= parts.keys()


def test_training_by_energy_finds_the_width_of_its_target():
    """Of exp(-|x|^2 / 2 s^2), without data that know it: g(z) = s z has the least reverse divergence."""
    flow = FreeFormFlow(Scale(0.0), Scale(0.0), domain=ParticleDomain(2, 2)).double()
    objective = FreeFormObjectiveConfig(beta=10.0, energy_weight=0.999).build(
        flow, energy=lambda x: quadratic(x) / (2 * 0.5**2)
    )
    optimizer = torch.optim.Adam(flow.parameters(), lr=0.02)
    generator = rng()
    for _ in range(400):
        optimizer.zero_grad()
        objective(Batch(torch.zeros(64, 2, 2).double()), generator)[0].backward()
        optimizer.step()
    assert 1 + flow.decoder.factor.item() == pytest.approx(0.5, rel=0.1)


def test_an_energy_is_needed():
    with pytest.raises(ValueError, match="energy_weight needs data whose energy is known"):
        FreeFormObjectiveConfig(energy_weight=0.5).build(make_flow("particles-2d"))


# ---- compiled --------------------------------------------------------------------------------------------------------


COMPILED = {
    "mean_flow": MeanFlowObjectiveConfig(target="mean_flow"),
    "lagrangian": MeanFlowObjectiveConfig(target="lagrangian"),
    "free_form": FreeFormObjectiveConfig(surrogate="decoder_jvp", n_probes=2),
    "flow_matching": FlowMatchingObjectiveConfig(),
    "stages": OBJECTIVES["stages"](teacher="a run", times=(1, 0.5, 0)),
    "flow_matching near the data": FlowMatchingObjectiveConfig(near_fraction=0.5),
    "diffusion": DiffusionObjectiveConfig(),
}


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a compiler may share its cores
@pytest.mark.parametrize("name", COMPILED)
def test_the_compiled_loss_is_the_eager_one(name):
    """Value and gradients on one batch."""
    network = TransformerConfig(hidden=4, n_vectors=2, pair_hidden=2, n_heads=1, n_blocks=1)
    domain = ComposedMoleculesConfig(
        types=("C", "CH", "CH3", "NH2", "O"), representation="united-atom", n_compositions=4
    )
    if name.startswith("flow_matching"):
        flow = ContinuousConfig(domain=domain, network=network).build()
    elif name == "diffusion":
        flow = DiffusionConfig(domain=domain, network=network).build()
    else:
        flow = FreeFormConfig(
            domain=domain,
            encoder=EGNNConfig(hidden=4, n_blocks=1),
            decoder=network.model_copy(update={"n_stages": 2 if name == "stages" else 1}),
            average_velocity=COMPILED[name].kind == "mean_flow",
        ).build()
    randomize(flow)
    data = random_data(flow, torch.float32)
    teacher = randomize(ContinuousConfig(domain=domain, network=network).build(), seed=1) if name == "stages" else None
    objective = COMPILED[name].build(flow, teacher=teacher)
    eager, _ = loss_of(objective, data, rng())
    expected = gradients(flow, eager)
    objective.compile_loss()
    loss, _ = loss_of(objective, data, rng())
    got = gradients(flow, loss)
    close(loss, eager, atol=1e-5 * float(eager.detach().abs()))
    assert got.keys() == expected.keys()
    for key in got:
        close(got[key], expected[key], atol=1e-4 * max(1.0, float(expected[key].abs().max())))


@pytest.mark.slow
@pytest.mark.timeout(1200)  # a compiler may share its cores
def test_a_dynamic_loss_is_compiled_once_for_all_sizes():
    """Value and gradients on batches of other numbers and sizes of molecules, without another compilation."""
    network = TransformerConfig(hidden=4, n_vectors=2, pair_hidden=2, n_heads=1, n_blocks=1)
    domain = ComposedMoleculesConfig(types=("C", "O"), representation="united-atom", n_compositions=4)
    flow = randomize(ContinuousConfig(domain=domain, network=network).build())
    objective = FlowMatchingObjectiveConfig(near_fraction=0.5).build(flow)
    batches = [of_size(b, n) for b, n in ((4, 5), (6, 3), (9, 7))]
    eager = [gradients(flow, loss_of(objective, batch, rng())[0]) for batch in batches]
    objective.compile_loss(dynamic=True)
    compiled = []
    for batch, expected in zip(batches, eager, strict=True):
        got = gradients(flow, loss_of(objective, batch, rng())[0])
        compiled.append(counters["stats"]["unique_graphs"])
        for key in expected:
            close(got[key], expected[key], atol=1e-4 * max(1.0, float(expected[key].abs().max())))
    assert compiled[0] == compiled[-1] > 0


def of_size(batch: int, n: int) -> MoleculeBatch:
    """Random molecules of n carbon atoms."""
    x, numbers = torch.randn(batch, n, 3, generator=rng()), torch.full((batch, n), 6)
    return MoleculeBatch(x, numbers, numbers > 0, torch.zeros_like(numbers))


# ---- near the data ---------------------------------------------------------------------------------------------------


def test_times_near_the_data():
    """The first share of a batch has times until u^(3/2) with u uniform, the rest those of the objective."""
    n, domain = 20_000, ParticleDomain(2, 2)
    draw = DrawPaths(domain, torch.float32, "none", single_times, near_fraction=0.25, near_until=0.3)
    paths = draw(Batch(torch.zeros(n, 2, 2)), rng())
    assert (paths.n_near, paths.n_intervals) == (5000, 0)
    assert torch.equal(paths.r, paths.t)
    u = (paths.t[:5000] / 0.3) ** (2 / 3)
    assert ((u >= 0) & (u <= 1)).all()
    assert u.quantile(torch.tensor([0.25, 0.5, 0.75])).tolist() == pytest.approx([0.25, 0.5, 0.75], abs=0.03)
    assert paths.t[5000:].median().item() == pytest.approx(0.5, abs=0.02)


def test_average_velocities_may_have_a_share_near_the_data():
    """It comes before the intervals of time, and its loss is that of the velocity, as in flow matching."""
    flow = flow_for("mean_flow")
    objective = mean_flow(flow, near_fraction=0.5, average_fraction=0.5, near_weight=2.0)
    batch = batch_of(objective, random_data(flow), rng())
    assert (batch.n_near, batch.n_intervals) == (2, 1)
    assert (batch.r[:2] == batch.t[:2]).all()
    assert batch.r[2] < batch.t[2]
    loss, parts = objective(batch, None)
    alone, _ = objective(batch[:2], None)
    close(alone, 2 * parts["near"].mean())
    close(loss, (alone * 2 + objective(batch[2:], None)[0] * 2) / 4)
    pieces = [batch[:1], batch[1:3], batch[2:]]
    assert [(p.n_near, p.n_intervals) for p in pieces] == [(1, 0), (1, 1), (0, 1)]


def test_without_a_share_near_the_data_flow_matching_is_that_of_velocities():
    """The loss is the formula, with times and noise drawn and paired in the order of all objectives on paths."""
    flow = flow_for("flow_matching")
    data = random_data(flow)
    loss, parts = loss_of(flow_matching(flow, loss_exponent=0.5), data, rng())
    points, context, _ = flow.to_points(data, rng())
    generator = rng()
    latent = flow.domain.space(context.mask).randn(generator, flow.dtype)
    points, latent = PAIRINGS["alignment"](points, latent, context, generator)
    t = single_times(4, generator).t.double()
    at = points * (1 - t) + latent * t
    e = (flow.velocity(at, context, t) - (latent - points)).squared_norm() / flow.domain.space(context.mask).dof
    close(loss, (e / (e.detach() + 1e-3).sqrt()).mean())
    assert parts.keys() == {"flow_matching"}
    same, _ = loss_of(flow_matching(flow, loss_exponent=0.5, near_until=0.7, near_weight=9.0), data, rng())
    assert torch.equal(same, loss)


@pytest.mark.parametrize("name", ["particles-continuous", "composed-environment-continuous", "molecules-continuous"])
def test_near_the_data_the_loss_is_on_distances(name):
    flow = make_flow(name)
    data = random_data(flow)
    objective = flow_matching(flow, near_fraction=0.5, near_until=0.1, near_weight=5.0)
    batch = batch_of(objective, data, rng())
    assert (batch.n_intervals, batch.n_near) == (0, 2)
    assert (batch.t[:2] <= 0.1).all()
    loss, parts = objective(batch, None)

    found = flow.velocity(batch.at, batch.context, batch.t)
    dof = flow.domain.space(batch.context.mask).dof
    expected = []
    for b in range(2):
        m, t = batch.context.mask[b], batch.t[b]
        predicted, meant = (torch.pdist((batch.at.x[b] - t * v.x[b])[m]) for v in (found, batch.velocity))
        features = (found.h[b] - batch.velocity.h[b]).square().sum() / dof[b]
        expected.append((predicted - meant).abs().mean() / (t + 0.01) + features)
    close(parts["near"], torch.stack(expected), atol=1e-6)
    far = (found - batch.velocity).squared_norm()[2:] / dof[2:]
    close(parts["flow_matching"], far)
    close(loss, (5 * parts["near"].mean() + far.mean()) / 2)
    trained = gradients(flow, parts_with_gradient(objective, batch))
    assert any(name.startswith("network") and g.abs().max() > 0 for name, g in trained.items())
    assert all(g.isfinite().all() for g in trained.values())


def parts_with_gradient(objective, batch):
    """The loss of the share near the data alone."""
    return objective(batch[: batch.n_near], None)[0]


def test_half_of_the_share_near_the_data_keeps_its_noise():
    flow = make_flow("composed-united-continuous-transformer")
    data = random_data(flow)
    data = type(data).concatenate([data] * 2)
    batch = batch_of(flow_matching(flow, near_fraction=0.5), data, rng())
    latent = flow.domain.space(batch.context.mask).randn(rng(), flow.dtype)
    points, _, _ = flow.to_points(data, None)
    found = batch.at - batch.velocity * batch.t
    same = (found - points).squared_norm() < 1e-20
    assert same.tolist() == 2 * [True] + 6 * [False]
    close((batch.at + batch.velocity * (1 - batch.t)).x, latent.x)


def test_paths_near_the_data_in_parts_are_those_of_the_whole():
    flow = make_flow("particles-continuous")
    objective = flow_matching(flow, near_fraction=0.75)
    batch = batch_of(objective, random_data(flow), rng())
    assert [p.n_near for p in (batch, batch[:2], batch[2:4], batch[3:])] == [3, 2, 1, 0]
    loss, _ = accumulate_gradients(objective, batch, None)
    whole = [p.grad.clone() for p in flow.network.parameters()]
    flow.zero_grad()
    again, _ = accumulate_gradients(objective, batch, None, micro_batch=2)
    assert again == pytest.approx(loss)
    for p, g in zip(flow.network.parameters(), whole, strict=True):
        close(p.grad, g)


def test_vectors_have_no_distances():
    flow = flow_for("flow_matching", "vectors")
    with pytest.raises(ValueError, match="near_fraction compares distances of points, which these data lack"):
        build(flow, "flow_matching", near_fraction=0.5)


# ---- likelihood ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("weight", [0.0, 0.3])
@pytest.mark.parametrize("name", ["particles-continuous", "composed-united-continuous-transformer"])
def test_likelihood_is_that_of_the_flow(name, weight):
    flow = make_flow(name)
    data = random_data(flow)
    objective = LikelihoodObjectiveConfig(divergence="exact", kinetic_energy=weight).build(flow)
    loss, parts = objective(Batch(data), rng())
    close(loss, -flow.log_prob(data).mean() + weight * parts["kinetic_energy"])
    close(parts["latent_nll"] - parts["log_det"] - parts["correction"], -flow.log_prob(data).mean())
    assert parts["kinetic_energy"] > 0
    assert parts["evaluations"] == flow.n_evaluations
    assert gradients(flow, loss).keys() == {name for name, _ in flow.network.named_parameters(prefix="network")}


def test_likelihood_draws_its_probes_from_the_generator():
    flow = make_flow("particles-continuous")
    data = random_data(flow)
    state = torch.random.get_rng_state()
    for kind in ("rademacher", "gaussian"):
        objective = LikelihoodObjectiveConfig(divergence=kind, n_probes=2).build(flow)
        first = objective(Batch(data), rng())[0]
        assert torch.equal(objective(Batch(data), rng())[0], first)
        assert not torch.equal(objective(Batch(data), rng(1))[0], first)
    assert torch.equal(torch.random.get_rng_state(), state)
