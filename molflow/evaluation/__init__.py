"""Judging samples: scores of molecules and of particle systems, with counts, errors and what they are measured by.

The public names are loaded when they are first used: processes that inspect molecules then need no torch.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molflow.evaluation.boltzmann import BoltzmannScores, evaluate_boltzmann
    from molflow.evaluation.contacts import clashes
    from molflow.evaluation.details import DetailWriter
    from molflow.evaluation.histogram import histograms
    from molflow.evaluation.inspection import STATUSES, MoleculeReport, inspect
    from molflow.evaluation.molecules import evaluate, inspect_all
    from molflow.evaluation.novelty import TrainingReference, qm9_training_reference
    from molflow.evaluation.scores import Metric, MoleculeScores
    from molflow.evaluation.screening import Descriptors, descriptors
    from molflow.evaluation.statistics import wilson_interval
    from molflow.evaluation.tally import Tally

_HOME = {
    "STATUSES": "inspection",
    "BoltzmannScores": "boltzmann",
    "Descriptors": "screening",
    "DetailWriter": "details",
    "Metric": "scores",
    "MoleculeReport": "inspection",
    "MoleculeScores": "scores",
    "Tally": "tally",
    "TrainingReference": "novelty",
    "clashes": "contacts",
    "descriptors": "screening",
    "evaluate": "molecules",
    "evaluate_boltzmann": "boltzmann",
    "histograms": "histogram",
    "inspect": "inspection",
    "inspect_all": "molecules",
    "qm9_training_reference": "novelty",
    "wilson_interval": "statistics",
}

__all__ = [
    "STATUSES",
    "BoltzmannScores",
    "Descriptors",
    "DetailWriter",
    "Metric",
    "MoleculeReport",
    "MoleculeScores",
    "Tally",
    "TrainingReference",
    "clashes",
    "descriptors",
    "evaluate",
    "evaluate_boltzmann",
    "histograms",
    "inspect",
    "inspect_all",
    "qm9_training_reference",
    "wilson_interval",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(f"molflow.evaluation.{_HOME[name]}"), name)
    raise AttributeError(f"module 'molflow.evaluation' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
