"""Flows on vectors: densities in closed form and on grids, log-determinants against autograd, a user's own modules."""

import math

import pytest
import torch
from laws import LOG_DET_ERROR, VECTOR_FLOWS, ZOO, asked, bijective, make_flow, random_data, randomize
from torch import nn
from torch.distributions import MultivariateNormal

from molflow.errors import MolflowError
from molflow.flows import (
    Conditions,
    ConditionsConfig,
    ContinuousFlow,
    FixedStepSolver,
    FreeFormFlow,
    VectorDomain,
)
from molflow.flows.domains import VectorsConfig
from molflow.geometry import EuclideanSpace
from molflow.nn import MLP


@pytest.fixture(params=VECTOR_FLOWS)
def name(request):
    return request.param


@pytest.fixture
def flow(name):
    return make_flow(name)


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def jacobians(function, x):
    """d function / d x of each vector of a batch, by autograd, (B, F, F)."""
    return torch.autograd.functional.jacobian(lambda p: function(p).sum(0), x).transpose(0, 1)


# ---- laws of all flows on vectors ------------------------------------------------------------------------------------


@pytest.mark.parametrize("direction", ["encode", "decode"])
def test_log_determinants_are_those_of_autograd(name, flow, direction):
    points, context, _ = flow.to_points(random_data(flow), None, **asked(flow))
    image, log_det = getattr(flow, f"{direction}_with_log_det")(points, context)
    function = getattr(flow, direction)
    close(image, function(points, context))
    expected = torch.linalg.slogdet(jacobians(lambda p: function(p, context), points)).logabsdet
    assert expected.abs().min() > 1e-3
    close(log_det, expected, LOG_DET_ERROR.get(name, 1e-10))


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_the_likelihood_is_the_change_of_variables(name, flow, which):
    """log N(z) + log |det dz/dx|, with the Jacobian in data units; the other map at the same z."""
    data, domain = random_data(flow), flow.domain
    _, context, _ = flow.to_points(data, None, **asked(flow))

    def encode(x):
        return flow.encode((x - domain.mean) / domain.std, context)

    def decode(z):
        return domain.mean + domain.std * flow.decode(z, context)

    z = encode(data)
    function, sign, at = (encode, 1, data) if which == "encoder" else (decode, -1, z)
    log_det = sign * torch.linalg.slogdet(jacobians(function, at)).logabsdet
    log_normal = -0.5 * z.square().sum(1) - 0.5 * 3 * math.log(2 * math.pi)
    likelihood = flow.likelihood(data, which=which, noise=0.0, **asked(flow))
    close(likelihood.log_prob, log_normal + log_det, LOG_DET_ERROR.get(name, 1e-8))
    close(likelihood.reconstruction_error, ((data - decode(z)) / domain.std).norm(dim=1), 1e-8)
    assert likelihood.which == which
    assert torch.equal(flow.log_prob(data, which=which, noise=0.0, **asked(flow)), likelihood.log_prob)


@pytest.mark.parametrize("temperature", [1.0, 0.5])
def test_samples_carry_the_decoder_density_at_their_own_latent(name, flow, temperature):
    given = asked(flow, 6)
    data, log_q = flow.sample_and_log_prob(6, seed=3, temperature=temperature, **given)
    z = torch.randn(6, 3, dtype=torch.float64, generator=flow.generator(3)) * temperature
    _, context, _ = flow.to_points(data, None, **given)
    close(flow.domain.from_points(flow.decode(z, context), context), data)
    log_det = torch.linalg.slogdet(jacobians(lambda p: flow.decode(p, context), z)).logabsdet
    log_normal = -0.5 * (z / temperature).square().sum(1) - 1.5 * math.log(2 * math.pi * temperature**2)
    close(log_q, log_normal - log_det - flow.domain.std.log().sum(), LOG_DET_ERROR.get(name, 1e-8))
    if flow.has_density(None):
        close(flow.sample(6, seed=3, temperature=temperature, **given), data)


def test_samples_are_vectors_of_the_precision_of_the_flow(flow):
    samples = flow.sample(5, seed=0, **asked(flow, 5))
    assert samples.shape == (5, 3)
    assert samples.dtype == torch.float64
    assert not samples.requires_grad


def test_the_loss_is_a_scalar_that_can_be_differentiated(flow):
    loss = flow.loss(random_data(flow), asked(flow).get("condition"), flow.generator(0))
    assert loss.shape == ()
    loss.backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in flow.parameters())


