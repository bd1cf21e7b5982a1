"""Conditions: how they are given, what is refused, and that every conditional flow follows them."""

import math

import numpy as np
import pytest
import torch
from laws import ALL_FLOWS, CONDITIONS, asked, make_flow, random_data
from torch import nn

from molflow.batch import MoleculeBatch
from molflow.errors import MolflowError
from molflow.flows import (
    FLOWS,
    Conditions,
    ConditionsConfig,
    ContinuousFlow,
    FreeFormFlow,
    ParticleDomain,
    VectorDomain,
    refined,
    unroll,
)  # fmt: skip
from molflow.flows.sampling import latents
from molflow.geometry import select
from molflow.nn import EquivariantTransformer

CONDITIONAL = [name for name, config in ALL_FLOWS.items() if config.conditions is not None]
UNCONDITIONAL = ["vectors", "vectors-continuous", "particles-2d", "particles-continuous", "composed-all-atom"]


@pytest.fixture(params=CONDITIONAL)
def flow(request):
    return make_flow(request.param)


@pytest.fixture
def conditions():
    return CONDITIONS.build()


def positions_of(data):
    return data.positions if isinstance(data, MoleculeBatch) else data


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


# ---- how they are given ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "values",
    [
        torch.tensor([[3.0, 0.0]] * 4),
        torch.tensor([3.0, 0.0]),
        [3.0, 0.0],
        np.array([3.0, 0.0]),
        {"mass": 3.0, "charge": 0.0},
        {"charge": 0, "mass": 3},
        {"mass": torch.full((4,), 3.0), "charge": 0.0},
        {"mass": np.full(4, 3.0), "charge": [0.0] * 4},
        {"mass": torch.tensor(3), "charge": np.float64(0.0)},
    ],
    ids=lambda values: f"{type(values).__name__}",
)
def test_all_ways_to_give_the_same_conditions(conditions, values):
    """(value - mean) / std with mean (1, -0.5) and std (2, 0.5)."""
    got = conditions(values, 4, torch.float32)
    assert got.dtype == torch.float32
    assert got.tolist() == [[1.0, 1.0]] * 4


def test_each_configuration_has_its_own(conditions):
    mass, charge = torch.tensor([1.0, 3.0, 5.0]), torch.tensor([-0.5, 0.0, 0.5])
    expected = torch.tensor([[0.0, 0.0], [1.0, 1.0], [2.0, 2.0]]).double()
    close(conditions(torch.stack([mass, charge], 1), 3, torch.float64), expected)
    close(conditions({"charge": charge, "mass": mass}, 3, torch.float64), expected)


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"mass": 1.0}, "expected the conditions mass, charge, got mass"),
        ({"mass": 1.0, "charge": 1.0, "spin": 2.0}, "this model has no condition spin; it has mass, charge"),
        ({"mass": 1.0, "Charge": 1.0}, "this model has no condition Charge; did you mean charge?"),
        ({"mass": 1.0, 3: 1.0}, "this model has no condition 3; it has mass, charge"),
        ({}, "expected the conditions mass, charge, got none"),
        (torch.zeros(3), "expected conditions (4, 2) or (2,) for mass, charge, got (3,)"),
        (torch.zeros(3, 2), "expected conditions (4, 2) or (2,) for mass, charge, got (3, 2)"),
        (torch.zeros(4, 3), "expected conditions (4, 2) or (2,) for mass, charge, got (4, 3)"),
        (torch.zeros(1, 2), "expected conditions (4, 2) or (2,) for mass, charge, got (1, 2)"),
        (torch.zeros(4, 2, 1), "expected conditions (4, 2) or (2,) for mass, charge, got (4, 2, 1)"),
        (3.0, "expected conditions (4, 2) or (2,) for mass, charge, got ()"),
        ({"mass": torch.zeros(3), "charge": 0.0}, "expected conditions (4, 2) or (2,) for mass, charge, got (3, 2)"),
        (
            {"mass": torch.zeros(3), "charge": torch.zeros(4)},
            "expected one number or (4,) for each condition, got mass (3,), charge (4,)",
        ),
        (torch.tensor([1.0, math.nan]), "expected finite conditions"),
        ({"mass": math.inf, "charge": 0.0}, "expected finite conditions"),
        ("heavy", "expected conditions that are numbers: "),
        ({"mass": "heavy", "charge": 0.0}, "mass=heavy: expected a number, with its unit if need be, such as mass=1.5"),
        ([[1.0, 2.0], [3.0]], "expected conditions that are numbers: "),
    ],
    ids=str,
)
def test_conditions_that_are_refused(conditions, values, message):
    with pytest.raises(MolflowError) as caught:
        conditions(values, 4, torch.float32)
    assert str(caught.value).startswith(message)
    if not message.endswith(": "):
        assert str(caught.value) == message


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"names": ("a", "a")}, "expected different names of conditions, at least one, got a, a"),
        ({"names": ("a", "b"), "mean": (1.0,)}, "expected one mean for each of 2 conditions, std above 0"),
        ({"names": ("a",), "std": (0.0,)}, "expected one std for each of 1 conditions, std above 0"),
        ({"names": ("a",), "std": (math.nan,)}, "expected one std for each of 1 conditions, std above 0"),
        ({"names": ("a",), "std": (1.0, 1.0)}, "expected one std for each of 1 conditions, std above 0"),
    ],
)
def test_a_configuration_that_cannot_be(settings, message):
    with pytest.raises(ValueError, match=message):
        ConditionsConfig(**settings).build()
    with pytest.raises(ValueError, match="at least one, got none"):
        Conditions([])


