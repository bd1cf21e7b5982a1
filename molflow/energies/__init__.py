"""Energies of particle systems, their exact samples by MCMC, and the weights that turn samples of a flow into them."""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
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

_HOMES = {
    "Chains": "molflow.energies.mcmc",
    "Diagnostics": "molflow.energies.mcmc",
    "DoubleWell": "molflow.energies.double_well",
    "Energy": "molflow.energies.base",
    "LennardJones": "molflow.energies.lennard_jones",
    "MetropolisSamples": "molflow.energies.reweighting",
    "SYSTEMS": "molflow.energies.systems",
    "System": "molflow.energies.systems",
    "Tempering": "molflow.energies.mcmc",
    "check_convention": "molflow.energies.convention",
    "detect_convention": "molflow.energies.convention",
    "effective_sample_size": "molflow.energies.reweighting",
    "independent_metropolis": "molflow.energies.reweighting",
    "log_weights": "molflow.energies.reweighting",
    "normalized_weights": "molflow.energies.reweighting",
    "parallel_tempering": "molflow.energies.mcmc",
    "resample": "molflow.energies.reweighting",
    "softened": "molflow.energies.base",
    "split_r_hat": "molflow.energies.mcmc",
    "virial": "molflow.energies.convention",
}

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

__getattr__, __dir__ = lazy_names(__name__, _HOMES)
