"""Energies of particle systems, their exact samples by MCMC, and the weights that turn samples of a flow into them."""

from molflow.energies.base import Energy, softened
from molflow.energies.convention import check_convention, detect_convention, virial
from molflow.energies.double_well import DoubleWell
from molflow.energies.lennard_jones import LennardJones
from molflow.energies.mcmc import Chains, Diagnostics, Tempering, parallel_tempering, split_r_hat
from molflow.energies.reweighting import (
    MetropolisSamples,
    effective_sample_size,
    independent_metropolis,
    log_weights,
    normalized_weights,
    resample,
)
from molflow.energies.systems import SYSTEMS, System

__all__ = [
    "SYSTEMS",
    "Chains",
    "Diagnostics",
    "DoubleWell",
    "Energy",
    "LennardJones",
    "MetropolisSamples",
    "System",
    "Tempering",
    "check_convention",
    "detect_convention",
    "effective_sample_size",
    "independent_metropolis",
    "log_weights",
    "normalized_weights",
    "parallel_tempering",
    "resample",
    "softened",
    "split_r_hat",
    "virial",
]