def test_conditions_are_not_rescaled_by_default():
    assert Conditions(["a"])([2.5], 2, torch.float32).tolist() == [[2.5], [2.5]]


# ---- what flows do with them -----------------------------------------------------------------------------------------


def calls(flow, data):
    """All ways to use a flow, by name, each a function of the condition of four configurations."""
    found = {
        "sample": lambda c: flow.sample(4, condition=c, seed=0),
        "sample_and_log_prob": lambda c: flow.sample_and_log_prob(4, condition=c, seed=0),
        "iter_samples": lambda c: list(flow.iter_samples(4, 0, condition=c)),
        "iter_samples_and_log_prob": lambda c: list(flow.iter_samples_and_log_prob(4, 0, condition=c)),
        "log_prob": lambda c: flow.log_prob(data, condition=c),
        "log_prob by the decoder": lambda c: flow.log_prob(data, condition=c, which="decoder"),
        "likelihood": lambda c: flow.likelihood(data, condition=c),
        "nll": lambda c: flow.nll(data, c, flow.generator(0)),
        "loss": lambda c: flow.loss(data, c, flow.generator(0)),
    }
    if hasattr(flow, "terms"):
        found["terms"] = lambda c: flow.terms(data, c, flow.generator(0))
    return found.items()


def test_a_missing_condition_is_refused(flow):
    for name, call in calls(flow, random_data(flow)):
        with pytest.raises(MolflowError) as caught:
            call(None)
        assert str(caught.value) == "this model needs a condition: mass, charge", name


@pytest.mark.parametrize("condition", [torch.zeros(3), {"mass": 1.0}, [math.nan, 0.0], torch.zeros(5, 2)], ids=str)
def test_an_unfit_condition_is_refused(flow, condition):
    for name, call in calls(flow, random_data(flow)):
        with pytest.raises(MolflowError) as caught:
            call(condition)
        assert str(caught.value).startswith("expected "), name


@pytest.mark.parametrize("name", UNCONDITIONAL)
def test_a_condition_is_refused_by_a_flow_without(name):
    flow = make_flow(name)
    for call_name, call in calls(flow, random_data(flow)):
        with pytest.raises(MolflowError) as caught:
            call([1.0, 2.0])
        assert str(caught.value) == "this model was made without conditions; leave the condition out", call_name


def test_every_condition_matters_to_density_and_samples(flow):
    data, (given,) = random_data(flow), asked(flow).values()
    log_p, drawn = flow.log_prob(data, condition=given), flow.sample_and_log_prob(4, seed=0, condition=given)
    for column in range(2):
        other = given.clone()
        other[1, column] += 1
        change = (flow.log_prob(data, condition=other) - log_p).abs()
        assert change[1] > 1e-3
        assert not change[[0, 2, 3]].any()
        samples, log_q = flow.sample_and_log_prob(4, seed=0, condition=other)
        moved = (positions_of(samples) - positions_of(drawn[0])).flatten(1).abs().amax(1)
        assert moved[1] > 1e-3
        assert moved[[0, 2, 3]].max() < 1e-8
        assert (log_q - drawn[1]).abs()[1] > 1e-3


