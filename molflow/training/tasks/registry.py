"""The names of tasks."""

from typing import TYPE_CHECKING, Any

from molflow.registry import Registry

if TYPE_CHECKING:
    from molflow.training.tasks.base import Task

TASKS: "Registry[type[Task[Any]]]" = Registry(
    "task", modules={name: f"molflow.training.tasks.{name}" for name in ("molecules", "particles", "vectors")}
)
"""Name -> task."""
