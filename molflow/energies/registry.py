"""The energies that molflow knows by name. Their names can be listed without importing torch.

A third party adds an energy in one file, which an entry point of its package in the group `molflow.energies` can name:

    from molflow.energies import ENERGIES, Energy, System

    class Springs(Energy):
        '''U(x) = N / 2 sum_i |x_i - centroid|^2, in kT.'''

        def _energy(self, x):
            return self.n_particles / 2 * (x - x.mean(1, keepdim=True)).square().sum((1, 2))

    @ENERGIES.register("springs")
    def springs() -> System:
        return System("springs", Springs(5, 3))
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import TYPE_CHECKING

from molflow.registry import Registry

if TYPE_CHECKING:
    from molflow.energies.systems import System

ENERGIES: Registry[Callable[[], System]] = Registry(
    "energy",
    modules=dict.fromkeys(("dw4", "lj13", "lj13-unordered", "lj55", "lj55-unordered"), "molflow.energies.systems"),
    group="molflow.energies",
)
"""Name -> function that makes the `System`; `get_system` calls it."""


def get_system(name: str) -> System:
    """The system of a name; it is built once.

    Raises:
        MolflowError: an unknown name, with the nearest known one; or as `Registry` for an installed package that does
            not register what it announces.
    """
    return _built(ENERGIES[name])


@cache
def _built(make: Callable[[], System]) -> System:
    return make()
