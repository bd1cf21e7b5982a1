"""Inspection in worker processes: molecules and reports as JSON, and the functions that a worker runs.

Nothing here loads torch.
"""

from typing import Any

import numpy as np

from molflow.chem.structure import Structure
from molflow.evaluation.reports import MoleculeReport
from molflow.workers import named

_METHANE = Structure(
    np.array([[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]),
    np.array([6, 1, 1, 1, 1]),
    np.array([[0, 1, 1], [0, 2, 1], [0, 3, 1], [0, 4, 1]]),
)


def to_message(structure: Structure) -> list[Any]:
    """A molecule as lists, for JSON."""
    return [None if array is None else array.tolist() for array in structure]


def from_message(message: list[Any]) -> Structure:
    """The molecule that `to_message` was given, with positions in float64."""
    positions, numbers, bonds = message
    return Structure(
        np.array(positions, dtype=np.float64),
        np.array(numbers, dtype=np.int64),
        None if bonds is None else np.array(bonds, dtype=np.int64).reshape(-1, 3),
    )


def warm_up(inspector: str, **options: Any) -> None:
    """Inspect methane, so that RDKit and its tables are loaded before the time of a molecule counts."""
    named(inspector)(_METHANE, **options)


def answer(message: list[Any] | None, inspector: str, **options: Any) -> dict[str, Any] | None:
    """Inspect a molecule with the function of this name; None stays None."""
    if message is None:
        return None
    report: MoleculeReport = named(inspector)(from_message(message), **options)
    return report.to_message()
