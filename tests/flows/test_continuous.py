"""Continuous flows: what is known in closed form, orders of convergence, gradients, and how integration fails."""

import math
import subprocess
import sys
from itertools import pairwise

import pytest
import torch
from laws import make_flow, random_case, random_data, randomize
from torch import nn

from molflow.config import parse
from molflow.errors import MolflowError
from molflow.flows import AdaptiveSolver, ContinuousConfig, ContinuousFlow, FixedStepSolver, ParticleDomain
from molflow.flows.domains import ParticlesConfig
from molflow.flows.solvers import STAGES
from molflow.geometry import Points
from molflow.nn import EGNN, EGNNConfig
from molflow.pretrained import load_pretrained
from molflow.testing import assert_integrates_to_one

TIGHT = AdaptiveSolver(rtol=1e-8, atol=1e-8)


class Velocity(nn.Module):
    """f = function(x, t, weight), as a network; features move like positions."""

    n_times = 1

    def __init__(self, function):
        super().__init__()
        self.function = function
        self.weight = nn.Parameter(torch.tensor(0.7))

    def forward(self, x, h, mask, t):
        return tuple(self.function(y, t.unsqueeze(-1), self.weight) * mask.unsqueeze(-1) for y in (x, h))


def particles(function, solver=TIGHT, n=4, dim=2):
    return ContinuousFlow(ParticleDomain(n, dim), Velocity(function), solver).double()


class Tame(nn.Module):
    """A network whose velocity is bounded: that of an EGNN grows with the square of distances."""

    def __init__(self, network):
        super().__init__()
        self.network, self.n_times = network, 1

    def forward(self, x, h, mask, t):
        dx, dh = self.network(x, h, mask, t)
        return 2 * dx / (1 + dx.square().sum((1, 2), keepdim=True)).sqrt(), dh


def network_flow(solver, n=3, dim=2):
    network = randomize(EGNN(0, 0, 1, hidden=8, n_blocks=1, n_inner=1))
    return ContinuousFlow(ParticleDomain(n, dim), Tame(network), solver).double()


def bounded(x, t, w):
    return (2 * w * x + t).sin() - (2 * w * x + t).sin().mean(1, keepdim=True)


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


