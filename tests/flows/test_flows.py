"""Laws of every flow, and two flows whose density is known in closed form."""

import dataclasses
import math

import numpy as np
import pytest
import torch
from laws import (
    ALL_FLOWS,
    FLOWS,
    LOG_DET_ERROR,
    MEANING,
    MOLECULE_FLOWS,
    PARTICLE_FLOWS,
    SIZES,
    asked,
    make_flow,
    random_case,
    random_data,
    training_terms,
    with_labels,
    without_labels,
)
from torch import nn
from torch.distributions import MultivariateNormal, Normal

from molflow.batch import MoleculeBatch
from molflow.chem import Structure
from molflow.distributions import StandardNormal
from molflow.errors import MolflowError
from molflow.flows import FreeFormFlow, ODEFlow, ParticleDomain
from molflow.geometry import Points
from molflow.testing import (
    assert_integrates_to_one,
    assert_invariant,
    assert_inverse,
    assert_log_det,
    reference_log_det,
)

WHICH = ["encoder", "decoder"]


@pytest.fixture(params=FLOWS)
def name(request):
    return request.param


@pytest.fixture
def flow(name):
    return make_flow(name)


@pytest.fixture(params=ALL_FLOWS)
def any_name(request):
    return request.param


@pytest.fixture
def any_flow(any_name):
    return make_flow(any_name)


@pytest.fixture
def molecule_flow():
    return make_flow("molecules-argmax")


def positions_of(data):
    return data.positions if isinstance(data, MoleculeBatch) else data


def with_positions(data, positions):
    return dataclasses.replace(data, positions=positions) if isinstance(data, MoleculeBatch) else positions


def as_tensor(data):
    if not isinstance(data, MoleculeBatch):
        return data
    counts = [data.atomic_numbers] if data.hydrogens is None else [data.atomic_numbers, data.hydrogens]
    return torch.cat([data.positions, torch.stack(counts, -1)], -1)


def is_drawn(flow, data):
    """The atoms (B, N) that the flow draws itself; hydrogens placed afterwards may flip where two sides are alike."""
    return data.mask & ((data.atomic_numbers != 1) | (flow.domain.representation == "all-atom"))


def drawn(flow, data):
    return as_tensor(data)[is_drawn(flow, data)] if isinstance(data, MoleculeBatch) else data


def case_of(flow, sizes, dtype=torch.float64):
    """Points of these sizes for a flow, and their context."""
    domain, conditions = flow.domain, flow.conditions
    n_conditions = 0 if conditions is None else len(conditions.names)
    return random_case(domain.dim, domain.n_features, domain.n_labels, sizes, dtype, n_conditions)


def on_joined(function, n_labels, condition):
    """A map (points, context) -> points as one of (points with labels, mask) that leaves the labels as they are.

    Its log-determinant is the same.
    """

    def with_identity(joined, mask):
        points, context = without_labels(joined, mask, n_labels, condition)
        return with_labels(function(points, context), context.labels)

    return with_identity


def close(a, b, atol=1e-10, **kwargs):
    torch.testing.assert_close(a, b, atol=atol, rtol=0, **kwargs)


# What is known in closed form


def test_the_identity_flow_is_the_latent_in_data_units(name, flow):
    for key, parameter in flow.named_parameters():
        if not key.startswith("domain."):
            nn.init.zeros_(parameter)
    data = random_data(flow)
    points, context, _ = flow.domain.to_points(data, flow.generator(5))
    mask = context.mask
    centred = positions_of(data) - positions_of(data).sum(1, keepdim=True) / mask.sum(1)[:, None, None]
    dof = ((mask.sum(1) - 1) * flow.domain.dim).double()
    squares = (centred.square() * mask[..., None]).sum((1, 2))
    expected = -squares / (2 * flow.domain.scale**2) - dof / 2 * math.log(2 * math.pi * flow.domain.scale**2)
    if isinstance(data, MoleculeBatch):
        of_context = torch.tensor([2.0, 2.0, 1.0, 1.0]).double() / 6  # sizes, or compositions, of the four molecules
        if name == "united-model-of-compositions":
            of_context = flow.domain.compositions.log_prob(context.labels.sum(1).long()).exp()
        expected += of_context.log()
    for i, counts in enumerate(context.labels.sum(1).long().tolist() if flow.domain.n_labels else []):
        expected[i] -= math.log(math.factorial(sum(counts)) / math.prod(map(math.factorial, counts)))  # orders of types
    if flow.domain.n_features:
        _, log_q = flow.domain.dequantizer(flow.domain.types_of(data), mask, flow.generator(5))
        expected += (Normal(0.0, 1.0).log_prob(points.h).sum(-1) * mask).sum(1) - log_q
    for which in WHICH:
        likelihood = flow.likelihood(data, which=which, seed=5, noise=0.0, **asked(flow))
        close(likelihood.log_prob, expected, atol=1e-8)
        assert not likelihood.reconstruction_error.any()
        assert likelihood.which == which


