"""The names of all data sets. Nothing heavy is imported here, as `molflow --help` lists them."""

from collections.abc import Mapping
from typing import TYPE_CHECKING

from molflow.energies.registry import ENERGIES
from molflow.registry import Registry

if TYPE_CHECKING:
    from molflow.data.base import DataSetConfig

DEFAULT_DATA_SET = "qm9"
"""The data set of an experiment that does not name one."""

_FILES = {
    "molecules": "molflow.data.molecule_files",
    "particles": "molflow.data.particles",
    "vectors": "molflow.data.vectors",
    "simulations": "molflow.data.vectors",
}
_DENSITIES = ("two-moons", "eight-gaussians", "pinwheel", "checkerboard", "rings")
_SIMULATORS = (
    "sbi-two-moons", "sbi-gaussian-mixture", "sbi-gaussian-linear", "sbi-gaussian-linear-uniform", "sbi-slcp",
    "sbi-bernoulli-glm", "sbi-sir", "sbi-lotka-volterra", "inverse-kinematics",
)  # fmt: skip


def _modules() -> Mapping[str, str]:
    return {
        "qm9": "molflow.data.qm9",
        **dict.fromkeys((*ENERGIES.names(), "dw4-vectors"), "molflow.data.particles"),
        **dict.fromkeys(_DENSITIES, "molflow.data.densities"),
        **dict.fromkeys(_SIMULATORS, "molflow.data.simulators"),
        **_FILES,
    }


class _DataSets(Registry[type["DataSetConfig"]]):
    """A data set for every registered energy, beside those that are registered as data sets."""

    def _import(self, name: str) -> None:
        super()._import("particles" if name in ENERGIES else name)
        if name in ENERGIES and name not in self._objects:
            from molflow.data.particles import energy_data_set

            self.register(name)(energy_data_set(name))


DATASETS = _DataSets("data set", modules=_modules, group="molflow.datasets")


def prepared_names() -> tuple[str, ...]:
    """The data sets that molflow makes or downloads, as opposed to those in a user's file."""
    return tuple(name for name in DATASETS.names() if name not in _FILES)
