"""molflow: molecule generation with E(n)-equivariant free-form flows.

    flow = molflow.load_pretrained("qm9")
    flow.sample(1000, seed=0).write("out.sdf")

The public names are loaded when they are first used, so importing molflow costs little more than nothing.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molflow import chem, data, energies, evaluation, flows, geometry, nn
    from molflow import testing as testing
    from molflow.batch import MoleculeBatch
    from molflow.errors import MolflowError
    from molflow.evaluation import evaluate
    from molflow.flows import ContinuousFlow, Flow, FreeFormFlow, load
    from molflow.pretrained import load_pretrained
    from molflow.training import load_experiment, train

__version__ = "0.1.0"

_HOME = {
    "ContinuousFlow": "molflow.flows",
    "Flow": "molflow.flows",
    "FreeFormFlow": "molflow.flows",
    "MolflowError": "molflow.errors",
    "MoleculeBatch": "molflow.batch",
    "evaluate": "molflow.evaluation",
    "load": "molflow.flows",
    "load_experiment": "molflow.training",
    "load_pretrained": "molflow.pretrained",
    "train": "molflow.training",
}
_ROOMS = ("chem", "data", "energies", "evaluation", "flows", "geometry", "nn", "testing")

__all__ = [
    "ContinuousFlow",
    "Flow",
    "FreeFormFlow",
    "MoleculeBatch",
    "MolflowError",
    "__version__",
    "chem",
    "data",
    "energies",
    "evaluate",
    "evaluation",
    "flows",
    "geometry",
    "load",
    "load_experiment",
    "load_pretrained",
    "nn",
    "testing",
    "train",
]


def __getattr__(name: str) -> Any:
    if name in _HOME:
        return getattr(import_module(_HOME[name]), name)
    if name in _ROOMS:
        return import_module(f"molflow.{name}")
    raise AttributeError(f"module 'molflow' has no attribute {name!r}")


def __dir__() -> list[str]:
    return __all__