class Linear(nn.Module):
    """(x, h) -> (a x, A h + b), as a network: what is added to its input."""

    def __init__(self, a, matrix, shift):
        super().__init__()
        self.a, self.matrix, self.shift = (
            nn.Parameter(torch.as_tensor(t, dtype=torch.float64)) for t in (a, matrix, shift)
        )

    def forward(self, x, h, mask):
        h = h[..., : len(self.matrix)]  # without the labels
        return (self.a - 1) * x, (h @ self.matrix.T + self.shift - h) * mask.unsqueeze(-1)


def linear_flow(flow, a=0.6):
    generator = torch.Generator().manual_seed(0)
    k = flow.domain.n_features
    matrix = torch.eye(k) + 0.3 * torch.randn(k, k, generator=generator)
    shift = torch.randn(k, generator=generator)
    matrix, shift = matrix.double(), shift.double()
    inverse = torch.linalg.inv(matrix)
    return FreeFormFlow(Linear(a, matrix, shift), Linear(1 / a, inverse, -inverse @ shift), domain=flow.domain).double()


@pytest.mark.parametrize("which", WHICH)
def test_a_linear_flow_has_a_normal_density(flow, which):
    flow = linear_flow(flow)
    points, context = case_of(flow, SIZES)
    mask = context.mask
    assert_inverse(lambda p, _: flow.encode(p, context), lambda z, _: flow.decode(z, context), points, mask)
    coordinates = flow.domain.space(mask).coordinates(Points(points.x, points.h[..., :0]))
    each = Normal(torch.zeros(()).double(), 1 / 0.6).log_prob(coordinates)
    expected = (each * flow.domain.space(mask).coordinate_mask()[:, : coordinates.shape[1]]).sum(1)
    if flow.domain.n_features:
        matrix, shift = flow.encoder.matrix, flow.encoder.shift
        features = MultivariateNormal(torch.linalg.solve(matrix, -shift), precision_matrix=matrix.T @ matrix)
        expected = expected + (features.log_prob(points.h) * mask).sum(1)
    log_p, error = flow.points_log_prob(points, context, which)
    close(log_p, expected, atol=1e-8)
    assert error.max() < 1e-12


@pytest.mark.parametrize("name", PARTICLE_FLOWS)
@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_samples_of_a_linear_flow_carry_their_density(flow, temperature):
    flow = linear_flow(flow)
    x, log_q = flow.sample_and_log_prob(50, seed=0, temperature=temperature)
    width = flow.domain.scale * temperature / 0.6
    dof = 3 * flow.domain.dim
    close(log_q, -x.square().sum((1, 2)) / (2 * width**2) - dof / 2 * math.log(2 * math.pi * width**2), atol=1e-8)
    if temperature == 1:
        for which in WHICH:
            close(log_q, flow.log_prob(x, which=which), atol=1e-8)


@pytest.mark.parametrize("dim", [1, 2, 3])
@pytest.mark.parametrize("which", WHICH)
def test_a_linear_flow_integrates_to_one(dim, which):
    flow = FreeFormFlow(
        *(Linear(a, torch.eye(0), torch.zeros(0)) for a in (0.6, 1 / 0.6)), domain=ParticleDomain(2, dim, scale=1.7)
    )
    assert_integrates_to_one(lambda x: flow.log_prob(x, which=which), dim, extent=25.0, tolerance=1e-5)


