"""The data of an experiment in the representation its model asks for, and what the model must know about them."""

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any, ClassVar

import numpy as np
import torch
from torch import Tensor

from molflow.batch import MoleculeBatch
from molflow.chem import stability
from molflow.data import (
    EqualSizeBatches,
    MixedSizeBatches,
    MoleculeSet,
    load_particles,
    load_qm9,
    qm9_split,
    read_configurations,
)
from molflow.data.loaders import Batches
from molflow.energies import ENERGIES, Energy, check_convention, get_system, softened
from molflow.energies.base import Potential
from molflow.energies.reweighting import effective_sample_size, weigh
from molflow.errors import MolflowError
from molflow.flows.base import Flow
from molflow.flows.config import ComposedMoleculesConfig, ParticlesConfig
from molflow.flows.domains import ComposedMoleculeDomain, Domain, type_name
from molflow.flows.free_form import FreeFormFlow
from molflow.training.config import ExperimentConfig
from molflow.training.metrics import attempt

SEVERAL_EVALUATIONS = (4, 16)  # that validation tries where one is not all


@dataclass(frozen=True)
class Dataset(ABC):
    """Training and validation data, and the experiment with its model fitted to them.

    Attributes:
        config: the experiment, with what its model must know of the data filled in.
        kind: what its configurations are called.
    """

    config: ExperimentConfig
    kind: ClassVar[str]

    @property
    @abstractmethod
    def split(self) -> str:
        """What is trained on, in words."""

    @property
    def target(self) -> Potential | None:
        """The energy to train by, where it is known."""
        return None

    def fit(self, domain: Domain) -> None:  # noqa: B027, most domains need nothing
        """Give a fresh domain what it takes from the data."""

    @abstractmethod
    def batches(self) -> Batches:
        """Which training data make a batch."""

    @abstractmethod
    def batch(self, indices: np.ndarray) -> Any:
        """Training data."""

    @abstractmethod
    def held_out(self, n: int) -> Any:
        """The first n validation data."""

    @abstractmethod
    def sample_figures(self, flow: Flow, n: int, seed: int) -> dict[str, Any]:
        """How good n samples of a flow are."""


def load_dataset(config: ExperimentConfig) -> Dataset:
    """Read the data of an experiment.

    Raises:
        MolflowError: the data cannot be prepared, or are not what the model is for.
    """
    domain = config.model.domain
    if isinstance(domain, ParticlesConfig) == (config.data.name == "qm9"):
        kind = "molecules" if config.data.name == "qm9" else "particles"
        raise MolflowError(f"model.domain.kind is {domain.kind}; the data set {config.data.name} is of {kind}")
    return _load_particles(config, domain) if isinstance(domain, ParticlesConfig) else _load_molecules(config)


@dataclass(frozen=True)
class MoleculeDataset(Dataset):
    """Molecules of QM9.

    Attributes:
        compositions: distinct compositions (K, T) and how often each occurs (K,), or None. Where types are given, the
            validation set is without the molecules (1.2 % of QM9's) whose composition has probability zero.
    """

    training: MoleculeSet
    validation: MoleculeSet
    compositions: tuple[Tensor, Tensor] | None
    kind = "molecules"

    @property
    def split(self) -> str:
        return "train (100,000 molecules; RandomState(0) permutation)"

    def fit(self, domain: Domain) -> None:
        if self.compositions is not None:
            assert isinstance(domain, ComposedMoleculeDomain)
            domain.compositions.fit(*self.compositions)

    def batches(self) -> Batches:
        training = self.config.training
        if training.batches == "mixed_size":
            return MixedSizeBatches(len(self.training), training.batch_size, self.config.seed)
        return EqualSizeBatches(self.training.n_atoms, training.batch_size, self.config.seed)

    def batch(self, indices: np.ndarray) -> MoleculeBatch:
        """Training molecules; batches of mixed sizes are all padded to the largest molecule."""
        mixed = self.config.training.batches == "mixed_size"
        return self.training.batch(indices, int(self.training.n_atoms.max()) if mixed else None)

    def held_out(self, n: int) -> MoleculeBatch:
        return self.validation.batch(slice(n))

    def sample_figures(self, flow: Flow, n: int, seed: int) -> dict[str, Any]:
        """Stability by EDM's rules; an average velocity is sampled with more evaluations too."""
        figures: dict[str, Any] = {}
        for k in _evaluations(flow):

            def stable(k: int | None = k) -> tuple[Tensor, Tensor]:
                samples = flow.sample(n, seed=seed, n_evaluations=k)
                atoms, molecules = stability(samples.positions, samples.atomic_numbers, samples.mask)
                return atoms.sum() / samples.mask.sum(), molecules.float().mean()

            figures |= attempt([f"{what}_stability{_suffix(k)}" for what in ("atom", "molecule")], stable)
        return figures


