"""Stub until branch chem is merged."""

from collections.abc import Callable
from typing import TYPE_CHECKING

from molflow.registry import Registry

if TYPE_CHECKING:
    from molflow.energies.systems import System

_NAMES = ("dw4", "lj13", "lj13-unordered", "lj55", "lj55-unordered")
ENERGIES: "Registry[Callable[[], System]]" = Registry(
    "energy", modules=dict.fromkeys(_NAMES, "molflow.energies.systems"), group="molflow.energies"
)