# Laws of all flows


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("which", WHICH)
def test_log_prob_of_points_is_invariant(name, which, dtype):
    flow = make_flow(name, dtype)
    points, context = case_of(flow, [4, 2, 3], dtype)

    def log_prob(joined, mask):
        joined = without_labels(joined, mask, flow.domain.n_labels, context.condition)
        return flow.points_log_prob(*joined, which)[0]

    assert_invariant(log_prob, with_labels(points, context.labels), context.mask)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
def test_log_prob_of_data_is_invariant(name, dtype):
    """Under rotation, reflection and translation, with the same dequantisation noise."""
    flow = make_flow(name, dtype)
    data = random_data(flow, dtype)
    x = positions_of(data)
    matrix = torch.linalg.qr(
        torch.randn(x.shape[-1], x.shape[-1], generator=torch.Generator().manual_seed(0)).double()
    ).Q
    shift = torch.full((len(x), 1, 1), 0.7)
    if isinstance(data, MoleculeBatch):
        shift = shift * data.mask.unsqueeze(-1)
    expected = flow.log_prob(data, seed=1, noise=0.0, **asked(flow))
    assert expected.dtype == dtype
    tolerance = 1e-10 if dtype == torch.float64 else 1e-4 * float(expected.detach().abs().max())
    for moved in (x @ matrix.to(dtype), -x, x + shift):
        close(flow.log_prob(with_positions(data, moved), seed=1, noise=0.0, **asked(flow)), expected, atol=tolerance)


@pytest.mark.parametrize("name", MOLECULE_FLOWS)
def test_padding_of_molecules_changes_nothing(flow):
    data = random_data(flow)
    grow = [nn.functional.pad(data.positions, (0, 0, 0, 2))]
    rest = [data.atomic_numbers, data.mask] + ([] if data.hydrogens is None else [data.hydrogens])
    grow += [nn.functional.pad(t, (0, 2)) for t in rest]
    environments = None if data.environments is None else nn.functional.pad(data.environments, (0, 0, 0, 2))
    grown = MoleculeBatch(*grow, environments=environments)
    both = [flow.likelihood(batch, seed=1, noise=0.0, **asked(flow))[:2] for batch in (data, grown)]
    for a, b in zip(*both, strict=True):
        close(a, b)


@pytest.mark.parametrize("which", WHICH)
def test_a_batch_equals_its_configurations_one_by_one(flow, which):
    points, context = case_of(flow, [4, 2, 4, 3])
    together = torch.stack(flow.points_log_prob(points, context, which), 1)

    def only(i):
        return Points(*(t[i : i + 1] for t in points)), context.select(slice(i, i + 1))

    alone = [flow.points_log_prob(*only(i), which) for i in range(4)]
    close(together, torch.stack([torch.cat(value) for value in alone]))


