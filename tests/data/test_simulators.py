"""Inverse problems: moments and symmetries of the simulators, and the posteriors of the benchmark's wheel."""

import math
import re
from importlib import metadata

import numpy as np
import pytest
import torch
from scipy.integrate import solve_ivp
from torch.distributions import biject_to

from molflow.data import DATASETS
from molflow.data.simulators import BenchmarkTask, runge_kutta, sample_prior, wheel_folder
from molflow.errors import MolflowError

TASKS = {
    "sbi-two-moons": (2, 2),
    "sbi-gaussian-mixture": (2, 2),
    "sbi-gaussian-linear": (10, 10),
    "sbi-gaussian-linear-uniform": (10, 10),
    "sbi-slcp": (5, 8),
    "sbi-bernoulli-glm": (10, 10),
    "sbi-sir": (2, 10),
    "sbi-lotka-volterra": (4, 20),
}
ALL = TASKS | {"inverse-kinematics": (4, 2)}


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def simulate(name, theta, n, seed=0):
    """n observations of one parameter vector."""
    return DATASETS[name]().simulate(torch.tensor([theta]).double().expand(n, -1), generator(seed))


# ---- all of them -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL)
def test_splits(name):
    task = DATASETS[name](n=100)
    splits = {split: task.load(split) for split in ("train", "validation", "test")}
    n_parameters, n_observed = ALL[name]
    for split, n in (("train", 90), ("validation", 10), ("test", 100)):
        assert splits[split].data.shape == (n, n_parameters)
        assert splits[split].condition.shape == (n, n_observed)
        assert splits[split].data.dtype == splits[split].condition.dtype == torch.float32
        assert splits[split].condition.isfinite().all()
    assert len(task.parameters) == n_parameters
    assert task.condition == tuple(f"x{k + 1}" for k in range(n_observed))
    assert torch.equal(task.load("train").condition, splits["train"].condition)
    assert not torch.isin(DATASETS[name](n=100, seed=1).load("train").data, splits["train"].data).any()


@pytest.mark.parametrize("name", [name for name in ALL if name != "sbi-sir"])
def test_simulations_of_a_batch_are_independent_of_their_neighbours(name):
    """Given the noise; binomial draws take a number of random words that depends on the others."""
    task = DATASETS[name]()
    theta = sample_prior(task.prior, 6, generator()).double()
    once, again = task.simulate(theta, generator(1)), task.simulate(theta, generator(1))
    assert torch.equal(once, again)
    changed = theta.clone()
    changed[3] = theta[0]
    others = [0, 1, 2, 4, 5]
    torch.testing.assert_close(task.simulate(changed, generator(1))[others], once[others])


def test_part_of_an_observation_is_no_condition():
    with pytest.raises(ValueError, match="the condition is the whole observation, x1 to x8"):
        DATASETS["sbi-slcp"](condition=("x1",))


def test_the_likelihood_of_kinematics_is_not_known():
    task = DATASETS["inverse-kinematics"]()
    with pytest.raises(MolflowError, match="inverse-kinematics: the likelihood is not known"):
        task.log_likelihood(torch.zeros(1, 4), torch.zeros(2))


# ---- the wheel -------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", TASKS)
def test_the_wheel_has_the_observations(name):
    task = DATASETS[name]()
    assert isinstance(task, BenchmarkTask)
    for number in (1, 10):
        assert task.observation(number).shape == (TASKS[name][1],)
        assert task.true_parameters(number).shape == (TASKS[name][0],)
        assert task.prior.log_prob(task.true_parameters(number)).isfinite()
    assert task.reference_posterior(1).shape == (10_000, TASKS[name][0])
    for number in (0, 11):
        with pytest.raises(MolflowError, match=f"{name}: observations are numbered from 1 to 10, got {number}"):
            task.observation(number)


@pytest.mark.parametrize("name", [name for name in TASKS if name != "sbi-two-moons"])
def test_reference_posteriors_obey_the_score_identities(name):
    """For u = theta without bounds and its density p: E[d log p] = 0, and E[(u - E u) d log p] = -1."""
    task = DATASETS[name]()
    n = 400 if name in ("sbi-sir", "sbi-lotka-volterra") else 10_000
    theta, x = task.reference_posterior(1)[:n].double(), task.observation(1).double()
    to_support = biject_to(task.prior.support)
    u = to_support.inv(theta).detach().requires_grad_()
    inside = to_support(u)
    log_p = task.prior.log_prob(inside) + task.log_likelihood(inside, x) + to_support.log_abs_det_jacobian(u, inside)
    (score,) = torch.autograd.grad(log_p.sum(), u)
    for values in (score, (u.detach() - u.detach().mean(0)) * score + 1):
        assert (values.mean(0).abs() < 4.5 * values.std(0) / math.sqrt(n)).all()


