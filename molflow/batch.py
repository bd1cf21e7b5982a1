"""MoleculeBatch: molecules of different size in padded tensors, and the ways in and out of it."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from molflow.chem.hydrogens import add_hydrogens, strip_hydrogens
from molflow.chem.io import Structure, StructureWriter
from molflow.chem.structure import fault
from molflow.errors import MolflowError

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch_geometric.data import Data


@dataclass(frozen=True)
class MoleculeBatch:
    """B molecules of at most N atoms.

    Attributes:
        positions: angstrom, (B, N, 3), zero at padding.
        atomic_numbers: (B, N) int64, zero at padding.
        mask: True for a real atom, (B, N); padding is at the end.
        hydrogens: hydrogens that each atom carries and that are not atoms of the batch, (B, N) int64, zero at padding;
            None where all atoms are in the batch. Such united atoms are written only after `with_hydrogens`.
    """

    positions: Tensor
    atomic_numbers: Tensor
    mask: Tensor
    hydrogens: Tensor | None = None

    def __post_init__(self) -> None:
        shape = self.atomic_numbers.shape
        if self.positions.shape != (*shape, 3) or len(shape) != 2 or self.atomic_numbers.dtype != torch.int64:
            got = f"{tuple(self.positions.shape)} and {self.atomic_numbers.dtype} {tuple(shape)}"
            raise ValueError(f"expected positions (B, N, 3) and int64 atomic_numbers (B, N), got {got}")
        if self.mask.dtype != torch.bool or self.mask.shape != self.atomic_numbers.shape:
            got = f"{self.mask.dtype} {tuple(self.mask.shape)}"
            raise ValueError(f"expected a bool mask {tuple(self.atomic_numbers.shape)}, got {got}")
        if (self.mask[:, 1:] & ~self.mask[:, :-1]).any():
            raise ValueError("padding must be at the end of each molecule")
        if (self.positions[~self.mask] != 0).any() or (self.atomic_numbers[~self.mask] != 0).any():
            raise ValueError("padding must be zero in positions and atomic_numbers")
        if self.hydrogens is not None:
            if self.hydrogens.dtype != torch.int64 or self.hydrogens.shape != shape:
                got = f"{self.hydrogens.dtype} {tuple(self.hydrogens.shape)}"
                raise ValueError(f"expected int64 hydrogens {tuple(shape)}, got {got}")
            if (self.hydrogens < 0).any() or (self.hydrogens[~self.mask] != 0).any():
                raise ValueError("hydrogens must be 0 or more, and zero at padding")

    @classmethod
    def from_structures(cls, structures: Sequence[Structure]) -> "MoleculeBatch":
        """Pad (positions, atomic_numbers) pairs to the largest of them."""
        n = max((len(s.atomic_numbers) for s in structures), default=0)
        positions = torch.zeros(len(structures), n, 3)
        atomic_numbers = torch.zeros(len(structures), n, dtype=torch.int64)
        mask = torch.zeros(len(structures), n, dtype=torch.bool)
        for i, (x, z) in enumerate(structures):
            positions[i, : len(z)] = torch.as_tensor(x, dtype=torch.float32)
            atomic_numbers[i, : len(z)] = torch.as_tensor(z, dtype=torch.int64)
            mask[i, : len(z)] = True
        return cls(positions, atomic_numbers, mask)

    @classmethod
    def concatenate(cls, batches: Sequence["MoleculeBatch"]) -> "MoleculeBatch":
        """One batch with all molecules in order, padded to the largest.

        Raises:
            MolflowError: some batches count hydrogens and some do not.
        """
        if len({b.hydrogens is None for b in batches}) > 1:
            raise MolflowError("united atoms cannot be joined with molecules of all atoms; call with_hydrogens() first")
        n = max(b.mask.shape[1] for b in batches)

        def grow(t: Tensor) -> Tensor:
            return torch.cat([t, t.new_zeros(t.shape[0], n - t.shape[1], *t.shape[2:])], 1)

        tensors = zip(*(b._tensors() for b in batches), strict=True)
        return cls(*(torch.cat([grow(t) for t in parts]) for parts in tensors))

    @property
    def n_atoms(self) -> Tensor:
        """Atoms of each molecule, (B,)."""
        return self.mask.sum(1)

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> "MoleculeBatch":
        """A batch of the selected molecules, with the same padding."""
        i = index if isinstance(index, slice | Tensor) else torch.as_tensor(index, dtype=torch.int64)
        return MoleculeBatch(*(t[i] for t in self._tensors()))

    def to(self, device: torch.device | str) -> "MoleculeBatch":
        return MoleculeBatch(*(t.to(device) for t in self._tensors()))

    def _tensors(self) -> tuple[Tensor, ...]:
        tensors = self.positions, self.atomic_numbers, self.mask
        return tensors if self.hydrogens is None else (*tensors, self.hydrogens)

    def united(self) -> "MoleculeBatch":
        """The same molecules as united atoms, by `molflow.chem.strip_hydrogens`; itself where it is that already."""
        if self.hydrogens is not None:
            return self
        arrays = strip_hydrogens(*(t.detach().cpu().numpy() for t in self._tensors()))
        return MoleculeBatch(*map(torch.from_numpy, arrays)).to(self.positions.device)

    def with_hydrogens(self) -> "MoleculeBatch":
        """The same molecules with all atoms, by `molflow.chem.add_hydrogens`; itself where it has them already."""
        if self.hydrogens is None:
            return self
        arrays = add_hydrogens(*(t.detach().cpu().numpy() for t in self._tensors()))
        return MoleculeBatch(*map(torch.from_numpy, arrays)).to(self.positions.device)

    def _require_hydrogens(self) -> None:
        if self.hydrogens is not None:
            raise MolflowError("the batch holds united atoms without their hydrogens; call with_hydrogens() first")

    def structures(self) -> Iterator[Structure]:
        """The molecules one by one as numpy arrays without padding. Raises MolflowError for united atoms."""
        self._require_hydrogens()
        x, z, n = self.positions.cpu().numpy(), self.atomic_numbers.cpu().numpy(), self.n_atoms.tolist()
        return (Structure(x[i, :k], z[i, :k]) for i, k in enumerate(n))

    def write(self, path: str | Path) -> None:
        """Write an SDF, XYZ or NPZ file, by suffix. Raises MolflowError for united atoms."""
        self._require_hydrogens()
        with StructureWriter(path) as writer:
            for structure in self.structures():
                writer.write(structure)

    def to_rdkit(self) -> "list[Mol | None]":
        """RDKit molecules with bonds from the look-up rules; None where RDKit refuses the molecule.

        Raises:
            MolflowError: the batch holds united atoms.
        """
        from molflow.chem.build import to_rdkit

        return [to_rdkit(*structure) for structure in self.structures()]

    def to_pyg(self) -> "list[Data]":
        """`torch_geometric.data.Data` objects with `pos` (n, 3) and `z` (n,). Raises MolflowError for united atoms."""
        from torch_geometric.data import Data

        self._require_hydrogens()
        triples = zip(self.positions, self.atomic_numbers, self.mask, strict=True)
        return [Data(pos=x[m].clone(), z=z[m].clone()) for x, z, m in triples]

    @classmethod
    def from_pyg(cls, data: "Sequence[Data]") -> "MoleculeBatch":
        """From `Data` objects, or a PyG `Batch`, with `pos` and `z`."""
        items = data.to_data_list() if hasattr(data, "to_data_list") else data
        return cls.from_structures([Structure(d.pos.cpu().numpy(), d.z.cpu().numpy()) for d in items])


def structures_of(molecules: "MoleculeBatch | Iterable[Structure | Mol | Data]") -> Iterator[Structure]:
    """Positions and elements of molecules in any form that molflow knows, one by one.

    Args:
        molecules: a `MoleculeBatch`, a PyG `Batch`, or any number of `Structure`, RDKit `Mol` with a 3D conformer, of
            which the first is taken, and PyG `Data` with `pos` (n, 3) and `z` (n,).

    Yields:
        The molecules in order. Implicit hydrogens of an RDKit molecule have no positions and are not among the atoms.

    Raises:
        MolflowError: united atoms; or an item that is nothing of this, such as a `Mol` without 3D coordinates, named by
            its place.
    """
    if isinstance(molecules, MoleculeBatch):
        return molecules.structures()
    items = molecules.to_data_list() if hasattr(molecules, "to_data_list") else molecules
    return (structure_of(item, place) for place, item in enumerate(items, start=1))


def structure_of(item: Any, place: int) -> Structure:
    """One of `structures_of`; an error names its place."""
    if isinstance(item, Structure):
        if item.positions.shape != (len(item.atomic_numbers), 3):
            raise MolflowError(f"molecule {place}, {fault(item)}")
        return item
    if hasattr(item, "GetConformers"):
        found = _structure_of_mol(item, place)
    elif getattr(item, "pos", None) is not None and getattr(item, "z", None) is not None:
        found = Structure(item.pos.detach().cpu().numpy(), item.z.cpu().numpy().astype(np.int64))
    else:
        expected = "expected a Structure, an RDKit Mol, or PyG Data with pos and z"
        raise MolflowError(f"molecule {place}: {expected}, got {type(item).__name__}")
    problem = fault(found)
    if problem is not None:
        raise MolflowError(f"molecule {place}, {problem}")
    return found


def _structure_of_mol(mol: "Mol", place: int) -> Structure:
    conformer = next(iter(mol.GetConformers()), None)
    if conformer is None or not conformer.Is3D():
        raise MolflowError(f"molecule {place}: the RDKit Mol has no 3D coordinates; expected a conformer that Is3D()")
    positions = conformer.GetPositions().reshape(-1, 3)
    return Structure(positions, np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64))
