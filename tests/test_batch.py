"""MoleculeBatch refuses wrong input, and molecules survive every conversion."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem
from rdkit.Chem import rdDepictor

from molflow.batch import MoleculeBatch, structures_of
from molflow.chem import (
    EDM_QM9,
    Structure,
    StructureWriter,
    bonded_mol,
    canonical_smiles,
    lookup,
    read_structures,
    stability,
    strip_hydrogens,
)
from molflow.errors import MolflowError
from molflow.evaluation import evaluate

QM9 = Path(__file__).parent / "fixtures" / "qm9_200.npz"
X, Z, MASK = torch.tensor([[[1.0] * 3, [0.0] * 3]]), torch.tensor([[6, 0]]), torch.tensor([[True, False]])


@pytest.fixture(scope="module")
def structures():
    return read_structures(QM9)


@pytest.fixture
def batch(structures):
    return MoleculeBatch.from_structures(structures)


def assert_same(batch, structures):
    assert len(batch) == len(structures)
    for (x, z, _), (expected_x, expected_z, _) in zip(batch.structures(), structures, strict=True):
        np.testing.assert_array_equal(z, expected_z)
        np.testing.assert_array_equal(x, np.asarray(expected_x, dtype=np.float32))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"positions": X[0]}, "expected positions"),
        ({"positions": X[:, :1]}, r"expected positions \(B, N, 3\).* got \(1, 1, 3\) and torch.int64 \(1, 2\)"),
        ({"positions": X[..., :2]}, r"got \(1, 2, 2\)"),
        ({"atomic_numbers": Z.to(torch.uint8)}, r"int64 atomic_numbers \(B, N\), got .* torch.uint8"),
        ({"mask": MASK.long()}, "expected a bool mask"),
        ({"mask": MASK[:, :1]}, r"expected a bool mask \(1, 2\)"),
        ({"mask": ~MASK, "positions": X.flip(1), "atomic_numbers": Z.flip(1)}, "padding must be at the end"),
        ({"positions": X + 1}, "padding must be zero"),
        ({"atomic_numbers": Z + 1}, "padding must be zero"),
    ],
)
def test_arrays_that_do_not_fit_are_refused(change, message):
    arguments = {"positions": X, "atomic_numbers": Z, "mask": MASK}
    MoleculeBatch(**arguments)
    with pytest.raises(ValueError, match=message):
        MoleculeBatch(**(arguments | change))


H = torch.tensor([[4, 0]])


@pytest.mark.parametrize(
    ("hydrogens", "message"),
    [
        (H.to(torch.uint8), r"expected int64 hydrogens \(1, 2\), got torch.uint8"),
        (H[:, :1], r"expected int64 hydrogens \(1, 2\), got torch.int64 \(1, 1\)"),
        (-H, "0 or more"),
        (H.flip(1), "zero at padding"),
    ],
)
def test_hydrogens_that_do_not_fit_are_refused(hydrogens, message):
    MoleculeBatch(X, Z, MASK, H)
    with pytest.raises(ValueError, match=message):
        MoleculeBatch(X, Z, MASK, hydrogens)


def test_from_structures_pads_and_structures_unpads(batch, structures):
    assert batch.mask.shape[1] == max(len(z) for _, z, _ in structures)
    assert batch.n_atoms.tolist() == [len(z) for _, z, _ in structures]
    assert_same(batch, structures)


def test_no_structures_are_an_empty_batch():
    assert len(MoleculeBatch.from_structures([])) == 0


@pytest.mark.parametrize("index", [slice(3, 9, 2), [5, 0, 5], torch.tensor([7, 1])], ids=str)
def test_indexing_selects_molecules(batch, structures, index):
    wanted = range(len(structures))[index] if isinstance(index, slice) else [int(i) for i in index]
    assert_same(batch[index], [structures[i] for i in wanted])


def test_a_mask_selects_molecules(batch, structures):
    small = batch.n_atoms < 17
    assert_same(batch[small], [s for s in structures if len(s.atomic_numbers) < 17])


def test_concatenate_joins_parts_to_the_whole(structures):
    parts = [MoleculeBatch.from_structures(structures[i : i + 70]) for i in range(0, 200, 70)]
    assert len({part.mask.shape[1] for part in parts}) > 1
    assert_same(MoleculeBatch.concatenate(parts), structures)


def test_pyg_round_trip(batch, structures):
    from torch_geometric.data import Batch

    data = batch.to_pyg()
    assert data[3].pos.shape == (len(structures[3].atomic_numbers), 3)
    assert_same(MoleculeBatch.from_pyg(data), structures)
    assert_same(MoleculeBatch.from_pyg(Batch.from_data_list(data)), structures)


def test_structures_of_anything(batch, structures):
    from torch_geometric.data import Batch

    data = batch.to_pyg()
    mols = [bonded_mol(*structure) for structure in structures]
    for molecules in (batch, structures, iter(structures), data, Batch.from_data_list(data), mols):
        found = list(structures_of(molecules))
        assert len(found) == len(structures)
        for (x, z, _), (expected_x, expected_z, _) in zip(found, structures, strict=True):
            np.testing.assert_array_equal(z, expected_z)
            np.testing.assert_allclose(x, expected_x, atol=1e-6)
    mixed = evaluate([structures[0], mols[1], data[2]]).to_dict()
    assert mixed == evaluate(structures[:3]).to_dict()


def test_items_without_a_structure_are_refused(structures):
    from torch_geometric.data import Data

    flat = Chem.MolFromSmiles("O")
    drawn = Chem.MolFromSmiles("O")
    rdDepictor.Compute2DCoords(drawn)
    far = bonded_mol(np.array([[0, 0, np.inf]]), np.array([1]))
    for item, cause in [
        (flat, r": the RDKit Mol has no 3D coordinates; expected a conformer that Is3D\(\)"),
        (drawn, ": the RDKit Mol has no 3D coordinates"),
        (far, ", atom 1: coordinate is not finite"),
        (Data(pos=torch.zeros(2, 3)), ": expected a Structure, an RDKit Mol, or PyG Data with pos and z, got Data"),
        (Data(pos=torch.zeros(2, 3), z=torch.ones(3)), r", expected positions \(n, 3\)"),
        (None, ": expected .* got NoneType"),
    ]:
        with pytest.raises(MolflowError, match=f"molecule 2{cause}"):
            list(structures_of([structures[0], item]))


@pytest.mark.parametrize(("suffix", "atol"), [("npz", 0), ("xyz", 1e-7), ("sdf", 1e-4)])
def test_file_round_trip(batch, tmp_path, suffix, atol):
    path = tmp_path / f"molecules.{suffix}"
    batch.write(path)
    again = MoleculeBatch.from_structures(read_structures(path))
    assert torch.equal(again.atomic_numbers, batch.atomic_numbers)
    assert torch.equal(again.mask, batch.mask)
    torch.testing.assert_close(again.positions, batch.positions, atol=atol, rtol=0)


def test_to_rdkit_builds_molecules_and_gives_none_where_it_cannot(batch):
    molecules = batch[:50].to_rdkit()
    assert sum(m is not None for m in molecules) >= 45
    assert all(m is None or m.GetNumAtoms() == n for m, n in zip(molecules, batch.n_atoms.tolist(), strict=False))
    assert len({canonical_smiles(m) for m in molecules if m is not None}) > 40
    crowded = Structure(np.array([[0.0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]]), np.array([1, 1, 1]))
    assert MoleculeBatch.from_structures([crowded]).to_rdkit() == [None]


@pytest.fixture
def united(batch):
    arrays = strip_hydrogens(batch.positions.numpy(), batch.atomic_numbers.numpy(), batch.mask.numpy())
    return MoleculeBatch(*map(torch.from_numpy, arrays))


METHANETHIOL = Structure(
    np.array(
        [[0, 0, 0], [1.82, 0, 0], [-0.37, 1.02, 0], [-0.37, -0.51, 0.89], [-0.37, -0.51, -0.89], [2.15, 1.29, 0]],
        dtype=np.float32,
    ),
    np.array([6, 16, 1, 1, 1, 1]),
)


def test_an_element_outside_the_tables_concerns_its_molecule_alone(structures, tmp_path):
    alone = MoleculeBatch.from_structures(structures[:4])
    mixed = MoleculeBatch.from_structures([*structures[:2], METHANETHIOL, *structures[2:4]])
    mols = mixed.to_rdkit()
    others = [mol for place, mol in enumerate(mols) if place != 2]
    assert list(map(canonical_smiles, others)) == list(map(canonical_smiles, alone.to_rdkit()))
    assert canonical_smiles(mols[2]) == "CS"
    assert mixed.stability()[1].tolist() == [True, True, False, True, True]
    assert [structure.bonds is None for structure in mixed.structures()] == [False, False, True, False, False]
    for suffix in ("sdf", "xyz", "npz"):
        mixed.write(tmp_path / f"out.{suffix}")
        assert len(read_structures(tmp_path / f"out.{suffix}")) == 5


@pytest.fixture
def pairs_looked_up(monkeypatch):
    """Number of pairs of atoms in each call of the function that looks up bonds."""
    counts = []

    def counted(rules, x, rows, other_x, other_rows):
        found = look_up(rules, x, rows, other_x, other_rows)
        counts.append(found.numel())
        return found

    look_up = lookup._orders_between
    monkeypatch.setattr(lookup, "_orders_between", counted)
    return counts


def test_bonds_of_united_atoms_are_looked_up_once(united, pairs_looked_up, tmp_path):
    full = united.with_hydrogens()
    n_heavy, n = united.mask.shape[1], full.mask.shape[1]
    n_added = int(united.hydrogens.sum())
    assert pairs_looked_up == [len(united) * n_heavy**2, n_added * n]  # the skeleton; new hydrogens with all atoms
    atoms, stable = full.stability()
    parts = MoleculeBatch.concatenate([full[:50].to("cpu"), full[stable][:3], full[torch.arange(50, 60)]])
    full.write(tmp_path / "out.sdf")
    parts.to_rdkit()
    parts.stability()
    bonds = [structure.bonds for structure in full.structures()]
    with StructureWriter(tmp_path / "again.sdf") as writer:
        for structure in full.structures():
            writer.write(structure)
    assert len(pairs_looked_up) == 2
    assert (tmp_path / "out.sdf").read_text() == (tmp_path / "again.sdf").read_text()

    fresh = MoleculeBatch(full.positions, full.atomic_numbers, full.mask)
    assert fresh.orders is None
    assert all(structure.bonds is None for structure in fresh.structures())
    assert torch.equal(fresh.bond_orders(), full.orders)
    assert torch.equal(atoms, stability(full.positions, full.atomic_numbers, full.mask)[0])
    for found, structure in zip(bonds, fresh.structures(), strict=True):
        np.testing.assert_array_equal(found, structure.bonds)
        mol = bonded_mol(structure.positions, structure.atomic_numbers)
        rows = [(b.GetBeginAtomIdx(), b.GetEndAtomIdx(), int(b.GetBondTypeAsDouble())) for b in mol.GetBonds()]
        assert rows == list(map(tuple, found.tolist()))


def test_bonds_of_all_atoms_are_looked_up_once(batch, pairs_looked_up, tmp_path):
    batch.to_rdkit()
    batch.write(tmp_path / "out.sdf")
    batch.stability()
    batch.write(tmp_path / "out.xyz")
    assert len(pairs_looked_up) == 1
    MoleculeBatch.from_structures(list(batch.structures())).write(tmp_path / "out.xyz")
    assert len(pairs_looked_up) == 1


def test_orders_stay_with_their_molecules(structures):
    wide, narrow = MoleculeBatch.from_structures(structures[:9]), MoleculeBatch.from_structures(structures[:1])
    wide.bond_orders()
    for joined in MoleculeBatch.concatenate([narrow, wide]), MoleculeBatch.concatenate([wide, narrow]):
        fresh = EDM_QM9.bond_orders(joined.positions, joined.atomic_numbers, joined.mask)
        assert torch.equal(joined.orders, fresh)
    assert torch.equal(wide[[5, 0]].orders, wide.orders[[5, 0]])
    assert MoleculeBatch.concatenate([wide[:2], wide[2:]]).orders is not None
    assert MoleculeBatch.from_structures([]).stability()[1].tolist() == []


@pytest.mark.parametrize("orders", [torch.zeros(1, 2, 2), torch.zeros(1, 2, dtype=torch.int8)])
def test_orders_that_do_not_fit_are_refused(orders):
    with pytest.raises(ValueError, match=r"expected int8 orders \(1, 2, 2\), got"):
        MoleculeBatch(X, Z, MASK, None, orders)


def test_united_atoms_are_stable_with_the_hydrogens_they_carry(batch, united):
    assert torch.equal(united.stability()[1], batch.stability()[1])


def test_united_atom_is_the_way_back(united):
    assert united.united_atom() is united
    again = united.with_hydrogens().united_atom()
    assert torch.equal(again.positions, united.positions)
    assert torch.equal(again.hydrogens, united.hydrogens)


def test_carried_hydrogens_stay_with_their_molecules(united):
    chosen = united[[5, 0, 5]]
    assert torch.equal(chosen.hydrogens, united.hydrogens[[5, 0, 5]])
    assert torch.equal(united.to("cpu").hydrogens, united.hydrogens)
    assert torch.equal(MoleculeBatch.concatenate([united[:3], united[3:]]).hydrogens, united.hydrogens)
    narrow = MoleculeBatch(X[:, :1] * 0, Z[:, :1], MASK[:, :1], H[:, :1])
    joined = MoleculeBatch.concatenate([narrow, united])
    assert joined.hydrogens[0].tolist() == [4] + [0] * 8


def test_with_hydrogens_gives_the_molecules_back(batch, united):
    full = united.with_hydrogens()
    assert full.hydrogens is None
    assert full.with_hydrogens() is full
    assert batch.with_hydrogens() is batch
    assert full.positions.dtype == torch.float32
    assert torch.equal(full.atomic_numbers.sort(1).values, batch.atomic_numbers.sort(1).values)
    for (x, z, _), (old_x, old_z, _) in zip(full.structures(), batch.structures(), strict=True):
        np.testing.assert_array_equal(x[z > 1], old_x[old_z > 1])


def test_united_atoms_must_get_their_hydrogens_first(batch, united, tmp_path):
    for use in (united.structures, united.to_rdkit, united.to_pyg, lambda: united.write(tmp_path / "out.xyz")):
        with pytest.raises(MolflowError, match=r"call with_hydrogens\(\) first"):
            use()
    assert list(tmp_path.iterdir()) == []
    with pytest.raises(MolflowError, match="cannot be joined"):
        MoleculeBatch.concatenate([batch, united])


# ---- environments ----------------------------------------------------------------------------------------------------


def with_environments(united):
    return replace(united, environments=united.heavy_bonds())


def test_heavy_bonds_are_those_between_heavy_atoms(batch):
    found = batch.heavy_bonds()
    assert found.dtype == torch.int64
    for row, structure in zip(found, batch.structures(), strict=True):
        expected = np.zeros((len(structure.atomic_numbers), 3), dtype=int)
        for a, b, order in structure.bonds:
            if (structure.atomic_numbers[[a, b]] > 1).all():
                expected[[a, b], order - 1] += 1
        np.testing.assert_array_equal(row[: len(expected)], expected)
        assert not row[len(expected) :].any()
    united = batch.united_atom()
    assert torch.equal(united.heavy_bonds()[united.mask], found[batch.atomic_numbers > 1])


def test_realised_compares_with_the_bonds(united):
    meant = with_environments(united)
    assert meant.realised().all()
    meant.environments[3, 0, 2] += 1
    assert meant.realised().tolist() == [i != 3 for i in range(len(united))]
    with pytest.raises(MolflowError, match="the batch has no environments to compare with its bonds"):
        united.realised()


def test_environments_stay_with_their_atoms(united):
    meant = with_environments(united)
    complete = meant.with_hydrogens()
    heavy = complete.atomic_numbers > 1
    assert torch.equal(complete.environments[heavy], meant.environments[meant.mask])
    assert not complete.environments[~heavy].any()
    assert complete.realised().all()
    assert torch.equal(complete.united_atom().environments, meant.environments)
    parts = [complete[:3], complete[torch.arange(3, len(united))]]
    assert torch.equal(MoleculeBatch.concatenate(parts).environments, complete.environments)
    assert MoleculeBatch.concatenate([meant, united]).environments is None
    bare = replace(meant, hydrogens=torch.zeros_like(meant.hydrogens))  # nothing is added
    assert torch.equal(bare.with_hydrogens().environments, meant.environments)


def test_realised_looks_nothing_up_again(united, pairs_looked_up):
    complete = replace(united, environments=torch.zeros(*united.mask.shape, 3, dtype=torch.int64)).with_hydrogens()
    n = len(pairs_looked_up)
    complete.realised()
    complete.stability()
    assert len(pairs_looked_up) == n


@pytest.mark.parametrize("environments", [torch.zeros(1, 2, 2).long(), torch.zeros(1, 2, 3)], ids=["shape", "dtype"])
def test_environments_that_do_not_fit_are_refused(environments):
    with pytest.raises(ValueError, match=r"expected int64 environments \(1, 2, 3\), got"):
        MoleculeBatch(X, Z, MASK, environments=environments)
