"""The energies that molflow knows by name. Their names can be listed without importing torch."""

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

    Args:
        name: one of `ENERGIES`.

    Raises:
        MolflowError: an unknown name, with the nearest known one; or as `Registry` for an installed package that does
            not register what it announces.

    Example:
        >>> get_system("dw4").mean_energy
        -22.54
    """
    return _built(ENERGIES[name])


@cache
def _built(make: Callable[[], System]) -> System:
    return make()
