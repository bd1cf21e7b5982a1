"""Figures of posteriors for notebooks and files: corner plots, and the expected coverage.

They are figures of plotly: `figure.show()`, or `figure.write_html("corner.html")` for a page that needs no network.
"""

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import ArrayLike

from molflow.extras import import_extra

_COLOURS = ("#2b83d6", "#d55e00", "#009e73", "#cc79a7")
"""Visible on white and on black."""


def corner_figure(
    samples: ArrayLike | dict[str, ArrayLike],
    names: Sequence[str] | None = None,
    truth: ArrayLike | None = None,
    n_points: int = 2000,
) -> Any:
    """Marginal histograms on the diagonal, and pairs of parameters below it.

    Args:
        samples: (n, F), or label -> (n, F) for several posteriors in one figure.
        names: of the F parameters.
        truth: (F,), marked by lines.
        n_points: the most points drawn in a panel.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        MolflowError: plotly is not installed.
        ValueError: samples of different shape, or another number of names or true values.

    Example:
        >>> figure = corner_figure(np.random.default_rng(0).normal(size=(100, 2)), ["a", "b"], truth=[0.0, 0.0])
        >>> figure.write_html("corner.html")
    """
    series = {key: np.asarray(x) for key, x in (samples if isinstance(samples, dict) else {"": samples}).items()}
    widths = {x.shape[1:] for x in series.values()}
    if len(widths) != 1 or len(next(iter(widths))) != 1:
        raise ValueError(f"expected samples (n, F) of one F, got {', '.join(str(x.shape) for x in series.values())}")
    ((n,),) = widths
    names = [f"theta{k + 1}" for k in range(n)] if names is None else list(names)
    marks = None if truth is None else np.asarray(truth, float)
    if len(names) != n or (marks is not None and marks.shape != (n,)):
        raise ValueError(f"expected {n} names and true values, got {len(names)} and {marks}")
    figure = _plotly("subplots").make_subplots(n, n, horizontal_spacing=0.2 / n**1.5, vertical_spacing=0.2 / n**1.5)
    edges = [_edges([x[:, k] for x in series.values()]) for k in range(n)]
    for colour, (label, x) in zip(_COLOURS * len(series), series.items(), strict=False):
        for row in range(n):
            about = {"name": label, "legendgroup": label, "showlegend": bool(label) and row == 0}
            heights = np.histogram(x[:, row], edges[row], density=True)[0]
            step = {"mode": "lines", "line": {"color": colour, "shape": "hv"}, "fill": "tozeroy"}
            figure.add_scatter(x=edges[row], y=[*heights, 0], row=row + 1, col=row + 1, **about, **step)
            for column in range(row):
                marker = {"color": colour, "size": 3, "opacity": 0.35}
                pair = {"x": x[:n_points, column], "y": x[:n_points, row], "mode": "markers", "marker": marker}
                figure.add_scattergl(row=row + 1, col=column + 1, **pair, **about | {"showlegend": False})
    for row in range(n):
        figure.update_yaxes(title_text=names[row], row=row + 1, col=1) if row else None
        figure.update_xaxes(title_text=names[row], row=n, col=row + 1)
        figure.update_yaxes(showticklabels=False, row=row + 1, col=row + 1)
        for column in range(row + 1):
            figure.update_xaxes(range=[edges[column][0], edges[column][-1]], row=row + 1, col=column + 1)
            if column < row:
                figure.update_yaxes(range=[edges[row][0], edges[row][-1]], row=row + 1, col=column + 1)
            if marks is not None:
                figure.add_vline(marks[column], line_dash="dot", row=row + 1, col=column + 1)
            if marks is not None and column < row:
                figure.add_hline(marks[row], line_dash="dot", row=row + 1, col=column + 1)
    return figure.update_layout(template="plotly_white", width=160 * n + 160, height=160 * n + 120)


def coverage_figure(coverage: Any | dict[str, Any]) -> Any:
    """Coverage against credibility, with the band in which 95 % of calibrated posteriors lie at each level.

    A line below the diagonal means regions that are too small: the posterior is overconfident or biased.

    Args:
        coverage: a `molflow.evaluation.Coverage`, or label -> `Coverage` for several in one figure.

    Returns:
        A `plotly.graph_objects.Figure`.

    Raises:
        MolflowError: plotly is not installed.

    Example:
        >>> levels = np.linspace(0, 1, 11)
        >>> figure = coverage_figure(molflow.evaluation.Coverage(levels, levels, 100))
    """
    series = coverage if isinstance(coverage, dict) else {"coverage": coverage}
    figure = _plotly("graph_objects").Figure()
    first = next(iter(series.values()))
    levels = np.asarray(first.levels)
    width = 1.96 * np.sqrt(levels * (1 - levels) / first.n)
    band = {"mode": "lines", "line": {"width": 0}, "showlegend": False, "hoverinfo": "skip"}
    figure.add_scatter(x=levels, y=levels - width, **band)
    figure.add_scatter(x=levels, y=levels + width, fill="tonexty", fillcolor="rgba(128,128,128,0.3)", **band)
    figure.add_scatter(x=[0, 1], y=[0, 1], mode="lines", name="calibrated", line={"color": "#808080", "dash": "dot"})
    for colour, (label, each) in zip(_COLOURS * len(series), series.items(), strict=False):
        figure.add_scatter(x=each.levels, y=each.coverage, mode="lines", name=label, line={"color": colour})
    square = {"range": [0, 1], "constrain": "domain"}
    return figure.update_layout(
        template="plotly_white",
        width=480,
        height=460,
        xaxis={"title": {"text": "credibility"}, **square},
        yaxis={"title": {"text": "coverage"}, "scaleanchor": "x", **square},
    )


def _edges(columns: Sequence[np.ndarray], n_bins: int = 40) -> np.ndarray:
    """Edges of bins over the inner 99.8 % of several samples."""
    low, high = np.quantile(np.concatenate(columns), [0.001, 0.999])
    return np.linspace(low, high if high > low else low + 1, n_bins + 1)


def _plotly(module: str) -> Any:
    return import_extra(f"plotly.{module}", "report", "a figure")
