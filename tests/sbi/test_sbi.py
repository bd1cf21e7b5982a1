"""Posteriors from simulations: exact ones for a linear Gaussian problem, files, and bad input."""

import logging
import math
import re

import numpy as np
import pytest
import torch
from torch.distributions import Independent, MultivariateNormal, Normal, Uniform

import molflow
from molflow.data import sample_prior
from molflow.errors import MolflowError
from molflow.flows import FLOWS
from molflow.sbi.posterior import Posterior
from molflow.sbi.preparation import Bounds, Observations

MATRIX = torch.tensor([[1.0, 0.5], [0.0, 2.0], [1.0, -1.0]])
PRIOR = Independent(Normal(torch.zeros(2), torch.tensor([1.0, 2.0])), 1)
BOX = Independent(Uniform(torch.zeros(2), torch.tensor([1.0, 100.0])), 1)
TINY = {"training": {"max_steps": 3, "validation_samples": 20, "validation_molecules": 4}}


def simulator(theta):
    return theta @ MATRIX.T + 0.5 * torch.randn(len(theta), 3)


def exact(x):
    """The posterior of the linear problem."""
    precision = torch.diag(torch.tensor([1.0, 0.25])) + 4 * MATRIX.T @ MATRIX
    return MultivariateNormal(torch.linalg.solve(precision, 4 * MATRIX.T @ x), precision_matrix=precision)


@pytest.fixture(scope="module")
def simulations():
    return molflow.sbi.simulate(simulator, PRIOR, 4000, seed=0)


@pytest.fixture(scope="module")
def posterior(simulations, tmp_path_factory):
    folder = tmp_path_factory.mktemp("sbi") / "run"
    network = {"kind": "mlp", "hidden": 32, "n_blocks": 1}
    flow = {"kind": "free_form", "encoder": network, "decoder": network}
    overrides = {
        "training": {"max_steps": 600, "batch_size": 256, "ema_decay": 0.99},
        "optimizer": {"learning_rate": 5e-3, "warmup_steps": 50},
    }
    trained = molflow.sbi.train(*simulations, prior=PRIOR, flow=flow, folder=folder, overrides=overrides)
    return trained, folder


@pytest.mark.slow
def test_the_posterior_of_a_linear_problem(posterior):
    for x in (torch.tensor([0.5, -1.0, 1.0]), torch.tensor([-1.0, 3.0, -2.5])):
        samples, reference = posterior[0].sample((4000,), x=x, seed=0), exact(x)
        error = (samples.mean(0) - reference.mean) / reference.variance.sqrt()
        assert error.abs().max() < 0.3
        torch.testing.assert_close(samples.std(0) / reference.variance.sqrt(), torch.ones(2), atol=0.2, rtol=0)
        theta = reference.sample((200,))
        assert abs(float((posterior[0].log_prob(theta, x=x) - reference.log_prob(theta)).mean())) < 0.15


@pytest.mark.slow
def test_the_posterior_is_calibrated(posterior):
    theta, x = molflow.sbi.simulate(simulator, PRIOR, 400, seed=5)
    coverage = posterior[0].coverage(theta, x, n_samples=50)
    assert coverage.largest_error < 0.1
    ranks = molflow.evaluation.calibration_ranks(theta, posterior[0].samples_of(theta, x, 50))
    assert ranks.shape == (400, 2)
    shifted = posterior[0].coverage(theta + torch.tensor([0.6, 0.6]), x, n_samples=50)
    assert shifted.largest_error > 0.15


@pytest.mark.slow
def test_a_posterior_is_loaded_from_its_folder(posterior):
    again, x = molflow.sbi.load(posterior[1]), [0.5, -1.0, 1.0]
    theta = posterior[0].sample((5,), x=x, seed=1)
    assert torch.equal(again.sample((5,), x=x, seed=1), theta)
    assert torch.equal(again.log_prob(theta, x=x), posterior[0].log_prob(theta, x=x))
    assert again.names == ("theta1", "theta2")
    assert repr(again) == "Posterior(FreeFormFlow, theta1, theta2 | 3 numbers)"
    assert molflow.load(posterior[1]).conditions is not None
    with pytest.raises(MolflowError, match="run: holds another run already, with its data; name another"):
        molflow.sbi.train(theta.repeat(10, 1), torch.randn(50, 3), folder=posterior[1])


