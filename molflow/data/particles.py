"""Configurations of particle systems: drawn by MCMC and cached for every registered energy, or from a user's file.

datasets/README.md lists the built-in systems, how they are sampled, and how well the chains mixed.
"""

import json
import time
from dataclasses import asdict
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from pydantic import Field, PrivateAttr
from torch import Tensor

from molflow.data.base import DataSetConfig, Loaded, Split, columns, hold_out
from molflow.data.configurations import Configurations, read_configurations, read_particles
from molflow.data.files import cache_path, read_array, save_arrays
from molflow.data.registry import DATASETS
from molflow.energies import System, check_convention, get_system, own_system, parallel_tempering
from molflow.errors import MolflowError
from molflow.files import check_writable
from molflow.geometry import MeanFreeSpace, Points, helmert_basis

SEED = 0
VERSION = 1  # change it whenever the sampler or a setting of a built-in system changes
CHAINS: dict[Split, int] = {"train": 500, "validation": 50, "test": 500}
"""Markov chains of each split; no chain is in two splits."""


def prepare_particles(
    name: str, cache_dir: str | Path | None = None, force: bool = False, progress: bool = False
) -> Path:
    """Draw the data of an energy by MCMC and cache them as NAME.npz, if they are not there or with ``force``.

    The file holds float32 arrays ``train`` (500 chains), ``validation`` (50) and ``test`` (500), each (n, N, D),
    mean-free and in random order, and ``diagnostics``, a text in JSON. The built-in systems take 200 samples of each
    chain, so the splits have 100,000, 10,000 and 100,000 configurations.

    Args:
        name: one of `molflow.energies.ENERGIES`.
        cache_dir: by default the folder in MOLFLOW_CACHE, else the user's cache folder.
        force: replace an existing file.
        progress: show a bar on stderr.

    Returns:
        The path of the file.

    Raises:
        MolflowError: unknown name, or a file that cannot be written.

    Example:
        >>> prepare_particles("dw4", progress=True)  # doctest: +SKIP
    """
    system, path = get_system(name), cache_path(name, cache_dir)
    if path.exists() and not force:
        return path
    check_writable(path)
    arrays, diagnostics = _draw(name, system, progress)
    save_arrays(path, arrays | {"diagnostics": np.array(json.dumps(diagnostics))})
    return path


def load_particles(name: str, split: Split, cache_dir: str | Path | None = None) -> Tensor:
    """One split of an energy's data, float32 (n, N, D), prepared first if there is no cache.

    Args:
        name: one of `molflow.energies.ENERGIES`.
        split: train, validation or test.
        cache_dir: by default the folder in MOLFLOW_CACHE, else the user's cache folder.

    Raises:
        MolflowError: unknown name or split, or a damaged cache.

    Example:
        >>> load_particles("dw4", "test").shape  # doctest: +SKIP
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
    """How the cached data of an energy were drawn: seed, `Tempering`, and the sampler's `Diagnostics`.

    The data are prepared first if there is no cache; raises as `load_particles`.

    Args:
        name: one of `molflow.energies.ENERGIES`.
        cache_dir: as in `load_particles`.

    Example:
        >>> particle_diagnostics("dw4")["diagnostics"]["r_hat"]  # doctest: +SKIP
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


@DATASETS.register("particles")
class ParticleFile(DataSetConfig):
    """Configurations of particles in a user's file, with the energy that they are samples of, if it is given.

    Conditions are arrays (n,) of the .npz file. A tenth of the configurations is held out for validation.

    The path of the energy is code, which is executed only where the user names it: in an experiment file, or by
    `--energy`. A config.json that names one is not enough.
    """

    task = "particles"
    splits = ("train", "validation")
    file: Path = Field(description="(n, N, D) in .npy or .npz; .xyz; or a trajectory, see `read_particles`")
    key: str | None = Field(None, description="the array of an .npz file; by default positions, or the only one")
    topology: Path | None = Field(None, description="file that names the atoms of a trajectory")
    dim: int | None = Field(None, gt=0, description="D; needed for an array (n, N D)")
    species: tuple[str | int, ...] = Field(
        (), description="of each particle; equal ones are interchangeable; by default as the file says, else all equal"
    )
    bonds: tuple[tuple[int, int], ...] = Field(
        (), description="pairs of particles, from 0; particles of a bonded system are not interchangeable"
    )
    energy: str | None = Field(None, description="package.module:function, the energy of the particles; it is executed")
    kT: float = Field(1.0, gt=0, description="thermal energy in the unit of the energy")
    _is_from_model: bool = PrivateAttr(False)

    def load(self, split: Split) -> Loaded[Tensor]:
        self.check_split(split)
        return _load_file(self, self.content.positions, self.file, split)

    def from_model(self) -> Self:
        """The same as part of a model's config.json, whose energy is not executed."""
        copy = self.model_copy()
        copy._is_from_model = True
        return copy

    def own_system(self) -> System | None:
        if self.energy is None:
            return None
        if self._is_from_model:
            raise MolflowError(f"the energy {self.energy} is code, which a config.json cannot ask for: give --energy")
        return own_system(self.energy, self.content.positions, self.kT)

    def species_numbers(self) -> tuple[int, ...]:
        """The species of each particle as numbers from 0; () where all are identical."""
        found = self.content
        n = found.positions.shape[1]
        if wrong := [pair for pair in self.bonds if not (0 <= min(pair) < max(pair) < n)]:
            raise MolflowError(f"data.bonds: {list(wrong[0])} is not a pair of two of the {n} particles, from 0")
        if len(self.species) not in (0, n):
            raise MolflowError(f"data.species: expected one for each of {n} particles, got {len(self.species)}")
        names = tuple(range(n)) if self.bonds else self.species or found.species
        order = list(dict.fromkeys(names))
        return tuple(order.index(name) for name in names) if len(order) > 1 else ()

    def split_text(self, n_training: int) -> str:
        return _file_text(self.file, n_training)

    @cached_property
    def content(self) -> Configurations:
        """What the file holds; it is read once."""
        return read_particles(self.file, None, self.dim, self.key, self.topology)