def test_vectors_of_another_precision_are_converted(flow):
    data, given = random_data(flow), asked(flow)
    torch.testing.assert_close(flow.log_prob(data.float(), **given), flow.log_prob(data, **given), atol=1e-3, rtol=1e-6)
    whole = data.round().long()
    close(flow.log_prob(whole, **given), flow.log_prob(whole.double(), **given))


@pytest.mark.parametrize("shape", [(4, 2), (3,), (4, 3, 1), (4, 4)], ids=str)
def test_vectors_of_another_shape_are_refused(flow, shape):
    with pytest.raises(MolflowError) as caught:
        flow.log_prob(torch.zeros(shape), **asked(flow))
    assert str(caught.value) == f"expected vectors (B, 3), got {shape}"


def test_no_vectors_are_refused(flow):
    with pytest.raises(MolflowError, match="expected at least one configuration"):
        flow.log_prob(torch.zeros(0, 3), **asked(flow, 0))


# ---- densities on grids ----------------------------------------------------------------------------------------------


def grid(n_features, n):
    """Points of a grid on [-148, 148]^F, dense at its centre, and the volume that each stands for: x = 2 sinh 5 u."""
    u = (torch.arange(n, dtype=torch.float64) + 0.5) * 2 / n - 1
    x, width = 2 * (5 * u).sinh(), 10 * (5 * u).cosh() * 2 / n
    points, widths = (torch.cartesian_prod(*[line] * n_features).view(-1, n_features) for line in (x, width))
    return points, widths.prod(1)


def tame_flow(kind, n_features, n_conditions=0):
    """A flow whose maps are one to one: weak residual maps, a velocity, or a bijection."""
    names = [f"c{i}" for i in range(n_conditions)]
    if kind in ZOO:
        domain = VectorsConfig(n_features=n_features, mean=[0.7] * n_features, std=[1.3] * n_features)
        torch.manual_seed(1)
        flow = bijective(kind, domain, conditions=ConditionsConfig(names=names) if names else None).build()
        randomize(flow, strength=0.4).double()
        flow.nll(torch.randn(500, n_features), torch.randn(500, n_conditions) if names else None)  # sets the scales
        return flow
    domain = VectorDomain(n_features, [0.7] * n_features, [1.3] * n_features)
    conditions = Conditions(names) if names else None
    n_times = 1 if kind == "continuous" else 0
    networks = [MLP(n_features, n_times, n_conditions, hidden=8, n_blocks=1) for _ in range(2)]
    for seed, network in enumerate(networks):
        randomize(network, seed, strength=0.5 if kind == "continuous" else 0.4)
    if kind == "continuous":
        return ContinuousFlow(domain, networks[0], FixedStepSolver(n_steps=8), conditions).double()
    return FreeFormFlow(*networks, domain=domain, condition=conditions).double()


