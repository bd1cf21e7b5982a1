"""Histograms: they integrate to one, and outliers do not stretch them."""

import json

import numpy as np
import pytest
from gaussians import SIGMA, gaussian, harmonic

from molflow.evaluation import histograms


@pytest.mark.parametrize("what", ["energy", "distance"])
def test_histograms_integrate_to_one(what):
    x, log_q = gaussian(SIGMA)
    y, _ = gaussian(1, seed=1)
    record = histograms(x, harmonic, log_prob=log_q, reference=y, bins=50)[what]
    assert json.loads(json.dumps(record, allow_nan=False)) == record
    width = np.diff(record["edges"])
    assert len(width) == 50
    np.testing.assert_allclose(width, width[0])
    for key in ("samples", "reweighted", "reference"):
        assert np.sum(record[key]["density"] * width) + record[key]["outside"] == pytest.approx(1)
        assert record[key]["outside"] < 0.01
    assert record["reference"]["outside"] == pytest.approx(0, abs=1e-12)
    density = {key: np.array(record[key]["density"]) for key in ("samples", "reweighted", "reference")}
    raw, reweighted = (np.abs(density[key] - density["reference"]).sum() for key in ("samples", "reweighted"))
    assert reweighted < 0.4 * raw


def test_outliers_do_not_set_the_range_of_a_histogram():
    x, _ = gaussian(1, n=1000)
    y, _ = gaussian(1, n=1000, seed=1)
    x[:100] *= 1e3
    x[100] = np.nan
    energy, distance = histograms(x, harmonic, reference=y).values()
    assert energy["edges"][-1] < 60
    assert distance["edges"][0] == 0
    assert distance["edges"][-1] < 25
    assert energy["samples"]["outside"] == pytest.approx(0.101, abs=0.002)
    assert distance["samples"]["outside"] == pytest.approx(100 / 999, abs=0.002)
    assert energy["reweighted"] is None


def test_histograms_by_hand():
    x = np.array([[[-1.0], [1.0]], [[-2.0], [2.0]], [[-2.0], [2.0]], [[-3.0], [3.0]]])
    u, weights = np.array([1, 4, 4, 9]), np.array([1, 1, 1, 5])  # and distances 2, 4, 4, 6
    record = histograms(x, harmonic, log_prob=-u - np.log(weights), reference=x, bins=2)
    assert record["energy"]["edges"] == [1, 5, 9]
    assert record["energy"]["samples"]["density"] == pytest.approx([3 / 16, 1 / 16])
    assert record["energy"]["reweighted"]["density"] == pytest.approx([3 / 32, 5 / 32])
    assert record["distance"]["edges"] == pytest.approx([0, 3, 6], rel=1e-4)
    assert record["distance"]["samples"]["density"] == pytest.approx([1 / 12, 3 / 12], rel=1e-4)
