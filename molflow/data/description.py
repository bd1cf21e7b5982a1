"""What a chemist wants to know of a set of molecules before training."""

from collections import Counter
from collections.abc import Mapping
from typing import Any

import numpy as np

from molflow.chem.elements import symbol
from molflow.data.base import SPLITS
from molflow.data.structures import MoleculeSet

_RARE = 10  # molecules of an element that are too few to learn from


def described(molecules: MoleculeSet, units: Mapping[str, str]) -> dict[str, Any]:
    """Numbers of molecules in each split, their sizes, elements, charges, fragments, duplicates and properties.

    Args:
        molecules: prepared from a user's file, with SMILES and the properties fold, charge, n_fragments and
            shares_name.
        units: property -> its unit.
    """
    heavy = np.add.reduceat(molecules.atomic_numbers > 1, molecules.offsets[:-1])
    numbers, counts = np.unique(molecules.atomic_numbers, return_counts=True)
    owners = np.repeat(np.arange(len(molecules)), molecules.n_atoms)
    in_molecules = {z: len(np.unique(owners[molecules.atomic_numbers == z])) for z in numbers.tolist()}
    charges = Counter(molecules.properties["charge"].tolist())
    folds = np.bincount(molecules.properties["fold"], minlength=3).tolist()
    assert molecules.smiles is not None
    return {
        "n_molecules": len(molecules),
        **{f"n_{split}": n for split, n in zip(SPLITS, folds, strict=True)},
        "atoms": _range(molecules.n_atoms),
        "heavy_atoms": _range(heavy),
        "elements": {symbol(int(z)): int(n) for z, n in zip(numbers, counts, strict=True)},
        "rare_elements": {symbol(z): n for z, n in in_molecules.items() if n < _RARE},
        "charges": {f"{charge:+d}": n for charge, n in sorted(charges.items())},
        "n_of_several_fragments": int((molecules.properties["n_fragments"] > 1).sum()),
        "n_duplicates": len(molecules) - len(set(molecules.smiles.tolist())),
        "n_sharing_a_name": int(molecules.properties["shares_name"].sum()),
        "properties": {f"{name}, {unit}": _range(molecules.properties[name]) for name, unit in units.items()},
    }


def _range(values: np.ndarray) -> list[Any]:
    """The smallest, the median and the largest value."""
    return [values.min().item(), float(np.median(values)), values.max().item()]