@pytest.mark.parametrize(
    "solver",
    [TIGHT, AdaptiveSolver(), *(FixedStepSolver(method=m, n_steps=200 // k**2) for m, k in STAGES.items())],
    ids=str,
)
def test_a_linear_velocity(solver):
    """dx/dt = w t x: x_1 = x_0 exp(w / 2), log det = dof w / 2, int |f|^2 = |x_0|^2 int w^2 t^2 exp(w t^2) dt."""
    flow = particles(lambda x, t, w: w * t * x, solver)
    points, context = random_case(2, 0, 0, [4, 3])
    error = 3e-2 if "euler" in str(solver) else 2e-3
    factor = math.exp(0.35)
    z, log_det = flow.encode_with_log_det(points, context)
    close(z.x, points.x * factor, error)
    close(log_det, torch.tensor([6, 4]).double() * 0.35, error)
    back, inverse_log_det = flow.decode_with_log_det(z, context)
    close(back.x, points.x, error)
    close(inverse_log_det, -log_det, error)
    t = torch.linspace(0, 1, 2001).double()
    square = torch.trapezoid((0.7 * t) ** 2 * (0.7 * t**2).exp(), t)
    terms = flow.terms_of_points(points, context, torch.zeros(2).double())
    close(terms.kinetic_energy, points.squared_norm() * square / torch.tensor([6, 4]), 5 * error)
    close(terms.log_det, log_det)
    loss = (terms.latent - terms.log_det + 0.3 * terms.kinetic_energy).mean()
    close(terms.nll(kinetic_energy=0.3).mean(), loss)


def test_samples_may_pass_by_their_times_again():
    """Back at time t a point is (1 - t) p; the number of evaluations, or a density, is that without such times."""
    plain = network_flow(FixedStepSolver(n_steps=3))
    flow = ContinuousFlow(plain.domain, plain.network, plain.solver, times=[1, 0.4, 0, 0.3, 0.1, 0]).double()
    z, context = random_case(2, 0, 0, [3, 3])
    x = z.x
    for t, following in ((1.0, 0.4), (0.4, 0.0), (0.3, 0.1), (0.1, 0.0)):
        x = 0.7 * x if t == 0.3 else x
        x = x - (t - following) * flow.velocity(Points(x, z.h), context, torch.tensor(t, dtype=torch.float64)).x
    close(flow.generate(z, context, None, flow.generator(0)).x, x)
    assert flow.n_evaluations == 4
    close(flow.generate(z, context, 3, flow.generator(0)).x, plain.decode(z, context, 3).x)
    close(flow.decode(z, context).x, plain.decode(z, context).x)


@pytest.mark.parametrize("times", [[], [1], [0.5, 0], [1, 0.5], [1, 0, 1, 0], [1, 0.2, 0.1, 0.2, 0]])
def test_times_of_samples_that_cannot_be(times):
    with pytest.raises(MolflowError, match="times must fall from 1 to 0"):
        parse(ContinuousConfig, {"domain": {"kind": "particles", "n_particles": 3, "dim": 2}, "times": times}, "here")


@pytest.mark.parametrize("method", STAGES)
def test_fixed_steps_converge_with_their_order(method):
    points, context = random_case(2, 0, 0, [4, 4])
    steps = (8, 16, 32)

    def end(solver):
        path = particles(bounded).integrate(points, context, 0.0, 1.0, solver=solver)
        return path.points.x

    with torch.no_grad():
        exact = end(AdaptiveSolver(rtol=1e-13, atol=1e-13))
        errors = [(end(FixedStepSolver(method=method, n_steps=n)) - exact).norm() for n in steps]
    orders = [float((a / b).log2()) for a, b in pairwise(errors)]
    assert abs(orders[-1] - STAGES[method]) < 0.2, orders


def test_errors_follow_the_tolerance():
    points, context = random_case(2, 0, 0, [4, 4])
    with torch.no_grad():
        ends = [
            particles(bounded, AdaptiveSolver(rtol=e, atol=e)).encode(points, context).x for e in (1e-4, 1e-7, 1e-12)
        ]
    assert 1e-9 < (ends[0] - ends[2]).abs().max() < 1e-3
    assert (ends[1] - ends[2]).abs().max() < 1e-6


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize(
    "solver", [AdaptiveSolver(rtol=3e-7, atol=3e-7), FixedStepSolver(n_steps=12)], ids=["dopri5", "rk4"]
)
def test_there_and_back_again(solver, dtype):
    flow = network_flow(solver).to(dtype)
    points, context = random_case(2, 0, 0, [3, 3], dtype)
    with torch.no_grad():
        z = flow.encode(points, context)
        back = flow.decode(z, context)
    assert z.x.dtype == dtype
    assert (z.x - points.x).abs().max() > 1e-2
    close(back.x, points.x, 1e-5)


@pytest.mark.parametrize("dim", [2, 3])
def test_the_density_integrates_to_one(dim):
    flow = network_flow(AdaptiveSolver(), 2, dim)
    assert_integrates_to_one(flow.log_prob, dim, extent=12.0, tolerance=0.01, n_radii=600)


def test_the_density_is_that_of_samples():
    flow = network_flow(FixedStepSolver(n_steps=12))
    x, log_q = flow.sample_and_log_prob(5, seed=0)
    close(log_q, flow.log_prob(x), 1e-4)


def test_one_stiff_configuration_among_many_has_an_exact_density():
    """dx/dt = k sin(9 t) x has the log-determinant k (1 - cos 9) / 9. One k of 64 is 1,000 times the others."""
    rates = torch.full((64, 1, 1), 0.02, dtype=torch.float64)
    rates[17] = 20.0

    def velocity(x, t, w):
        rate = rates if len(x) == 64 else rates[17:18]
        return rate * (9 * t).sin() * x if x.shape[2] else x

    flow = particles(velocity, AdaptiveSolver(), 2, 1)
    points, context = random_case(1, 0, 0, [2] * 64)
    exact = rates[:, 0, 0] * (1 - math.cos(9)) / 9
    z, log_det = flow.encode_with_log_det(points, context)
    close(log_det, exact, 1e-3)
    close(flow.decode_with_log_det(z, context)[1], -exact, 1e-3)


def test_a_density_that_stays_uncertain_is_reported(caplog, monkeypatch):
    monkeypatch.setattr("molflow.flows.quadrature._HALVINGS", 0)
    flow = particles(lambda x, t, w: 20 * (150 * t).sin() * x if x.shape[2] else x, AdaptiveSolver(), 2, 1)
    flow.encode_with_log_det(*random_case(1, 0, 0, [2, 2]))
    assert "2 of 2 configurations are stiff: their density is uncertain by up to" in caplog.text


@pytest.mark.parametrize(("name", "n"), [("dw4-cnf", 8), ("lj13-cnf", 1)])
def test_encoder_and_decoder_of_the_shipped_models_agree(name, n):
    flow = load_pretrained(name)
    found = flow.likelihood(flow.sample(n, seed=0), compare=True)
    assert found.disagreement.abs().mean() < 0.01
    assert found.disagreement.abs().max() < 0.1


@pytest.mark.parametrize(("kind", "atol"), [("exact", 1e-8), ("rademacher", None), ("gaussian", None)])
def test_the_loss_is_the_negative_log_likelihood(kind, atol):
    flow = network_flow(FixedStepSolver(n_steps=4))
    data = torch.randn(1, 3, 2, generator=torch.Generator().manual_seed(0)).double()
    n = 1 if kind == "exact" else 1000
    with torch.no_grad():
        terms = flow.terms(data.expand(n, -1, -1), None, flow.generator(0), kind)
        losses = terms.latent - terms.log_det - terms.correction
    expected = -flow.log_prob(data)
    if atol is None:
        error = (losses.mean() - expected) / (losses.std() / n**0.5)
        assert error.abs() < 3
        assert losses.std() > 1e-3
    else:
        close(losses, expected, atol)


# ---- gradients -------------------------------------------------------------------------------------------------------


def gradients(flow, kind):
    flow.zero_grad()
    points, context = random_case(2, 0, 0, [3, 3])
    leaf = points.x.clone().requires_grad_()
    probes = None if kind == "exact" else [flow.domain.space(context.mask).rademacher(flow.generator(0), flow.dtype)]
    flow.terms_of_points(Points(leaf, points.h), context, torch.zeros(2), probes).nll(0.1).mean().backward()
    return {name: p.grad for name, p in flow.named_parameters()} | {"data": leaf.grad}


@pytest.mark.parametrize("kind", ["exact", "rademacher"])
@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_the_adjoint_gives_the_gradients_of_direct_back_propagation(method, kind):
    def flow(adjoint):
        if method == "dopri5":
            return network_flow(AdaptiveSolver(rtol=1e-7, atol=1e-7, adjoint=adjoint))
        return network_flow(FixedStepSolver(n_steps=16, adjoint=adjoint))

    direct, adjoint = gradients(flow(False), kind), gradients(flow(True), kind)
    assert direct.keys() == adjoint.keys()
    for name, expected in direct.items():
        assert expected.abs().max() > 0
        assert (adjoint[name] - expected).norm() / expected.norm() < 1e-4, name


def saved_bytes(n_steps, adjoint):
    """What the forward pass keeps for the backward pass."""
    flow, total = network_flow(FixedStepSolver(method="euler", n_steps=n_steps, adjoint=adjoint)), 0
    points, context = random_case(2, 0, 0, [3, 3])

    def pack(tensor):
        nonlocal total
        total += tensor.numel() * tensor.element_size()
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
        flow.encode(points, context)
    return total


def test_the_adjoint_keeps_no_steps():
    assert saved_bytes(20, True) == saved_bytes(5, True) > 0
    assert saved_bytes(20, False) > 3 * saved_bytes(5, False)


# ---- evaluations -----------------------------------------------------------------------------------------------------


def test_evaluations_are_steps_of_euler():
    flow = network_flow(FixedStepSolver(n_steps=3))
    z, context = random_case(2, 0, 0, [3, 3])
    x = z.x
    for t in (1.0, 0.75, 0.5, 0.25):
        x = x - 0.25 * flow.velocity(Points(x, z.h), context, torch.tensor(t)).x
    close(flow.decode(z, context, 4).x, x)
    with pytest.raises(ValueError, match="n_evaluations must be at least 1, got 0"):
        flow.sample(2, seed=0, n_evaluations=0)


@pytest.mark.parametrize(("n", "times"), [(1, [1.0]), (2, [1.0, 0.1]), (4, [1.0, 0.7, 0.4, 0.1])])
def test_the_last_step_of_euler_may_be_short(n, times):
    flow = network_flow(FixedStepSolver(n_steps=3))
    flow.last_step = 0.1
    z, context = random_case(2, 0, 0, [3, 3])
    x = z.x
    for t, following in zip(times, [*times[1:], 0.0], strict=True):
        x = x - (t - following) * flow.velocity(Points(x, z.h), context, torch.tensor(t)).x
    close(flow.decode(z, context, n).x, x)


@pytest.mark.parametrize("method", STAGES)
def test_a_solver_has_its_short_step_at_the_data_both_ways(method):
    solver = FixedStepSolver(method=method, n_steps=3, last_step=0.1)
    assert solver.n_evaluations == 3 * STAGES[method]
    for start, end in ((1.0, 0.0), (0.0, 1.0)):
        seen = []

        def rate(t, state, seen=seen):
            seen.append(round(float(t), 6))
            return (torch.ones_like(state[0]),)

        solved = solver.integrate(rate, (torch.zeros(1, dtype=torch.float64),), (start, end), ())
        close(solved.states[0][-1], torch.tensor([end - start], dtype=torch.float64))
        assert {1.0, 0.55, 0.1, 0.0} - {end} <= set(seen)
        assert solved.n_evaluations == len(seen) == solver.n_evaluations


@pytest.mark.parametrize("method", STAGES)
def test_evaluations_are_counted(method):
    flow = network_flow(FixedStepSolver(method=method, n_steps=7))
    points, context = random_case(2, 0, 0, [3, 3])
    expected = 7 * STAGES[method]
    assert flow.n_evaluations == expected
    assert flow.integrate(points, context, 0.0, 1.0).n_evaluations == expected
    with flow.counted() as evaluations:
        flow.sample(10, seed=0, batch_size=5)
        flow.sample(3, seed=0, n_evaluations=4)
    flow.sample(2, seed=0)
    assert evaluations.calls == 2 * expected + 4
    assert evaluations.configurations == 10 * expected + 12


def test_an_adaptive_solver_chooses_its_number_of_evaluations():
    points, context = random_case(2, 0, 0, [3, 3])
    rough, fine = (network_flow(AdaptiveSolver(rtol=e, atol=e)) for e in (1e-3, 1e-8))
    assert fine.n_evaluations is None
    few, many = (flow.integrate(points, context, 0.0, 1.0).n_evaluations for flow in (rough, fine))
    assert 8 <= few < many
    with fine.counted() as evaluations:
        fine.encode(points, context)
    assert evaluations.calls == many


def test_evaluations_of_a_free_form_flow():
    flow = make_flow("particles-2d")
    with flow.counted() as evaluations:
        flow.sample(5, seed=0)
    assert (evaluations.calls, evaluations.configurations) == (1, 5)


# ---- failures --------------------------------------------------------------------------------------------------------

ADVICE = "loosen rtol and atol .*fixed-step method; .*lower optimizer.learning_rate"


def run(flow):
    flow.encode(*random_case(2, 0, 0, [4, 4]))


def explosive(x, t, w):
    return 30 * x * x.square().sum((1, 2), keepdim=True)


@pytest.mark.parametrize("end", [0.0, 1.0])
def test_a_vanishing_step_is_an_error_with_time_and_advice(end):
    """No step is short enough for a velocity that is noise."""
    flow = particles(lambda x, t, w: 1e17 * (1e17 * t).sin() * x, AdaptiveSolver())
    with pytest.raises(MolflowError, match=rf"the step of the solver vanished at time 0\.5 of the path: {ADVICE}"):
        flow.integrate(*random_case(2, 0, 0, [4, 4]), 0.5, end)


def test_too_many_steps_are_an_error():
    with pytest.raises(MolflowError, match=r"9 steps of the solver were used up at time 0\.\d+ .*or raise max_steps"):
        run(particles(lambda x, t, w: (40 * t).sin() * x, AdaptiveSolver(rtol=1e-10, atol=1e-10, max_steps=9)))


@pytest.mark.parametrize("solver", [AdaptiveSolver(), FixedStepSolver()], ids=["dopri5", "rk4"])
def test_a_velocity_that_is_not_finite_is_an_error(solver):
    with pytest.raises(MolflowError, match=r"the velocity is not finite at time 0\.[3-6]\d*: .*learning_rate"):
        run(particles(lambda x, t, w: torch.where(t < 0.3, 1.0, torch.nan) * x, solver))


def test_a_path_that_runs_away_is_an_error():
    for solver in (AdaptiveSolver(), FixedStepSolver()):
        with pytest.raises(MolflowError, match=r"at time 0\.\d+.*lower optimizer.learning_rate"):
            run(particles(explosive, solver))


@pytest.mark.parametrize("solver", [AdaptiveSolver(), FixedStepSolver()], ids=["dopri5", "rk4"])
def test_data_that_are_not_finite_are_an_error(solver):
    flow = network_flow(solver)
    with pytest.raises(MolflowError, match="not finite at time 0"):
        flow.log_prob(torch.full((2, 3, 2), torch.nan))


def test_the_gradient_of_the_adjoint_fails_with_the_same_error():
    class Spoilt(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            return x.clone()

        @staticmethod
        def backward(ctx, gradient):
            return gradient * torch.nan

    for backwards in (False, True):
        flow = particles(lambda x, t, w: w * Spoilt.apply(x), AdaptiveSolver(adjoint=True))
        points, context = random_case(2, 0, 0, [4, 4])
        leaf = Points(points.x.requires_grad_(), points.h)
        end = (flow.decode if backwards else flow.encode)(leaf, context)
        with pytest.raises(MolflowError, match=r"not finite at time [01]"):
            end.x.sum().backward()


# ---- configuration ---------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_torchdiffeq_waits_until_something_is_integrated():
    script = """
import sys
from molflow.flows import ContinuousConfig
from molflow.flows.domains import ParticlesConfig
from molflow.nn import EGNNConfig

domain = ParticlesConfig(n_particles=3, dim=2)
flow = ContinuousConfig(domain=domain, network=EGNNConfig(hidden=4, n_blocks=1)).build()
assert "torchdiffeq" not in sys.modules
assert flow.sample(2, seed=0).shape == (2, 3, 2)
print("torchdiffeq" in sys.modules)
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "True"


@pytest.mark.parametrize(
    "solver", [{"method": "dopri5", "rtol": 1e-3, "adjoint": True}, {"method": "heun3", "n_steps": 5}], ids=str
)
def test_a_configuration_makes_the_flow(solver):
    network = EGNNConfig(hidden=4, n_blocks=1)
    table = {"domain": {"kind": "particles", "n_particles": 3, "dim": 2}, "network": network.model_dump()}
    config = ContinuousConfig.model_validate(table | {"solver": solver})
    assert config.domain == ParticlesConfig(n_particles=3, dim=2)
    flow = config.build()
    assert {key: getattr(flow.solver, key) for key in solver} == solver
    assert flow.network.n_times == 1
    assert ContinuousConfig.model_validate(config.model_dump()) == config


def test_random_data_of_the_registry_trains_by_adjoint_too():
    flow = make_flow("particles-continuous", torch.float32)
    flow.solver = AdaptiveSolver(rtol=1e-3, atol=1e-3, adjoint=True)
    flow.loss(random_data(flow, torch.float32), None, flow.generator(0)).backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in flow.network.parameters())
