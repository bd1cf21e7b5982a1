"""Recorded scores of real data under the same protocols, to report beside the scores of samples.

`NAME_reference.json` has the scores of the data set NAME and `NAME_reference.npz` its histogram;
experiments/qm9_reference.py writes those of QM9. The files themselves are the list of references.
"""

import json
from functools import cache
from importlib import resources
from typing import Any

import numpy as np

from molflow.errors import MolflowError
from molflow.evaluation.distributions import N_BINS
from molflow.evaluation.options import Bonds

_FOLDER = resources.files("molflow.evaluation")
_SCORES = "_reference.json"

REFERENCES: tuple[str, ...] = tuple(
    sorted(file.name.removesuffix(_SCORES) for file in _FOLDER.iterdir() if file.name.endswith(_SCORES))
)
"""Names of data sets with recorded scores."""


def check_reference(name: str) -> None:
    """Raise MolflowError for a data set without recorded scores."""
    if name not in REFERENCES:
        raise MolflowError(f"unknown reference {name!r}; known are {' '.join(REFERENCES)}")


def recorded_scores(name: str, bonds: Bonds = "lookup") -> dict[str, Any]:
    """Scores of a reference data set under their own names, with the main figures by these bonds.

    Those of "auto" are those of "file", as the references have bonds.

    Raises:
        MolflowError: an unknown name.
    """
    check_reference(name)
    scores: dict[str, Any] = json.loads(_FOLDER.joinpath(f"{name}{_SCORES}").read_text(encoding="utf-8"))
    chosen: dict[str, Any] = scores.pop("bonds", {}).get("file" if bonds == "auto" else bonds, {})
    return scores | chosen | {"metrics": scores["metrics"] | chosen.get("metrics", {})}


@cache
def recorded_histogram(name: str) -> np.ndarray:
    """The flat histogram of `molflow.evaluation.distributions` over a reference data set, (N_BINS,) int64."""
    with _FOLDER.joinpath(f"{name}_reference.npz").open("rb") as file, np.load(file, allow_pickle=False) as archive:
        bins, counts = archive["bins"], archive["counts"]
    histogram = np.zeros(N_BINS, dtype=np.int64)
    histogram[np.cumsum(bins)] = counts  # stored as differences, which are small numbers and compress well
    return histogram