@pytest.mark.parametrize("direction", ["encode_with_log_det", "decode_with_log_det"])
def test_log_determinants(name, flow, direction):
    points, context = case_of(flow, [3, 2])
    if flow.conditions is not None:
        context = context._replace(condition=context.condition[:1].expand(2, -1))  # the reference takes them singly
    image, log_det = getattr(flow, direction)(points, context)
    plain = (flow.encode if direction.startswith("encode") else flow.decode)(points, context)
    close(torch.cat(image, -1), torch.cat(plain, -1))
    assert log_det.abs().min() > 1e-3

    def with_log_det(joined, mask):
        condition = None if context.condition is None else context.condition[:1]
        points, part = without_labels(joined, mask, flow.domain.n_labels, condition)
        image, log_det = getattr(flow, direction)(points, part)
        return with_labels(image, part.labels), log_det

    tolerance = LOG_DET_ERROR.get(name)
    assert_log_det(with_log_det, with_labels(points, context.labels), context.mask, tolerance=tolerance)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_carry_the_decoder_density_at_their_own_latent(name, flow, temperature):
    given = {name: value[0] for name, value in asked(flow, 6).items()}
    data, log_q = flow.sample_and_log_prob(6, seed=3, temperature=temperature, **given)
    generator = flow.generator(3)
    context = flow.domain.sample_context(6, generator, flow.device, flow.dtype)
    context = context._replace(condition=flow.standardized(given.get("condition"), 6))
    mask = context.mask
    latent = StandardNormal(flow.domain.space(mask), temperature)
    z = latent.sample(generator, flow.dtype)
    close(drawn(flow, flow.domain.from_points(flow.decode(z, context), context)), drawn(flow, data))
    condition = None if context.condition is None else context.condition[:1]
    decode = on_joined(flow.decode, flow.domain.n_labels, condition)
    log_det = reference_log_det(decode, with_labels(z, context.labels), mask)
    log_unit = -(mask.sum(1) - 1).double() * flow.domain.dim * math.log(flow.domain.scale)
    log_p = flow.domain.log_prob_context(context) + latent.log_prob(z)
    close(log_q, log_p - log_det + log_unit, atol=LOG_DET_ERROR.get(name, 1e-8))


def test_a_seed_decides_the_samples(any_flow):
    flow, given = any_flow, asked(any_flow, 7)
    samples = flow.sample(7, seed=1, batch_size=3, **given)
    assert torch.equal(as_tensor(flow.sample(7, seed=1, batch_size=3, **given)), as_tensor(samples))
    assert len(samples) == 7
    other = flow.sample(7, seed=2, batch_size=3, **given)
    assert as_tensor(other).shape != as_tensor(samples).shape or not torch.equal(as_tensor(other), as_tensor(samples))
    with_density, log_q = flow.sample_and_log_prob(7, seed=1, batch_size=3, **given)
    if flow.has_density(None):
        close(drawn(flow, with_density), drawn(flow, samples))
    assert log_q.shape == (7,)


def test_sampling_leaves_the_global_generator_alone(any_flow):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    any_flow.sample(3, seed=1, **asked(any_flow, 3))
    any_flow.log_prob(random_data(any_flow), **asked(any_flow))
    assert torch.equal(torch.rand(3), expected)


def test_samples_are_mean_free_and_of_the_domain(name, flow):
    samples = flow.sample(20, seed=0, batch_size=8, **asked(flow, 20))
    if not isinstance(samples, MoleculeBatch):
        assert samples.sum(1).abs().max() < 1e-10
        assert samples.shape == (20, 4, flow.domain.dim)
        return
    assert samples.hydrogens is None
    assert samples.positions.dtype == flow.dtype
    points = is_drawn(flow, samples)
    assert (samples.positions * points.unsqueeze(-1)).sum(1).abs().max() < 1e-10
    one = {1} if name == "united-model-of-compositions" else set()  # what training lacks may be drawn
    assert set(points.sum(1).tolist()) == {2, 3, 4, 5} | one
    assert set(samples.atomic_numbers[points].tolist()) <= {MEANING[name][0] for name in flow.domain.types}


@pytest.mark.parametrize("name", [name for name in MOLECULE_FLOWS if name.startswith("composed")])
def test_samples_have_the_compositions_of_the_data(flow):
    """All of their atoms and all of their hydrogens."""

    def formulas(batch):
        counts = batch.atomic_numbers if batch.hydrogens is None else batch.with_hydrogens().atomic_numbers
        return {tuple(torch.bincount(row, minlength=10).tolist()[1:]) for row in counts}

    assert formulas(flow.sample(50, seed=0, **asked(flow, 50))) == formulas(random_data(flow))


@pytest.mark.parametrize("any_name", ALL_FLOWS)
def test_a_state_dict_carries_the_whole_flow(any_name, any_flow):
    data, given = random_data(any_flow), asked(any_flow)
    other = make_flow(any_name, seed=1)
    assert (other.log_prob(data, **given) - any_flow.log_prob(data, **given)).abs().min() > 1e-3
    other.load_state_dict(any_flow.state_dict())
    assert torch.equal(other.log_prob(data, **given), any_flow.log_prob(data, **given))
    samples = [as_tensor(flow.sample(3, seed=0, **asked(flow, 3))) for flow in (other, any_flow)]
    assert torch.equal(*samples)


