"""Tasks: how each kind of data is trained on, sampled and scored."""

from typing import TYPE_CHECKING, Any

from molflow.data.base import DataSetConfig
from molflow.training.tasks.registry import TASKS

if TYPE_CHECKING:
    from molflow.flows.base import Flow
    from molflow.training.config import ExperimentConfig
    from molflow.training.tasks.base import Splits, Task

__all__ = ["TASKS", "load_splits", "task_of"]


def task_of(flow: "Flow[Any]", data: type[DataSetConfig] | None = None) -> "Task[Any]":
    """The task of a flow, given the data set that it was trained on, if that is known."""
    return TASKS[flow.domain.task](data)


def load_splits(config: "ExperimentConfig") -> "Splits[Any]":
    """Read the data of an experiment and fit the configuration of its model to them.

    Raises:
        MolflowError: the data cannot be prepared, or do not fit the model.
    """
    return TASKS[config.data.task](type(config.data)).splits(config)
