"""Corner plots and coverage plots: what is drawn where, and bad input."""

import sys

import numpy as np
import pytest

from molflow.errors import MolflowError
from molflow.evaluation import Coverage
from molflow.report import corner_figure, coverage_figure

RNG = np.random.default_rng(0)
SAMPLES = RNG.normal(size=(500, 3)) * [1.0, 2.0, 0.1]
LEVELS = np.linspace(0, 1, 11)


def test_a_corner_plot_has_marginals_and_pairs():
    figure = corner_figure({"flow": SAMPLES, "reference": SAMPLES + 1}, ["a", "b", "c"], truth=[0, 1, 2], n_points=100)
    lines = [trace for trace in figure.data if trace.mode == "lines"]
    pairs = [trace for trace in figure.data if trace.mode == "markers"]
    assert (len(lines), len(pairs)) == (6, 6)
    width = np.diff(lines[0].x)
    assert np.sum(width * np.array(lines[0].y)[:-1]) == pytest.approx(1)
    assert all(len(trace.x) == 100 for trace in pairs)
    np.testing.assert_array_equal(pairs[0].x, SAMPLES[:100, 0])
    np.testing.assert_array_equal(pairs[0].y, SAMPLES[:100, 1])
    assert [trace.name for trace in figure.data if trace.showlegend] == ["flow", "reference"]
    assert len(figure.layout.shapes) == 6 + 3
    assert "plotly" in figure.to_html(include_plotlyjs=False)


def test_one_parameter_is_a_histogram():
    figure = corner_figure(SAMPLES[:, :1])
    assert len(figure.data) == 1
    assert figure.layout.xaxis.title.text == "theta1"


def test_a_coverage_plot_has_its_band():
    coverage = Coverage(LEVELS, LEVELS**2, 100)
    figure = coverage_figure({"flow": coverage})
    low, high, diagonal, line = figure.data
    np.testing.assert_allclose(np.subtract(high.y, low.y)[5], 2 * 1.96 * 0.05)
    assert (list(diagonal.x), line.name) == ([0, 1], "flow")
    np.testing.assert_array_equal(line.y, LEVELS**2)


@pytest.mark.parametrize(
    ("samples", "names", "truth", "message"),
    [
        (SAMPLES[0], None, None, r"expected samples \(n, F\) of one F, got \(3,\)"),
        ({"a": SAMPLES, "b": SAMPLES[:, :2]}, None, None, r"got \(500, 3\), \(500, 2\)"),
        (SAMPLES, ["a"], None, "expected 3 names and true values, got 1"),
        (SAMPLES, None, [1.0], "expected 3 names and true values"),
    ],
)
def test_samples_that_cannot_be_drawn(samples, names, truth, message):
    with pytest.raises(ValueError, match=message):
        corner_figure(samples, names, truth)


def test_without_plotly(monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.graph_objects", None)
    with pytest.raises(MolflowError, match=r"pip install 'molflow\[report\]'"):
        coverage_figure(Coverage(LEVELS, LEVELS, 10))
