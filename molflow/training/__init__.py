"""Training: configuration, objectives, the loop, checkpoints."""

from molflow.training.checkpoint import load
from molflow.training.config import ExperimentConfig, load_experiment
from molflow.training.loop import train

__all__ = ["ExperimentConfig", "load", "load_experiment", "train"]