def test_a_damaged_file_of_a_posterior(tmp_path):
    (tmp_path / "posterior.json").write_text('{"names": ["a"], "low": 3}')
    with pytest.raises(MolflowError, match=r"posterior.json: of another version of molflow; train the posterior again"):
        molflow.sbi.load(tmp_path)
    (tmp_path / "posterior.json").write_text('{"format": 2, "names": ["a"], "low": 3}')
    with pytest.raises(MolflowError, match=r"posterior.json: not the file of a posterior"):
        molflow.sbi.load(tmp_path)


# ---- a posterior known in closed form: the flow is linear ------------------------------------------------------------


def bounded():
    """Of two parameters in a box, from a flow that is the identity: u is standard normal, whatever x."""

    class Identity(torch.nn.Module):
        def forward(self, u, condition):
            return u

    flow = molflow.FreeFormFlow(Identity(), Identity(), features=2, condition=3)
    x = torch.randn(100, 3, generator=torch.Generator().manual_seed(0))
    return Posterior(flow, Bounds.of(BOX, 2), Observations.of(x), ["width", "height"])


def test_densities_within_bounds_integrate_to_one():
    posterior = bounded()
    n = 100
    line = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    grid = torch.cartesian_prod(line, 100 * line)
    log_p = posterior.log_prob(grid, x=[0.0, 0.0, 0.0])
    assert abs(float(log_p.exp().sum()) * 100 / n**2 - 1) < 1e-3
    outside = torch.tensor([[-0.1, 3.0], [0.5, 101.0]])
    assert posterior.log_prob(outside, x=[0.0, 0.0, 0.0]).tolist() == [-math.inf, -math.inf]
    assert not Bounds.of(None, 2).contain(torch.tensor([math.inf, 0.0]))


def test_shapes_follow_the_conventions_of_sbi():
    posterior, x = bounded(), torch.zeros(1, 3)
    samples = posterior.sample((3, 4), x=x, seed=0)
    assert samples.shape == (3, 4, 2)
    assert posterior.sample(x=x).shape == (1, 2)
    assert ((samples > 0) & (samples < torch.tensor([1.0, 100.0]))).all()
    assert torch.equal(samples, posterior.sample((3, 4), x=[0, 0, 0], seed=0))
    assert not torch.equal(posterior.sample((3,), x=x), posterior.sample((3,), x=x))
    assert posterior.log_prob(samples[0], x=x).shape == (4,)
    assert posterior.log_prob(samples[0, 0], x=x).shape == ()
    assert posterior.log_prob(samples[0], x=torch.zeros(4, 3)).shape == (4,)


def test_an_observation_outside_of_the_simulations_is_said(caplog):
    with caplog.at_level(logging.WARNING, "molflow"):
        bounded().sample((2,), x=[0.0, 9.0, -9.0])
    assert "outside of all simulations in number 2, 3: the posterior is a guess" in caplog.text
    caplog.clear()
    bounded().log_prob([0.5, 50.0], x=[0.0, 0.0, 0.0])
    assert caplog.text == ""


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda p: p.sample((3,), x=[1.0, 2.0]), "expected observations of 3 numbers, got (2,)"),
        (lambda p: p.sample((3,), x=torch.zeros(2, 3)), "expected one observation (3,), got (2, 3)"),
        (lambda p: p.sample((3,), x=[0.0, math.nan, 0.0]), "expected finite observations"),
        (lambda p: p.sample((3,)), "give an observation: x=..., 3 numbers"),
        (lambda p: p.sample(3, x=torch.zeros(3)), "expected a shape of samples such as (1000,), got 3"),
        (lambda p: p.sample((2, 0), x=torch.zeros(3)), "expected a shape of samples such as (1000,), got (2, 0)"),
        (lambda p: p.log_prob([math.nan, 0.5], x=torch.zeros(3)), "expected parameters that are numbers, got NaN"),
        (lambda p: p.save("anywhere"), "does not know the configuration of its flow"),
        (lambda p: p.log_prob(torch.zeros(4, 3), x=torch.zeros(3)), "expected theta (n, 2), got (4, 3)"),
        (lambda p: p.coverage(torch.zeros(4, 2), torch.zeros(5, 3)), "expected theta (5, 2) for x, got (4, 2)"),
    ],
)
def test_questions_that_cannot_be_answered(call, message):
    with pytest.raises(MolflowError, match=re.escape(message)):
        call(bounded())


