"""Distances of samples and calibration of posteriors, against closed forms; the benchmark's own posteriors."""

import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from scipy.stats import norm

from molflow.data import DATASETS
from molflow.evaluation import c2st, calibration_ranks, expected_coverage, mmd, uniformity


def normal(shape, seed=0):
    return np.random.default_rng(seed).normal(size=shape)


# ---- c2st ------------------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_c2st_reaches_the_accuracy_of_the_best_classifier():
    """N(0, 1) and N(m, 1) in one of two dimensions: the best accuracy is Phi(m / 2)."""
    x = normal((3000, 2))
    for shift in (0.0, 1.0):
        y = normal((3000, 2), 1) + np.array([shift, 0])
        assert abs(c2st(x, y) - norm.cdf(shift / 2)) < 0.02


def test_c2st_of_samples_far_apart_and_of_any_unit():
    x, y = normal((200, 2)), normal((200, 2), 1)
    assert c2st(x, y + 10) == 1
    assert c2st(torch.from_numpy(x), torch.from_numpy(y)) == pytest.approx(c2st(1e3 * x + 1e4, 1e3 * y + 1e4))


@pytest.mark.parametrize(
    ("x", "y", "message"),
    [
        (np.zeros((3, 2)), np.zeros((4, 2)), "as many samples of each, got 3 and 4"),
        (np.zeros((3, 2)), np.zeros((3, 1)), r"expected samples \(n, F\) and \(m, F\), at least two, got \(3, 2\)"),
        (np.zeros((3, 2)), np.full((3, 2), np.nan), "expected finite samples"),
    ],
)
def test_samples_that_cannot_be_compared(x, y, message):
    with pytest.raises(ValueError, match=message):
        c2st(x, y)


