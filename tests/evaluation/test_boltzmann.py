"""Boltzmann scores against Gaussians in closed form, and what is said where a figure cannot be had."""

import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from gaussians import DOF, GAUSSIAN, N_SAMPLES, SIGMA, D, N, gaussian, harmonic, nll_of_gaussian

from molflow.energies import DoubleWell, LennardJones, get_system
from molflow.errors import MolflowError
from molflow.evaluation import evaluate_boltzmann, histograms
from molflow.evaluation.boltzmann import likelihood_scores, reverse_kl, weight_scores
from molflow.evaluation.statistics import bootstrap_errors, mean_and_error, wasserstein


@pytest.fixture(scope="module")
def scores():
    x, log_q = gaussian(SIGMA)
    y, _ = gaussian(1, seed=1)
    nll = nll_of_gaussian(y, SIGMA)
    return evaluate_boltzmann(
        x, harmonic, log_prob=log_q, reference=y, system=GAUSSIAN, nll_decoder=nll, nll_encoder=torch.from_numpy(nll)
    )


def within(value, error, exact, errors=3.5):
    return error > 0 and abs(value - exact) < errors * error


def test_the_disagreement_of_two_maps():
    """Of four configurations the third differs by 0.3 nats, the others by 0.02."""
    x = np.random.default_rng(0).normal(size=(2, 3, 2))
    encoder, decoder = np.array([7.0, 7.5, 8.0, 6.0]), np.array([7.02, 7.48, 7.7, 6.02])
    scores = evaluate_boltzmann(x, harmonic, nll_encoder=encoder, nll_decoder=decoder)
    assert scores.disagreement == pytest.approx(0.09)
    assert scores.disagreement_largest == pytest.approx(0.3)
    assert (scores.disagreement_configuration, scores.n_disagreeing) == (3, 1)
    assert evaluate_boltzmann(x, harmonic, nll_encoder=encoder).disagreement is None


def test_gaussian_weights_match_the_closed_form(scores):
    assert (scores.n_samples, scores.n_particles, scores.dim, scores.dof) == (N_SAMPLES, N, D, DOF)
    ess = (math.sqrt(2 * SIGMA**2 - 1) / SIGMA**2) ** DOF
    assert within(scores.ess_fraction, scores.ess_fraction_error, ess)
    assert scores.ess == pytest.approx(scores.ess_fraction * N_SAMPLES)
    assert within(scores.reweighted_log_z, scores.reweighted_log_z_error, GAUSSIAN.log_z)
    assert within(scores.reweighted_mean_energy, scores.reweighted_mean_energy_error, DOF / 2)
    assert 1 / N_SAMPLES < scores.largest_weight < 0.01


def test_gaussian_divergences_match_the_closed_form(scores):
    backward = DOF * ((SIGMA**2 - 1) / 2 - math.log(SIGMA))
    assert within(scores.reverse_kl, scores.reverse_kl_error, backward)
    forward = DOF * (math.log(SIGMA) + 1 / (2 * SIGMA**2) - 1 / 2)
    assert within(scores.kl_decoder, scores.nll_decoder_error, forward)
    assert scores.nll_decoder == scores.nll_encoder == pytest.approx(GAUSSIAN.entropy + scores.kl_decoder)


def test_gaussian_energies(scores):
    assert within(scores.mean_energy, scores.mean_energy_error, SIGMA**2 * DOF / 2)
    assert within(scores.reference_mean_energy, scores.reference_mean_energy_error, DOF / 2)
    # U is that of the reference times sigma^2, so the quantiles are, and W1 is the difference of means.
    assert scores.w1_energy == pytest.approx((SIGMA**2 - 1) * DOF / 2, rel=0.05)
    assert scores.w1_energy_halves < 0.1
    assert scores.w1_energy_reweighted < 0.15
    assert scores.w1_distance == pytest.approx((SIGMA - 1) * math.sqrt(math.pi), rel=0.05)
    assert scores.w1_distance_halves < 0.02
    assert scores.w1_distance_reweighted < 0.03
    assert 0 < scores.fraction_above_reference < 0.01