def test_samples_that_are_not_finite_are_refused(simulations):
    theta, x = (values[:100] for values in simulations)
    posterior = molflow.sbi.train(theta, x, flow="nice", overrides=TINY)
    with torch.no_grad():
        for weights in posterior.flow.parameters():
            weights.mul_(100)
    with pytest.raises(MolflowError, match="sample 0 of the batch is not finite"):
        posterior.sample((5,), x=[1e30, 0.0, 0.0], seed=0)


def test_a_corner_plot():
    figure = bounded().corner([0.0, 0.0, 0.0], n=50, truth=[0.5, 50.0], beside={"reference": torch.rand(20, 2)})
    assert {trace.name for trace in figure.data} == {"posterior", "reference"}
    assert figure.layout.xaxis3.title.text == "width"


# ---- simulations and training ----------------------------------------------------------------------------------------


def test_simulations_follow_their_seed(simulations):
    theta, x = simulations
    assert (theta.shape, x.shape, theta.dtype, x.dtype) == ((4000, 2), (4000, 3), torch.float32, torch.float32)
    again = molflow.sbi.simulate(simulator, PRIOR, 4000, seed=0)
    assert torch.equal(again[1], x)
    assert not torch.equal(molflow.sbi.simulate(simulator, PRIOR, 4000, seed=1)[1], x)
    residual = x - theta @ MATRIX.T
    torch.testing.assert_close(residual.T.cov(), 0.25 * torch.eye(3), atol=0.02, rtol=0)
    assert torch.equal(theta, sample_prior(PRIOR, 4000, torch.Generator().manual_seed(0)))


def test_a_simulator_may_return_arrays():
    theta, x = molflow.sbi.simulate(lambda t: np.asarray(t) * 2.0, PRIOR, 5)
    torch.testing.assert_close(x, 2 * theta)


def test_a_simulator_may_change_what_it_gets_and_have_weights():
    network = torch.nn.Linear(2, 3)
    theta, x = molflow.sbi.simulate(lambda t: network(t.mul_(2)), PRIOR, 5, seed=0)
    assert torch.equal(theta, sample_prior(PRIOR, 5, torch.Generator().manual_seed(0)))
    torch.testing.assert_close(x, network(2 * theta).detach())
    assert not x.requires_grad


@pytest.mark.parametrize(
    ("broken", "message"),
    [
        (lambda t: t[:, 0], "expected observations (10, C) of the simulator, got (10,)"),
        (lambda t: t[:3], "expected observations (10, C) of the simulator, got (3, 2)"),
    ],
)
def test_simulators_that_cannot_be_used(broken, message):
    with pytest.raises(MolflowError, match=re.escape(message)):
        molflow.sbi.simulate(broken, PRIOR, 10)