@pytest.mark.parametrize("condition", [None, [1.5, -2.0]], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("n_features", [1, 2])
@pytest.mark.parametrize("kind", ["free_form", "continuous", *ZOO])
def test_densities_integrate_to_one(kind, n_features, condition):
    flow = tame_flow(kind, n_features, 0 if condition is None else 2)
    n = 300 if kind in ZOO else 150
    x, volume = grid(n_features, 2000 if n_features == 1 else n)
    given = {} if condition is None else {"condition": condition}
    log_p = flow.log_prob(x, **given)
    assert abs(float((log_p.exp() * volume).sum()) - 1) < 1e-3
    normal = MultivariateNormal(torch.full((n_features,), 0.7).double(), 1.69 * torch.eye(n_features).double())
    assert (log_p.exp() - normal.log_prob(x).exp()).abs().max() > 0.01  # not the latent in other units


@pytest.mark.parametrize("kind", ["free_form", "continuous"])
def test_samples_have_the_moments_of_the_density(kind):
    """Of the decoder's density, which is that of the encoder in a continuous flow."""
    flow = tame_flow("continuous", 1) if kind == "continuous" else linear_flow()[0]
    x, volume = grid(flow.domain.n_features, 2000 if kind == "continuous" else 300)
    given = {} if kind == "continuous" else {"condition": [0.5, 1.0]}
    p = flow.log_prob(x, **given).exp() * volume
    mean = (p.unsqueeze(1) * x).sum(0)
    std = (p.unsqueeze(1) * (x - mean).square()).sum(0).sqrt()
    samples = flow.sample(20_000, seed=0, batch_size=20_000, **given)
    assert ((samples.mean(0) - mean).abs() < 4 * std / 20_000**0.5).all()
    close(samples.std(0), std, 0.03 * float(std.max()))


# ---- a linear flow, known in closed form -----------------------------------------------------------------------------

MATRIX = torch.tensor([[1.2, 0.3], [-0.4, 0.8]]).double()
WEIGHT = torch.tensor([[0.5, -1.0], [2.0, 0.3]]).double()
SHIFT = torch.tensor([0.2, -0.7]).double()


class Decoder(nn.Module):
    """x = A z + W c + b: a plain module that knows nothing of molflow."""

    def __init__(self, matrix=MATRIX):
        super().__init__()
        self.matrix, self.weight, self.shift = (nn.Parameter(t.clone()) for t in (matrix, WEIGHT, SHIFT))

    def forward(self, z, condition):
        return z @ self.matrix.T + condition @ self.weight.T + self.shift


class Encoder(Decoder):
    """z = A^-1 (x - W c - b), with A^-1 as its parameter.

    `torch.linalg.solve` would not do: backward through its forward-mode derivative gives wrong gradients (2.13).
    """

    def __init__(self):
        super().__init__(torch.linalg.inv(MATRIX))

    def forward(self, x, condition):
        return (x - condition @ self.weight.T - self.shift) @ self.matrix.T


def linear_flow():
    """A conditional flow and the mean and covariance of x given c, in data units."""
    domain = VectorDomain(2, [1.0, -2.0], [0.5, 3.0])
    conditions = Conditions(["a", "b"], [1.0, 0.0], [2.0, 0.5])
    scale = torch.diag(torch.tensor([0.5, 3.0]).double())

    def mean(condition):
        c = (torch.as_tensor(condition).double() - torch.tensor([1.0, 0.0])) / torch.tensor([2.0, 0.5])
        return domain.mean + (c @ WEIGHT.T + SHIFT) @ scale

    covariance = scale @ MATRIX @ MATRIX.T @ scale
    return FreeFormFlow(Encoder(), Decoder(), domain=domain, condition=conditions), mean, covariance


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_a_linear_flow_has_the_exact_conditional_density(which):
    flow, mean, covariance = linear_flow()
    generator = torch.Generator().manual_seed(0)
    x = 3 * torch.randn(50, 2, dtype=torch.float64, generator=generator)
    condition = torch.randn(50, 2, dtype=torch.float64, generator=generator)
    expected = MultivariateNormal(mean(condition), covariance).log_prob(x)
    likelihood = flow.likelihood(x, condition=condition, which=which)
    close(likelihood.log_prob, expected)
    assert likelihood.reconstruction_error.max() < 1e-12
    close(-flow.nll(x, condition), expected)


def test_samples_of_a_linear_flow_follow_the_condition():
    flow, mean, covariance = linear_flow()
    n = 40_000
    condition = torch.tensor([[3.0, 1.0], [-1.0, 0.25]]).repeat_interleave(n // 2, 0)
    x, log_q = flow.sample_and_log_prob(n, seed=0, condition=condition)
    close(log_q, MultivariateNormal(mean(condition), covariance).log_prob(x))
    for half in (slice(0, n // 2), slice(n // 2, n)):
        error = 5 * covariance.diagonal().sqrt() / (n // 2) ** 0.5
        assert ((x[half].mean(0) - mean(condition[half][0])).abs() < error).all()
        close(torch.cov(x[half].T) / covariance, torch.ones(2, 2).double(), 0.1)


def test_the_surrogate_of_a_linear_flow_has_the_gradient_of_the_log_likelihood():
    """Over two orthogonal probes in two dimensions the surrogate is exact where the decoder inverts the encoder."""
    flow, _, _ = linear_flow()
    x, condition = torch.randn(6, 2).double(), torch.randn(6, 2).double()
    for surrogate in ("encoder_jvp", "decoder_jvp"):
        terms = flow.terms(x, condition, torch.Generator().manual_seed(0), 2, surrogate)
        loss = (terms.latent - terms.surrogate - terms.correction).sum()
        got = torch.autograd.grad(loss, list(flow.encoder.parameters()))
        expected = torch.autograd.grad(flow.nll(x, condition).sum(), list(flow.encoder.parameters()))
        for a, b in zip(got, expected, strict=True):
            close(a, b, 1e-8)


# ---- modules of the user ---------------------------------------------------------------------------------------------


def test_plain_modules_of_one_argument_make_a_flow():
    torch.manual_seed(0)
    encoder, decoder = (nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 3)) for _ in range(2))
    flow = FreeFormFlow(encoder, decoder, features=3).double()
    data = torch.randn(5, 3).double()
    z = encoder(data)
    expected = torch.linalg.slogdet(jacobians(encoder, data)).logabsdet
    close(flow.log_prob(data), -0.5 * z.square().sum(1) - 1.5 * math.log(2 * math.pi) + expected)
    close(flow.sample(4, seed=1), decoder(torch.randn(4, 3, dtype=torch.float64, generator=flow.generator(1))).detach())
    flow.loss(data, generator=flow.generator(0)).backward()
    assert all(p.grad.any() for p in flow.parameters())
    with flow.counted() as evaluations:
        flow.sample(4, seed=1)
    assert (evaluations.calls, evaluations.configurations) == (1, 4)


def test_a_function_of_the_user_is_a_velocity():
    """dx/dt = a x, so z = e^a x."""

    class Growth(nn.Module):
        def __init__(self):
            super().__init__()
            self.rate = nn.Parameter(torch.tensor(0.3).double())

        def forward(self, x, condition, t):
            assert condition is None
            assert t.shape == (len(x), 1)
            return self.rate * x

    flow = ContinuousFlow(VectorDomain(2), Growth(), FixedStepSolver(n_steps=20))
    x = torch.randn(4, 2).double()
    expected = -0.5 * (math.exp(0.6) * x.square()).sum(1) - math.log(2 * math.pi) + 0.6
    close(flow.log_prob(x), expected, 1e-6)
    close(-flow.nll(x, divergence="exact"), expected, 1e-6)


@pytest.mark.slow
def test_a_free_form_flow_learns_a_conditional_density():
    """x = c + 0.3 noise: the conditional mean and standard deviation are recovered from samples."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    networks = (MLP(1, n_conditions=1, hidden=32, n_blocks=1) for _ in range(2))
    flow = FreeFormFlow(*networks, features=1, condition=Conditions(["c"]))
    optimizer = torch.optim.Adam(flow.parameters(), lr=1e-2)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, max_lr=1e-2, total_steps=300)
    for _ in range(300):
        c = torch.randn(256, 1, generator=generator)
        optimizer.zero_grad()
        flow.loss(c + 0.3 * torch.randn(256, 1, generator=generator), c, generator, beta=30.0).backward()
        optimizer.step()
        schedule.step()
    for c in (-1.0, 1.0):
        samples = flow.sample(5000, seed=0, condition={"c": c})
        assert abs(samples.mean() - c) < 0.05
        assert abs(samples.std() - 0.3) < 0.03


# ---- the domain ------------------------------------------------------------------------------------------------------


def test_points_are_standardised_data():
    domain = VectorDomain(2, [1.0, -1.0], [2.0, 0.5])
    data = torch.tensor([[3.0, 0.0], [1.0, -2.0]]).double()
    points, context, correction = domain.to_points(data, None)
    close(points, torch.tensor([[1.0, 2.0], [0.0, -2.0]]).double())
    close(domain.from_points(points, context), data)
    close(correction, torch.full((2,), -math.log(2.0 * 0.5)).double())
    assert context.mask.shape == (2, 1)
    assert context.labels.shape == (2, 1, 0)
    space = domain.space(context.mask)
    assert isinstance(space, EuclideanSpace)
    assert space.dof.tolist() == [2, 2]


@pytest.mark.parametrize(
    "settings",
    [
        {"n_features": 0},
        {"n_features": 2, "mean": (1.0,)},
        {"n_features": 2, "std": (1.0, 2.0, 3.0)},
        {"n_features": 2, "std": (1.0, 0.0)},
        {"n_features": 2, "std": (1.0, -1.0)},
        {"n_features": 2, "std": (1.0, math.nan)},
    ],
    ids=str,
)
def test_a_domain_that_cannot_be_is_refused(settings):
    with pytest.raises(
        ValueError, match=r"expected n_features of 1 or more and as many (mean|std) values, std above 0"
    ):
        VectorsConfig(**settings).build()


def test_parts_are_joined():
    domain = VectorDomain(2)
    assert domain.concatenate([torch.zeros(2, 2), torch.ones(1, 2)]).tolist() == [[0, 0], [0, 0], [1, 1]]
