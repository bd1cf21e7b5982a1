"""Judging samples: scores of molecules and of particle systems, with counts, errors and what they are measured by."""

from molflow.evaluation.boltzmann import BoltzmannScores, evaluate_boltzmann
from molflow.evaluation.histogram import histograms
from molflow.evaluation.molecules import MoleculeScores, evaluate
from molflow.evaluation.novelty import TrainingReference, qm9_training_reference
from molflow.evaluation.statistics import wilson_interval

__all__ = [
    "BoltzmannScores",
    "MoleculeScores",
    "TrainingReference",
    "evaluate",
    "evaluate_boltzmann",
    "histograms",
    "qm9_training_reference",
    "wilson_interval",
]
