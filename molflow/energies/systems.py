"""The particle systems that serve as benchmarks, and their known figures."""

from dataclasses import dataclass

from molflow.energies.base import Energy
from molflow.energies.double_well import DoubleWell
from molflow.energies.lennard_jones import LennardJones
from molflow.energies.mcmc import Tempering
from molflow.energies.registry import ENERGIES

_DEFAULT = Tempering((1.0, 1.5, 2.5), n_burn_in=300, n_samples=200, thinning=10, n_leapfrog=20)


@dataclass(frozen=True)
class System:
    """A target density exp(-U) / Z on the mean-free space, and how to draw samples of it. Unknown figures are None.

    Attributes:
        name: its name in `ENERGIES`.
        energy: U, in kT.
        mean_energy: <U>, kT.
        log_z: log of the integral of exp(-U) over the (N - 1) D dimensional mean-free space, nats.
        entropy: <U> + log Z, nats: no density model has a lower negative log-likelihood on samples of the target.
        mean_energy_error, log_z_error, entropy_error: standard errors.
        start_width: standard deviation of the normal distribution from which Markov chains start.
        tempering: settings of `parallel_tempering` for the data of this system. The default suits a few particles;
            check the `Diagnostics` of the chains for another energy.
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
    tempering: Tempering = _DEFAULT


_LJ13 = Tempering((1.0, 1.2), n_burn_in=300, n_samples=200, thinning=10, n_leapfrog=20)
# LJ55 is a liquid droplet, for which a second temperature gains nothing.
_LJ55 = Tempering((1.0,), n_burn_in=300, n_samples=200, thinning=12, n_leapfrog=20)

# The figures come from our own replica-exchange and bridge-sampling runs.


@ENERGIES.register("dw4")
def dw4() -> System:
    """Four particles in the plane with a double-well potential between them."""
    return System(
        "dw4",
        DoubleWell(),
        mean_energy=-22.54,
        log_z=29.66,
        entropy=7.12,
        start_width=3.0,
        tempering=Tempering((1.0, 1.5, 2.5), n_burn_in=300, n_samples=200, thinning=8, n_leapfrog=10),
    )


@ENERGIES.register("lj13")
def lj13() -> System:
    """13 Lennard-Jones particles; the energy sums over ordered pairs."""
    return System(
        "lj13",
        LennardJones(13),
        mean_energy=-42.96,
        log_z=59.88,
        log_z_error=0.02,
        entropy=16.92,
        entropy_error=0.03,
        start_width=2.0,
        tempering=_LJ13,
    )


@ENERGIES.register("lj13-unordered")
def lj13_unordered() -> System:
    """13 Lennard-Jones particles; the energy counts each pair once."""
    return System(
        "lj13-unordered",
        LennardJones(13, "unordered"),
        mean_energy=0.54,
        mean_energy_error=0.07,
        log_z=39.25,
        log_z_error=0.01,
        entropy=39.79,
        entropy_error=0.07,
        start_width=2.0,
        tempering=_LJ13,
    )


@ENERGIES.register("lj55")
def lj55() -> System:
    """55 Lennard-Jones particles; the energy sums over ordered pairs."""
    return System("lj55", LennardJones(55), start_width=3.0, tempering=_LJ55)


@ENERGIES.register("lj55-unordered")
def lj55_unordered() -> System:
    """55 Lennard-Jones particles; the energy counts each pair once."""
    return System("lj55-unordered", LennardJones(55, "unordered"), start_width=3.0, tempering=_LJ55)
