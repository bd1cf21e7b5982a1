"""Scores of a set of molecules: stability, validity, uniqueness, novelty, each with its count and protocol.

It takes structures from anywhere and no model: what is scored is what stands in the file.
"""

import json
from collections.abc import Collection, Iterator, Sequence
from dataclasses import asdict, dataclass
from importlib import resources
from typing import Any

import numpy as np
from tqdm import tqdm

from molflow.batch import MoleculeBatch
from molflow.chem.bonds import ELEMENTS, PROTOCOL, bond_orders, stability_of_orders
from molflow.chem.build import canonical_smiles, is_connected, to_rdkit
from molflow.chem.elements import atomic_number, symbol
from molflow.chem.io import Structure
from molflow.errors import MolflowError
from molflow.evaluation.statistics import wilson_interval

REFERENCES = ("qm9",)
"""Data sets whose own scores under the same protocol are recorded in `<name>_reference.json`."""

_PAIRS_AT_ONCE = 1 << 18  # atom pairs in one chunk: some MB, and about what a processor's cache holds

Interval = tuple[float, float]


@dataclass(frozen=True)
class MoleculeScores:
    """Scores as fractions in 0..1; None where one was not computed or has nothing to divide by.

    Attributes:
        n_molecules, n_atoms: what was scored.
        atom_stability: stable atoms / all atoms.
        molecule_stability: molecules whose atoms are all stable / all molecules.
        validity: molecules that RDKit sanitises with the look-up bonds and no added hydrogens / all molecules.
        connected_validity: valid molecules that are one fragment / all molecules.
        uniqueness: distinct canonical SMILES / connected valid molecules they come from.
        novelty: distinct SMILES that are not among the training molecules / distinct SMILES.
        protocol: the rule that assigned the bonds.
        reference_scores: the same scores of a reference data set: the ceiling.
        *_interval: Wilson's 95 % interval. That of atom_stability takes atoms as independent, which those of one
            molecule are not, and so is too narrow.
    """

    n_molecules: int
    n_atoms: int
    atom_stability: float | None
    molecule_stability: float
    validity: float | None
    connected_validity: float | None
    uniqueness: float | None
    novelty: float | None
    protocol: str
    reference_scores: dict[str, Any] | None
    atom_stability_interval: Interval | None
    molecule_stability_interval: Interval | None
    validity_interval: Interval | None
    connected_validity_interval: Interval | None

    def to_dict(self) -> dict[str, Any]:
        """All scores under their own names, ready for JSON."""
        return asdict(self)


def evaluate(
    molecules: MoleculeBatch | Sequence[Structure],
    *,
    reference: str | None = None,
    training_smiles: Collection[str] | None = None,
    rdkit: bool = True,
    progress: bool = False,
) -> MoleculeScores:
    """Score molecules given by positions and elements alone.

    Args:
        molecules: a batch, or positions (n, 3) in Å and atomic_numbers (n,) of each molecule.
        reference: a name in `REFERENCES`, whose recorded scores are set beside these.
        training_smiles: SMILES made by `molflow.chem.canonical_smiles`, for the novelty.
        rdkit: False leaves out all but stability, and RDKit is not loaded.
        progress: show a bar on stderr.

    Raises:
        MolflowError: no molecules, an unknown reference, or an element that the look-up tables do not cover.

    Source: stability by arXiv 2203.17003; uniqueness is taken over connected molecules only, so a model cannot
        gain by fragments.
    """
    structures = list(molecules.structures()) if isinstance(molecules, MoleculeBatch) else molecules
    if not structures:
        raise MolflowError("no molecules to evaluate; expected at least one")
    reference_scores = None if reference is None else _reference_scores(reference)
    _check_elements(structures)

    n_atoms = stable_atoms = stable_molecules = valid = connected = 0
    smiles: set[str] = set()
    bar = tqdm(total=len(structures), desc="scoring", unit="molecule", disable=not progress, dynamic_ncols=True)
    for positions, numbers in _equal_size_chunks(structures):
        bar.update(len(numbers))
        mask = np.ones(numbers.shape, dtype=bool)
        orders = bond_orders(positions, numbers, mask)
        stable_atom, stable_molecule = stability_of_orders(orders, numbers, mask)
        n_atoms += numbers.size
        stable_atoms += int(stable_atom.sum())
        stable_molecules += int(stable_molecule.sum())
        if not rdkit:
            continue
        for x, z, order in zip(positions, numbers, orders.numpy(), strict=True):
            mol = to_rdkit(x, z, order)
            valid += mol is not None
            if mol is not None and is_connected(mol):
                connected += 1
                smiles.add(canonical_smiles(mol))

    bar.close()
    total = len(structures)
    novel = None if training_smiles is None else len(smiles.difference(training_smiles))
    return MoleculeScores(
        n_molecules=total,
        n_atoms=n_atoms,
        atom_stability=_fraction(stable_atoms, n_atoms),
        molecule_stability=stable_molecules / total,
        validity=valid / total if rdkit else None,
        connected_validity=connected / total if rdkit else None,
        uniqueness=_fraction(len(smiles), connected),
        novelty=None if novel is None else _fraction(novel, len(smiles)),
        protocol=PROTOCOL,
        reference_scores=reference_scores,
        atom_stability_interval=wilson_interval(stable_atoms, n_atoms),
        molecule_stability_interval=wilson_interval(stable_molecules, total),
        validity_interval=wilson_interval(valid, total) if rdkit else None,
        connected_validity_interval=wilson_interval(connected, total) if rdkit else None,
    )


def _fraction(part: int, total: int) -> float | None:
    return part / total if total else None


def _equal_size_chunks(structures: Sequence[Structure]) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """Positions (b, n, 3) and atomic numbers (b, n) of molecules of one size: no padding, and bounded memory."""
    sizes = np.array([len(s.atomic_numbers) for s in structures])
    for size in np.unique(sizes):
        members = np.flatnonzero(sizes == size)
        step = max(1, _PAIRS_AT_ONCE // max(1, size * size))
        for start in range(0, len(members), step):
            chunk = [structures[k] for k in members[start : start + step]]
            yield np.stack([s.positions for s in chunk]), np.stack([s.atomic_numbers for s in chunk])


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
