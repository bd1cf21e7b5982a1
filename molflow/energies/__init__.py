"""Energies of particle systems, their exact samples by MCMC, and reweighting of a flow's samples towards them.

The public names are imported when they are first used, so that the names in `ENERGIES` can be listed without torch.
"""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.energies.annealing import Annealed, anneal
    from molflow.energies.base import Energy, softened
    from molflow.energies.checks import check_energy
    from molflow.energies.convention import check_convention, detect_convention, virial
    from molflow.energies.double_well import DoubleWell
    from molflow.energies.lennard_jones import LennardJones
    from molflow.energies.mcmc import Chains, Diagnostics, Tempering, parallel_tempering, split_r_hat
    from molflow.energies.own import AseEnergy, OwnEnergy, at_temperature, own_system
    from molflow.energies.registry import ENERGIES, get_system
    from molflow.energies.reweighting import (
        MetropolisSamples,
        effective_sample_size,
        independent_metropolis,
        log_weights,
        normalized_weights,
        resample,
    )
    from molflow.energies.systems import System

__all__ = [
    "ENERGIES", "Annealed", "AseEnergy", "Chains", "Diagnostics", "DoubleWell", "Energy", "LennardJones",
    "MetropolisSamples", "OwnEnergy", "System", "Tempering", "anneal", "at_temperature", "check_convention",
    "check_energy", "detect_convention", "effective_sample_size", "get_system", "independent_metropolis", "log_weights",
    "normalized_weights", "own_system", "parallel_tempering", "resample", "softened", "split_r_hat", "virial",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "annealing": ("Annealed", "anneal"),
        "base": ("Energy", "softened"),
        "checks": ("check_energy",),
        "convention": ("check_convention", "detect_convention", "virial"),
        "double_well": ("DoubleWell",),
        "lennard_jones": ("LennardJones",),
        "mcmc": ("Chains", "Diagnostics", "Tempering", "parallel_tempering", "split_r_hat"),
        "own": ("AseEnergy", "OwnEnergy", "at_temperature", "own_system"),
        "registry": ("ENERGIES", "get_system"),
        "reweighting": (
            "MetropolisSamples",
            "effective_sample_size",
            "independent_metropolis",
            "log_weights",
            "normalized_weights",
            "resample",
        ),
        "systems": ("System",),
    },
)
