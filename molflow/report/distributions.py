"""Plots of the page of molecules: each distribution beside that of the reference."""

from collections.abc import Mapping, Sequence
from html import escape
from textwrap import wrap
from typing import Any

from molflow.report.page import plot
from molflow.report.scores import Record, by_quantity, joined, with_unit

_REFERENCE_LINE = {"color": "#808080", "width": 0, "shape": "hv"}
# Colour-blind readers can distinguish them, on white and on black; further sets repeat them with other dashes.
_COLOURS = ("#d55e00", "#2b83d6", "#009e73", "#cc79a7")
_DASHES = ("solid", "dash", "dot", "dashdot")


def distributions(records: Mapping[str, Record], known: Record) -> str:
    """The plots; empty if no set has histograms."""
    drawn = by_quantity(records, "histogram")
    plots = [_plot(name, found, tuple(records), known) for name, found in drawn.items()]
    return f'<div class="plots">\n{"".join(plots)}</div>\n' if plots else ""


def _plot(name: str, found: Mapping[str, Record], sets: Sequence[str], known: Record) -> str:
    """Plot a line for each set that has the quantity, and the reference as an area.

    Each set has its own bins. If their widths differ, densities are plotted, because shares could not be compared.
    """
    histograms = {each: quantity["histogram"] for each, quantity in found.items()}
    widths = {each: histogram["edges"][1] - histogram["edges"][0] for each, histogram in histograms.items()}
    kind = "density" if len({round(width, 5) for width in widths.values()}) > 1 else "share"

    def trace(label: str, each: str, key: str, line: dict[str, Any]) -> dict[str, Any]:
        scale = 1 if kind == "share" else widths[each]
        edges, heights = histograms[each]["edges"], [share / scale for share in histograms[each][key]]
        return {
            "type": "scatter", "mode": "lines", "name": _in_plot(label), "line": line,
            "x": [edges[0], *edges], "y": [0, *heights, 0], "hovertemplate": "%{y:.3g}",
        }  # fmt: skip

    compared = [each for each in histograms if histograms[each]["reference"] is not None]
    labels = [known["name"]] if compared else []
    traces = []
    if compared:
        finest = min(compared, key=widths.__getitem__)
        traces.append(trace(known["name"], finest, "reference", _REFERENCE_LINE) | {"fill": "tozeroy"})
    for each in histograms:
        labels.append(each if len(sets) > 1 else "samples")
        traces.append(trace(labels[-1], each, "samples", _line(sets.index(each))))
    axis = with_unit(name, found)
    margin = max(widths.values())  # so that a single bin is seen as one
    ends = [edge for histogram in histograms.values() for edge in (histogram["edges"][0], histogram["edges"][-1])]
    span = [min(ends) - margin, max(ends) + margin]
    layout = {
        "xaxis": {"title": {"text": axis}, "range": span},
        "yaxis": {"title": {"text": kind}, "rangemode": "tozero"},
    }
    listed = joined(labels)
    caption = f"{name}: {kind} of {listed} in each bin."
    return plot(traces, layout, label=f"Histogram of {name}: {listed}", caption=caption)


def _line(place: int) -> dict[str, Any]:
    dash = _DASHES[place // len(_COLOURS) % len(_DASHES)]
    return {"color": _COLOURS[place % len(_COLOURS)], "width": 2, "shape": "hv", "dash": dash}


def _in_plot(label: str) -> str:
    """A label for plotly.js, in lines that fit the legend on a phone."""
    return "<br>".join(escape(line, quote=False) for line in wrap(label, 36))