@DATASETS.register("dw4-vectors")
class DW4Vectors(DataSetConfig):
    """The configurations of DW4 as their six coordinates in an orthonormal basis of the mean-free space, (n, 6).

    The density is that of the configurations, so likelihoods compare with its entropy, 7.12 nats.
    """

    task = "vectors"

    def load(self, split: Split) -> Loaded[Tensor]:
        self.check_split(split)
        x = load_particles("dw4", split)
        mask = torch.ones(x.shape[:2], dtype=torch.bool)
        vectors = MeanFreeSpace(mask, x.shape[2]).coordinates(Points(x, x[..., :0]))
        return Loaded(vectors, columns({}, self.condition, self.name))

    def prepare(self, force: bool = False, progress: bool = False) -> Path:
        return prepare_particles("dw4", force=force, progress=progress)

    @staticmethod
    def configurations(vectors: Tensor) -> Tensor:
        """The mean-free configurations of coordinates, (n, 6) -> (n, 4, 2): the inverse of what `load` does."""
        return torch.einsum("nk,bkd->bnd", helmert_basis(4, vectors.dtype, vectors.device), vectors.view(-1, 3, 2))


class EnergyDataSet(DataSetConfig):
    """Samples of a registered energy, drawn by MCMC, or a user's own samples of it."""

    task = "particles"
    file: Path | None = Field(None, description="a user's samples, .npy or .npz with `positions`: (n, N, D)")

    @classmethod
    def system(cls) -> System:
        assert cls.kind is not None
        return get_system(cls.kind)

    def load(self, split: Split) -> Loaded[Tensor]:
        self.check_split(split)
        if self.file is None:
            return Loaded(load_particles(self.name, split), columns({}, self.condition, self.name))
        if split == "test":
            raise MolflowError(f"{self.file}: has no test split, only train and validation")
        energy = self.system().energy
        positions = read_configurations(self.file, energy.n_particles, energy.dim)
        loaded = _load_file(self, positions, self.file, split)
        check_convention(loaded.data, energy, str(self.file))
        return loaded

    def prepare(self, force: bool = False, progress: bool = False) -> Path:
        return self.file or prepare_particles(self.name, force=force, progress=progress)

    def describe(self) -> dict[str, Any]:
        system = self.system()
        about: dict[str, Any] = {"name": self.name, "file": str(self.prepare())}
        about |= {"n_particles": system.energy.n_particles, "dim": system.energy.dim}
        known = {"known_mean_energy": system.mean_energy, "known_mean_energy_error": system.mean_energy_error}
        return about | super().describe() | particle_diagnostics(self.name) | known

    def split_text(self, n_training: int) -> str:
        return super().split_text(n_training) if self.file is None else _file_text(self.file, n_training)


def energy_data_set(name: str) -> type[DataSetConfig]:
    """The data set of a registered energy."""
    return type(f"{name} data", (EnergyDataSet,), {"__module__": __name__, "kind": name})


def _load_file(data_set: DataSetConfig, x: Tensor, file: Path, split: Split) -> Loaded[Tensor]:
    table = {name: read_array(file, name) for name in data_set.condition}
    for name, values in table.items():
        if values.shape != (len(x),):
            raise MolflowError(f"{file}: {name}: expected one number for each of {len(x)} data, got {values.shape}")
    condition = columns(table, data_set.condition, str(file))
    chosen = hold_out(len(x), split, ("train", "validation"), str(file))
    return Loaded(x[chosen], None if condition is None else condition[chosen])


def _file_text(file: Path, n_training: int) -> str:
    return f"{n_training:,} configurations of {file.name}"


def _draw(name: str, system: System, progress: bool) -> tuple[dict[str, np.ndarray], dict[str, Any]]:
    """The splits, and a record of how they were drawn."""
    began = time.monotonic()
    generator = torch.Generator().manual_seed(SEED)
    mask = torch.ones(sum(CHAINS.values()), system.energy.n_particles, dtype=torch.bool)
    start = system.start_width * MeanFreeSpace(mask, system.energy.dim).randn(generator).x
    chains = parallel_tempering(system.energy, start, system.tempering, generator, progress)
    arrays: dict[str, np.ndarray] = {}
    for split, positions in zip(CHAINS, chains.positions.split(list(CHAINS.values())), strict=True):
        positions = positions.flatten(0, 1)
        arrays[split] = positions[torch.randperm(len(positions), generator=generator)].numpy()
    record = {"system": name, "version": VERSION, "seed": SEED, "chains": CHAINS}
    settings = {"start_width": system.start_width, "tempering": asdict(system.tempering)}
    seconds = round(time.monotonic() - began, 1)
    return arrays, record | settings | asdict(chains.diagnostics) | {"seconds": seconds}