def test_one_condition_for_all_is_that_of_each(flow):
    data = random_data(flow)
    each, one = torch.tensor([[3.0, 1.0]] * 4), {"charge": 1.0, "mass": 3.0}
    close(flow.log_prob(data, condition=one), flow.log_prob(data, condition=each))
    samples = [positions_of(flow.sample(4, seed=1, condition=c)) for c in (one, each)]
    assert torch.equal(*samples)


def test_conditions_are_standardised_once(flow):
    """A flow told (value - mean) / std without units is the same flow."""
    data, (given,) = random_data(flow), asked(flow).values()
    expected = flow.log_prob(data, condition=given)
    standardized = flow.standardized(given, 4)
    close(standardized, (given - torch.tensor([1.0, -0.5])) / torch.tensor([2.0, 0.5]))
    flow.conditions = Conditions(CONDITIONS.names).double()
    close(flow.log_prob(data, condition=standardized), expected)


def test_conditions_stay_with_their_configurations_in_batches_and_groups_of_a_size(flow):
    """Samples are decoded in groups of one size, and in parts; each keeps its condition."""
    condition = torch.stack([torch.arange(7.0), -torch.arange(7.0)], 1).double() / 3
    samples, log_q = flow.sample_and_log_prob(7, seed=2, condition=condition, batch_size=3)
    seen, densities = [], []
    for i, (z, context, _) in enumerate(latents(flow, 7, condition, flow.generator(2), 1.0, 3)):
        rows = condition[3 * i : 3 * i + 3]
        close(context.condition, flow.standardized(rows, len(rows)))
        for j in range(len(rows)):
            index, n = torch.tensor([j]), int(context.mask[j].sum())
            alone = context.select(index, n)._replace(condition=flow.standardized(rows[j], 1))
            points, log_det = flow.decode_with_log_det(select(z, index, n), alone)
            seen.append(flow.domain.from_points(points, alone))
            densities.append(log_det)
    for i, one in enumerate(seen):
        ours, theirs = positions_of(samples)[i], positions_of(one)[0]
        n = len(theirs) if not isinstance(one, MoleculeBatch) else int((one.atomic_numbers[0] > 1).sum())
        close(ours[:n], theirs[:n], 1e-8)
    assert torch.cat(densities).std() > 0
    assert log_q.isfinite().all()


def test_conditions_may_be_of_any_precision(flow):
    data = random_data(flow)
    for condition in (torch.tensor([1, 2]), torch.tensor([1.0, 2.0]), torch.tensor([1.0, 2.0]).half()):
        assert flow.log_prob(data, condition=condition).dtype == torch.float64
    single = make_flow("vectors-conditional", torch.float32)
    assert single.sample(2, seed=0, condition=torch.tensor([1.0, 2.0]).double()).dtype == torch.float32


# ---- a flow on particles whose condition is known in closed form -----------------------------------------------------


class Stretch(nn.Module):
    """x -> x e^(sign c), as a network: what is added to the positions."""

    def __init__(self, sign):
        super().__init__()
        self.sign = nn.Parameter(torch.tensor(float(sign)).double())

    def forward(self, x, h, mask, t, condition):
        assert t is None
        return x * ((self.sign * condition).exp() - 1).unsqueeze(1), h


def test_particles_whose_width_is_the_condition():
    """z = x e^-c is standard normal, so x has width e^c on a space of (N - 1) D dimensions."""
    flow = FreeFormFlow(Stretch(-1), Stretch(1), domain=ParticleDomain(5, 2), condition=Conditions(["log_width"]))
    c = torch.linspace(-1, 1, 6).double()
    x, log_q = flow.sample_and_log_prob(6, seed=0, condition={"log_width": c})
    expected = -0.5 * x.square().sum((1, 2)) * (-2 * c).exp() - 8 * (0.5 * math.log(2 * math.pi) + c)
    close(log_q, expected)
    for which in ("encoder", "decoder"):
        close(flow.log_prob(x, condition={"log_width": c}, which=which), expected)
    many = flow.sample(4000, seed=0, condition=[0.7], batch_size=4000)
    assert abs(many.square().sum((1, 2)).mean() / 8 / math.exp(1.4) - 1) < 0.05


