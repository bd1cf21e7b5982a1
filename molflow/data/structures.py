"""Many molecules of different size in flat arrays.

Every source of molecules is read into a `MoleculeSet`; batches are taken from it by indexing, and its NPZ file is the
cache of a data set.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molflow.batch import MoleculeBatch
from molflow.chem.arrays import open_arrays
from molflow.chem.bonds import EDM_QM9
from molflow.chem.hydrogens import strip_hydrogens
from molflow.chem.io import Structure
from molflow.data.files import save_arrays
from molflow.errors import MolflowError

_PROPERTY = "property."  # prefix of the property arrays in an NPZ file
_AT_ONCE = 2048  # molecules whose distances are in memory at a time


@dataclass(frozen=True, eq=False, repr=False)
class MoleculeSet:
    """M molecules in flat arrays; the atoms of molecule i are rows ``offsets[i]:offsets[i + 1]``.

    Args:
        positions: (total, 3), angstrom, stored as float32.
        atomic_numbers: (total,), 1 to 118, stored as uint8.
        n_atoms: (M,), at least 1 each, stored as int64.
        smiles: (M,) strings, or None.
        properties: name -> (M,) array; units are the data set's.
        hydrogens: (total,) counts of hydrogens that each atom carries and that are not atoms of the set (see
            :meth:`united_atom`), stored as uint8, or None if all atoms are in the set.
        environments: (total, 3) numbers of single, double and triple bonds of each heavy atom to heavy atoms, stored as
            uint8, where the source states the bonds; None if they are to be looked up.

    Raises:
        MolflowError: the arrays do not fit together, or a coordinate is not finite in float32.

    Example:
        >>> water = MoleculeSet(np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]), [8, 1, 1], [3])
        >>> positions, atomic_numbers, mask = water.padded([0, 0])
        >>> positions.shape, bool(mask.all())
        ((2, 3, 3), True)
    """

    positions: np.ndarray
    atomic_numbers: np.ndarray
    n_atoms: np.ndarray
    smiles: np.ndarray | None = None
    properties: dict[str, np.ndarray] = field(default_factory=dict)
    hydrogens: np.ndarray | None = None
    environments: np.ndarray | None = None

    def __post_init__(self) -> None:
        numbers, sizes = np.asarray(self.atomic_numbers), np.asarray(self.n_atoms)
        with np.errstate(over="ignore"):  # an overflow becomes inf, which is refused below
            self._set("positions", np.ascontiguousarray(self.positions, dtype=np.float32))
        self._set("atomic_numbers", numbers.astype(np.uint8))
        self._set("n_atoms", sizes.astype(np.int64))
        self._set("smiles", None if self.smiles is None else np.asarray(self.smiles, dtype=np.str_))
        self._set("properties", {name: np.asarray(values) for name, values in self.properties.items()})

        if sizes.ndim != 1 or (sizes < 1).any() or (self.n_atoms != sizes).any():
            raise MolflowError("n_atoms must be a list of whole numbers, 1 or more each")
        total = int(self.n_atoms.sum())
        if self.positions.shape != (total, 3):
            raise MolflowError(f"positions have shape {self.positions.shape}, n_atoms ask for {(total, 3)}")
        if numbers.shape != (total,):
            raise MolflowError(f"atomic_numbers have shape {numbers.shape}, n_atoms ask for {(total,)}")
        per_molecule = self.properties if self.smiles is None else {"smiles": self.smiles, **self.properties}
        for name, values in per_molecule.items():
            if values.shape != (len(self),):
                raise MolflowError(f"{name} has shape {values.shape}, expected one value a molecule, {(len(self),)}")
            if values.dtype.hasobject:  # NumPy would pickle it
                raise MolflowError(f"{name} holds Python objects, expected numbers or strings")
        self._refuse("atomic number outside 1..118", (numbers < 1) | (numbers > 118) | (self.atomic_numbers != numbers))
        self._refuse("coordinate that is not finite", ~np.isfinite(self.positions).all(axis=1))
        if self.hydrogens is not None:
            counts = np.asarray(self.hydrogens)
            if counts.shape != (total,):
                raise MolflowError(f"hydrogens have shape {counts.shape}, n_atoms ask for {(total,)}")
            self._set("hydrogens", counts.astype(np.uint8))
            self._refuse("hydrogens outside 0..255", self.hydrogens != counts)
        if self.environments is not None:
            bonds = np.asarray(self.environments)
            if bonds.shape != (total, 3):
                raise MolflowError(f"environments have shape {bonds.shape}, n_atoms ask for {(total, 3)}")
            self._set("environments", bonds.astype(np.uint8))
            self._refuse("environments outside 0..255", (self.environments != bonds).any(1))

    def _set(self, name: str, value: Any) -> None:
        object.__setattr__(self, name, value)

    def _refuse(self, what: str, wrong: np.ndarray) -> None:
        if wrong.any():
            atom = int(wrong.argmax())
            molecule = int(np.searchsorted(self.offsets, atom, side="right")) - 1
            raise MolflowError(f"molecule {molecule}, atom {atom - int(self.offsets[molecule])}: {what}")

    def __len__(self) -> int:
        return len(self.n_atoms)

    def __repr__(self) -> str:
        sizes = f", {self.n_atoms.min()} to {self.n_atoms.max()} atoms" if len(self) else ""
        kept = f", properties {' '.join(self.properties)}" if self.properties else ""
        return f"{type(self).__name__}({len(self):,} molecules{sizes}{kept})"

    @cached_property
    def offsets(self) -> np.ndarray:
        """Start of each molecule in the flat arrays, and the total number of atoms, (M + 1,) int64."""
        return np.concatenate([[0], np.cumsum(self.n_atoms)])

    def subset(self, indices: Any) -> "MoleculeSet":
        """The molecules at these indices, in the order given; ``indices`` is anything that indexes an (M,) array."""
        rows = np.arange(len(self))[indices]
        sizes = self.n_atoms[rows]
        shift = self.offsets[rows] - (np.cumsum(sizes) - sizes)  # old minus new place of each molecule
        atoms = np.repeat(shift, sizes) + np.arange(sizes.sum())
        return MoleculeSet(
            self.positions[atoms],
            self.atomic_numbers[atoms],
            sizes,
            None if self.smiles is None else self.smiles[rows],
            {name: values[rows] for name, values in self.properties.items()},
            None if self.hydrogens is None else self.hydrogens[atoms],
            None if self.environments is None else self.environments[atoms],
        )

    def united_atom(self) -> "MoleculeSet":
        """The same molecules as united atoms: each hydrogen is removed and counted on the nearest heavy atom.

        Positions and order of the heavy atoms, SMILES and properties stay. A set of united atoms returns itself.

        Raises:
            MolflowError: a molecule without a heavy atom; the message gives its index.
        """
        if self.hydrogens is not None:
            return self
        heavy = self.atomic_numbers != 1
        n_heavy = np.diff(np.concatenate([[0], np.cumsum(heavy)])[self.offsets])
        if (n_heavy == 0).any():
            i = int((n_heavy == 0).argmax())
            named = "" if self.smiles is None else f" ({self.smiles[i]})"
            raise MolflowError(
                f"molecule {i}{named} has no heavy atom to carry its hydrogens; leave it out, or take all atoms"
            )
        counts = [np.zeros(0, dtype=np.int64)]
        for start in range(0, len(self), _AT_ONCE):
            _, _, mask, hydrogens = strip_hydrogens(*self.padded(slice(start, start + _AT_ONCE)))
            counts.append(hydrogens[mask])
        return MoleculeSet(
            self.positions[heavy],
            self.atomic_numbers[heavy],
            n_heavy,
            self.smiles,
            self.properties,
            np.concatenate(counts),
            None if self.environments is None else self.environments[heavy],
        )

    def heavy_bonds(self) -> np.ndarray:
        """Numbers of single, double and triple bonds of each atom to heavy atoms, (total, 3) uint8.

        They are the `environments`, or else look-up bonds, see `MoleculeBatch.heavy_bonds`. All of QM9 as united atoms
        takes seconds.

        Raises:
            MolflowError: an element outside the look-up tables; the message gives molecule and atom.
        """
        if self.environments is not None:
            return self.environments
        self._refuse("element outside the look-up tables of bonds", ~EDM_QM9.covers(self.atomic_numbers))
        found = [np.zeros((0, 3), dtype=np.uint8)]
        for start in range(0, len(self), _AT_ONCE):
            batch = self.batch(slice(start, start + _AT_ONCE))
            found.append(batch.heavy_bonds()[batch.mask].numpy().astype(np.uint8))
        return np.concatenate(found)

    def padded(self, indices: Any, width: int | None = None) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """The B molecules at these indices, padded with zeros at the end to the largest of them, N atoms.

        Returns:
            positions (B, N, 3) float32 in angstrom, atomic_numbers (B, N) int64, mask (B, N) bool, True for an atom.
        """
        atoms, mask = self._slots(indices, width)
        return _at(self.positions, atoms, mask), _at(self.atomic_numbers, atoms, mask).astype(np.int64), mask

    def _slots(self, indices: Any, width: int | None = None) -> tuple[np.ndarray, np.ndarray]:
        """Rows of the flat arrays for a padded batch (B, N), with row 0 at padding, and the mask (B, N)."""
        rows = np.arange(len(self))[indices]
        sizes = self.n_atoms[rows]
        slots = np.arange(sizes.max(initial=width or 0))
        mask = slots < sizes[:, None]
        return np.where(mask, self.offsets[rows, None] + slots, 0), mask

    def batch(self, indices: Any, width: int | None = None) -> MoleculeBatch:
        """The molecules at these indices as a `MoleculeBatch`, padded to the largest of them or to `width` atoms."""
        slots = self._slots(indices, width)
        extra = {
            name: torch.from_numpy(_at(values, *slots).astype(np.int64))
            for name, values in (("hydrogens", self.hydrogens), ("environments", self.environments))
            if values is not None
        }
        return MoleculeBatch(*map(torch.from_numpy, self.padded(indices, width)), **extra)

    def structures(self) -> Iterator[Structure]:
        """Each molecule's positions (n, 3) and atomic_numbers (n,), as views. Raises MolflowError for united atoms."""
        if self.hydrogens is not None:
            raise MolflowError("the set holds united atoms without their hydrogens; use batch(...).with_hydrogens()")
        places = map(slice, self.offsets[:-1], self.offsets[1:])
        return (Structure(self.positions[place], self.atomic_numbers[place]) for place in places)

    def save(self, path: str | Path) -> None:
        """Write an uncompressed NPZ file; a crash leaves an earlier file unchanged."""
        arrays = {"positions": self.positions, "atomic_numbers": self.atomic_numbers, "n_atoms": self.n_atoms}
        if self.smiles is not None:
            arrays["smiles"] = np.char.encode(self.smiles, "utf-8")  # a quarter of the size of unicode arrays
        if self.hydrogens is not None:
            arrays["hydrogens"] = self.hydrogens
        if self.environments is not None:
            arrays["environments"] = self.environments
        arrays |= {_PROPERTY + name: values for name, values in self.properties.items()}
        save_arrays(Path(path), arrays)

    @classmethod
    def load(cls, path: str | Path) -> "MoleculeSet":
        """Read an NPZ file with positions, atomic_numbers and n_atoms, as :meth:`save` writes them; it never unpickles.

        Raises:
            MolflowError: no such file, not an NPZ, damaged, an array missing, or shapes that do not fit.
        """
        try:
            with open(path, "rb") as file, open_arrays(file) as archive:
                arrays = {name: archive[name] for name in archive.files}
        except MolflowError:
            raise
        except FileNotFoundError as error:
            raise MolflowError(f"{path}: no such file") from error
        except Exception as error:  # a damaged archive can raise nearly anything from zipfile, zlib or numpy
            raise MolflowError(f"{path}: not a readable NPZ file of plain arrays: {error}") from error
        try:
            smiles = arrays.get("smiles")
            return cls(
                arrays["positions"],
                arrays["atomic_numbers"],
                arrays["n_atoms"],
                np.char.decode(smiles, "utf-8") if smiles is not None and smiles.dtype.kind == "S" else smiles,
                {name.removeprefix(_PROPERTY): arrays[name] for name in arrays if name.startswith(_PROPERTY)},
                arrays.get("hydrogens"),
                arrays.get("environments"),
            )
        except KeyError as error:
            raise MolflowError(f"{path}: has no array {error}; needed: positions, atomic_numbers, n_atoms") from error
        except (TypeError, ValueError) as error:  # includes MolflowError
            raise MolflowError(f"{path}: {error}") from error


def _at(values: np.ndarray, rows: np.ndarray, mask: np.ndarray) -> np.ndarray:
    """The values at these rows, with zeros where the mask is False."""
    chosen: np.ndarray = values[rows]
    if not mask.all():
        chosen[~mask] = 0
    return chosen
