"""Evaluation of samples of a Boltzmann distribution exp(-U) / Z: likelihood, importance weights, energies, distances.

It takes arrays and an energy, no model. Energies are in kT, likelihoods in nats on the mean-free space.
"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
import torch

from molflow.energies.base import Potential
from molflow.energies.reweighting import effective_sample_size, normalized_weights, weigh
from molflow.energies.systems import System
from molflow.evaluation.distances import pair_distances
from molflow.evaluation.measured import (
    ArrayLike,
    Measured,
    finite_configurations,
    measure,
    vector,
)
from molflow.evaluation.statistics import (
    RESAMPLES,
    Array,
    Number,
    bootstrap_errors,
    finite_number,
    mean_and_error,
    wasserstein,
)
from molflow.geometry import MeanFreeSpace
from molflow.plot.tables import html_table

_MAIN = {
    "ess_fraction": "effective sample size / samples",
    "reweighted_log_z": "log Z from the weights",
    "mean_energy": "mean energy, kT",
    "reweighted_mean_energy": "mean energy with weights, kT",
    "nll_encoder": "NLL through the encoder, nats",
    "nll_decoder": "NLL through the decoder, nats",
    "reconstruction_error": "reconstruction error",
    "w1_energy": "W1 distance of energies, kT",
    "w1_distance": "W1 distance of pair distances",
}

_DISAGREES = 0.1  # nats


@dataclass(frozen=True, kw_only=True, repr=False)
class BoltzmannScores:
    """Scores of samples. A score that was not asked for or cannot be computed is None, never NaN.

    An `_error` is one standard error of independent samples, which is too small for a Markov chain. Reweighted figures
    are averages with weights exp(-U) / q over the samples. Neither they nor the ESS cover regions without samples.

    Attributes:
        n_samples, n_particles, dim, n_reference: numbers of samples, particles, dimensions and reference
            configurations.
        dof: (N - 1) D, the dimension of the space that densities are normalised on.
        n_nonfinite_samples: samples with a coordinate that is not finite.
        n_nonfinite_energies: samples without a finite energy, including the former. They have weight zero; unweighted
            averages of energies leave them out, except `fraction_above_reference` and `reverse_kl`.
        n_nonfinite_log_prob: samples whose log density is not finite. They too have weight zero.
        mean_energy, median_energy: energies of the samples, kT. A few clashes can change the mean much, the median not.
        fraction_above_reference: samples with an energy above the largest of the reference, or no finite one / samples.
        reference_mean_energy, reference_median_energy: energies of the reference, kT.
        ess: effective sample size (sum w)^2 / sum w^2, a count; ess_fraction: ess / samples.
        largest_weight: largest weight / sum of all weights.
        reweighted_log_z: log of the mean weight; reweighted_mean_energy: in kT. Their errors and that of `ess_fraction`
            are from a bootstrap over samples.
        reverse_kl: KL(samples' density || target) = E_q[log q + U] + log Z, nats, with the system's log Z.
        nll_encoder, nll_decoder: mean of -log q over test configurations, with the density through the encoder or
            the decoder. None if an entry is not finite.
        n_nll_encoder, n_nll_decoder: number of these configurations.
        n_nonfinite_nll_encoder, n_nonfinite_nll_decoder: number of entries that are not finite.
        nll_encoder_bgflow, nll_decoder_bgflow: NLL - dof/2 log 2 pi, without the Gaussian constant, as papers
            built on bgflow print it.
        kl_encoder, kl_decoder: KL(target || density) = NLL - entropy of the system. Its error is that of the NLL.
        disagreement: mean |log q - log q'| over test configurations, nats, with the densities through encoder and
            decoder; disagreement_largest: the largest, of the configuration number disagreement_configuration, from 1;
            n_disagreeing: those above 0.1 nats, where the inverse or the solver is not exact enough for the density.
        reconstruction_error: mean |x - g(f(x))| over n_reconstruction configurations.
        reconstruction_error_median: its median.
        w1_energy, w1_distance: Wasserstein-1 distance between samples and reference, of energies (kT) and of the
            distances of all pairs of particles (units of the positions). Nothing is clipped: one clash of 10^6 kT
            among 1,000 samples adds 1,000 kT, so compare it with the median and `fraction_above_reference`.
        w1_energy_reweighted, w1_distance_reweighted: the same with weights on the samples.
        w1_energy_halves, w1_distance_halves: distance between the first and the second half of the reference: the noise
            of a finite reference. Fewer samples than half of it are noisier.
        system: name, mean_energy, log_z, entropy of the target and their errors.
        seed, n_resamples: seed and number of resamples of the bootstrap.
    """

    n_samples: int
    n_particles: int
    dim: int
    dof: int
    n_reference: int
    n_nonfinite_samples: int
    n_nonfinite_energies: int
    n_nonfinite_log_prob: int | None = None
    mean_energy: Number
    mean_energy_error: Number
    median_energy: Number
    fraction_above_reference: Number = None
    reference_mean_energy: Number = None
    reference_mean_energy_error: Number = None
    reference_median_energy: Number = None
    ess: Number = None
    ess_fraction: Number = None
    ess_fraction_error: Number = None
    largest_weight: Number = None
    reweighted_log_z: Number = None
    reweighted_log_z_error: Number = None
    reweighted_mean_energy: Number = None
    reweighted_mean_energy_error: Number = None
    reverse_kl: Number = None
    reverse_kl_error: Number = None
    n_nll_encoder: int = 0
    n_nonfinite_nll_encoder: int = 0
    nll_encoder: Number = None
    nll_encoder_error: Number = None
    nll_encoder_bgflow: Number = None
    kl_encoder: Number = None
    n_nll_decoder: int = 0
    n_nonfinite_nll_decoder: int = 0
    nll_decoder: Number = None
    nll_decoder_error: Number = None
    nll_decoder_bgflow: Number = None
    kl_decoder: Number = None
    disagreement: Number = None
    disagreement_largest: Number = None
    disagreement_configuration: int | None = None
    n_disagreeing: int | None = None
    n_reconstruction: int = 0
    reconstruction_error: Number = None
    reconstruction_error_median: Number = None
    w1_energy: Number = None
    w1_energy_reweighted: Number = None
    w1_energy_halves: Number = None
    w1_distance: Number = None
    w1_distance_reweighted: Number = None
    w1_distance_halves: Number = None
    system: dict[str, Any] | None = None
    seed: int
    n_resamples: int = RESAMPLES

    def to_dict(self) -> dict[str, Any]:
        """All scores under their own names, ready for JSON."""
        return asdict(self)

    def __repr__(self) -> str:
        shown = [("ess_fraction", self.ess_fraction), ("reweighted_log_z", self.reweighted_log_z)]
        figures = "".join(f", {name}={value:.4g}" for name, value in shown if value is not None)
        return f"{type(self).__name__}(n_samples={self.n_samples}{figures})"

    def summary(self) -> str:
        """The main scores as lines of text, with their errors and the known values of the system."""
        rows = self._main()
        width = max(len(row[0]) for row in rows)
        return "\n".join(
            f"{words:<{width}}   {value}{'' if known is None else f'; exact: {known:.4g}'}"
            for words, value, known in rows
        )

    def _repr_html_(self) -> str:
        return html_table(self._main(), ("", "score", "exact"))

    def _main(self) -> list[tuple[str, str, Number]]:
        """The main scores: what, the value with its error, and the value of the system."""
        system = self.system or {}
        exact = {
            "ess_fraction": 1.0,
            "reweighted_log_z": system.get("log_z"),
            "mean_energy": system.get("mean_energy"),
            "reweighted_mean_energy": system.get("mean_energy"),
            "nll_encoder": system.get("entropy"),
            "nll_decoder": system.get("entropy"),
        }
        rows: list[tuple[str, str, Number]] = [("samples", f"{self.n_samples:,}", None)]
        for name, words in _MAIN.items():
            value, error = getattr(self, name), getattr(self, f"{name}_error", None)
            if value is not None:
                rows.append((words, f"{value:.5g}{'' if error is None else f' ± {error:.2g}'}", exact.get(name)))
        return rows


def evaluate_boltzmann(
    samples: ArrayLike,
    energy: Potential,
    *,
    log_prob: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    system: System | None = None,
    nll_encoder: ArrayLike | None = None,
    nll_decoder: ArrayLike | None = None,
    reconstruction_error: ArrayLike | None = None,
    seed: int = 0,
) -> BoltzmannScores:
    """Score samples against the density exp(-U) / Z.

    Args:
        samples: configurations (n, N, D).
        energy: U in kT, called with float64 tensors (b, N, D), gives (b,).
        log_prob: log density of each sample on the mean-free space, nats, (n,). Without it there are no weights.
        reference: configurations (m, N, D) drawn from the target.
        system: known figures of the target.
        nll_encoder, nll_decoder: -log density of test configurations through either map, nats, (k,); of the same
            configurations if they are as many.
        reconstruction_error: |x - g(f(x))| of test configurations, (k,).
        seed: seed of the bootstrap.

    Raises:
        MolflowError: an array of another shape, or a reference configuration without a finite energy.

    Example:
        >>> system = molflow.energies.get_system("dw4")
        >>> x, log_q = molflow.load_pretrained("dw4").sample_and_log_prob(50, seed=0)
        >>> evaluate_boltzmann(x, system.energy, log_prob=log_q, system=system).ess_fraction > 0.5
        True
    """
    measured = measure(samples, energy, log_prob, reference)
    n, n_particles, dim = measured.samples.shape
    dof = int(MeanFreeSpace(torch.ones(1, n_particles, dtype=torch.bool), dim).dof)
    u = measured.energies
    finite = u[np.isfinite(u)]
    mean, error = mean_and_error(finite)
    scores: dict[str, Any] = {}
    if measured.log_prob is not None:
        scores |= weight_scores(u, measured.log_prob, seed=seed)
        log_z = None if system is None else system.log_z
        scores["reverse_kl"], scores["reverse_kl_error"] = reverse_kl(u, measured.log_prob, log_z)
    entropy = None if system is None else system.entropy
    for name, nll in (("nll_encoder", nll_encoder), ("nll_decoder", nll_decoder)):
        if nll is not None:
            scores |= _named(name, likelihood_scores(vector(nll, name), dof, entropy))
    if nll_encoder is not None and nll_decoder is not None:
        scores |= _disagreement_scores(vector(nll_encoder, "nll_encoder"), vector(nll_decoder, "nll_decoder"))
    if reconstruction_error is not None:
        scores |= _reconstruction_scores(vector(reconstruction_error, "reconstruction_error"))
    if measured.reference is not None:
        scores |= _reference_scores(measured)
    return BoltzmannScores(
        n_samples=n,
        n_particles=n_particles,
        dim=dim,
        dof=dof,
        n_reference=0 if measured.reference is None else len(measured.reference),
        n_nonfinite_samples=int(n - finite_configurations(measured.samples).sum()),
        n_nonfinite_energies=n - len(finite),
        mean_energy=mean,
        mean_energy_error=error,
        median_energy=finite_number(np.median(finite)) if len(finite) else None,
        system=None if system is None else _system_record(system),
        seed=seed,
        **scores,
    )


def weight_scores(energies: Array, log_prob: Array, *, seed: int = 0) -> dict[str, Any]:
    """Scores from importance weights w = exp(-U) / q: ESS, log Z = log mean w, <U> = sum w U / sum w.

    A sample whose energy or log density is not finite has weight zero and still counts in the mean.

    Args:
        energies: U of each sample, kT, (n,).
        log_prob: log q of each sample, nats, (n,).
        seed: of the bootstrap behind the errors.

    Returns:
        The fields of `BoltzmannScores` on weights, except the reverse KL.
    """
    n = len(energies)
    log_w = weigh(torch.from_numpy(energies), torch.from_numpy(log_prob)).numpy()
    scores: dict[str, Any] = {"n_nonfinite_log_prob": int(n - np.isfinite(log_prob).sum())}
    if not np.isfinite(log_w).any():
        return scores
    u = np.where(np.isfinite(log_w), energies, 0.0)

    def statistics(index: Array) -> tuple[float, float, float]:
        some = log_w[index]
        top = some.max()
        if not np.isfinite(top):
            return math.nan, math.nan, math.nan
        w = np.exp(some - top)
        return effective_sample_size(torch.from_numpy(some)), top + math.log(w.mean()), float(w @ u[index] / w.sum())

    fraction, log_z, mean = statistics(np.arange(n))
    fraction_error, log_z_error, mean_error = bootstrap_errors(statistics, n, seed=seed)
    return scores | {
        "ess": fraction * n,
        "ess_fraction": fraction,
        "ess_fraction_error": fraction_error,
        "largest_weight": float(normalized_weights(torch.from_numpy(log_w)).max()),
        "reweighted_log_z": finite_number(log_z),
        "reweighted_log_z_error": log_z_error,
        "reweighted_mean_energy": finite_number(mean),
        "reweighted_mean_energy_error": mean_error,
    }


def reverse_kl(energies: Array, log_prob: Array, log_z: Number) -> tuple[Number, Number]:
    """KL(q || target) = E_q[log q + U] + log Z, nats, and its standard error.

    Args:
        energies: U of samples of q, kT, (n,).
        log_prob: log q of each, nats, (n,).
        log_z: log Z of the target; None gives None.
    """
    if log_z is None or not (np.isfinite(energies) & np.isfinite(log_prob)).all():
        return None, None
    return mean_and_error(log_prob + energies + log_z)


def likelihood_scores(nll: Array, dof: int, entropy: Number = None) -> dict[str, Any]:
    """Mean negative log-likelihood and the scores that follow from it.

    Args:
        nll: -log q of test configurations, nats, normalised on the space of dimension dof, (k,).
        dof: (N - 1) D.
        entropy: entropy of the target, the lowest possible NLL.

    Returns:
        `n`, `n_nonfinite`, `value` with its `error`, `bgflow` = value - dof/2 log 2 pi, `kl` = value - entropy. They
        are None if an entry is not finite, because the mean would not be finite.
    """
    n_nonfinite = int(len(nll) - np.isfinite(nll).sum())
    value, error = mean_and_error(nll) if n_nonfinite == 0 else (None, None)
    return {
        "n": len(nll),
        "n_nonfinite": n_nonfinite,
        "value": value,
        "error": error,
        "bgflow": None if value is None else value - 0.5 * dof * math.log(2 * math.pi),
        "kl": None if value is None or entropy is None else value - entropy,
    }


def _reference_scores(measured: Measured) -> dict[str, Any]:
    u, weights, reference = measured.energies, measured.weights, measured.reference_energies
    assert reference is not None
    finite = np.isfinite(u)
    half = len(reference) // 2
    mean, error = mean_and_error(reference)
    grid, raw, reweighted, halves = pair_distances(measured)
    assert halves is not None

    def w1(a: Array, b: Array) -> Number:
        return wasserstein(grid.centres, grid.centres, a, b)

    return {
        "fraction_above_reference": float(np.mean(~finite | (u > reference.max()))),
        "reference_mean_energy": mean,
        "reference_mean_energy_error": error,
        "reference_median_energy": finite_number(np.median(reference)),
        "w1_energy": wasserstein(u[finite], reference),
        "w1_energy_reweighted": None if weights is None else wasserstein(u[finite], reference, weights[finite]),
        "w1_energy_halves": wasserstein(reference[:half], reference[half:]),
        "w1_distance": w1(raw, halves.sum(0)),
        "w1_distance_reweighted": None if reweighted is None else w1(reweighted, halves.sum(0)),
        "w1_distance_halves": w1(halves[0], halves[1]),
    }


def _disagreement_scores(nll_encoder: Array, nll_decoder: Array) -> dict[str, Any]:
    if nll_encoder.shape != nll_decoder.shape:
        return {}
    differences = np.abs(nll_encoder - nll_decoder)
    if not np.isfinite(differences).all():
        return {}
    worst = int(differences.argmax())
    return {
        "disagreement": float(differences.mean()),
        "disagreement_largest": float(differences[worst]),
        "disagreement_configuration": worst + 1,
        "n_disagreeing": int((differences > _DISAGREES).sum()),
    }


def _reconstruction_scores(errors: Array) -> dict[str, Any]:
    return {
        "n_reconstruction": len(errors),
        "reconstruction_error": mean_and_error(errors)[0],
        "reconstruction_error_median": finite_number(np.median(errors)),
    }


def _named(name: str, scores: dict[str, Any]) -> dict[str, Any]:
    """Scores of one likelihood under the names of `BoltzmannScores`; `name` is nll_encoder or nll_decoder."""
    return {
        f"n_{name}": scores["n"],
        f"n_nonfinite_{name}": scores["n_nonfinite"],
        name: scores["value"],
        f"{name}_error": scores["error"],
        f"{name}_bgflow": scores["bgflow"],
        name.replace("nll", "kl"): scores["kl"],
    }


def _system_record(system: System) -> dict[str, Any]:
    known = [key + suffix for key in ("mean_energy", "log_z", "entropy") for suffix in ("", "_error")]
    return {"name": system.name} | {key: getattr(system, key) for key in known}
