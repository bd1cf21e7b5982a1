"""The double-well energy, which has two preferred distances for each pair of particles."""

from torch import Tensor

from molflow.energies.base import Energy, squared_pair_distances
from molflow.geometry import safe_sqrt


class DoubleWell(Energy):
    """U(x) = sum over pairs i < j of a (d_ij - d_0)^4 - b (d_ij - d_0)^2, in kT, with a = 0.9, b = 4 and d_0 = 4.

    The default is DW4, four particles in the plane (Koehler, Klein, Noe, arXiv 2006.02425). A pair has two wells, at
    d_0 +- sqrt(b / 2a), that is 4 +- 1.49, with a depth of 4.44. Energy and gradient are finite everywhere. d_ij is not
    differentiable where two particles coincide; their force on each other is set to zero.

    Args:
        n_particles: N.
        dim: D.

    Example:
        >>> DoubleWell(2).energy(torch.tensor([[0.0, 0.0], [5.0, 0.0]]))
        tensor(-3.1000)
    """

    def __init__(self, n_particles: int = 4, dim: int = 2):
        super().__init__(n_particles, dim)

    def _energy(self, x: Tensor) -> Tensor:
        squared = (safe_sqrt(squared_pair_distances(x)) - 4).square()
        return (squared * (0.9 * squared - 4)).sum(0)
