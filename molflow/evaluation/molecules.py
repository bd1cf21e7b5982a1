"""Scores of a set of molecules: stability, validity, uniqueness, novelty, each with its count and protocol.

It takes structures from anywhere and no model: what is scored is what stands in the file.
"""

import json
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, field
from importlib import resources
from typing import TYPE_CHECKING, Any

import numpy as np
from tqdm import tqdm

from molflow.batch import MoleculeBatch, structures_of
from molflow.chem.bonds import ELEMENTS, PROTOCOL, stability_of_orders
from molflow.chem.build import canonical_smiles, is_connected, to_rdkit
from molflow.chem.elements import atomic_number, symbol
from molflow.chem.io import Structure
from molflow.errors import MolflowError
from molflow.evaluation.chunks import bonded_chunks
from molflow.evaluation.novelty import TrainingReference, formula
from molflow.evaluation.statistics import wilson_interval

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch_geometric.data import Data

REFERENCES = ("qm9",)
"""Data sets whose own scores under the same protocol are recorded in `<name>_reference.json`."""

Interval = tuple[float, float]


@dataclass(frozen=True, kw_only=True)
class MoleculeScores:
    """Scores as fractions in 0..1; None where one was not computed or has nothing to divide by.

    A distinct molecule is a canonical SMILES among the connected valid molecules; it is novel if it is not among the
    training molecules.

    Attributes:
        n_molecules, n_atoms: what was scored.
        n_unreadable: records of the source that could not be read, and are in no other figure.
        atom_stability: stable atoms / all atoms.
        molecule_stability: molecules whose atoms are all stable / all molecules.
        validity: molecules that RDKit sanitises with the look-up bonds and no added hydrogens / all molecules.
        connected_validity: valid molecules that are one fragment / all molecules.
        uniqueness: distinct canonical SMILES / connected valid molecules they come from.
        validity_x_uniqueness: distinct canonical SMILES of connected valid molecules / all molecules.
        novelty: distinct SMILES that are not among the training molecules / distinct SMILES.
        n_distinct, n_novel: the count of distinct molecules, and of the novel ones among them.
        nearest_training_similarity, nearest_training_similarity_median: mean and median, over the novel distinct
            molecules, of the Tanimoto similarity (Morgan fingerprints, radius 2, 2048 bits) to the nearest training
            molecule; not a fraction of a count.
        novel_compositions: molecules, valid or not, whose molecular formula no training molecule has / all molecules.
        protocol: the rule that assigned the bonds.
        training: the training molecules that novelty is measured against.
        reference_scores: the same scores of a reference data set: the ceiling.
        *_interval: Wilson's 95 % interval. It takes what is counted as independent, which the atoms of one molecule
            are not, so that of atom_stability is too narrow. Fractions of distinct molecules fall as more are sampled;
            their intervals are for the number sampled here.
    """

    n_molecules: int
    n_unreadable: int = 0
    n_atoms: int
    atom_stability: float | None
    molecule_stability: float
    validity: float | None
    connected_validity: float | None
    uniqueness: float | None
    validity_x_uniqueness: float | None
    novelty: float | None = None
    n_distinct: int | None
    n_novel: int | None = None
    nearest_training_similarity: float | None = None
    nearest_training_similarity_median: float | None = None
    novel_compositions: float | None = None
    protocol: str
    training: str | None = None
    reference_scores: dict[str, Any] | None
    atom_stability_interval: Interval | None
    molecule_stability_interval: Interval | None
    validity_interval: Interval | None
    connected_validity_interval: Interval | None
    validity_x_uniqueness_interval: Interval | None
    novelty_interval: Interval | None = None
    novel_compositions_interval: Interval | None = None

    def to_dict(self) -> dict[str, Any]:
        """All scores under their own names, ready for JSON."""
        return asdict(self)