@pytest.mark.parametrize("way", [0, 1])
def test_every_parameter_is_trained(any_flow, way):
    terms, loss = training_terms(any_flow, way)
    assert all(term.shape == (4,) for term in terms if isinstance(term, torch.Tensor))
    loss.backward()
    for key, parameter in any_flow.named_parameters():
        if key.startswith("domain.compositions."):  # which are fitted before
            assert not parameter.requires_grad
            continue
        assert parameter.grad is not None, key
        assert torch.isfinite(parameter.grad).all(), key
        assert parameter.grad.abs().max() > 0, key


def test_the_nll_is_the_negative_log_likelihood_and_can_be_differentiated(any_flow):
    """A free-form flow's by its exact Jacobian; one of an ODE with the exact divergence."""
    data, condition = random_data(any_flow), asked(any_flow).get("condition")
    exact = {"divergence": "exact"} if isinstance(any_flow, ODEFlow) else {}
    nll = any_flow.nll(data, condition, any_flow.generator(0), **exact)
    close(nll, -any_flow.log_prob(data, condition=condition, seed=0), atol=1e-8)
    nll.sum().backward()
    assert any(p.grad is not None and p.grad.any() for p in any_flow.parameters())
    assert all(p.grad is None or p.grad.isfinite().all() for p in any_flow.parameters())


@pytest.mark.parametrize("n", [0, -1])
def test_fewer_than_one_sample_is_refused(any_flow, n):
    for draw in (any_flow.sample, any_flow.sample_and_log_prob):
        with pytest.raises(ValueError, match=f"at least 1, got {n}"):
            draw(n, seed=0)


def test_an_unknown_map_is_refused(any_flow):
    with pytest.raises(ValueError, match="'encoder' or 'decoder', got 'both'"):
        any_flow.log_prob(random_data(any_flow), which="both")


@pytest.mark.parametrize("number", [16, 2, 118])
def test_an_unknown_element_is_named(molecule_flow, number):
    data = random_data(molecule_flow)
    data.atomic_numbers[1, 0] = number
    symbol = {16: "S", 2: "He", 118: "Og"}[number]
    with pytest.raises(MolflowError, match=f"{symbol} is not a type this model knows: H, C, N, O, F"):
        molecule_flow.log_prob(data)


def test_configurations_of_another_shape_are_refused():
    with pytest.raises(MolflowError, match=r"expected configurations \(B, 4, 2\), got \(1, 4, 3\)"):
        make_flow("particles-2d").log_prob(torch.zeros(1, 4, 3).double())


def test_a_size_without_data_has_no_probability(molecule_flow):
    data = MoleculeBatch.concatenate(
        [random_data(molecule_flow), MoleculeBatch.from_structures([Structure(np.zeros((1, 3)), np.ones(1))])]
    )
    log_p = molecule_flow.log_prob(MoleculeBatch(data.positions.double(), data.atomic_numbers, data.mask))
    assert torch.isfinite(log_p).tolist() == [True] * 4 + [False]
    assert log_p[-1] == -torch.inf


@pytest.mark.parametrize("shape", [(0, 3), (1, 3)], ids=["no molecules", "no atoms"])
def test_an_empty_batch_has_no_likelihood(molecule_flow, shape):
    nothing = MoleculeBatch(
        torch.zeros(*shape, 3), torch.zeros(shape, dtype=torch.int64), torch.zeros(shape, dtype=torch.bool)
    )
    with pytest.raises(MolflowError, match="at least one configuration, and at least one point"):
        molecule_flow.log_prob(nothing)


@pytest.mark.parametrize("name", PARTICLE_FLOWS)
def test_particles_of_another_precision_are_converted(name):
    flow = make_flow(name)
    data = random_data(flow)
    given = asked(flow)
    close(flow.log_prob(data.to(torch.float32), **given), flow.log_prob(data, **given), atol=1e-4)