def test_failed_simulations_are_dropped_and_counted_and_the_posterior_is_saved(simulations, caplog, tmp_path):
    theta, x = (values[:100].clone() for values in simulations)
    x[[3, 7], 1] = math.nan
    x[11, 0] = math.inf
    with caplog.at_level(logging.WARNING, "molflow"):
        posterior = molflow.sbi.train(theta, x, overrides=TINY)
    posterior.save(tmp_path / "saved")
    with pytest.raises(MolflowError, match="saved: holds a model already; name another folder"):
        posterior.save(tmp_path / "saved")
    asked = {"shape": (3,), "x": x[0], "seed": 0}
    assert torch.equal(molflow.sbi.load(tmp_path / "saved").sample(**asked), posterior.sample(**asked))
    assert "3 of 100 simulations are not finite and were dropped" in caplog.text
    valid = x.isfinite().all(1)
    torch.testing.assert_close(posterior.observations.high, x[valid].max(0).values.double())
    x[:51, 0] = math.nan
    with pytest.raises(MolflowError, match=r"51 of 100 simulations are not finite; training needs at least half"):
        molflow.sbi.train(theta, x)


def test_a_posterior_of_a_velocity_is_unrolled_and_saved(simulations, tmp_path):
    """Many steps of Euler's method are the path of the velocity, and the encoder is nearly its inverse."""
    theta, x = simulations
    short = {"training": {"max_steps": 60, "validation_samples": 20, "validation_molecules": 4}}
    posterior = molflow.sbi.train(theta, x, prior=PRIOR, flow="continuous", overrides=short)
    unrolled, observed = posterior.unrolled(200), torch.tensor([0.5, -1.0, 1.0])
    expected = posterior.sample((200,), x=observed, seed=0)
    samples = unrolled.sample((200,), x=observed, seed=0)
    assert unrolled.flow.n_evaluations == 1
    torch.testing.assert_close(samples, expected, atol=0.03, rtol=0)
    log_prob = posterior.log_prob(expected, observed)
    torch.testing.assert_close(unrolled.log_prob(expected, observed), log_prob, atol=0.2, rtol=0)
    unrolled.save(tmp_path / "unrolled")
    again = molflow.sbi.load(tmp_path / "unrolled").sample((200,), x=observed, seed=0)
    torch.testing.assert_close(again, samples, atol=0, rtol=0)
    with pytest.raises(MolflowError, match="only the posterior of a continuous flow can be unrolled"):
        unrolled.unrolled()


@pytest.mark.parametrize("kind", ["free_form", "continuous"])
def test_every_kind_of_flow_is_trained(kind, simulations):
    assert kind in FLOWS
    theta, x = simulations[0][:100].abs().exp().clamp(max=90) / 100, simulations[1][:100]
    posterior = molflow.sbi.train(theta, x, prior=BOX, flow=kind, names=["a", "b"], overrides=TINY)
    samples = posterior.sample((3,), x=x[0])
    assert posterior.bounds.contain(samples).all()
    assert posterior.log_prob(samples, x=x[0]).isfinite().all()


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"theta": torch.zeros(9, 2)}, "expected theta (n, F) and x (n, C), got (9, 2) and (100, 3)"),
        ({"x": torch.zeros(100)}, "expected theta (n, F) and x (n, C), got (100, 2) and (100,)"),
        ({"theta": torch.full((100, 2), math.nan)}, "theta, row 0: expected finite parameters"),
        ({"prior": BOX}, "theta, row 0: outside of the support of the prior"),
        ({"x": torch.ones(100, 3)}, "x: all observations are the same"),
        ({"overrides": {"model": {"beta": 3}}}, "overrides: the model is given as flow=..."),
        ({"names": ["a"]}, "expected 2 names of parameters, got 1"),
        ({"flow": "free_from"}, "flow: unknown flow 'free_from'; did you mean free_form?"),
        ({"flow": {"kind": "free_form", "encodr": 3}}, "flow: unknown key encodr; did you mean encoder?"),
        ({"overrides": {"training": {"epoch": 3}}}, "unknown key training.epoch; did you mean training.epochs?"),
    ],
    ids=str,
)
def test_input_that_cannot_be_trained_on(change, message, simulations):
    given = {"theta": simulations[0][:100] - 9, "x": simulations[1][:100]} | change
    with pytest.raises(MolflowError, match=re.escape(message)):
        molflow.sbi.train(given.pop("theta"), given.pop("x"), **given)
