"""Detect by the virial identity which of the two Lennard-Jones conventions configurations obey."""

from typing import get_args

from torch import Tensor

from molflow.energies.base import Energy, energy_and_gradient
from molflow.energies.lennard_jones import LennardJones, PairSum
from molflow.errors import MolflowError

_FITS, _FAILS = 3.5, 4.5  # standard errors between a virial and its exact value


def virial(energy: Energy, x: Tensor) -> tuple[float, float]:
    """Mean of x . grad U over configurations (n, N, D), n at least 2, and its standard error if they are independent.

    In the density exp(-U) the mean is (N - 1) D exactly.

    Args:
        energy: any energy.
        x: configurations, (n, N, D).

    Example:
        >>> x = molflow.load_pretrained("dw4").sample(500, seed=0)
        >>> mean, error = virial(molflow.energies.DoubleWell(), x)
        >>> abs(mean - 6) < 10 * error
        True
    """
    x = x.double()
    values = (x * energy_and_gradient(energy, x)[1]).sum((1, 2))
    return float(values.mean()), float(values.std()) / len(values) ** 0.5


def detect_convention(x: Tensor) -> PairSum | None:
    """Find the `pair_sum` of `LennardJones` that configurations (n, N, 3) were drawn with; None if it is not clear.

    The virial under it must be within 3.5 standard errors of (N - 1) D, and under the other one more than 4.5 away.
    This takes about 2,000 independent configurations of 13 particles, a few hundred if they obey "ordered".

    Args:
        x: configurations, (n, N, 3).

    Raises:
        MolflowError: the shape is not (n, N, 3).

    Example:
        >>> x = torch.randn(1000, 13, 3, generator=torch.Generator().manual_seed(0))
        >>> detect_convention(x) is None
        True
    """
    if x.ndim != 3:
        raise MolflowError(f"expected configurations (n, N, 3), got {tuple(x.shape)}")
    if len(x) < 2:
        return None
    off: dict[PairSum, float] = {}
    for pair_sum in get_args(PairSum):
        energy = LennardJones(x.shape[1], pair_sum)
        mean, error = virial(energy, x)
        off[pair_sum] = abs(mean - energy.dof) / max(error, 1e-12)
    best, other = sorted(off, key=lambda pair_sum: off[pair_sum])
    return best if off[best] < _FITS and off[other] > _FAILS else None


def check_convention(x: Tensor, energy: Energy, source: str) -> None:
    """Check that configurations (n, N, D) do not clearly obey the other Lennard-Jones convention than `energy`.

    Args:
        x: configurations.
        energy: any energy; only `LennardJones` is checked.
        source: name of the configurations for the message, such as their file.

    Raises:
        MolflowError: they do; the message gives the virial under both conventions.

    Example:
        >>> x = molflow.load_pretrained("lj13").sample(200, seed=0)
        >>> check_convention(x, molflow.energies.LennardJones(13), "samples")
    """
    if not isinstance(energy, LennardJones) or detect_convention(x) in (None, energy.pair_sum):
        return
    other = LennardJones(energy.n_particles, "unordered" if energy.pair_sum == "ordered" else "ordered")
    (right, right_error), (wrong, wrong_error) = virial(other, x), virial(energy, x)
    raise MolflowError(
        f"{source}: obeys the {other.pair_sum} Lennard-Jones convention, expected the {energy.pair_sum} one: its "
        f"virial is {right:.1f} +- {right_error:.1f} under the {other.pair_sum} sum over pairs and {wrong:.1f} +- "
        f"{wrong_error:.1f} under the {energy.pair_sum} one, and must be {energy.dof}"
    )
