"""Objectives: losses by which flows are trained, each with its configuration in the same file.

The table of names is here, and nothing else is imported until it is used.
"""

from typing import TYPE_CHECKING

from molflow.registry import Registry, lazy_names

if TYPE_CHECKING:
    from molflow.training.objectives.base import ObjectiveConfig

OBJECTIVES: "Registry[type[ObjectiveConfig]]" = Registry(
    "objective",
    modules={
        name: f"{__name__}.{name}"
        for name in (
            "free_form",
            "flow_matching",
            "mean_flow",
            "inversion",
            "regression",
            "stages",
            "diffusion",
            "likelihood",
        )
    },
    group="molflow.objectives",
)

__getattr__, __dir__ = lazy_names(
    __name__,
    {"base": ("Objective", "ObjectiveConfig", "Parts"), "accumulation": ("accumulate_gradients",)},
)
