"""Domains: the kinds of data that a flow can be a distribution over."""

from molflow.flows.domains.base import Data, Domain, DomainChoice, DomainConfig
from molflow.flows.domains.molecules import (
    ComposedMoleculeDomain,
    ComposedMoleculesConfig,
    MoleculeDomain,
    MoleculesConfig,
    Representation,
    bond_ends,
    code_name,
    parse_type,
    type_codes,
    type_name,
)
from molflow.flows.domains.particles import ParticleDomain, ParticlesConfig
from molflow.flows.domains.vectors import VectorDomain, VectorsConfig

__all__ = [
    "ComposedMoleculeDomain",
    "ComposedMoleculesConfig",
    "Data",
    "Domain",
    "DomainChoice",
    "DomainConfig",
    "MoleculeDomain",
    "MoleculesConfig",
    "ParticleDomain",
    "ParticlesConfig",
    "Representation",
    "VectorDomain",
    "VectorsConfig",
    "bond_ends",
    "code_name",
    "parse_type",
    "type_codes",
    "type_name",
]
