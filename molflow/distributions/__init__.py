"""Distributions that flows start from."""

from molflow.distributions.atom_counts import AtomCounts
from molflow.distributions.compositions import Compositions
from molflow.distributions.latent import StandardNormal

__all__ = ["AtomCounts", "Compositions", "StandardNormal"]