def test_a_perfect_sampler_has_equal_weights():
    x, log_q = gaussian(1)
    scores = evaluate_boltzmann(x, harmonic, log_prob=log_q, system=GAUSSIAN)
    assert scores.ess_fraction == pytest.approx(1, abs=1e-12)
    assert scores.ess == pytest.approx(N_SAMPLES)
    assert scores.largest_weight == pytest.approx(1 / N_SAMPLES)
    assert scores.reweighted_log_z == pytest.approx(GAUSSIAN.log_z, abs=1e-12)
    assert scores.reverse_kl == pytest.approx(0, abs=1e-12)
    assert scores.reweighted_mean_energy == pytest.approx(scores.mean_energy, abs=1e-12)


def test_weights_counted_by_hand():
    u, log_q = np.log([2.0, 1.0, 4.0]), np.log([1.0, 1.0, 0.5])  # weights 1/2, 1, 1/2
    scores = weight_scores(u, log_q)
    assert scores["ess_fraction"] == pytest.approx(4 / 1.5 / 3)
    assert scores["largest_weight"] == pytest.approx(1 / 2)
    assert scores["reweighted_log_z"] == pytest.approx(math.log(2 / 3))
    assert scores["reweighted_mean_energy"] == pytest.approx(math.log(2) / 4 + math.log(4) / 4)
    value, error = reverse_kl(u, log_q, 0.25)
    terms = np.log([2, 1, 2]) + 0.25
    assert (value, error) == pytest.approx((terms.mean(), terms.std(ddof=1) / math.sqrt(3)))


def test_the_bootstrap_agrees_with_the_analytic_error(scores):
    x, log_q = gaussian(SIGMA)
    w = np.exp(-harmonic(torch.from_numpy(x)).numpy() - log_q)
    assert scores.reweighted_log_z_error == pytest.approx(w.std() / w.mean() / math.sqrt(N_SAMPLES), rel=0.2)
    values = np.random.default_rng(3).normal(size=5000)
    (error,) = bootstrap_errors(lambda index: [values[index].mean()], len(values), seed=4)
    assert error == pytest.approx(mean_and_error(values)[1], rel=0.2)


def test_the_seed_determines_the_bootstrap_alone():
    x, log_q = gaussian(SIGMA, n=500)
    first, again, other = (evaluate_boltzmann(x, harmonic, log_prob=log_q, seed=seed) for seed in (0, 0, 1))
    assert first == again
    assert first.ess_fraction_error != other.ess_fraction_error
    errors = {key for key, value in first.to_dict().items() if value != other.to_dict()[key]}
    assert errors == {"seed", "ess_fraction_error", "reweighted_log_z_error", "reweighted_mean_energy_error"}


@pytest.mark.parametrize(("shape", "constant"), [((4, 2), 5.51), ((13, 3), 33.08), ((55, 3), 148.87)])
def test_bgflows_value_leaves_out_the_gaussian_constant(shape, constant):
    dof = (shape[0] - 1) * shape[1]
    scores = likelihood_scores(np.array([50.0, 52.0]), dof, entropy=49.5)
    assert (scores["n"], scores["value"], scores["error"], scores["kl"]) == (2, 51, pytest.approx(1), 1.5)
    assert round(51 - scores["bgflow"], 2) == constant
    energy = LennardJones(shape[0]) if shape[1] == 3 else DoubleWell()
    whole = evaluate_boltzmann(np.random.default_rng(0).normal(size=(2, *shape)), energy, nll_encoder=[50.0, 52.0])
    assert (whole.dof, whole.nll_encoder_bgflow) == (dof, scores["bgflow"])
    assert (whole.n_nll_encoder, whole.n_nll_decoder, whole.kl_encoder) == (2, 0, None)