@dataclass(frozen=True)
class ParticleDataset(Dataset):
    """Configurations of identical particles, (n, N, D).

    Attributes:
        energy: of the system they were drawn from, where it is known.
    """

    training: Tensor
    validation: Tensor
    energy: Energy | None
    kind = "configurations"

    @property
    def split(self) -> str:
        file = self.config.data.file
        return "train" if file is None else f"{len(self.training):,} configurations of {file.name}"

    @cached_property
    def target(self) -> Potential | None:
        """Softened at ten standard deviations above the mean energy of validation data.

        Not lower: space is vast where particles nearly touch, and an energy that is not high there draws samples in.
        """
        if self.energy is None:
            return None
        u = self.energy(self.validation[:1000])
        return softened(self.energy, float(u.mean() + 10 * u.std()))

    def batches(self) -> Batches:
        """All configurations have one size, so every batch is full and has the same shape."""
        return MixedSizeBatches(len(self.training), self.config.training.batch_size, self.config.seed)

    def batch(self, indices: np.ndarray) -> Tensor:
        return self.training[torch.from_numpy(indices)]

    def held_out(self, n: int) -> Tensor:
        return self.validation[:n]

    def sample_figures(self, flow: Flow, n: int, seed: int) -> dict[str, Any]:
        """Median energies; where one evaluation is all, the effective sample size by the exact density too."""
        if self.energy is None:
            return {}
        energy = self.energy
        if _evaluations(flow) == (None,):

            def weighed() -> tuple[Any, Tensor]:
                x, log_q = flow.sample_and_log_prob(n, seed=seed)
                u = energy(x)
                log_w = weigh(u, log_q)
                return effective_sample_size(log_w) if log_w.isfinite().any() else math.nan, u.median()

            return attempt(["ess_fraction", "median_energy"], weighed)
        return {
            f"median_energy{_suffix(k)}": energy(flow.sample(n, seed=seed, n_evaluations=k)).median()
            for k in _evaluations(flow)
        }


def _evaluations(flow: Flow) -> Sequence[int | None]:
    """The flow's own number, and others where the decoder is an average velocity."""
    averages = isinstance(flow, FreeFormFlow) and flow.has_average_velocity
    return (None, *SEVERAL_EVALUATIONS) if averages else (None,)


def _suffix(evaluations: int | None) -> str:
    return "" if evaluations is None else f"_{evaluations}_evaluations"


def _load_particles(config: ExperimentConfig, domain: ParticlesConfig) -> ParticleDataset:
    """Those of a system, drawn first if there are none, or a user's own file, of which a tenth is held out."""
    energy = get_system(config.data.name).energy if config.data.name in ENERGIES else None
    if energy is not None and (energy.n_particles, energy.dim) != (domain.n_particles, domain.dim):
        raise MolflowError(
            f"model.domain: {config.data.name} has {energy.n_particles} particles in {energy.dim} dimensions, "
            f"got {domain.n_particles} and {domain.dim}"
        )
    if config.data.file is None:
        training, validation = (load_particles(config.data.name, split) for split in ("train", "validation"))
        return ParticleDataset(config, training, validation, energy)
    x = read_configurations(config.data.file, domain.n_particles, domain.dim)
    if energy is not None:
        check_convention(x, energy, str(config.data.file))
    if len(x) < 10:
        raise MolflowError(f"{config.data.file}: expected at least 10 configurations, got {len(x)}")
    x = x[torch.randperm(len(x), generator=torch.Generator().manual_seed(config.seed))]
    return ParticleDataset(config, x[len(x) // 10 :], x[: len(x) // 10], energy)


def _load_molecules(config: ExperimentConfig) -> MoleculeDataset:
    domain = config.model.domain
    assert not isinstance(domain, ParticlesConfig)
    molecules = load_qm9("all")
    if domain.representation == "united":
        molecules = molecules.united_atom()
    split = qm9_split()
    known, of_atom = np.unique(_keys(molecules), return_inverse=True)
    found_types = tuple(type_name(*divmod(key, _BASE)) for key in known.tolist())
    types = domain.types or found_types
    compositions = None
    if isinstance(domain, ComposedMoleculesConfig):
        if types != found_types:
            raise MolflowError(f"model.domain.types: leave it out, or give those of the data, {', '.join(found_types)}")
        table, counts, of_molecule = _compositions(of_atom, molecules, split["train"], len(known))
        compositions = table, counts
        split["validation"] = split["validation"][of_molecule[split["validation"]] >= 0]
        found = {"types": types, "n_compositions": len(table)}
    else:
        atom_counts = domain.atom_counts or tuple(np.bincount(molecules.n_atoms[split["train"]]).tolist())
        found = {"types": types, "atom_counts": atom_counts}
    training, validation = (molecules.subset(split[name]) for name in ("train", "validation"))
    model = config.model.model_copy(update={"domain": domain.model_copy(update=found)})
    return MoleculeDataset(config.model_copy(update={"model": model}), training, validation, compositions)


_BASE = 256  # hydrogens are stored in a byte


def _keys(molecules: MoleculeSet) -> np.ndarray:
    """The type of every atom as a number, in the order of elements and then of hydrogens."""
    hydrogens = 0 if molecules.hydrogens is None else molecules.hydrogens.astype(np.int64)
    keys: np.ndarray = molecules.atomic_numbers.astype(np.int64) * _BASE + hydrogens
    return keys


def _compositions(
    types: np.ndarray, molecules: MoleculeSet, chosen: np.ndarray, n_types: int
) -> tuple[Tensor, Tensor, np.ndarray]:
    """Distinct numbers of atoms of each type among the chosen molecules (K, T), how often each occurs (K,), and the row
    of every molecule, -1 where it is none of them."""
    owner = np.repeat(np.arange(len(molecules)), molecules.n_atoms)
    table = np.bincount(owner * n_types + types, minlength=len(molecules) * n_types).reshape(-1, n_types)
    distinct, of_molecule = np.unique(table, axis=0, return_inverse=True)
    occurs = np.bincount(of_molecule[chosen], minlength=len(distinct))
    rows = np.where(occurs > 0, np.cumsum(occurs > 0) - 1, -1)
    return torch.from_numpy(distinct[occurs > 0]), torch.from_numpy(occurs[occurs > 0]), rows[of_molecule]
