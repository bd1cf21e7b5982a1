"""molflow: molecule generation with E(n)-equivariant free-form flows.

    flow = molflow.load_pretrained("qm9")
    flow.sample(1000, seed=0).write("out.sdf")

The public names are loaded when they are first used, so importing molflow costs little more than nothing.
"""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow import chem, data, energies, evaluation, flows, geometry, nn, plot, pretrained, sbi
    from molflow import testing as testing
    from molflow.batch import MoleculeBatch
    from molflow.errors import MolflowError
    from molflow.evaluation import evaluate
    from molflow.flows import ContinuousFlow, Flow, FreeFormFlow, load
    from molflow.pretrained import load_pretrained
    from molflow.training import load_experiment, train

__version__ = "0.1.0"

__all__ = [
    "ContinuousFlow", "Flow", "FreeFormFlow", "MoleculeBatch", "MolflowError", "__version__", "chem", "data",
    "energies", "evaluate", "evaluation", "flows", "geometry", "load", "load_experiment", "load_pretrained", "nn",
    "plot", "pretrained", "sbi", "testing", "train",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "batch": ("MoleculeBatch",),
        "errors": ("MolflowError",),
        "evaluation": ("evaluate",),
        "flows": ("ContinuousFlow", "Flow", "FreeFormFlow", "load"),
        "pretrained": ("load_pretrained",),
        "training": ("load_experiment", "train"),
    },
    ("chem", "data", "energies", "evaluation", "flows", "geometry", "nn", "plot", "pretrained", "sbi", "testing"),
)