def test_a_missing_wheel_is_one_line_with_the_command(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(MolflowError, match=r"^the sbibm wheel is not installed: pip install --no-deps sbibm==1\.1\.0"):
        DATASETS["sbi-sir"]().observation(1)


def test_a_damaged_wheel_names_the_file(monkeypatch, tmp_path):
    folder = tmp_path / "sbibm/tasks/sir/files/num_observation_1"
    folder.mkdir(parents=True)
    (folder / "observation.csv").write_text("data_1,data_2\n1.0,2.0\n")
    (folder / "reference_posterior_samples.csv.bz2").write_bytes(b"BZh9 no")

    class Distribution:
        def locate_file(self, path):
            return tmp_path / path

    monkeypatch.setattr(metadata, "distribution", lambda name: Distribution())
    task = DATASETS["sbi-sir"]()
    for call, message in (
        (task.observation, "observation.csv: expected finite numbers in 10 columns, got (1, 2)"),
        (task.reference_posterior, "samples.csv.bz2: cannot be read"),
        (task.true_parameters, "true_parameters.csv: cannot be read"),
    ):
        with pytest.raises(MolflowError, match=re.escape(message)):
            call(1)


# ---- moments and symmetries ------------------------------------------------------------------------------------------


def test_two_moons():
    x = simulate("sbi-two-moons", [0.3, -0.5], 20_000)
    centre = torch.tensor([0.25 - 0.2 / math.sqrt(2), -0.8 / math.sqrt(2)])
    radius = (x - centre).norm(dim=1)
    assert abs(radius.mean() - 0.1) < 4e-4
    assert abs(radius.std() - 0.01) < 3e-4
    assert abs((x[:, 1] - centre[1]).mean()) < 3e-3
    assert (x[:, 0] > centre[0] - 1e-9).all()
    for mirrored in ([0.5, -0.3], [-0.3, 0.5]):  # one of them has the same sum and difference up to the sign
        same = torch.equal(simulate("sbi-two-moons", mirrored, 5), simulate("sbi-two-moons", [0.3, -0.5], 5))
        assert same == (mirrored == [0.5, -0.3])


def test_two_moons_has_a_normalised_likelihood():
    line = (torch.arange(400, dtype=torch.float64) + 0.5) / 400 * 0.4 - 0.2
    x = torch.cartesian_prod(line, line) + torch.tensor([0.25, 0.0])
    task = DATASETS["sbi-two-moons"]()
    assert abs(float(task.log_likelihood(torch.zeros(1, 2).double(), x).exp().sum()) * 1e-6 - 1) < 2e-3


def test_gaussian_mixture():
    error = simulate("sbi-gaussian-mixture", [3.0, -2.0], 40_000) - torch.tensor([3.0, -2.0])
    assert error.mean(0).abs().max() < 0.02
    assert abs(error.square().mean() - 0.505) < 0.02
    assert abs(error.pow(4).mean() - 1.5) < 0.1  # of a single Gaussian with this variance it would be 0.77


@pytest.mark.parametrize("name", ["sbi-gaussian-linear", "sbi-gaussian-linear-uniform"])
def test_gaussian_linear(name):
    theta = [0.1 * k for k in range(10)]
    error = simulate(name, theta, 20_000) - torch.tensor(theta)
    torch.testing.assert_close(error.T.cov(), 0.1 * torch.eye(10).double(), atol=0.005, rtol=0)
    assert error.mean(0).abs().max() < 0.01
    variance = sample_prior(DATASETS[name]().prior, 20_000, generator()).var(0)
    torch.testing.assert_close(variance, torch.full((10,), 1 / 3 if "uniform" in name else 0.1), atol=0.01, rtol=0)


def test_slcp():
    theta = [0.5, -1.0, 1.2, -0.8, 0.7]
    x = simulate("sbi-slcp", theta, 20_000).view(-1, 4, 2)
    a, b, rho = 1.2**2, 0.8**2, math.tanh(0.7)
    covariance = torch.tensor([[a * a, rho * a * b], [rho * a * b, b * b]]).double()
    torch.testing.assert_close(x.flatten(0, 1).T.cov(), covariance, atol=0.04, rtol=0)
    assert (x.mean((0, 1)) - torch.tensor(theta[:2])).abs().max() < 0.02
    assert np.abs(np.corrcoef(x[:, 0, 0], x[:, 1, 0])[0, 1]) < 0.03
    task = DATASETS["sbi-slcp"]()
    signs = torch.tensor([[1, 1, s, t, 1] for s in (-1, 1) for t in (-1, 1)])
    values = task.log_likelihood(signs * torch.tensor(theta).double(), x[0].flatten())
    torch.testing.assert_close(values, values[:1].expand(4))


def test_bernoulli_glm():
    task = DATASETS["sbi-bernoulli-glm"]()
    theta = task.true_parameters(1)
    rate = (task.design() @ theta.double()).sigmoid()
    x = simulate("sbi-bernoulli-glm", theta.tolist(), 20_000)
    error = (task.design().T.square() @ (rate * (1 - rate))).sqrt() / 20_000**0.5
    assert ((x.mean(0) - task.design().T @ rate).abs() < 4 * error).all()


def test_the_statistic_of_the_glm_is_that_of_the_wheel():
    task = DATASETS["sbi-bernoulli-glm"]()
    path = wheel_folder() / "bernoulli_glm/files/num_observation_3/observation_raw.csv"
    spikes = torch.from_numpy(np.loadtxt(path, delimiter=",", skiprows=1))
    torch.testing.assert_close(spikes @ task.design(), task.observation(3).double(), atol=1e-4, rtol=0)


def test_sir():
    """The share of infected is that of an adaptive solver, and counts are binomial."""
    beta, gamma = 0.7, 0.15

    def rates(_, state):
        new = beta * state[0] * state[1]
        return [-new, new - gamma * state[1]]

    solution = solve_ivp(rates, (0, 153), [1 - 1e-6, 1e-6], t_eval=np.linspace(0, 153, 10), rtol=1e-10, atol=1e-16)
    task = DATASETS["sbi-sir"]()
    share = task._infected(torch.tensor([[beta, gamma]]).double())[0].exp()
    np.testing.assert_allclose(share, solution.y[1], rtol=1e-6)
    x = simulate("sbi-sir", [beta, gamma], 4000)
    error = (1000 * share * (1 - share)).sqrt()
    assert ((x.mean(0) - 1000 * share).abs() < 4 * error / 4000**0.5 + 0.01).all()
    torch.testing.assert_close(x.std(0)[1:6], error[1:6], rtol=0.1, atol=0.02)


def test_lotka_volterra():
    """The animals are those of an adaptive solver, also for rates at the edge of the prior; the noise is log-normal."""
    task = DATASETS["sbi-lotka-volterra"]()
    theta = torch.tensor([[0.7, 0.1, 0.9, 0.12], [3.5, 0.2, 0.3, 0.01], [0.3, 0.02, 3.0, 0.2]]).double()
    got = task._log_animals(theta).view(3, 2, 10)
    for (alpha, beta, gamma, delta), animals in zip(theta.tolist(), got, strict=True):

        def rates(_, state, a=alpha, b=beta, c=gamma, d=delta):
            return [a - b * np.exp(state[1]), d * np.exp(state[0]) - c]

        solution = solve_ivp(
            rates,
            (0, 18.9),
            np.log([30.0, 1.0]),
            t_eval=np.linspace(0, 18.9, 10),
            rtol=1e-10,
            atol=1e-10,
            method="DOP853",
        )
        np.testing.assert_allclose(animals, solution.y.clip(math.log(1e-10), math.log(1e4)), atol=1e-5)
    error = simulate("sbi-lotka-volterra", theta[0].tolist(), 4000).log() - got[0].flatten()
    assert abs(error.std() - 0.1) < 0.002
    assert error.mean(0).abs().max() < 0.01


def test_kinematics():
    task = DATASETS["inverse-kinematics"]()
    straight = task.simulate(torch.tensor([[0.3, 0.0, 0.0, 0.0], [0.3, math.pi / 2, 0.0, 0.0]]))
    torch.testing.assert_close(straight, torch.tensor([[2.0, 0.3], [0.0, 2.3]]), atol=1e-6, rtol=0)
    theta = sample_prior(task.prior, 50, generator())
    torch.testing.assert_close(task.simulate(-theta), task.simulate(theta) * torch.tensor([1.0, -1.0]))


def test_the_solver_is_of_fourth_order():
    exact = math.exp(-2.0)
    errors = [abs(float(runge_kutta(lambda y: -y, torch.ones(1).double(), 1.0, 2, n)[-1]) - exact) for n in (5, 10)]
    assert errors[1] < 1e-6
    assert 14 < errors[0] / errors[1] < 18
