"""Plots by matplotlib: training curves, energies, densities in the plane, and scores with their intervals.

matplotlib is imported when a plot is drawn. `ax` is a `matplotlib.axes.Axes`, by default the current one, or that of
a new figure if something is drawn there already.
"""

import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from molflow.errors import MolflowError
from molflow.extras import import_extra

METRICS = "metrics.jsonl"
"""File in the folder of a training run with one JSON record a line."""


def training(folder: str | Path, names: Sequence[str] = ("loss", "validation_loss"), ax: Any = None) -> Any:
    """Draw figures of a training run against the step.

    Args:
        folder: folder of the run, which has metrics.jsonl; the run may still go on.
        names: figures to draw, such as "loss", "gradient_norm" or "molecule_stability". Those that the run has not
            recorded are left out.
        ax: axes to draw into.

    Raises:
        MolflowError: no metrics.jsonl there, none of the names in it, or matplotlib is not installed.

    Returns:
        The axes.

    Example:
        >>> import pathlib
        >>> _ = pathlib.Path("metrics.jsonl").write_text('{"step": 1, "loss": 2.0}')
        >>> ax = training(".", ["loss"])
        >>> ax.figure.savefig("plot.png")
    """
    path = Path(folder) / METRICS
    if not path.is_file():
        raise MolflowError(f"{path}: no such file; expected the folder of a training run")
    records = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.endswith("}")]
    known = {key for record in records for key in record} - {"step"}
    shown = [name for name in names if name in known]
    if not shown:
        raise MolflowError(
            f"{path}: none of {', '.join(names)}; recorded are: {', '.join(sorted(known)) or 'no figures'}"
        )
    ax = _axes(ax)
    for name in shown:
        points = [(record["step"], record[name]) for record in records if record.get(name) is not None]
        ax.plot(*zip(*points, strict=True), marker="." if len(points) < 30 else None, label=name.replace("_", " "))
    ax.set_xlabel("step")
    ax.legend()
    return ax


def energies(
    samples: ArrayLike | Mapping[str, ArrayLike],
    weights: Mapping[str, ArrayLike] | None = None,
    bins: int = 60,
    ax: Any = None,
) -> Any:
    """Draw histograms of energies, each of area 1, over the range that holds the inner 99 % of all.

    Args:
        samples: energies (n,) in kT, or label -> energies.
        weights: label -> importance weights (n,), for the labels that have them.
        bins: number of bins.
        ax: axes to draw into.

    Raises:
        MolflowError: no finite energy, or matplotlib is not installed.

    Returns:
        The axes.

    Example:
        >>> ax = energies({"flow": [1.0, 2.0, 3.0], "exact": [2.0, 2.0, 3.0]})
        >>> ax.figure.savefig("plot.png")
    """
    series = {name: _array(u) for name, u in (samples if isinstance(samples, Mapping) else {"": samples}).items()}
    finite = np.concatenate([u[np.isfinite(u)] for u in series.values()])
    if not len(finite):
        raise MolflowError("none of the energies is finite")
    low, high = np.quantile(finite, [0.005, 0.995])
    edges = np.linspace(low, high, bins + 1)
    ax = _axes(ax)
    for name, u in series.items():
        w = np.ones(len(u)) if weights is None or name not in weights else _array(weights[name])
        counts, _ = np.histogram(u, edges, weights=w)
        total = w[np.isfinite(u)].sum() * np.diff(edges)
        ax.stairs(counts / total, edges, label=name or None, fill=len(series) == 1)
    ax.set(xlabel="energy, kT", ylabel="density")
    if len(series) > 1:
        ax.legend()
    return ax


def density(
    log_prob: Callable[[Any], Any],
    extent: tuple[float, float, float, float] = (-3, 3, -3, 3),
    n: int = 120,
    ax: Any = None,
) -> Any:
    """Draw a density in the plane, exp(log p(x)), on a grid of n x n points.

    Args:
        log_prob: log density in nats: a float32 tensor (b, 2) -> (b,), such as `flow.log_prob`.
        extent: x from, x to, y from, y to.
        n: points along each axis.
        ax: axes to draw into.

    Raises:
        MolflowError: matplotlib is not installed.

    Returns:
        The axes. Their image holds the density, (n, n).

    Example:
        >>> ax = density(lambda x: -x.square().sum(-1) / 2, (-2, 2, -2, 2))
        >>> ax.figure.savefig("plot.png")
    """
    import torch

    x, y = (torch.linspace(low, high, n) for low, high in (extent[:2], extent[2:]))
    grid = torch.stack(torch.meshgrid(x, y, indexing="xy"), -1).reshape(-1, 2)
    values = _array(torch.cat([log_prob(part).detach() for part in grid.split(4096)]))
    ax = _axes(ax)
    ax.imshow(np.exp(values).reshape(n, n), extent=extent, origin="lower", cmap="magma", interpolation="bilinear")
    return ax


def scores(
    values: Mapping[str, float],
    intervals: Mapping[str, tuple[float, float]] | None = None,
    reference: Mapping[str, float] | None = None,
    ax: Any = None,
) -> Any:
    """Draw fractions as bars in percent, with their intervals, and marks where a reference lies.

    Args:
        values: label -> fraction in 0..1.
        intervals: label -> its lower and upper end.
        reference: label -> value of the reference.
        ax: axes to draw into.

    Raises:
        MolflowError: matplotlib is not installed.

    Returns:
        The axes.

    Example:
        >>> ax = scores({"stable": 0.87}, {"stable": (0.86, 0.88)}, {"stable": 0.95})
        >>> ax.figure.savefig("plot.png")
    """
    ax = _axes(ax)
    labels = list(values)
    places = np.arange(len(labels))[::-1]
    ax.barh(places, [100 * values[name] for name in labels], height=0.6, color="#2b83d6")
    for place, name in zip(places, labels, strict=True):
        if intervals and name in intervals:
            ax.plot([100 * end for end in intervals[name]], [place, place], color="black")
        if reference and name in reference:
            ax.plot([100 * reference[name]] * 2, [place - 0.38, place + 0.38], color="#d55e00", linewidth=3)
    ax.set(yticks=places, yticklabels=labels, xlim=(0, 100), xlabel="%")
    if reference:
        ax.plot([], color="#d55e00", linewidth=3, label="reference")
        ax.legend(loc="lower left")
    return ax


def _array(values: Any) -> np.ndarray:
    return np.asarray(values.detach().cpu() if hasattr(values, "detach") else values, dtype=float)


def _axes(ax: Any) -> Any:
    if ax is not None:
        return ax
    pyplot = import_extra("matplotlib.pyplot", "plot", "a plot")
    return pyplot.subplots()[1] if pyplot.gca().has_data() else pyplot.gca()
