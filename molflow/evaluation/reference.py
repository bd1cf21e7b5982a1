"""What is recorded of real data under the same protocols, to set beside the scores of samples.

`<name>_reference.json` has scores and `<name>_reference.npz` the histogram; experiments/qm9_reference.py makes them.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from molflow.errors import MolflowError
from molflow.evaluation.distributions import N_BINS

REFERENCES = ("qm9",)
"""Data sets whose own scores are recorded."""


def recorded_scores(name: str) -> dict[str, Any]:
    """Scores of a reference data set under their own names; raises MolflowError for one that is not known."""
    if name not in REFERENCES:
        raise MolflowError(f"unknown reference {name!r}; known are {' '.join(REFERENCES)}")
    text = resources.files("molflow.evaluation").joinpath(f"{name}_reference.json").read_text(encoding="utf-8")
    scores: dict[str, Any] = json.loads(text)
    return scores


@cache
def recorded_histogram(name: str) -> np.ndarray:
    """The flat histogram of `molflow.evaluation.distributions` over a reference data set, (N_BINS,) int64."""
    path = resources.files("molflow.evaluation").joinpath(f"{name}_reference.npz")
    with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
        bins, counts = archive["bins"], archive["counts"]
    histogram = np.zeros(N_BINS, dtype=np.int64)
    histogram[np.cumsum(bins)] = counts  # kept as steps, which are small numbers and pack well
    return histogram
