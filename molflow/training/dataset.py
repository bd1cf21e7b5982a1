"""The data of an experiment in the representation its model asks for, and what the model must know about them."""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from molflow.batch import MoleculeBatch
from molflow.data import EqualSizeBatches, MixedSizeBatches, MoleculeSet, load_qm9, qm9_split
from molflow.data.loaders import Batches
from molflow.errors import MolflowError
from molflow.flows.config import ComposedMoleculesConfig, ParticlesConfig
from molflow.flows.domains import ComposedMoleculeDomain, Domain, type_name
from molflow.training.config import ExperimentConfig


@dataclass(frozen=True)
class Dataset:
    """Training and validation molecules, and the experiment with its model fitted to them.

    Attributes:
        config: the experiment, with types, atom counts and the number of compositions filled in.
        compositions: distinct compositions (K, T) and how often each occurs (K,), or None. Where types are given, the
            validation set is without the molecules (1.2 % of QM9's) whose composition has probability zero.
    """

    config: ExperimentConfig
    training: MoleculeSet
    validation: MoleculeSet
    compositions: tuple[Tensor, Tensor] | None

    def fit(self, domain: Domain) -> None:
        """Give a fresh domain its table of compositions."""
        if self.compositions is not None:
            assert isinstance(domain, ComposedMoleculeDomain)
            domain.compositions.fit(*self.compositions)

    def batch(self, indices: np.ndarray) -> MoleculeBatch:
        """Training molecules; batches of mixed sizes are all padded to the largest molecule."""
        mixed = self.config.training.batches == "mixed_size"
        return self.training.batch(indices, int(self.training.n_atoms.max()) if mixed else None)

    def batches(self) -> Batches:
        training = self.config.training
        if training.batches == "mixed_size":
            return MixedSizeBatches(len(self.training), training.batch_size, self.config.seed)
        return EqualSizeBatches(self.training.n_atoms, training.batch_size, self.config.seed)


def load_dataset(config: ExperimentConfig) -> Dataset:
    """Read the data of an experiment.

    Raises:
        MolflowError: the data cannot be prepared, or are not what the model is for.
    """
    domain = config.model.domain
    if isinstance(domain, ParticlesConfig):
        raise MolflowError(f"model.domain.kind is {domain.kind}; the data set {config.data.name} is of molecules")
    molecules = load_qm9("all")
    if domain.representation == "united":
        molecules = molecules.united()
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
    return Dataset(config.model_copy(update={"model": model}), training, validation, compositions)


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
