"""The particle systems in use as benchmarks, and what is known of them."""

from dataclasses import dataclass, replace
from functools import partial

from molflow.energies.base import Energy
from molflow.energies.double_well import DoubleWell
from molflow.energies.lennard_jones import LennardJones
from molflow.energies.mcmc import Tempering
from molflow.energies.registry import ENERGIES


@dataclass(frozen=True)
class System:
    """A target density exp(-U) / Z on the mean-free space; figures that are not known are None.

    Attributes:
        name: its key in `SYSTEMS`.
        energy: U, in kT.
        mean_energy: <U>, kT.
        log_z: log of the integral of exp(-U) over the (N - 1) D dimensional mean-free space, nats.
        entropy: <U> + log Z, nats: no density model has a lower negative log-likelihood on samples of the target.
        mean_energy_error, log_z_error, entropy_error: standard errors.
    """

    name: str
    energy: Energy
    mean_energy: float | None = None
    mean_energy_error: float | None = None
    log_z: float | None = None
    log_z_error: float | None = None
    entropy: float | None = None
    entropy_error: float | None = None
    start_width: float = 2.0
    tempering: Tempering = Tempering((1.0,), n_burn_in=300, n_samples=200, thinning=12, n_leapfrog=20)


# Own replica-exchange and bridge-sampling runs.
SYSTEMS = {
    system.name: system
    for system in (
        System("dw4", DoubleWell(), mean_energy=-22.54, log_z=29.66, entropy=7.12),
        System(
            "lj13",
            LennardJones(13),
            mean_energy=-42.96,
            log_z=59.88,
            log_z_error=0.02,
            entropy=16.92,
            entropy_error=0.03,
        ),
        System(
            "lj13-unordered",
            LennardJones(13, "unordered"),
            mean_energy=0.54,
            mean_energy_error=0.07,
            log_z=39.25,
            log_z_error=0.01,
            entropy=39.79,
            entropy_error=0.07,
        ),
        System("lj55", LennardJones(55)),
        System("lj55-unordered", LennardJones(55, "unordered")),
    )
}
"""Name -> `System`. The Lennard-Jones ones sum over ordered pairs where their name does not say otherwise."""

_LJ13 = (2.0, Tempering((1.0, 1.2), n_burn_in=300, n_samples=200, thinning=10, n_leapfrog=20))
_LJ55 = (3.0, Tempering((1.0,), n_burn_in=300, n_samples=200, thinning=12, n_leapfrog=20))
_RECIPES = {
    "dw4": (3.0, Tempering((1.0, 1.5, 2.5), n_burn_in=300, n_samples=200, thinning=8, n_leapfrog=10)),
    "lj13": _LJ13,
    "lj13-unordered": _LJ13,
    "lj55": _LJ55,
    "lj55-unordered": _LJ55,
}
for _name, (_width, _tempering) in _RECIPES.items():
    SYSTEMS[_name] = replace(SYSTEMS[_name], start_width=_width, tempering=_tempering)
    ENERGIES.register(_name)(partial(SYSTEMS.get, _name))