def test_the_entropy_of_dw4_in_both_conventions():
    system = get_system("dw4")
    scores = evaluate_boltzmann(np.zeros((1, 4, 2)), system.energy, system=system, nll_decoder=[7.12, 7.12])
    assert (scores.nll_decoder, scores.kl_decoder) == (7.12, 0)
    assert round(scores.nll_decoder_bgflow, 2) == 1.61
    assert scores.system["name"] == "dw4"


def test_wasserstein_by_hand():
    assert wasserstein(np.array([0.0, 1.0]), np.array([2.0, 3.0])) == pytest.approx(2)
    assert wasserstein(np.array([0.0, 9.0]), np.array([1.0]), np.array([1.0, 0.0])) == pytest.approx(1)
    assert wasserstein(np.array([]), np.array([1.0])) is None
    assert wasserstein(np.array([1.0]), np.array([1.0]), np.zeros(1)) is None


def numbers(record):
    for value in record.values():
        if isinstance(value, dict):
            yield from numbers(value)
        elif isinstance(value, float):
            yield value


def inverse_distances(x):
    return torch.stack([(1 / torch.pdist(each)).sum() for each in x])


@pytest.mark.parametrize(("energy", "infinite"), [(DoubleWell(), 0), (inverse_distances, 5)])
def test_coincident_particles_give_no_nan(energy, infinite):
    """With an energy that is finite there and with one that is not."""
    arrays = {"log_prob": np.zeros(5), "reference": gaussian(1, n=20)[0]}
    scores = evaluate_boltzmann(np.zeros((5, 4, 2)), energy, system=get_system("dw4"), **arrays)
    assert scores.n_nonfinite_energies == infinite
    assert (scores.ess is None) == (scores.mean_energy is None) == bool(infinite)
    assert scores.w1_distance > 1
    assert all(map(math.isfinite, numbers(scores.to_dict())))
    json.dumps(histograms(np.zeros((5, 4, 2)), energy, **arrays), allow_nan=False)


def test_samples_without_a_finite_energy_are_counted_and_have_no_weight():
    x, log_q = gaussian(SIGMA, n=1000)
    y, _ = gaussian(1, n=1000, seed=1)
    some = evaluate_boltzmann(x[2:], harmonic, log_prob=log_q[2:], reference=y, system=GAUSSIAN)
    broken = x.copy()
    broken[0, 0, 0] = np.nan
    broken[1] = np.inf
    scores = evaluate_boltzmann(broken, harmonic, log_prob=log_q, reference=y, system=GAUSSIAN)
    assert (scores.n_nonfinite_samples, scores.n_nonfinite_energies, scores.n_nonfinite_log_prob) == (2, 2, 0)
    assert (scores.mean_energy, scores.median_energy) == (some.mean_energy, some.median_energy)
    assert scores.ess == pytest.approx(some.ess)
    assert scores.ess_fraction == pytest.approx(0.998 * some.ess_fraction)
    assert scores.reweighted_log_z == pytest.approx(some.reweighted_log_z + math.log(0.998))
    assert scores.reweighted_mean_energy == pytest.approx(some.reweighted_mean_energy)
    assert scores.fraction_above_reference == pytest.approx((2 + 998 * some.fraction_above_reference) / 1000)
    assert (scores.w1_energy, scores.w1_distance) == (some.w1_energy, some.w1_distance)
    assert some.reverse_kl is not None
    assert (scores.reverse_kl, scores.reverse_kl_error) == (None, None)  # it is infinite


def test_likelihoods_that_are_not_finite_are_counted_and_have_no_mean():
    x, log_q = gaussian(SIGMA, n=10)
    log_q[3] = -np.inf
    scores = evaluate_boltzmann(x, harmonic, log_prob=log_q, system=GAUSSIAN, nll_decoder=[1.0, np.inf, 2.0])
    assert scores.n_nonfinite_log_prob == 1
    assert scores.ess < 9
    assert scores.reverse_kl is None
    assert (scores.n_nll_decoder, scores.n_nonfinite_nll_decoder) == (3, 1)
    assert (scores.nll_decoder, scores.nll_decoder_error, scores.nll_decoder_bgflow, scores.kl_decoder) == (None,) * 4


