"""What the page of particles draws: histograms, weights, a free-energy profile, chains, and configurations."""

from typing import Any

import numpy as np
import torch

from molflow.energies.base import Potential, squared_pair_distances
from molflow.errors import MolflowError
from molflow.evaluation.histogram import histogram_record, histograms_of
from molflow.evaluation.measured import ArrayLike, Measured, finite_configurations, measure
from molflow.evaluation.statistics import Array, Number, finite_number
from molflow.geometry import squared_distances

_BLOCKS = 20
_TYPICAL = 5000  # configurations that tell the range of distances
_TRACE = 500  # configurations in the trace of energies
_POINTS = 100  # of a running mean
_RANDOM, _EXTREME = 12, 4  # configurations drawn


def particle_figures(
    samples: ArrayLike,
    energy: Potential,
    *,
    log_prob: ArrayLike | None = None,
    reference: ArrayLike | None = None,
    pair: tuple[int, int] | None = None,
    bins: int = 100,
    seed: int = 0,
) -> dict[str, Any]:
    """What `molflow.report.boltzmann_page` draws of samples, ready for JSON.

    Args:
        samples, energy, log_prob, reference: as in `evaluate_boltzmann`.
        pair: two particles, from 0: the free-energy profile is along their distance. By default it is along the
            distance of any two, as identical particles have no numbers.
        bins: number of bins of the histograms.
        seed: of the configurations that are drawn at random.

    Returns:
        "energy" and "distance" as `histograms`; "weight", the same of log(w / mean w), None without weights;
        "free_energy", see `free_energy`; "chains", see `chains`; and "configurations", some of the samples and of the
        reference with their energies and weights.

    Raises:
        MolflowError: as in `evaluate_boltzmann`, or particles that do not exist.

    Example:
        >>> x, log_q = molflow.load_pretrained("dw4").sample_and_log_prob(50, seed=0)
        >>> figures = particle_figures(x, molflow.energies.DoubleWell(), log_prob=log_q, bins=10)
        >>> sorted(figures)
        ['chains', 'configurations', 'distance', 'energy', 'free_energy', 'weight']
    """
    measured = measure(samples, energy, log_prob, reference)
    return histograms_of(measured, bins) | {
        "weight": _weight_histogram(measured, bins),
        "free_energy": free_energy(measured, pair, bins // 2 or 1),
        "chains": chains(measured),
        "configurations": _configurations(measured, seed),
    }


def free_energy(measured: Measured, pair: tuple[int, int] | None, bins: int) -> dict[str, Any]:
    """F(r) = -log p(r) in kT along the distance r of two particles, and its standard error.

    p is the density of the distance, so the volume of a shell, r^(D-1), is in it. The errors are those of a jackknife
    over 20 blocks of consecutive configurations, so they hold for a chain too whose memory is shorter than a block. A
    bin that fewer than two blocks have visited has no value.

    Source: H. Flyvbjerg and H. G. Petersen, J. Chem. Phys. 91 (1989) 461, on blocks.

    Returns:
        `pair`; `distance`, the centres of the bins; and, under `samples`, `reweighted` and `reference`, `value` and
        `error` (bins), or None.
    """
    check_pair(pair, measured.samples.shape[1])
    fine = finite_configurations(measured.samples)
    samples, reference = measured.samples[fine], measured.reference
    several = samples if reference is None else reference
    typical = _distances(several[:: len(several) // _TYPICAL + 1], pair)
    low, high = np.quantile(typical, [0.0005, 0.9995]) if typical.size else (0.0, 1.0)
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)

    def profile(x: Array | None, weights: Array | None) -> dict[str, Any] | None:
        return None if x is None or weights is None or not len(x) else _profile(x, weights, pair, edges)

    return {
        "pair": pair,
        "distance": (0.5 * (edges[:-1] + edges[1:])).tolist(),
        "samples": profile(samples, np.ones(len(samples))),
        "reweighted": profile(samples, None if measured.weights is None else measured.weights[fine]),
        "reference": profile(reference, None if reference is None else np.ones(len(reference))),
    }


def check_pair(pair: tuple[int, int] | None, n_particles: int) -> None:
    """Raise MolflowError unless there are these two particles, or none are asked for."""
    if pair is not None and not (0 <= min(pair) < max(pair) < n_particles):
        raise MolflowError(f"the distance {pair[0]}-{pair[1]}: expected two of the {n_particles} particles, from 0")


def _profile(x: Array, weights: Array, pair: tuple[int, int] | None, edges: Array) -> dict[str, Any]:
    blocks = np.array_split(np.arange(len(x)), min(_BLOCKS, len(x)))
    counts, totals = np.zeros((len(blocks), len(edges) - 1)), np.zeros(len(blocks))
    for k, block in enumerate(blocks):
        r = _distances(x[block], pair)
        counts[k] = np.histogram(r, edges, weights=np.broadcast_to(weights[block], r.shape))[0]
        totals[k] = len(r) * weights[block].sum()
    with np.errstate(divide="ignore", invalid="ignore"):
        value = -np.log(counts.sum(0) / totals.sum() / np.diff(edges))
        without = -np.log((counts.sum(0) - counts) / (totals.sum() - totals)[:, None] / np.diff(edges))
        error = np.sqrt((len(blocks) - 1) * without.var(0))
    known = np.isfinite(error) & ((counts > 0).sum(0) > 1)
    return {"value": _where(known, value), "error": _where(known, error)}


def _where(known: Array, values: Array) -> list[Number]:
    return [float(v) if k else None for k, v in zip(known, values, strict=True)]


def _distances(x: Array, pair: tuple[int, int] | None) -> Array:
    """Distances of a pair of particles, or of all, (pairs, n)."""
    if pair is not None:
        x = x[:, list(pair)]
    distances: Array = squared_pair_distances(torch.from_numpy(x.astype(np.float64))).sqrt().numpy()
    return distances


def chains(measured: Measured) -> dict[str, Any]:
    """Energies in the order of the file, and how many configurations they remember.

    Returns:
        For `samples` and, if there is one, `reference`: `trace`, the energies of the first 500; and
        `autocorrelation_time`, 1 for independent configurations and about the number of steps that a chain needs for
        an independent one. `running` has the mean energy of the first `n` samples, with weights if there are any.
    """
    series = {"samples": measured.energies, "reference": measured.reference_energies}
    found: dict[str, Any] = {
        name: {"trace": [finite_number(e) for e in u[:_TRACE]], "autocorrelation_time": autocorrelation_time(u)}
        for name, u in series.items()
        if u is not None
    }
    u = measured.energies
    weights = np.isfinite(u).astype(float) if measured.weights is None else measured.weights
    ends = np.unique(np.linspace(1, len(u), _POINTS).astype(int))
    with np.errstate(invalid="ignore"):
        means = (np.cumsum(np.where(weights > 0, weights * u, 0)) / np.cumsum(weights))[ends - 1]
    return found | {"running": {"n": ends.tolist(), "mean": [finite_number(mean) for mean in means]}}


def autocorrelation_time(values: Array) -> Number:
    """1 + 2 sum over t >= 1 of the autocorrelation of a series at lag t, up to the first t above five times the sum.

    Averages over the series have the error of averages over n / time independent values. Values that are not finite
    are left out; None if they are all equal, or fewer than four.

    Args:
        values: (n,).

    Source: A. D. Sokal, in Functional Integration (1997), on the window.

    Example:
        >>> noise = np.random.default_rng(0).normal(size=4000)
        >>> chain = np.convolve(noise, 0.9 ** np.arange(100))  # remembers 0.9 of each value, time 19
        >>> round(autocorrelation_time(noise), 1), 14 < autocorrelation_time(chain) < 24
        (1.0, True)
    """
    x = values[np.isfinite(values)]
    if len(x) < 4 or not x.var() > 0:
        return None
    centred = x - x.mean()
    spectrum = np.abs(np.fft.rfft(centred, 2 * len(x))) ** 2
    correlation = np.fft.irfft(spectrum)[: len(x)]
    times = 2 * np.cumsum(correlation / correlation[0]) - 1
    inside = np.arange(len(x)) >= 5 * times
    return finite_number(times[int(inside.argmax()) if inside.any() else -1])


def _weight_histogram(measured: Measured, bins: int) -> dict[str, Any] | None:
    """Histograms of log(w / mean w): over samples, and over their weight."""
    log_w = measured.log_weights
    if measured.weights is None or log_w is None:
        return None
    some = np.isfinite(log_w)
    log_w = log_w - np.logaddexp.reduce(log_w[some]) + np.log(len(log_w))
    low, high = np.quantile(log_w[some], 0.005), log_w[some].max()
    edges = np.linspace(low, high if high > low else low + 1, bins + 1)

    def record(weights: Array) -> dict[str, Any]:
        return histogram_record(np.histogram(log_w, edges, weights=weights)[0], edges)

    heaviest = np.sort(measured.weights)[-max(1, len(log_w) // 100) :]
    return {
        "edges": edges.tolist(),
        "samples": record(np.full(len(log_w), 1 / len(log_w))),
        "reweighted": record(measured.weights),
        "reference": None,
        "heaviest": float(heaviest.sum()),
    }


def _configurations(measured: Measured, seed: int) -> dict[str, Any]:
    """Some samples at random, those of the largest weight and of the highest energy, and some of the reference."""
    generator = np.random.default_rng(seed)
    x, u, weights = measured.samples, measured.energies, measured.weights
    fine = np.flatnonzero(np.isfinite(u) & finite_configurations(x))

    def rows(
        kind: str, positions: Array, energies: Array, chosen: Array, weights: Array | None
    ) -> list[dict[str, Any]]:
        return [
            {
                "kind": kind,
                "number": int(i) + 1,
                "positions": positions[i].astype(float).tolist(),
                "energy": float(energies[i]),
                "weight": None if weights is None else float(weights[i] * len(weights)),
            }
            for i in chosen
        ]

    def some(n: int) -> Array:
        return np.sort(generator.permutation(n)[:_RANDOM])

    found = rows("sample", x, u, fine[some(len(fine))], weights)
    if weights is not None:
        found += rows("largest weight", x, u, fine[np.argsort(-weights[fine])[:_EXTREME]], weights)
    found += rows("highest energy", x, u, fine[np.argsort(-u[fine])[:_EXTREME]], weights)
    if measured.reference is not None and measured.reference_energies is not None:
        chosen = some(len(measured.reference))
        found += rows("reference", measured.reference, measured.reference_energies, chosen, None)
    return {"examples": found, "nearest": _nearest(x[fine] if measured.reference is None else measured.reference)}


def _nearest(x: Array) -> Number:
    """The median distance of a particle to its nearest neighbour."""
    if not len(x):
        return None
    squared = squared_distances(torch.from_numpy(x[:1000].astype(np.float64)))
    squared.diagonal(dim1=1, dim2=2).fill_(torch.inf)
    return finite_number(np.median(squared.amin(2).sqrt().numpy()))
