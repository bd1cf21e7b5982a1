"""Files of configurations, as `molflow sample` writes them for particles and as others may bring them.

NPZ with `positions` (n, N, D); `log_prob` (n,), nats, where the density of the samples is known; and `system`, the name
of the system that they are samples of, or "". Foreign files need `positions` alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from molflow.data import NoArrayError, read_array, read_configurations
from molflow.energies import ENERGIES, System, check_convention
from molflow.errors import MolflowError
from molflow.files import atomic_path

SUFFIXES = (".npz", ".npy")


class Configurations(NamedTuple):
    """Positions (n, N, D), and the log density that they were drawn with, nats (n,), if it is known."""

    positions: Tensor
    log_prob: Tensor | None


def write_configurations(path: Path, samples: Configurations, system: str) -> None:
    """Write an NPZ file, whole or not at all."""
    density = {} if samples.log_prob is None else {"log_prob": samples.log_prob.numpy()}
    with atomic_path(path) as temporary, temporary.open("wb") as file:
        np.savez(file, positions=samples.positions.numpy(), **density, system=np.array(system))  # type: ignore[arg-type]


def read_samples(path: Path, system: System) -> Configurations:
    """Samples of a system.

    Raises:
        MolflowError: naming the file and what is wrong with it, a clear sign of the other Lennard-Jones convention
            included.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise MolflowError(
            f"{path}: {system.name} is a system of particles; expected their configurations in an .npz or .npy file"
        )
    positions = read_configurations(path, system.energy.n_particles, system.energy.dim)
    check_convention(positions, system.energy, str(path))
    try:
        log_prob = read_array(path, "log_prob")
    except NoArrayError:
        return Configurations(positions, None)
    if log_prob.shape != positions.shape[:1] or log_prob.dtype.kind not in "fiu":
        raise MolflowError(
            f"{path}: log_prob: expected {len(positions)} numbers, got {log_prob.dtype} of shape {log_prob.shape}"
        )
    return Configurations(positions, torch.from_numpy(log_prob.astype(np.float64)))


def system_of_files(files: Sequence[Path], reference: str | None) -> str | None:
    """The system to compare files with: `reference`, or else what they say themselves; None if they are of molecules.

    Raises:
        MolflowError: a file that says something else than `reference` or another file, or configurations of a system
            that neither names.
    """
    systems = {file: name for file in files if (name := _system_in(file)) is not None}
    if reference is None and systems:
        reference = next(filter(None, systems.values()), "")
        if not reference:
            raise MolflowError(f"{next(iter(systems))}: does not say which system it is of; name it with --reference")
        if reference not in ENERGIES:
            raise MolflowError(f"samples of the unknown system {reference!r}; known are {', '.join(ENERGIES)}")
    for file, name in systems.items():
        if name not in ("", reference):
            raise MolflowError(f"{file}: holds samples of {name}, expected {reference}")
        if reference == "qm9":
            raise MolflowError(f"{file}: holds configurations of particles, expected molecules")
    return None if reference == "qm9" else reference


def _system_in(path: Path) -> str | None:
    """The system that a file names, "" if it holds configurations of an unknown one, None if it holds none."""
    if path.suffix.lower() == ".npy":
        return "" if path.exists() else None
    if path.suffix.lower() != ".npz":
        return None
    try:
        name = read_array(path, "system")
    except MolflowError:  # whoever reads the file will say what is wrong with it
        return None
    return str(name) if name.dtype.kind == "U" and name.ndim == 0 else None
