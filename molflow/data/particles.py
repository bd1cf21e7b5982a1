"""Configurations of the particle systems: drawn here by MCMC and cached, or read from a user's own array.

datasets/README.md lists the systems, how they are sampled, and the figures that came out.
"""

import json
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

from molflow.data.qm9 import cache_path
from molflow.energies import System, Tempering, get_system, parallel_tempering
from molflow.errors import MolflowError
from molflow.files import atomic_path, check_writable
from molflow.geometry import MeanFreeSpace

SEED = 0
VERSION = 1  # of the recipes below; the next one makes other data
CHAINS = {"train": 500, "validation": 50, "test": 500}
"""Markov chains of each split; no two splits share one."""


@dataclass(frozen=True)
class Recipe:
    """How a system is sampled: the width of the normal distribution that chains start from, and the sampler."""

    start_width: float
    tempering: Tempering


_LJ13 = Recipe(2.0, Tempering((1.0, 1.2), n_burn_in=300, n_samples=200, thinning=10, n_leapfrog=20))
_LJ55 = Recipe(3.0, Tempering((1.0,), n_burn_in=300, n_samples=200, thinning=12, n_leapfrog=20))
RECIPES = {
    "dw4": Recipe(3.0, Tempering((1.0, 1.5, 2.5), n_burn_in=300, n_samples=200, thinning=8, n_leapfrog=10)),
    "lj13": _LJ13,
    "lj13-unordered": _LJ13,
    "lj55": _LJ55,
    "lj55-unordered": _LJ55,
}
"""For each of `molflow.energies.ENERGIES`. LJ55 is a liquid droplet, for which a second temperature gains nothing."""


def prepare_particles(
    name: str, cache_dir: str | Path | None = None, force: bool = False, progress: bool = False
) -> Path:
    """Draw the data of a system and cache them as NAME.npz if there are none, or anew with ``force``.

    The file holds float32 arrays ``train`` (100,000, N, D), ``validation`` (10,000, N, D) and ``test`` (100,000, N, D),
    mean-free and in random order, and ``diagnostics``, a text in JSON.

    Args:
        name: one of `molflow.energies.ENERGIES`.
        cache_dir: by default the folder in MOLFLOW_CACHE, else the user's cache folder.
        force: replace what is there.
        progress: show a bar on stderr.

    Returns:
        The path of the file.

    Raises:
        MolflowError: unknown name, or a file that cannot be written.
    """
    system, path = get_system(name), cache_path(cache_dir).with_name(f"{name}.npz")
    if path.exists() and not force:
        return path
    check_writable(path)
    arrays, diagnostics = _draw(system, RECIPES[name], progress)
    try:
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            np.savez(file, **arrays, diagnostics=np.array(json.dumps(diagnostics)))  # type: ignore[arg-type]
    except OSError as error:
        raise MolflowError(f"{path}: cannot be written: {error.strerror}") from error
    return path


def load_particles(
    name: str, split: Literal["train", "validation", "test"], cache_dir: str | Path | None = None
) -> Tensor:
    """One split of a system, float32 (n, N, D), prepared first if there is no cache.

    Raises:
        MolflowError: unknown name or split, or a damaged cache.
    """
    if split not in CHAINS:
        raise MolflowError(f"unknown split {split!r}, accepted: {', '.join(CHAINS)}")
    energy = get_system(name).energy
    particle_diagnostics(name, cache_dir)  # refuses data of another version
    path = prepare_particles(name, cache_dir)
    try:
        return read_configurations(path, energy.n_particles, energy.dim, key=split)
    except MolflowError as error:
        raise MolflowError(f"{error}; rerun: molflow data {name} --force") from error


