"""Clusters of Lennard-Jones particles, held together by a harmonic trap around their centroid."""

from typing import Literal

from torch import Tensor

from molflow.energies.base import Energy, squared_pair_distances
from molflow.errors import MolflowError

PairSum = Literal["ordered", "unordered"]

_CORE = 0.25  # squared distance below which the pair term is linear in the squared distance
_CORE_SLOPE = 6 * (_CORE**-4 - _CORE**-7)  # d/ds of s^-6 - 2 s^-3 there


class LennardJones(Energy):
    """U(x) = sum over pairs of (r^-12 - 2 r^-6) + 1/2 sum_i |x_i - centroid|^2, in kT, in three dimensions.

    The literature has two conventions, which differ by a factor of 2 in the first sum. "ordered" sums over ordered
    pairs, so that (i, j) and (j, i) both count (equivariant flow matching, arXiv 2306.15030; iDEM, arXiv 2402.06121).
    "unordered" counts each pair once (E-NF, arXiv 2105.09016; EACF, arXiv 2308.10364). The well of a pair, at r = 1, is
    2 or 1 deep.

    Below r = 0.5, where the energy of a pair is thousands of kT, the pair term is linear in r^2 with its value and
    slope at 0.5. Energy and gradient are therefore finite everywhere, and the density is practically unchanged.
    Coincident particles exert no force on each other.

    Args:
        n_particles: N; the usual ones are 13 and 55.
        pair_sum: "ordered" or "unordered".

    Raises:
        MolflowError: another `pair_sum`, or fewer than two particles.

    Example:
        >>> LennardJones(2).energy(torch.tensor([[0.5, 0, 0], [-0.5, 0, 0]]))
        tensor(-1.7500)
    """

    def __init__(self, n_particles: int, pair_sum: PairSum = "ordered"):
        super().__init__(n_particles, 3)
        if pair_sum not in ("ordered", "unordered"):
            raise MolflowError(f"unknown pair_sum {pair_sum!r}, accepted: ordered, unordered")
        self.pair_sum = pair_sum

    def _energy(self, x: Tensor) -> Tensor:
        squared = squared_pair_distances(x)
        outside = squared.clamp(min=_CORE)
        inverse = outside.reciprocal()
        sixth = inverse * inverse * inverse
        # relu has no gradient outside; (squared - outside) would subtract two slopes of 1e5 there, with rounding errors
        pairs = (sixth * (sixth - 2) - _CORE_SLOPE * (_CORE - squared).relu()).sum(0)
        trap = squared.sum(0) / (2 * self.n_particles)  # sum_i |x_i - centroid|^2 = sum_(i<j) r_ij^2 / N
        return (2 if self.pair_sum == "ordered" else 1) * pairs + trap
