"""Judging samples: scores of molecules, with counts, intervals and the protocol they belong to."""

from molflow.evaluation.molecules import MoleculeScores, evaluate
from molflow.evaluation.novelty import TrainingReference, qm9_training_reference
from molflow.evaluation.statistics import wilson_interval

__all__ = ["MoleculeScores", "TrainingReference", "evaluate", "qm9_training_reference", "wilson_interval"]