def particle_diagnostics(name: str, cache_dir: str | Path | None = None) -> dict[str, Any]:
    """How the cached data of a system were drawn: seed, `Tempering`, and the sampler's `Diagnostics`.

    The data are prepared first if there is no cache; raises as `load_particles`.
    """
    path = prepare_particles(name, cache_dir)
    try:
        record: dict[str, Any] = json.loads(str(read_array(path, "diagnostics")))
    except ValueError as error:  # includes MolflowError
        message = str(error).removeprefix(f"{path}: ")
        raise MolflowError(f"{path}: {message}; rerun: molflow data {name} --force") from error
    if not isinstance(record, dict) or record.get("version") != VERSION:
        raise MolflowError(f"{path}: drawn by another version of molflow; rerun: molflow data {name} --force")
    return record


def read_configurations(
    path: str | Path, n_particles: int | None = None, dim: int | None = None, key: str = "positions"
) -> Tensor:
    """Configurations of identical particles from a .npy or .npz file, float32 (n, N, D), their centroids removed.

    Where N and D are given, an array (n, N D) will do as well.

    Args:
        path: the file; it is never unpickled.
        n_particles: N, if it is known.
        dim: D, if it is known.
        key: the array to take from an .npz file.

    Raises:
        MolflowError: naming the file and what it is: unreadable, no such array, another shape than expected, or the
            first configuration that is not finite.
    """
    array = read_array(path, key)
    expected = f"(n, {n_particles or 'N'}, {dim or 'D'})"
    if array.dtype.kind not in "fiu":
        raise MolflowError(f"{path}: holds {array.dtype} values, expected numbers of shape {expected}")
    shape = array.shape
    if array.ndim == 2 and n_particles and dim and shape[1] == n_particles * dim:
        array = array.reshape(-1, n_particles, dim)
    if array.ndim != 3 or 0 in shape or n_particles not in (None, array.shape[1]) or dim not in (None, array.shape[2]):
        raise MolflowError(f"{path}: expected configurations of shape {expected}, got {shape}")
    with np.errstate(over="ignore", invalid="ignore"):  # what overflows is refused below
        array = (array - array.mean(1, keepdims=True, dtype=np.float64)).astype(np.float32)
    finite = np.isfinite(array).all((1, 2))
    if not finite.all():
        raise MolflowError(f"{path}, configuration {int(finite.argmin())}: expected finite coordinates in float32")
    return torch.from_numpy(array)


class NoArrayError(MolflowError):
    """The file is whole, but has no array of the name asked for."""


def read_array(path: str | Path, key: str) -> np.ndarray:
    """An array of an .npz file, or that of a .npy file by the name of `positions`. Nothing is unpickled.

    Raises:
        NoArrayError: there is none of that name.
        MolflowError: the file is missing or damaged.
    """
    try:
        with Path(path).open("rb") as file:
            content = np.load(file, allow_pickle=False)
            arrays = {"positions": content} if isinstance(content, np.ndarray) else content
            if key in arrays:
                array: np.ndarray = arrays[key]
                return array
            names = ", ".join(arrays)
    except FileNotFoundError as error:
        raise MolflowError(f"{path}: no such file") from error
    except Exception as error:  # a damaged archive can raise nearly anything from zipfile, zlib or numpy
        raise MolflowError(f"{path}: not a readable .npy or .npz file of plain numbers") from error
    raise NoArrayError(f"{path}: has no array {key!r}, only {names}")


def _draw(system: System, recipe: Recipe, progress: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The splits, and what is to be known of them."""
    began = time.monotonic()
    generator = torch.Generator().manual_seed(SEED)
    mask = torch.ones(sum(CHAINS.values()), system.energy.n_particles, dtype=torch.bool)
    start = recipe.start_width * MeanFreeSpace(mask, system.energy.dim).randn(generator).x
    chains = parallel_tempering(system.energy, start, recipe.tempering, generator, progress)
    arrays = {}
    for split, positions in zip(CHAINS, chains.positions.split(list(CHAINS.values())), strict=True):
        positions = positions.flatten(0, 1)
        arrays[split] = positions[torch.randperm(len(positions), generator=generator)].numpy()
    record = {"system": system.name, "version": VERSION, "seed": SEED, "chains": CHAINS}
    seconds = round(time.monotonic() - began, 1)
    return arrays, record | asdict(recipe) | asdict(chains.diagnostics) | {"seconds": seconds}
