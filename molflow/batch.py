"""MoleculeBatch: molecules of different size in padded tensors, and conversions from and to other forms."""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from molflow.chem.bonds import EDM_QM9
from molflow.chem.elements import SYMBOLS, formula
from molflow.chem.hydrogens import add_hydrogens_and_orders, strip_hydrogens
from molflow.chem.io import Structure, StructureWriter
from molflow.chem.structure import structure_error
from molflow.errors import MolflowError

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch_geometric.data import Data

    from molflow.plot import MoleculeView

_ROWS = 10  # of the table in notebooks


@dataclass(frozen=True, repr=False)
class MoleculeBatch:
    """B molecules of at most N atoms.

    Attributes:
        positions: (B, N, 3), Å, zero at padding.
        atomic_numbers: (B, N) int64, zero at padding.
        mask: (B, N), True for a real atom; padding is at the end.
        hydrogens: (B, N) int64, hydrogens that each atom carries and that are not atoms of the batch, zero at padding.
            None if all atoms are in the batch. United atoms can be written only after `with_hydrogens`.
        orders: (B, N, N) int8, look-up bond orders of the atoms in the batch. None until `bond_orders` is called, which
            keeps them here; `with_hydrogens` fills them in.
        environments: (B, N, 3) int64, the numbers of single, double and triple bonds to heavy atoms that each heavy
            atom is meant to have, zero at hydrogens and padding. A model of environment types fills them in, so that
            `realised` can compare; None where nothing is meant.
    """

    positions: Tensor
    atomic_numbers: Tensor
    mask: Tensor
    hydrogens: Tensor | None = None
    orders: Tensor | None = None
    environments: Tensor | None = None

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
        if self.orders is not None and (self.orders.dtype != torch.int8 or self.orders.shape != (*shape, shape[1])):
            got = f"{self.orders.dtype} {tuple(self.orders.shape)}"
            raise ValueError(f"expected int8 orders {(*shape, shape[1])}, got {got}")
        if self.environments is not None and (
            self.environments.dtype != torch.int64 or self.environments.shape != (*shape, 3)
        ):
            got = f"{self.environments.dtype} {tuple(self.environments.shape)}"
            raise ValueError(f"expected int64 environments {(*shape, 3)}, got {got}")

    @classmethod
    def from_structures(cls, structures: Sequence[Structure]) -> "MoleculeBatch":
        """Pad structures to the largest of them. Their bonds, if known, are not used."""
        n = max((len(s.atomic_numbers) for s in structures), default=0)
        positions = torch.zeros(len(structures), n, 3, device="cpu")
        atomic_numbers = torch.zeros(len(structures), n, dtype=torch.int64, device="cpu")
        mask = torch.zeros(len(structures), n, dtype=torch.bool, device="cpu")
        for i, (x, z, *_) in enumerate(structures):
            positions[i, : len(z)] = torch.as_tensor(x, dtype=torch.float32, device="cpu")
            atomic_numbers[i, : len(z)] = torch.as_tensor(z, dtype=torch.int64, device="cpu")
            mask[i, : len(z)] = True
        return cls(positions, atomic_numbers, mask)

    @classmethod
    def concatenate(cls, batches: Sequence["MoleculeBatch"]) -> "MoleculeBatch":
        """One batch with all molecules in order, padded to the largest.

        If bond orders of some batches are known, those of the others are looked up. `environments` are kept if all
        batches have them.

        Raises:
            MolflowError: some batches count hydrogens and some do not.
        """
        if len({b.hydrogens is None for b in batches}) > 1:
            raise MolflowError("united atoms cannot be joined with molecules of all atoms; call with_hydrogens() first")
        n = max(b.mask.shape[1] for b in batches)
        if any(b.orders is not None for b in batches):
            for batch in batches:
                batch.bond_orders()

        def join(tensors: Sequence[Tensor]) -> Tensor:
            return torch.cat([_padded(t, 1, n) for t in tensors])

        hydrogens = [b.hydrogens for b in batches if b.hydrogens is not None]
        orders = [_padded(b.orders, 2, n) for b in batches if b.orders is not None]
        environments = [b.environments for b in batches if b.environments is not None]
        return cls(
            join([b.positions for b in batches]),
            join([b.atomic_numbers for b in batches]),
            join([b.mask for b in batches]),
            join(hydrogens) if hydrogens else None,
            join(orders) if orders else None,
            join(environments) if len(environments) == len(batches) else None,
        )

    def __repr__(self) -> str:
        if not len(self):
            return "MoleculeBatch(0 molecules)"
        sizes = self.n_atoms
        kind = "atoms" if self.hydrogens is None else "united atoms"
        elements = " ".join(SYMBOLS[z - 1] for z in self.atomic_numbers.unique().tolist() if z)
        low, high = sizes.min(), sizes.max()
        span = f"{low} to {high}" if low < high else f"{low}"
        return f"MoleculeBatch({len(self):,} molecules, {span} {kind}, {elements})"

    def _repr_html_(self) -> str:
        from molflow.plot.tables import html_table

        few = self[:_ROWS]
        stable = few.stability()[1].tolist()
        rows = [(str(i), few._formula(i), n, "yes" if stable[i] else "no") for i, n in enumerate(few.n_atoms.tolist())]
        if len(self) > _ROWS:
            rows.append(("...", "", "", ""))
        return html_table(rows, ("molecule", "formula", "atoms", "stable by look-up"), repr(self))

    def _formula(self, index: int) -> str:
        """The molecular formula of a molecule, with the hydrogens that united atoms carry."""
        carried = 0 if self.hydrogens is None else int(self.hydrogens[index].sum())
        numbers = self.atomic_numbers[index][self.mask[index]].cpu().numpy()
        return formula(np.append(numbers, np.ones(carried, dtype=numbers.dtype)))

    def view(self, index: int | None = None) -> "MoleculeView":
        """A picture of molecules: in a notebook one molecule turns in 3D, several are a PNG.

        Args:
            index: the molecule; None for the first twelve.

        Raises:
            MolflowError: united atoms, or no molecules.
            IndexError: no molecule of that index.

        Example:
            >>> batch = molflow.load_pretrained("qm9").sample(8, seed=0)
            >>> batch.view().write("molecules.png")  # batch.view(3).write("molecule.html") is the 3D view
        """
        from molflow.plot import MoleculeView

        if index is not None and not -len(self) <= index < len(self):
            raise IndexError(f"no molecule {index} in a batch of {len(self)}")
        return MoleculeView(list((self[:12] if index is None else self[[index]]).structures()))

    @property
    def n_atoms(self) -> Tensor:
        """Number of atoms of each molecule, (B,)."""
        return self.mask.sum(1)

    def __len__(self) -> int:
        return len(self.mask)

    def __getitem__(self, index: slice | Tensor | Sequence[int]) -> "MoleculeBatch":
        """A batch of the selected molecules, with the same padding."""
        i = index if isinstance(index, slice | Tensor) else self.mask.new_tensor(index, dtype=torch.int64)
        return self._apply(lambda t: t[i])

    def to(self, device: torch.device | str) -> "MoleculeBatch":
        """The same batch on another device."""
        return self._apply(lambda t: t.to(device))

    def _apply(self, function: Callable[[Tensor], Tensor]) -> "MoleculeBatch":
        hydrogens = None if self.hydrogens is None else function(self.hydrogens)
        orders = None if self.orders is None else function(self.orders)
        environments = None if self.environments is None else function(self.environments)
        return MoleculeBatch(
            function(self.positions),
            function(self.atomic_numbers),
            function(self.mask),
            hydrogens,
            orders,
            environments,
        )

    def _arrays(self) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        """Positions, atomic numbers and mask as numpy arrays."""
        return self.positions.detach().cpu().numpy(), self.atomic_numbers.cpu().numpy(), self.mask.cpu().numpy()

    def united_atom(self) -> "MoleculeBatch":
        """The same molecules as united atoms, by `molflow.chem.strip_hydrogens`; united atoms return themselves."""
        if self.hydrogens is not None:
            return self
        x, z, mask, hydrogens = map(torch.from_numpy, strip_hydrogens(*self._arrays()))
        heavy = self.atomic_numbers.cpu() > 1
        environments = self._environments_at(heavy, mask)
        return MoleculeBatch(x, z, mask, hydrogens, environments=environments).to(self.positions.device)

    def with_hydrogens(self) -> "MoleculeBatch":
        """The same molecules with all atoms, by `molflow.chem.add_hydrogens`. A batch of all atoms returns itself.

        Placing hydrogens needs the bonds of the heavy atoms, so the result has all `orders` filled in.
        """
        if self.hydrogens is None:
            return self
        known = None if self.orders is None else self.orders.cpu().numpy()
        arrays = add_hydrogens_and_orders(*self._arrays(), self.hydrogens.cpu().numpy(), known)
        x, z, mask, orders = map(torch.from_numpy, arrays)
        environments = self._environments_at(self.mask.cpu(), mask & (z > 1))
        return MoleculeBatch(x, z, mask, orders=orders, environments=environments).to(self.positions.device)

    def _environments_at(self, kept: Tensor, places: Tensor) -> Tensor | None:
        """`environments` on the CPU of the atoms that are kept, moved to the same number of places, (B, M, 3)."""
        if self.environments is None:
            return None
        moved = self.environments.new_zeros(*places.shape, 3, device="cpu")
        moved[places] = self.environments.cpu()[kept]
        return moved

    def bond_orders(self) -> Tensor:
        """Look-up bond orders of the atoms in the batch (`EDM_QM9`), (B, N, N) int8.

        They are looked up once and kept in `orders`. An element outside the tables has no bonds.
        """
        if self.orders is None:
            found = EDM_QM9.bond_orders(self.positions, self.atomic_numbers, self.mask, refuse_foreign=False)
            object.__setattr__(self, "orders", found)
            return found
        return self.orders

    def heavy_bonds(self) -> Tensor:
        """Numbers of single, double and triple look-up bonds of each heavy atom to other heavy atoms, (B, N, 3) int64.

        They are counted in `bond_orders`; hydrogens and padding have none.
        """
        heavy = self.atomic_numbers > 1
        orders = self.bond_orders() * (heavy.unsqueeze(1) & heavy.unsqueeze(2))
        return torch.stack([(orders == order).sum(-1) for order in (1, 2, 3)], -1)

    def realised(self) -> Tensor:
        """Whether each molecule has the look-up bonds between heavy atoms that `environments` mean, (B,) bool.

        Raises:
            MolflowError: nothing is meant, since no model of environment types made the batch.
        """
        if self.environments is None:
            raise MolflowError("the batch has no environments to compare with its bonds")
        return (self.heavy_bonds() == self.environments).flatten(1).all(1)

    def stability(self) -> tuple[Tensor, Tensor]:
        """Whether each atom (B, N) and each molecule (B,) is stable by `EDM_QM9`; see `BondRules.stability`.

        Hydrogens that united atoms carry count as single bonds.
        """
        return EDM_QM9.stability_of_orders(self.bond_orders(), self.atomic_numbers, self.mask, self.hydrogens)

    def _require_hydrogens(self) -> None:
        if self.hydrogens is not None:
            raise MolflowError("the batch holds united atoms without their hydrogens; call with_hydrogens() first")

    def structures(self) -> Iterator[Structure]:
        """The molecules one by one as numpy arrays without padding, with their look-up bonds if `orders` are known.

        Raises:
            MolflowError: the batch holds united atoms.
        """
        self._require_hydrogens()
        (x, z, _), n = self._arrays(), self.n_atoms.tolist()
        bonds = [None] * len(n) if self.orders is None else self._bonds(self.orders)
        return (Structure(x[i, :k], z[i, :k], bonds[i]) for i, k in enumerate(n))

    def _bonds(self, orders: Tensor) -> list[np.ndarray | None]:
        """The bonds of each molecule, (m, 3); None for one with an element outside the tables."""
        upper = orders.cpu().numpy()
        molecule, first, second = np.nonzero(np.triu(upper))
        rows = np.stack([first, second, upper[molecule, first, second]], axis=1)
        parts = np.split(rows, np.searchsorted(molecule, np.arange(1, len(upper))))
        _, numbers, mask = self._arrays()
        covered = (EDM_QM9.covers(numbers) | ~mask).all(1).tolist()
        return [part if known else None for part, known in zip(parts, covered, strict=False)]

    def write(self, path: str | Path) -> None:
        """Write an SDF, XYZ or NPZ file; the suffix names the format. Raises MolflowError for united atoms."""
        self._require_hydrogens()
        with StructureWriter(path) as writer:
            if writer.needs_bonds:
                self.bond_orders()
            for structure in self.structures():
                writer.write(structure)

    def to_rdkit(self) -> "list[Mol | None]":
        """Sanitised RDKit molecules with look-up bonds; None where RDKit refuses the molecule.

        A molecule with an element outside the look-up tables gets the bonds and formal charges that
        `molflow.chem.perceive` finds, or is None if there are none.

        Raises:
            MolflowError: the batch holds united atoms.
        """
        from molflow.chem.build import to_rdkit

        self._require_hydrogens()
        self.bond_orders()
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


