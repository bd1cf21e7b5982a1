"""Normalizing flows on point clouds."""

from molflow.flows.base import Flow, Likelihood
from molflow.flows.domains import MoleculeDomain, ParticleDomain
from molflow.flows.free_form import FreeFormFlow

__all__ = ["Flow", "FreeFormFlow", "Likelihood", "MoleculeDomain", "ParticleDomain"]
