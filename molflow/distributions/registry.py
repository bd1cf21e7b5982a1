"""The names of distributions of compositions."""

from typing import TYPE_CHECKING

from molflow.registry import Registry

if TYPE_CHECKING:
    from molflow.distributions.compositions import Compositions

COMPOSITIONS: "Registry[type[Compositions]]" = Registry(
    "distribution of compositions",
    modules={
        "table": "molflow.distributions.compositions",
        "model": "molflow.distributions.composition_model",
    },
)
"""Name -> `Compositions`."""