def test_scores_that_were_not_requested_are_none():
    x, log_q = gaussian(1, n=2)
    alone = evaluate_boltzmann(x[:1], harmonic)
    assert alone.mean_energy == alone.median_energy
    assert alone.mean_energy_error is None
    absent = {key for key, value in alone.to_dict().items() if value is None}
    counts = {"n_samples", "n_particles", "dim", "dof", "n_reference", "n_nonfinite_samples", "n_nonfinite_energies"}
    given = {"mean_energy", "median_energy", "seed", "n_resamples"}
    nll = {f"{n}_nll_{which}" for n in ("n", "n_nonfinite") for which in ("encoder", "decoder")}
    assert alone.to_dict().keys() - absent == counts | given | nll | {"n_reconstruction"}

    one = evaluate_boltzmann(x[:1], harmonic, log_prob=log_q[:1], reference=x[1:], reconstruction_error=[0.5])
    assert (one.ess_fraction, one.ess_fraction_error, one.reconstruction_error) == (1, None, 0.5)
    assert (one.w1_energy_halves, one.w1_distance_halves) == (None, None)
    assert one.w1_distance is not None

    weightless = evaluate_boltzmann(x, lambda x: torch.full((len(x),), torch.inf), log_prob=log_q)
    assert (weightless.mean_energy, weightless.ess, weightless.reweighted_log_z) == (None, None, None)
    record = histograms(x, lambda x: torch.full((len(x),), torch.inf), log_prob=log_q)
    assert record["energy"]["samples"]["outside"] == 1
    assert record["energy"]["reweighted"] is None

    unknown = evaluate_boltzmann(x, harmonic, log_prob=log_q, system=replace(GAUSSIAN, log_z=None, entropy=None))
    assert (unknown.reverse_kl, unknown.system["log_z"]) == (None, None)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"samples": np.zeros((3, 2))}, r"samples: expected shape \(n, N, D\) .*, got \(3, 2\)"),
        ({"samples": np.zeros((0, 4, 2))}, r"samples: expected .* n >= 1, .* got \(0, 4, 2\)"),
        ({"samples": np.full((3, 4, 2), "a")}, "samples: expected real numbers, got <U1"),
        ({"samples": np.zeros((3, 5, 2))}, r"expected configurations \(..., 4, 2\), got \(3, 5, 2\)"),
        ({"reference": np.zeros((3, 5, 2))}, r"reference: expected shape \(n, 4, 2\) with n >= 1, got \(3, 5, 2\)"),
        ({"log_prob": np.zeros(2)}, r"log_prob: expected shape \(3,\), got \(2,\)"),
        ({"nll_encoder": np.zeros((2, 1))}, r"nll_encoder: expected shape \(k,\), got \(2, 1\)"),
        ({"reconstruction_error": []}, r"reconstruction_error: expected shape \(k,\), got \(0,\)"),
        ({"energy": lambda x: x.sum()}, r"energy of \(3, 4, 2\): expected shape \(3,\), got \(\)"),
        ({"energy": lambda x: x.sum((1, 2)) * np.nan}, "samples: the energy of all 3 finite configurations is NaN"),
        ({"reference": np.full((2, 4, 2), np.nan)}, "reference configuration 1: energy nan; expected a finite one"),
    ],
)
def test_bad_input_is_named(change, message):
    arguments = {"samples": np.zeros((3, 4, 2)), "energy": DoubleWell()} | change
    with pytest.raises(MolflowError, match=message):
        evaluate_boltzmann(arguments.pop("samples"), arguments.pop("energy"), **arguments)


def test_tensors_of_any_precision_are_accepted():
    x, log_q = gaussian(SIGMA, n=100)
    whole = evaluate_boltzmann(x, harmonic, log_prob=log_q)
    half = evaluate_boltzmann(torch.tensor(x, dtype=torch.float32, requires_grad=True), harmonic, log_prob=log_q)
    assert half.mean_energy == pytest.approx(whole.mean_energy, rel=1e-5)
