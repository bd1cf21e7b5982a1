"""Training: configuration, objectives, the loop, checkpoints."""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.training.config import ExperimentConfig, load_experiment
    from molflow.training.loop import train

__all__ = ["ExperimentConfig", "load_experiment", "train"]

__getattr__, __dir__ = lazy_names(__name__, {"config": ("ExperimentConfig", "load_experiment"), "loop": ("train",)})
