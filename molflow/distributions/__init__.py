"""Distributions that flows start from."""

from molflow.distributions.atom_counts import AtomCounts
from molflow.distributions.composition_model import CompositionModel
from molflow.distributions.compositions import Compositions, CompositionTable
from molflow.distributions.latent import StandardNormal
from molflow.distributions.registry import COMPOSITIONS

__all__ = ["COMPOSITIONS", "AtomCounts", "CompositionModel", "CompositionTable", "Compositions", "StandardNormal"]