def test_the_condition_shifts_vectors_in_the_order_of_the_batch():
    """x = z + c: without the condition the samples of all batch sizes would be the same latents."""

    class Shift(nn.Module):
        def __init__(self, sign):
            super().__init__()
            self.sign = nn.Parameter(torch.tensor(float(sign)).double())

        def forward(self, x, condition):
            return x + self.sign * condition

    flow = FreeFormFlow(Shift(-1), Shift(1), domain=VectorDomain(2), condition=Conditions(["a", "b"]))
    condition = torch.arange(14.0).view(7, 2).double()
    shifted = flow.sample(7, seed=0, condition=condition, batch_size=3)
    plain = flow.sample(7, seed=0, condition=[0.0, 0.0], batch_size=3)
    close(shifted - plain, condition)


def test_a_conditional_flow_unrolls_with_its_conditions():
    flow = make_flow("particles-conditional-average-velocity")
    unrolled = unroll(flow, [1, 0.25, 0])
    assert not unrolled.has_average_velocity
    condition = torch.randn(5, len(flow.conditions.names), generator=torch.Generator().manual_seed(0)).double()
    samples = unrolled.sample(5, seed=0, condition=condition)
    close(samples, flow.sample(5, seed=0, condition=condition, n_evaluations=2), atol=1e-8)
    assert (samples - unrolled.sample(5, seed=0, condition=condition + 1)).abs().max() > 1e-3


def test_a_velocity_refines_only_a_flow_of_its_conditions():
    sizes = {"hidden": 8, "n_vectors": 2, "pair_hidden": 4, "n_heads": 2, "n_blocks": 1}
    domain = ParticleDomain(3, 2)
    conditions = Conditions(["a"])
    path = ContinuousFlow(domain, EquivariantTransformer(0, 0, 1, 1, **sizes), conditions=conditions)
    flow = unroll(path, [1, 0.5, 0])
    assert refined(flow, path, [0.2, 0]).sample(2, seed=0, condition=[1.0]).shape == (2, 3, 2)
    other = ContinuousFlow(domain, EquivariantTransformer(0, 0, 1, 1, **sizes), conditions=Conditions(["b"]))
    for velocity in (other, ContinuousFlow(domain, EquivariantTransformer(0, 0, 1, **sizes))):
        with pytest.raises(MolflowError, match="the velocity must have the conditions of the flow"):
            refined(flow, velocity, [0.2, 0])


def test_optional_conditions_say_which_are_given():
    conditions = Conditions(["gap", "mu"], mean=[1.0, 2.0], std=[2.0, 1.0], units=["eV", "debye"], optional=True)
    assert conditions.n_inputs == 4
    assert conditions({"gap": "5000 meV"}, 2, torch.float64).tolist() == [[2.0, 0.0, 1.0, 0.0]] * 2
    assert conditions(torch.tensor([[3.0, math.nan]]), 1, torch.float64).tolist() == [[1.0, 0.0, 1.0, 0.0]]
    assert not conditions.none_given(3, torch.float64).any()
    with pytest.raises(MolflowError, match="expected finite conditions"):
        conditions({"gap": math.inf}, 1, torch.float64)


def test_guidance_mixes_the_velocities_with_and_without_the_condition():
    optional = {"names": ["gap"], "mean": [0.0], "std": [1.0], "optional": True}
    config = {"domain": {"kind": "particles", "n_particles": 3, "dim": 2}, "conditions": optional}
    torch.manual_seed(0)
    flow = (
        FLOWS["continuous"].model_validate(config | {"network": {"kind": "egnn", "hidden": 8, "n_blocks": 1}}).build()
    )
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    context = flow.domain.sample_context(4, None, flow.device, flow.dtype)
    points, t = flow.domain.space(context.mask).randn(flow.generator(0), flow.dtype), torch.tensor(0.5)

    def velocity(flow, condition):
        return flow.velocity(points, context._replace(condition=flow.standardized(condition, 4)), t).x

    with torch.no_grad():
        given, free = velocity(flow, {"gap": 2.0}), velocity(flow, None)
        assert not torch.allclose(given, free)
        assert torch.allclose(velocity(flow.guided(3.0), {"gap": 2.0}), free + 3 * (given - free), atol=1e-6)
        assert torch.equal(velocity(flow, {"gap": 2.0}), given)  # the flow itself has no guidance
    assert torch.allclose(flow.guided(0.0).sample(5, condition={"gap": 2.0}, seed=0), flow.sample(5, seed=0), atol=1e-4)
