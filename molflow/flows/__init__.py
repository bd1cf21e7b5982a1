"""Normalizing flows on point clouds."""

from molflow.flows.base import Flow, Likelihood
from molflow.flows.domains import ComposedMoleculeDomain, MoleculeDomain, ParticleDomain
from molflow.flows.free_form import FreeFormFlow, unroll

__all__ = [
    "ComposedMoleculeDomain",
    "Flow",
    "FreeFormFlow",
    "Likelihood",
    "MoleculeDomain",
    "ParticleDomain",
    "unroll",
]
