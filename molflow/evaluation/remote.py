"""Inspection in worker processes: molecules and reports as JSON, and the functions that a worker runs.

Nothing here loads torch.
"""

from typing import Any

import numpy as np

from molflow.chem.stated import stated_message, stated_of
from molflow.chem.structure import Stated, Structure
from molflow.evaluation.options import EXTRAS
from molflow.evaluation.reports import MoleculeReport
from molflow.workers import named

_METHANE = Structure(
    np.array([[0, 0, 0], [0.63, 0.63, 0.63], [-0.63, -0.63, 0.63], [-0.63, 0.63, -0.63], [0.63, -0.63, -0.63]]),
    np.array([6, 1, 1, 1, 1]),
    np.array([[0, 1, 1], [0, 2, 1], [0, 3, 1], [0, 4, 1]]),
)


def to_message(structure: Structure, stated: Stated | None = None) -> list[Any]:
    """A molecule as lists, for JSON, with what a file states about it, and whether it gets the extras."""
    arrays = [None if array is None else array.tolist() for array in structure]
    return [*arrays, None if stated is None else stated_message(stated), True]


def without_extras(message: list[Any] | None) -> list[Any] | None:
    """The message that leaves out the extras of an inspection; None if the given one does already."""
    return [*message[:-1], False] if message is not None and message[-1] else None


def from_message(message: list[Any]) -> tuple[Structure, Stated | None]:
    """The molecule that `to_message` was given, with positions in float64."""
    positions, numbers, bonds, stated, _ = message
    structure = Structure(
        np.array(positions, dtype=np.float64),
        np.array(numbers, dtype=np.int64),
        None if bonds is None else np.array(bonds, dtype=np.int64).reshape(-1, 3),
    )
    return structure, None if stated is None else stated_of(stated)


def warm_up(inspector: str, **options: Any) -> None:
    """Inspect methane, so that RDKit and its tables are loaded before the time of a molecule counts."""
    named(inspector)(_METHANE, **options)


def answer(message: list[Any] | None, inspector: str, **options: Any) -> dict[str, Any] | None:
    """Inspect a molecule with the function of this name; None stays None."""
    if message is None:
        return None
    structure, stated = from_message(message)
    if stated is not None:
        options["stated"] = stated
    if not message[-1]:
        options = {name: value for name, value in options.items() if name not in EXTRAS}
    report: MoleculeReport = named(inspector)(structure, **options)
    return report.to_message()
