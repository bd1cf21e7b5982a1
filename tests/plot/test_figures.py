"""Plots: what is drawn where, and bad input."""

import json
import math

import matplotlib
import numpy as np
import pytest
import torch

from molflow import plot
from molflow.errors import MolflowError

matplotlib.use("Agg")
from matplotlib import pyplot


@pytest.fixture(autouse=True)
def ax():
    axes = pyplot.figure().gca()
    yield axes
    pyplot.close("all")


def test_training_curves(tmp_path, ax):
    records = [{"step": 2, "loss": 3.0}, {"step": 4, "loss": 2.0}, {"step": 4, "validation_loss": 2.5}]
    text = "\n".join(map(json.dumps, records)) + '\n{"step": 6, "lo'  # the last line is being written
    (tmp_path / "metrics.jsonl").write_text(text)
    assert plot.training(tmp_path) is ax
    loss, validation = ax.lines
    np.testing.assert_array_equal(loss.get_xydata(), [[2, 3], [4, 2]])
    np.testing.assert_array_equal(validation.get_xydata(), [[4, 2.5]])
    with pytest.raises(MolflowError, match="none of los; recorded are: loss, validation_loss"):
        plot.training(tmp_path, ["los"])
    with pytest.raises(MolflowError, match="expected the folder of a training run"):
        plot.training(tmp_path / "other")


def test_histograms_of_energies_have_area_one(ax):
    u = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    plot.energies({"flow": torch.cat([u, torch.tensor([math.inf])]), "weighted": u}, {"weighted": u.exp()}, ax=ax)
    for patch, least in zip(ax.patches, (0.985, 0.9), strict=True):
        values, edges, _ = patch.get_data()
        assert least < (values * np.diff(edges)).sum() <= 1
    mean = [
        (s.values * (s.edges[:-1] + s.edges[1:]) / 2).sum() / s.values.sum()
        for s in (patch.get_data() for patch in ax.patches)
    ]
    assert mean == pytest.approx([0, 1], abs=0.15)  # exp(u) moves a standard normal by one
    with pytest.raises(MolflowError, match="none of the energies is finite"):
        plot.energies([math.nan])


def test_a_density_is_that_of_its_points(ax):
    def log_prob(x):
        return -x.square().sum(-1) / 2 - x[:, 0]

    plot.density(log_prob, (-4, 3, -2, 2), n=21, ax=ax)
    image = ax.images[0]
    assert image.get_extent() == [-4, 3, -2, 2]
    row, column = np.unravel_index(image.get_array().argmax(), (21, 21))
    assert (np.linspace(-2, 2, 21)[row], np.linspace(-4, 3, 21)[column]) == pytest.approx((0, -1), abs=0.2)


def test_scores_have_intervals_and_reference(ax):
    plot.scores({"a": 0.5, "b": 0.9}, {"a": (0.4, 0.6)}, {"b": 0.95}, ax)
    assert [bar.get_width() for bar in ax.patches] == [50, 90]
    assert [word.get_text() for word in ax.get_yticklabels()] == ["a", "b"]
    drawn = [line.get_xdata().tolist() for line in ax.lines if len(line.get_xdata())]
    assert drawn == [pytest.approx([40, 60]), pytest.approx([95, 95])]
