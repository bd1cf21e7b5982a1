"""Normalizing flows on point clouds."""

from molflow.flows.base import Evaluations, Flow, Likelihood
from molflow.flows.continuous import ContinuousFlow, Path
from molflow.flows.domains import ComposedMoleculeDomain, MoleculeDomain, ParticleDomain
from molflow.flows.free_form import FreeFormFlow, unroll
from molflow.flows.solvers import AdaptiveSolver, FixedStepSolver, IntegrationError, Solver

__all__ = [
    "AdaptiveSolver",
    "ComposedMoleculeDomain",
    "ContinuousFlow",
    "Evaluations",
    "FixedStepSolver",
    "Flow",
    "FreeFormFlow",
    "IntegrationError",
    "Likelihood",
    "MoleculeDomain",
    "ParticleDomain",
    "Path",
    "Solver",
    "unroll",
]
