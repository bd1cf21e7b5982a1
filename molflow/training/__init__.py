"""Training: configuration, objectives, the loop, checkpoints."""

from molflow.registry import lazy_names

__all__ = ["ExperimentConfig", "load", "load_experiment", "train"]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "ExperimentConfig": "molflow.training.config",
        "load": "molflow.flows.storage",
        "load_experiment": "molflow.training.config",
        "train": "molflow.training.loop",
    },
)
