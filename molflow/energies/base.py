"""Energies of identical particles: functions of configurations in units of kT, and their forces."""

import math
from abc import ABC, abstractmethod
from collections.abc import Callable

import torch
from torch import Tensor

from molflow.errors import MolflowError

Potential = Callable[[Tensor], Tensor]
"""Any function of configurations (..., N, D) -> (...), in kT; every `Energy` is one."""

_PAIRS_AT_ONCE = 300_000  # pairs of particles in a batch; with many more, a CPU takes nearly twice as long per pair


class Energy(ABC):
    """A potential U of N identical particles in D dimensions, in kT. Its target density is exp(-U) / Z.

    U does not change under translations, so the density is defined on configurations with zero centroid, a space of
    dimension (N - 1) D. Calling an energy calls its method `energy`.

    Implementing an energy: write `_energy`, and register a function that makes its `System` with `ENERGIES.register`,
    in a module that an entry point of the group `molflow.energies` can name.

    Args:
        n_particles: N, at least 2.
        dim: D, at least 1.

    Raises:
        MolflowError: fewer than two particles, or no dimension.

    Example:
        >>> class Springs(Energy):
        ...     def _energy(self, x):
        ...         return self.n_particles / 2 * (x - x.mean(1, keepdim=True)).square().sum((1, 2))
        >>> Springs(2, 1).energy(torch.tensor([[0.0], [2.0]]))
        tensor(2.)
    """

    def __init__(self, n_particles: int, dim: int):
        if n_particles < 2 or dim < 1:
            raise MolflowError(f"expected at least 2 particles and 1 dimension, got {n_particles} and {dim}")
        self.n_particles, self.dim = n_particles, dim

    @property
    def dof(self) -> int:
        """(N - 1) D, the degrees of freedom and the mean of the virial x . grad U."""
        return (self.n_particles - 1) * self.dim

    @abstractmethod
    def _energy(self, x: Tensor) -> Tensor:
        """Energies (B,) of configurations (B, N, D)."""

    def energy(self, x: Tensor) -> Tensor:
        """U(x) in kT, (..., N, D) -> (...), differentiable.

        Raises:
            MolflowError: another number of particles or dimensions.
        """
        if x.shape[-2:] != (self.n_particles, self.dim):
            raise MolflowError(f"expected configurations (..., {self.n_particles}, {self.dim}), got {tuple(x.shape)}")
        return self._energy(x.reshape(math.prod(x.shape[:-2]), *x.shape[-2:])).reshape(x.shape[:-2])

    def __call__(self, x: Tensor) -> Tensor:
        return self.energy(x)

    def force(self, x: Tensor) -> Tensor:
        """-grad U(x) in kT per unit of length, (..., N, D) -> (..., N, D), detached; raises as `energy`."""
        return -energy_and_gradient(self, x)[1]


def softened(energy: Potential, highest: float) -> Potential:
    """An energy that is U up to `highest` and highest + log(1 + U - highest) above. It has the same minima.

    It has no huge forces. Training by energy needs this, as one clash would dominate a batch (arXiv 1812.01729).

    Args:
        energy: U in kT, (n, N, D) -> (n,).
        highest: the energy up to which nothing changes, kT.

    Example:
        >>> soft = softened(lambda x: x.square().sum((1, 2)), highest=2.0)
        >>> soft(torch.tensor([[[1.0]], [[100.0]]])).tolist()
        [1.0, 11.210240364074707]
    """

    def soft(x: Tensor) -> Tensor:
        u = energy(x)
        return u.clamp(max=highest) + (u - highest).relu().log1p()

    return soft


def energy_and_gradient(energy: Potential, x: Tensor) -> tuple[Tensor, Tensor]:
    """U(x) (...) and grad U(x) (..., N, D), both detached, computed in parts that fit into the caches of a CPU."""
    if x.ndim > 2:
        size = max(1, _PAIRS_AT_ONCE // x.shape[-2] ** 2)
        parts = [_energy_and_gradient(energy, part) for part in torch.split(x, size)]
        u, gradient = zip(*parts, strict=True)
        return torch.cat(u), torch.cat(gradient)
    return _energy_and_gradient(energy, x)


def _energy_and_gradient(energy: Potential, x: Tensor) -> tuple[Tensor, Tensor]:
    with torch.enable_grad():
        x = x.detach().requires_grad_(True)
        u = energy(x)
        (gradient,) = torch.autograd.grad(u.sum(), x)
    return u.detach(), gradient


def squared_pair_distances(x: Tensor) -> Tensor:
    """|x_i - x_j|^2 over pairs i < j, (B, N, D) -> (N (N - 1) / 2, B)."""
    i, j = torch.triu_indices(x.shape[1], x.shape[1], 1, device=x.device)
    rows = x.permute(1, 2, 0).contiguous()  # a CPU is three times as fast with configurations last
    return (rows.index_select(0, i) - rows.index_select(0, j)).square().sum(1)
