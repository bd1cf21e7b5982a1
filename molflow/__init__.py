"""molflow: molecule generation with E(n)-equivariant free-form flows.

    flow = molflow.load_pretrained("qm9")
    flow.sample(1000, seed=0).write("out.sdf")

Functions and classes, each with its own `help`:

    load_pretrained, load          a shipped model by name; a model folder of your own
    load_experiment, train         read an experiment file; train it
    evaluate                       scores of molecules from any source
    MoleculeBatch                  molecules in padded tensors: to_rdkit, to_pyg, write, view
    Flow                           what every model can do: sample, log_prob, likelihood, sample_and_log_prob
    FreeFormFlow, ContinuousFlow   the two main families, from your own networks
    MolflowError                   bad input, in one line

Modules:

    chem          elements, bonds, hydrogens, RDKit molecules, files
    data          QM9, particle systems, vectors, simulators, your own files
    energies      energies of particles, MCMC, reweighting
    evaluation    metrics, inspection of molecules, Boltzmann generators, posteriors
    flows, nn     families of flows, and the networks that they are made of
    geometry      points, spaces and masks
    plot          pictures of molecules, training curves, energies, densities
    pretrained    the shipped models and their cards
    sbi           posteriors of simulators
    testing       checks of equivariance, inverses and densities for your own networks and flows

The public names are loaded when they are first used, so importing molflow costs little more than nothing.
"""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

# There is no __all__: with one, help(molflow) prints every method of every class, 200,000 characters.
if TYPE_CHECKING:
    from molflow import chem as chem
    from molflow import data as data
    from molflow import energies as energies
    from molflow import evaluation as evaluation
    from molflow import flows as flows
    from molflow import geometry as geometry
    from molflow import nn as nn
    from molflow import plot as plot
    from molflow import pretrained as pretrained
    from molflow import sbi as sbi
    from molflow import testing as testing
    from molflow.batch import MoleculeBatch as MoleculeBatch
    from molflow.errors import MolflowError as MolflowError
    from molflow.evaluation import evaluate as evaluate
    from molflow.flows import ContinuousFlow as ContinuousFlow
    from molflow.flows import Flow as Flow
    from molflow.flows import FreeFormFlow as FreeFormFlow
    from molflow.flows import load as load
    from molflow.pretrained import load_pretrained as load_pretrained
    from molflow.training import load_experiment as load_experiment
    from molflow.training import train as train

__version__ = "0.2.0.dev0"

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