def evaluate(
    molecules: "MoleculeBatch | Iterable[Structure | Mol | Data]",
    *,
    reference: str | None = None,
    training: TrainingReference | None = None,
    rdkit: bool = True,
    progress: bool = False,
) -> MoleculeScores:
    """Score molecules given by positions and elements alone.

    Args:
        molecules: a batch, or structures, RDKit molecules or PyG data as `molflow.batch.structures_of` takes them.
        reference: a name in `REFERENCES`, whose recorded scores are set beside these.
        training: what novelty is measured against, such as `qm9_training_reference()`; without it, the scores that
            ask for training molecules are None.
        rdkit: False leaves out all but stability and compositions, and RDKit is not loaded.
        progress: show bars on stderr.

    Raises:
        MolflowError: no molecules, one without 3D coordinates, an unknown reference, or an element that the look-up
            tables do not cover.

    Source: stability by arXiv 2203.17003; uniqueness is taken over connected molecules only, so a model cannot
        gain by fragments.
    """
    structures = structures_of(molecules)
    if not structures:
        raise MolflowError("no molecules to evaluate; expected at least one")
    reference_scores = None if reference is None else _reference_scores(reference)
    _check_elements(structures)
    counts = _count(structures, rdkit, progress)
    total, distinct = len(structures), len(counts.smiles)
    return MoleculeScores(
        n_molecules=total,
        n_atoms=counts.atoms,
        atom_stability=_fraction(counts.stable_atoms, counts.atoms),
        molecule_stability=counts.stable_molecules / total,
        validity=counts.valid / total if rdkit else None,
        connected_validity=counts.connected / total if rdkit else None,
        uniqueness=_fraction(distinct, counts.connected),
        validity_x_uniqueness=distinct / total if rdkit else None,
        n_distinct=distinct if rdkit else None,
        protocol=PROTOCOL,
        reference_scores=reference_scores,
        atom_stability_interval=wilson_interval(counts.stable_atoms, counts.atoms),
        molecule_stability_interval=wilson_interval(counts.stable_molecules, total),
        validity_interval=wilson_interval(counts.valid, total) if rdkit else None,
        connected_validity_interval=wilson_interval(counts.connected, total) if rdkit else None,
        validity_x_uniqueness_interval=wilson_interval(distinct, total) if rdkit else None,
        **({} if training is None else _composition_scores(structures, training)),
        **(_novelty_scores(counts.smiles, training, progress) if rdkit and training is not None else {}),
    )


@dataclass
class _Counts:
    atoms: int = 0
    stable_atoms: int = 0
    stable_molecules: int = 0
    valid: int = 0
    connected: int = 0
    smiles: set[str] = field(default_factory=set)  # of the connected valid molecules


def _count(structures: Sequence[Structure], rdkit: bool, progress: bool) -> _Counts:
    counts = _Counts()
    bar = tqdm(total=len(structures), desc="scoring", unit="molecule", disable=not progress, dynamic_ncols=True)
    for positions, numbers, orders in bonded_chunks(structures):
        bar.update(len(numbers))
        stable_atom, stable_molecule = stability_of_orders(orders, numbers, np.ones(numbers.shape, dtype=bool))
        counts.atoms += numbers.size
        counts.stable_atoms += int(stable_atom.sum())
        counts.stable_molecules += int(stable_molecule.sum())
        if not rdkit:
            continue
        for mol in map(to_rdkit, positions, numbers, orders.numpy()):
            counts.valid += mol is not None
            if mol is not None and is_connected(mol):
                counts.connected += 1
                counts.smiles.add(canonical_smiles(mol))
    bar.close()
    return counts


def _composition_scores(structures: Sequence[Structure], training: TrainingReference) -> dict[str, Any]:
    novel = sum(formula(s.atomic_numbers) not in training.formulas for s in structures)
    return {
        "training": training.name,
        "novel_compositions": novel / len(structures),
        "novel_compositions_interval": wilson_interval(novel, len(structures)),
    }


def _novelty_scores(smiles: set[str], training: TrainingReference, progress: bool) -> dict[str, Any]:
    novel = sorted(smiles - training.smiles)
    scores = {
        "novelty": _fraction(len(novel), len(smiles)),
        "n_novel": len(novel),
        "novelty_interval": wilson_interval(len(novel), len(smiles)),
    }
    if novel:
        similarity = training.nearest_similarity(novel, progress)
        scores["nearest_training_similarity"] = float(similarity.mean())
        scores["nearest_training_similarity_median"] = float(np.median(similarity))
    return scores


def _fraction(part: int, total: int) -> float | None:
    return part / total if total else None


def _check_elements(structures: Sequence[Structure]) -> None:
    """Name a molecule by its place among all: in a chunk that place is lost."""
    numbers = np.concatenate([s.atomic_numbers for s in structures])
    unknown = ~np.isin(numbers, [atomic_number(element) for element in ELEMENTS])
    if unknown.any():
        first = int(np.argmax(unknown))
        ends = np.cumsum([len(s.atomic_numbers) for s in structures])
        record = int(np.searchsorted(ends, first, side="right")) + 1
        raise MolflowError(
            f"molecule {record}: element {symbol(int(numbers[first]))} is outside the look-up tables, "
            f"which cover {' '.join(ELEMENTS)}"
        )


def _reference_scores(name: str) -> dict[str, Any]:
    if name not in REFERENCES:
        raise MolflowError(f"unknown reference {name!r}; known are {' '.join(REFERENCES)}")
    text = resources.files("molflow.evaluation").joinpath(f"{name}_reference.json").read_text(encoding="utf-8")
    scores: dict[str, Any] = json.loads(text)
    return scores
