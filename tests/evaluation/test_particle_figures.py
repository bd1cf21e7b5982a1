"""What the page of particles draws: free energies, weights, chains and configurations."""

import json
import re

import numpy as np
import pytest
from gaussians import SIGMA, gaussian, harmonic

from molflow.errors import MolflowError
from molflow.evaluation import autocorrelation_time, particle_figures


@pytest.fixture(scope="module")
def figures():
    """Samples of a Gaussian that is too wide, of the right one, and of the reference."""
    x, log_q = gaussian(SIGMA)
    return particle_figures(x, harmonic, log_prob=log_q, reference=gaussian(1, seed=1)[0], bins=40)


def test_figures_are_json_of_finite_numbers(figures):
    assert json.loads(json.dumps(figures, allow_nan=False)) == figures


def test_free_energies_are_those_of_a_gaussian_within_their_errors(figures):
    """|x_i - x_j| of particles of variance s^2 has the density of a norm of D variables of variance 2 s^2."""
    profile = figures["free_energy"]
    r, dim = np.array(profile["distance"]), gaussian(1)[0].shape[2]
    for key, sigma in (("samples", SIGMA), ("reweighted", 1), ("reference", 1)):
        known = np.array([v is not None for v in profile[key]["value"]])
        value = np.array([v for v in profile[key]["value"] if v is not None])
        error = np.array([v for v in profile[key]["error"] if v is not None])
        exact = (r[known] / sigma) ** 2 / 4 - (dim - 1) * np.log(r[known])
        exact += np.log(2 ** (dim - 1) * sigma**dim * {2: 1.0, 3: np.sqrt(np.pi) / 2}[dim])
        good = error < 0.2
        assert good.sum() > 8
        assert np.abs((value - exact)[good] / np.hypot(error[good], 0.02)).mean() < 1.5


def test_blocks_know_the_memory_of_a_chain():
    x = gaussian(1)[0][:200]
    apart, chain = (particle_figures(y, harmonic)["free_energy"]["samples"] for y in (x, np.repeat(x, 10, axis=0)))
    errors = [(a, b) for a, b in zip(apart["error"], chain["error"], strict=True) if a and b]
    assert len(errors) > 5
    assert all(0.6 * a < b < 1.7 * a for a, b in errors)  # ten copies are no more than one


def test_the_profile_along_the_distance_of_two_particles():
    x = gaussian(1)[0].copy()
    x[:, 1] = x[:, 0] + [[5, *[0] * (x.shape[2] - 1)]]
    profile = particle_figures(x, harmonic, pair=(0, 1))["free_energy"]
    assert profile["pair"] == (0, 1)
    assert abs(np.mean(profile["distance"]) - 5) < 0.6
    n = x.shape[1]
    with pytest.raises(MolflowError, match=re.escape(f"the distance 1-{n}: expected two of the {n} particles, from 0")):
        particle_figures(x, harmonic, pair=(1, n))


def test_weights_of_exact_samples_are_equal(figures):
    weight = figures["weight"]
    width = np.diff(weight["edges"])
    for key in ("samples", "reweighted"):
        assert weight[key]["outside"] + weight[key]["density"] @ width == pytest.approx(1)
    assert 0.01 < weight["heaviest"] < 0.2
    x, log_q = gaussian(1)
    exact = particle_figures(x, harmonic, log_prob=log_q)["weight"]
    assert exact["heaviest"] == pytest.approx(0.01, rel=1e-3)
    assert abs(exact["edges"][0]) < 1e-3


def test_configurations_are_the_samples_that_they_name(figures):
    x, _ = gaussian(SIGMA)
    found = figures["configurations"]["examples"]
    assert [each["kind"] for each in found] == (
        ["sample"] * 12 + ["largest weight"] * 4 + ["highest energy"] * 4 + ["reference"] * 12
    )
    for each in found[:20]:
        positions = x[each["number"] - 1]
        np.testing.assert_allclose(each["positions"], positions, rtol=1e-6)
        assert each["energy"] == pytest.approx((positions**2).sum() / 2, rel=1e-5)
    assert found[16]["energy"] == pytest.approx((x**2).sum((1, 2)).max() / 2, rel=1e-5)


@pytest.mark.parametrize(("memory", "time"), [(0.0, 1.0), (0.5, 3.0), (0.9, 19.0)])
def test_autocorrelation_times_of_an_autoregressive_series(memory, time):
    noise = np.random.default_rng(0).normal(size=20_000)
    series = [0.0]
    for value in noise:
        series.append(memory * series[-1] + value)
    assert autocorrelation_time(np.array(series[100:])) == pytest.approx(time, rel=0.2)


def test_a_series_without_variance_has_no_autocorrelation_time():
    assert autocorrelation_time(np.ones(10)) is None
    assert autocorrelation_time(np.array([1.0, np.inf, 2.0])) is None