def _padded(t: Tensor, axis: int, n: int) -> Tensor:
    """A tensor with zeros appended along an axis up to length n."""
    shape = list(t.shape)
    shape[axis] = n - shape[axis]
    return torch.cat([t, t.new_zeros(shape)], axis)


def structures_of(molecules: "MoleculeBatch | Iterable[Structure | Mol | Data]") -> Iterator[Structure]:
    """Convert molecules in any form that molflow knows to structures, one by one.

    Args:
        molecules: a `MoleculeBatch`, a PyG `Batch`, or any number of `Structure`, RDKit `Mol` with a 3D conformer (the
            first one is used), ASE `Atoms`, and PyG `Data` with `pos` (n, 3) and `z` (n,).

    Yields:
        The molecules in order. Implicit hydrogens of an RDKit molecule have no positions and are not among the atoms.

    Raises:
        MolflowError: united atoms; or an item of another form, such as a `Mol` without 3D coordinates, named by its
            place.
    """
    if isinstance(molecules, MoleculeBatch):
        return molecules.structures()
    items = molecules.to_data_list() if hasattr(molecules, "to_data_list") else molecules
    return (structure_of(item, place) for place, item in enumerate(items, start=1))


def structure_of(item: Any, place: int) -> Structure:
    """Convert one item as `structures_of` does; errors name its place."""
    if isinstance(item, Structure):
        if item.positions.shape != (len(item.atomic_numbers), 3):
            raise MolflowError(f"molecule {place}, {structure_error(item)}")
        return item
    if hasattr(item, "GetConformers"):
        found = _structure_of_mol(item, place)
    elif hasattr(item, "get_atomic_numbers"):
        found = Structure(np.asarray(item.get_positions()), np.asarray(item.get_atomic_numbers(), dtype=np.int64))
    elif getattr(item, "pos", None) is not None and getattr(item, "z", None) is not None:
        found = Structure(item.pos.detach().cpu().numpy(), item.z.cpu().numpy().astype(np.int64))
    else:
        expected = "expected a Structure, an RDKit Mol, or PyG Data with pos and z"
        raise MolflowError(f"molecule {place}: {expected}, got {type(item).__name__}; ASE Atoms are accepted as well")
    problem = structure_error(found)
    if problem is not None:
        raise MolflowError(f"molecule {place}, {problem}")
    return found


def _structure_of_mol(mol: "Mol", place: int) -> Structure:
    conformer = next(iter(mol.GetConformers()), None)
    if conformer is None or not conformer.Is3D():
        raise MolflowError(f"molecule {place}: the RDKit Mol has no 3D coordinates; expected a conformer that Is3D()")
    positions = conformer.GetPositions().reshape(-1, 3)
    return Structure(positions, np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()], dtype=np.int64))
