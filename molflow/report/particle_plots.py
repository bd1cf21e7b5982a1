"""Plots of the page of particles: histograms, the free-energy profile, weights and chains."""

from collections.abc import Mapping, Sequence
from typing import Any

from molflow.report.page import plot
from molflow.report.tables import number, percent

_COLOURS = {"reference": "#808080", "samples": "#d55e00", "reweighted": "#2b83d6"}
"""Visible on white and on black."""

_SERIES = {
    "reference": ("reference", {"color": _COLOURS["reference"], "width": 0, "shape": "hv"}, {"fill": "tozeroy"}),
    "samples": ("samples", {"color": _COLOURS["samples"], "width": 2, "shape": "hv"}, {}),
    "reweighted": (
        "reweighted samples",
        {"color": _COLOURS["reweighted"], "width": 2, "shape": "hv", "dash": "dot"},
        {},
    ),
}
"""Name, line and further settings of each histogram."""


def histogram_plot(histogram: Mapping[str, Any], axis: str, label: str, note: str = "") -> str:
    """Densities of samples, reweighted samples and reference over the bins of `molflow.evaluation.histograms`."""
    edges = histogram["edges"]
    drawn = {key: histogram[key] for key in _SERIES if histogram[key] is not None}
    traces = []
    for key, series in drawn.items():
        name, line, more = _SERIES[key]
        density = [*series["density"], 0]
        trace = {"type": "scatter", "mode": "lines", "name": name, "x": edges, "y": density, "line": line, **more}
        traces.append(trace | {"hovertemplate": "%{y:.4g}"})
    outside = [
        f"{percent(series['outside'])} of {_SERIES[key][0]}"
        for key, series in drawn.items()
        if series["outside"] > 1e-6
    ]
    names = ", ".join(_SERIES[key][0] for key in drawn)
    caption = f"{label}: probability density of {names}. " + (
        f"Beyond the edges of the plot: {', '.join(outside)}." if outside else "Nothing lies beyond its edges."
    )
    caption += note
    layout = {"xaxis": {"title": {"text": axis}}, "yaxis": {"title": {"text": "density"}, "rangemode": "tozero"}}
    return plot(traces, layout, label=f"Histogram of {label.lower()}: {names}", caption=caption)


def free_energy_plot(profile: Mapping[str, Any] | None) -> str:
    """Free energies along a distance with bands of two standard errors; empty without a profile."""
    if profile is None:
        return ""
    r = profile["distance"]
    drawn = {key: profile[key] for key in _SERIES if profile[key] is not None and _known(profile[key]["value"])}
    if not drawn:
        return ""
    best = next(drawn[key] for key in ("reference", "reweighted", "samples") if key in drawn)
    lowest = min(_known(best["value"]))
    traces: list[dict[str, Any]] = []
    for key, series in drawn.items():
        name, colour = _SERIES[key][0], _COLOURS[key]
        shifted = [None if v is None else v - lowest for v in series["value"]]
        traces += _bands(r, shifted, series["error"], colour)
        line = {"color": colour, "width": 2}
        traces.append({"type": "scatter", "mode": "lines", "name": name, "x": r, "y": shifted, "line": line})
    pair = profile["pair"]
    of = "two particles" if pair is None else f"particles {pair[0]} and {pair[1]}"
    caption = (
        f"F(r) = -log p(r) along the distance r of {of}, in kT above its minimum, with bands of two standard errors "
        "from 20 blocks of consecutive configurations. The volume of a shell is in p."
    )
    layout = {"xaxis": {"title": {"text": f"distance of {of}"}}, "yaxis": {"title": {"text": "F (kT)"}}}
    return plot(traces, layout, label=f"Free energy along the distance of {of}", caption=caption)


def _known(values: Sequence[float | None]) -> list[float]:
    return [v for v in values if v is not None]


def _bands(
    x: Sequence[float], y: Sequence[float | None], error: Sequence[float | None], colour: str
) -> list[dict[str, Any]]:
    """Bands of two standard errors, one for each run of bins that have a value."""
    runs: list[list[tuple[float, float, float]]] = [[]]
    for at, value, e in zip(x, y, error, strict=True):
        if value is None or e is None:
            runs.append([])
        else:
            runs[-1].append((at, value, 2 * e))
    return [
        {
            "type": "scatter",
            "mode": "lines",
            "x": [at for at, _, _ in run] + [at for at, _, _ in reversed(run)],
            "y": [v + e for _, v, e in run] + [v - e for _, v, e in reversed(run)],
            "fill": "toself",
            "fillcolor": f"{colour}40",
            "line": {"width": 0},
            "showlegend": False,
            "hoverinfo": "skip",
        }
        for run in runs
        if len(run) > 1
    ]


def weights_plot(weights: Mapping[str, Any] | None) -> str:
    """The importance weights of samples; empty without any."""
    if weights is None:
        return ""
    exact = " Exact samples of the density would all have 0."
    heavy = f" The heaviest 1 % of the samples carries {percent(weights['heaviest'])} of the weight."
    return histogram_plot(weights, "log(weight / mean weight)", "Importance weights", exact + heavy)


def chains_plots(chains: Mapping[str, Any] | None, record: Mapping[str, Any]) -> str:
    """The energies in the order of the file, and the mean energy of the first n samples; empty without them."""
    if chains is None:
        return ""
    drawn = {key: chains[key] for key in ("reference", "samples") if key in chains}
    traces = [
        {
            "type": "scatter",
            "mode": "lines",
            "name": key,
            "x": list(range(1, len(series["trace"]) + 1)),
            "y": series["trace"],
            "line": {"color": _COLOURS[key], "width": 1},
        }
        for key, series in drawn.items()
    ]
    times = ", ".join(
        f"{number(series['autocorrelation_time'])} for {key}"
        for key, series in drawn.items()
        if series["autocorrelation_time"] is not None
    )
    trace = plot(
        traces,
        {"xaxis": {"title": {"text": "number in the file"}}, "yaxis": {"title": {"text": "energy U (kT)"}}},
        label="Energies in the order of the file",
        caption=f"Energies in the order of the file. Autocorrelation time, 1 for independent configurations: {times}.",
    )
    running, weighted = chains["running"], record["ess"] is not None
    name = "reweighted" if weighted else "samples"
    mean: dict[str, Any] = {"type": "scatter", "mode": "lines", "name": _SERIES[name][0], "x": running["n"]}
    traces = [mean | {"y": running["mean"], "line": {"color": _COLOURS[name], "width": 2}}]
    if (exact := record["reference_mean_energy"]) is not None:
        line = {"color": _COLOURS["reference"], "width": 2, "dash": "dot"}
        ends = [running["n"][0], running["n"][-1]]
        traces.append(mean | {"name": "reference", "x": ends, "y": [exact, exact], "line": line})
    convergence = plot(
        traces,
        {"xaxis": {"title": {"text": "samples"}}, "yaxis": {"title": {"text": "mean energy (kT)"}}},
        label="Mean energy of the first samples",
        caption="Mean energy of the first samples, with their weights."
        if weighted
        else "Mean energy of the first samples.",
    )
    return trace + convergence
