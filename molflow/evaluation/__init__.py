"""Evaluation of samples: scores of molecules and of particle systems, with their counts, errors and protocols.

The public names are loaded when they are first used, so that worker processes load no torch.
"""

from typing import TYPE_CHECKING

from molflow.evaluation.metrics import METRICS
from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.evaluation.boltzmann import BoltzmannScores, evaluate_boltzmann
    from molflow.evaluation.contacts import clashes
    from molflow.evaluation.details import DetailWriter
    from molflow.evaluation.histogram import histograms
    from molflow.evaluation.inspection import inspect
    from molflow.evaluation.metrics.base import Figure, Metric, MoleculeMetric, Ratio, SetMetric
    from molflow.evaluation.molecules import evaluate, inspect_all, tally_of
    from molflow.evaluation.novelty import TrainingReference, qm9_training_reference
    from molflow.evaluation.options import SCOPES, EvaluationOptions
    from molflow.evaluation.particles import autocorrelation_time, particle_figures
    from molflow.evaluation.posterior import Coverage, c2st, calibration_ranks, expected_coverage, mmd, uniformity
    from molflow.evaluation.reference import REFERENCES
    from molflow.evaluation.reports import STATUSES, MoleculeReport
    from molflow.evaluation.scores import MoleculeScores, Score
    from molflow.evaluation.screening import Descriptors, descriptors
    from molflow.evaluation.statistics import wilson_interval
    from molflow.evaluation.tally import Tally

__all__ = [
    "METRICS", "REFERENCES", "SCOPES", "STATUSES", "BoltzmannScores", "Coverage", "Descriptors", "DetailWriter",
    "EvaluationOptions", "Figure", "Metric", "MoleculeMetric", "MoleculeReport", "MoleculeScores", "Ratio", "Score",
    "SetMetric", "Tally", "TrainingReference", "autocorrelation_time", "c2st", "calibration_ranks", "clashes",
    "descriptors", "evaluate", "evaluate_boltzmann", "expected_coverage", "histograms", "inspect", "inspect_all", "mmd",
    "particle_figures", "qm9_training_reference", "tally_of", "uniformity", "wilson_interval",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "boltzmann": ("BoltzmannScores", "evaluate_boltzmann"),
        "contacts": ("clashes",),
        "details": ("DetailWriter",),
        "histogram": ("histograms",),
        "inspection": ("inspect",),
        "metrics.base": ("Figure", "Metric", "MoleculeMetric", "Ratio", "SetMetric"),
        "molecules": ("evaluate", "inspect_all", "tally_of"),
        "novelty": ("TrainingReference", "qm9_training_reference"),
        "options": ("SCOPES", "EvaluationOptions"),
        "particles": ("autocorrelation_time", "particle_figures"),
        "posterior": ("Coverage", "c2st", "calibration_ranks", "expected_coverage", "mmd", "uniformity"),
        "reference": ("REFERENCES",),
        "reports": ("STATUSES", "MoleculeReport"),
        "scores": ("MoleculeScores", "Score"),
        "screening": ("Descriptors", "descriptors"),
        "statistics": ("wilson_interval",),
        "tally": ("Tally",),
    },
)