def test_scikit_learn_is_loaded_by_c2st_alone():
    script = """
import sys
import molflow.evaluation
from molflow.evaluation import mmd, c2st, expected_coverage
print(sorted({"sklearn", "scipy.stats", "zuko"} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


# ---- mmd -------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shift", [0.0, 0.7])
def test_mmd_of_gaussians(shift):
    """E k(x, y) = (s^2 / (s^2 + 2))^(F/2) exp(-|d|^2 / 2 (s^2 + 2)) for unit Gaussians whose means differ by d."""
    s = 1.3

    def kernel_mean(d):
        return (s**2 / (s**2 + 2)) * math.exp(-(d**2) / (2 * (s**2 + 2)))

    values = [mmd(normal((800, 2), k), normal((600, 2), 50 + k) + np.array([shift, 0]), s) for k in range(20)]
    expected = 2 * kernel_mean(0) - 2 * kernel_mean(shift)
    assert abs(np.mean(values) - expected) < 4 * np.std(values) / 20**0.5 + 1e-12
    assert np.std(values) < 0.01


def test_mmd_by_default_has_no_unit():
    x, y = normal((300, 2)), normal((300, 2), 1) + 0.5
    assert mmd(x, y) == pytest.approx(mmd(1e3 * x, 1e3 * y))
    assert mmd(x, y) > 0.02


# ---- calibration -----------------------------------------------------------------------------------------------------


def gaussian_posteriors(width, shift=0.0, n=2000, n_samples=50):
    """theta ~ N(0, 1), x ~ N(theta, 1) in two dimensions: the posterior N(x / 2, 1 / 2), made wider or shifted."""
    theta = normal((n, 2))
    x = theta + normal((n, 2), 1)
    samples = x[:, None] / 2 + shift + width * math.sqrt(0.5) * normal((n, n_samples, 2), 2)
    return theta, samples


def test_an_exact_posterior_is_calibrated():
    theta, samples = gaussian_posteriors(1.0)
    ranks = calibration_ranks(theta, samples)
    assert ranks.min() == 0
    assert ranks.max() == 50
    assert (uniformity(ranks, 50) > 0.01).all()
    coverage = expected_coverage(theta, samples)
    assert (coverage.coverage[0], coverage.coverage[-1], coverage.n) == (0, 1, 2000)
    assert coverage.p_value > 0.01


@pytest.mark.parametrize(("width", "shift"), [(0.6, 0.0), (1.6, 0.0), (1.0, 0.4)], ids=["narrow", "wide", "biased"])
def test_another_posterior_is_not(width, shift):
    theta, samples = gaussian_posteriors(width, shift)
    assert uniformity(calibration_ranks(theta, samples), 50).max() < 1e-6
    coverage = expected_coverage(theta, samples)
    assert coverage.p_value < 1e-4
    middle = coverage.coverage[50] - 0.5
    assert coverage.largest_error >= abs(middle)


def test_ranks_count_the_samples_below():
    samples = np.array([[[0.0, 3.0], [1.0, 2.0], [2.0, 1.0]]])
    assert calibration_ranks([[1.5, 0.0]], samples).tolist() == [[2, 0]]


@pytest.mark.parametrize("function", [calibration_ranks, expected_coverage])
def test_simulations_that_do_not_fit_their_samples(function):
    with pytest.raises(ValueError, match=r"expected theta \(n, F\) and samples \(n, L, F\), got \(3, 2\) and \(3, 4\)"):
        function(np.zeros((3, 2)), np.zeros((3, 4)))
    with pytest.raises(ValueError, match="expected finite parameters"):
        function(np.zeros((1, 1)), np.full((1, 2, 1), np.inf))


# ---- reference posteriors of the benchmark, beside samplers of our own -----------------------------------------------


def two_moons(x, n, rng):
    """The noise that the simulation had, turned back; its reflection is as likely."""
    angle, radius = np.pi * (rng.random(n) - 0.5), rng.normal(0.1, 0.01, n)
    shift = x - np.stack([radius * np.cos(angle) + 0.25, radius * np.sin(angle)], 1)
    total = np.where(rng.random(n) < 0.5, 1, -1) * -shift[:, 0] * math.sqrt(2)
    difference = shift[:, 1] * math.sqrt(2)
    return np.stack([total - difference, total + difference], 1) / 2


def gaussian_mixture(x, n, rng):
    scale = np.where(rng.random((n, 1)) < 0.5, 1.0, 0.1)
    return x + scale * rng.normal(size=(n, 2))


def gaussian_linear(x, n, rng):
    return x / 2 + math.sqrt(0.05) * rng.normal(size=(n, 10))


def gaussian_linear_uniform(x, n, rng):
    """A Gaussian truncated to the prior, coordinate by coordinate through the inverse of its distribution function."""
    s = math.sqrt(0.1)
    low, high = norm.cdf((-1 - x) / s), norm.cdf((1 - x) / s)
    return x + s * norm.ppf(low + (high - low) * rng.random((n, 10)))


SAMPLERS = {
    "sbi-two-moons": two_moons,
    "sbi-gaussian-mixture": gaussian_mixture,
    "sbi-gaussian-linear": gaussian_linear,
    "sbi-gaussian-linear-uniform": gaussian_linear_uniform,
}


@pytest.mark.slow
@pytest.mark.parametrize("name", SAMPLERS)
def test_reference_posteriors_are_those_in_closed_form(name):
    task, (n, n_folds) = DATASETS[name](), (600, 2) if "linear" in name else (2000, 5)
    inside = task.prior.support.check
    x, reference = task.observation(3).double().numpy(), task.reference_posterior(3)[:n]
    drawn = torch.from_numpy(SAMPLERS[name](x, 2 * n, np.random.default_rng(0)))
    samples = drawn[inside(drawn)][:n]
    assert abs(c2st(reference, samples, n_folds=n_folds) - 0.5) < 1.5 / n**0.5
    assert abs(mmd(reference, samples)) < 2 / n
    assert abs(mmd(reference, samples * 1.1 + 0.1)) > 2 / n
