"""Normalizing flows on point clouds and on vectors."""

from typing import TYPE_CHECKING

from molflow.flows.registry import DEQUANTIZERS, DIVERGENCES, DOMAINS, FLOWS, SOLVERS, SURROGATES
from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.flows.base import Evaluations, Flow, FlowChoice, FlowConfig, Likelihood
    from molflow.flows.conditions import Conditions, ConditionsConfig
    from molflow.flows.continuous import ContinuousConfig, ContinuousFlow, ODEFlow, Path
    from molflow.flows.diffusion import DiffusionConfig, DiffusionFlow
    from molflow.flows.domains import (
        ComposedMoleculeDomain,
        Domain,
        DomainConfig,
        MoleculeDomain,
        ParticleDomain,
        VectorDomain,
    )
    from molflow.flows.free_form import DenoiserConfig, FreeFormConfig, FreeFormFlow, NoiseRange
    from molflow.flows.solvers import AdaptiveSolver, FixedStepSolver, IntegrationError, Solver
    from molflow.flows.storage import load, save_model
    from molflow.flows.unrolling import refined, unroll

__all__ = [
    "DEQUANTIZERS", "DIVERGENCES", "DOMAINS", "FLOWS", "SOLVERS", "SURROGATES", "AdaptiveSolver",
    "ComposedMoleculeDomain", "Conditions", "ConditionsConfig", "ContinuousConfig", "ContinuousFlow", "DenoiserConfig",
    "DiffusionConfig", "DiffusionFlow", "Domain", "DomainConfig", "Evaluations", "FixedStepSolver", "Flow",
    "FlowChoice", "FlowConfig", "FreeFormConfig", "FreeFormFlow", "IntegrationError", "Likelihood", "MoleculeDomain",
    "NoiseRange", "ODEFlow", "ParticleDomain", "Path", "Solver", "VectorDomain", "load", "refined", "save_model",
    "unroll",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "base": ("Evaluations", "Flow", "FlowChoice", "FlowConfig", "Likelihood"),
        "conditions": ("Conditions", "ConditionsConfig"),
        "continuous": ("ContinuousConfig", "ContinuousFlow", "ODEFlow", "Path"),
        "diffusion": ("DiffusionConfig", "DiffusionFlow"),
        "domains": (
            "ComposedMoleculeDomain",
            "Domain",
            "DomainConfig",
            "MoleculeDomain",
            "ParticleDomain",
            "VectorDomain",
        ),
        "free_form": ("DenoiserConfig", "FreeFormConfig", "FreeFormFlow", "NoiseRange"),
        "solvers": ("AdaptiveSolver", "FixedStepSolver", "IntegrationError", "Solver"),
        "storage": ("load", "save_model"),
        "unrolling": ("refined", "unroll"),
    },
)
