"""United atoms: round trips of real molecules, every kind of atom by hand, and chemically impossible skeletons."""

from pathlib import Path

import numpy as np
import pytest
import torch

from molflow.chem import (
    EDM_QM9,
    add_hydrogens,
    atomic_number,
    bond_orders,
    canonical_smiles,
    stability,
    strip_hydrogens,
    to_rdkit,
)
from molflow.chem.hydrogens import add_hydrogens_and_orders
from molflow.errors import MolflowError

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)
TRIANGLE = np.array([[1, 0, 0], [-0.5, np.sqrt(0.75), 0], [-0.5, -np.sqrt(0.75), 0]])
ORIGIN = np.zeros((1, 3))

# name -> heavy atoms, their positions in Å, hydrogens on each; all are stable with their hydrogens
MOLECULES = {
    "methane": ("C", ORIGIN, [4]),
    "ammonia": ("N", ORIGIN, [3]),
    "water": ("O", ORIGIN, [2]),
    "hydrogen fluoride": ("F", ORIGIN, [1]),
    "ethane": ("CC", [[0, 0, 0], [1.53, 0, 0]], [3, 3]),
    "ethene": ("CC", [[0, 0, 0], [1.33, 0, 0]], [2, 2]),
    "ethyne": ("CC", [[0, 0, 0], [1.2, 0, 0]], [1, 1]),
    "propane": ("CCC", [*(1.53 * TETRAHEDRON[:2]), [0, 0, 0]], [3, 3, 2]),
    "isobutane": ("CCCC", [*(1.53 * TETRAHEDRON[:3]), [0, 0, 0]], [3, 3, 3, 1]),
    "neopentane": ("CCCCC", [*(1.53 * TETRAHEDRON), [0, 0, 0]], [3, 3, 3, 3, 0]),
    "fluoromethane": ("FC", [[0, 0, 0], [1.38, 0, 0]], [0, 3]),
    "methanol": ("CO", [[0, 0, 0], [1.42, 0, 0]], [3, 1]),
    "dimethyl ether": ("COC", [*(1.42 * TETRAHEDRON[:1]), [0, 0, 0], *(1.42 * TETRAHEDRON[1:2])], [3, 0, 3]),
    "methylamine": ("CN", [[0, 0, 0], [1.46, 0, 0]], [3, 2]),
    "dimethylamine": ("CCN", [*(1.46 * TETRAHEDRON[:2]), [0, 0, 0]], [3, 3, 1]),
    "trimethylamine": ("CCCN", [*(1.46 * TETRAHEDRON[:3]), [0, 0, 0]], [3, 3, 3, 0]),
    "methanimine": ("CN", [[0, 0, 0], [1.27, 0, 0]], [2, 1]),
    "hydrogen cyanide": ("CN", [[0, 0, 0], [1.15, 0, 0]], [1, 0]),
    "formaldehyde": ("CO", [[0, 0, 0], [1.2, 0, 0]], [2, 0]),
    "formamide": ("CON", TRIANGLE * [[0], [1.2], [1.36]], [1, 0, 2]),
    "acetic acid": ("OOCC", [*(TRIANGLE * [[1.2], [1.36], [1.5]]), [0, 0, 0]], [0, 1, 3, 0]),
}

# name -> the same for what a generator can get wrong
BAD = {
    "carbon with seven hydrogens": ("C", ORIGIN, [7]),
    "methyl radical": ("C", ORIGIN, [3]),
    "hydrogens on fluorine in CF": ("CF", [[0, 0, 0], [1.35, 0, 0]], [3, 2]),
    "two carbons on one spot": ("CC", [[1, 1, 1], [1, 1, 1]], [3, 3]),
    "nine atoms on one spot": ("CCNOFCNOF", np.ones((9, 3)), [4, 3, 3, 2, 1, 0, 1, 1, 0]),
    "carbon with five neighbours": (
        "CCCCCC",
        [[0, 0, 0], *(1.5 * np.eye(3)), [-1.5, 0, 0], [0, -1.5, 0]],
        [2, 3, 3, 3, 3, 3],
    ),
    "flat carbon with four neighbours": ("CCCCC", [[0, 0, 0], *(1.5 * TRIANGLE), [0, 0, 1.5]], [1, 3, 3, 3, 3]),
    "flat carbon with two hydrogens": ("CCCC", [[0, 0, 0], *(1.5 * TRIANGLE)], [2, 3, 3, 3]),
    "oxygen in the middle of a line": ("COC", [[-1.4, 0, 0], [0, 0, 0], [1.4, 0, 0]], [3, 1, 3]),
    "far apart": ("CNO", [[0, 0, 0], [50, 0, 0], [0, 9e5, 0]], [2, 2, 1]),
}


def batch_of(elements, positions, hydrogens):
    numbers = np.array([[atomic_number(element) for element in elements]])
    return np.array([positions], dtype=np.float64), numbers, np.ones(numbers.shape, dtype=bool), np.array([hydrogens])


def angles(united):
    """Degrees between any two bonds of the heavy atoms of one molecule."""
    x, z, mask = (array[0] for array in add_hydrogens(*united))
    bonded = bond_orders(x[None], z[None], mask[None])[0].numpy() > 0
    result = []
    for i in np.flatnonzero(z > 1):
        u = x[bonded[i]] - x[i]
        u /= np.linalg.norm(u, axis=-1, keepdims=True)
        result.append(np.degrees(np.arccos(np.clip((u @ u.T)[np.triu_indices(len(u), 1)], -1, 1))))
    return np.concatenate(result)


@pytest.fixture(scope="module")
def qm9():
    with np.load(QM9) as archive:
        return archive["positions"], archive["atomic_numbers"].astype(np.int64), archive["mask"]


@pytest.fixture(scope="module")
def united(qm9):
    return strip_hydrogens(*qm9)


def test_stripping_equals_a_loop_over_hydrogens(qm9, united):
    for (x, z, m), (ux, uz, um, counts) in zip(zip(*qm9, strict=True), zip(*united, strict=True), strict=True):
        heavy, hydrogens = m & (z > 1), m & (z == 1)
        expected = np.zeros(heavy.sum(), dtype=int)
        for h in x[hydrogens]:
            expected[np.linalg.norm(x[heavy] - h, axis=1).argmin()] += 1
        assert counts[um].tolist() == expected.tolist()
        np.testing.assert_array_equal(ux[um], x[heavy])
        np.testing.assert_array_equal(uz[um], z[heavy])
        assert um.sum() == heavy.sum()
        assert not ux[~um].any()
        assert not uz[~um].any()
        assert not counts[~um].any()
    assert united[2].shape[1] == 9


def test_a_molecule_of_hydrogens_alone_is_named():
    numbers = np.array([[6, 1], [1, 1]])
    with pytest.raises(MolflowError, match="molecule 2 of the batch has no heavy atom"):
        strip_hydrogens(np.zeros((2, 2, 3)), numbers, numbers > 0)


def test_real_molecules_survive_stripping_and_adding(qm9, united):
    x, z, mask = add_hydrogens(*united)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(mask.sum(1), qm9[2].sum(1))
    np.testing.assert_array_equal(np.sort(z, axis=1), np.sort(qm9[1], axis=1))
    n = united[2].shape[1]
    assert (x[:, :n] == united[0])[united[2]].all()
    assert (z[:, :n] == united[1])[united[2]].all()
    assert not x[~mask].any()
    assert not z[~mask].any()
    assert torch.equal(stability(x, z, mask)[1], stability(*qm9)[1])
    counts = strip_hydrogens(x, z, mask)[3]
    np.testing.assert_array_equal(counts, united[3])


def test_hydrogens_are_placed_near_their_real_positions(qm9, united):
    """Checked where geometry determines them: on C with two or three neighbours."""
    x, z, mask = add_hydrogens(*united)
    worst = []
    for b in range(len(x)):
        skeleton = united[0][b][united[2][b]]
        orders = bond_orders(*(array[b : b + 1] for array in united[:3]))[0]
        for i in np.flatnonzero((united[1][b] == 6) & (united[3][b] > 0) & ((orders > 0).sum(1).numpy() >= 2)):
            pair = []
            for positions, numbers, m in ((x[b], z[b], mask[b]), (qm9[0][b], qm9[1][b], qm9[2][b])):
                h = positions[m & (numbers == 1)]
                pair.append(h[np.linalg.norm(h[:, None] - skeleton, axis=-1).argmin(1) == i])
            worst += np.linalg.norm(pair[0][:, None] - pair[1], axis=-1).min(1).tolist()
    assert len(worst) > 500
    assert np.median(worst) < 0.06
    assert np.quantile(worst, 0.99) < 0.35


@pytest.mark.parametrize("name", MOLECULES)
def test_molecules_worked_out_by_hand_are_stable(name):
    united = batch_of(*MOLECULES[name])
    assert stability(*add_hydrogens(*united))[1].item()
    assert stability(*united)[1].item()


def test_the_hand_made_molecules_have_every_united_atom_of_qm9(united):
    seen = {pair for elements, _, counts in MOLECULES.values() for pair in zip(elements, counts, strict=True)}
    real = set(zip(united[1][united[2]].tolist(), united[3][united[2]].tolist(), strict=True))
    assert {(atomic_number(element), count) for element, count in seen} >= real
    assert seen == {*(("C", k) for k in range(5)), *(("N", k) for k in range(4)), *(("O", k) for k in range(3))} | {
        ("F", 0),
        ("F", 1),
    }


TETRAHEDRAL = [
    "methane",
    "ammonia",
    "water",
    "ethane",
    "propane",
    "isobutane",
    "methanol",
    "methylamine",
    "dimethylamine",
]
TRIGONAL = ["ethene", "methanimine", "formaldehyde", "formamide"]
LINEAR = ["ethyne", "hydrogen cyanide"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [*((n, 109.4712) for n in TETRAHEDRAL), *((n, 120) for n in TRIGONAL), *((n, 180) for n in LINEAR)],
)
def test_angles_follow_hybridisation(name, expected):
    np.testing.assert_allclose(angles(batch_of(*MOLECULES[name])), expected, atol=0.01)


@pytest.mark.parametrize("name", ["ethene", "methanimine", "formaldehyde", "formamide"])
def test_multiple_bonds_make_planes(name):
    x = add_hydrogens(*batch_of(*MOLECULES[name]))[0][0]
    assert np.linalg.svd(x - x.mean(0))[1][2] < 1e-6


def test_rotatable_groups_are_staggered_and_acid_hydrogens_are_beside_the_double_bond():
    def torsions(name, chain):
        x = add_hydrogens(*batch_of(*MOLECULES[name]))[0][0]
        hydrogens = x[sum(z != "H" for z in MOLECULES[name][0]) :]
        a, b, c = x[list(chain)]
        axis = (c - b) / np.linalg.norm(c - b)
        mine = hydrogens[np.linalg.norm(hydrogens - c, axis=1) < 1.2] - c
        left, right = (v - (v @ axis)[..., None] * axis for v in (a - b, mine))
        cosine = right @ left / np.linalg.norm(right, axis=1) / np.linalg.norm(left)
        return sorted(np.degrees(np.arccos(np.clip(cosine, -1, 1))).round().tolist())

    assert torsions("propane", (0, 2, 1)) == [60, 60, 180]
    assert torsions("acetic acid", (0, 3, 1)) == [0]
    assert torsions("formamide", (1, 0, 2)) == [0, 180]


@pytest.mark.parametrize("line", [[1, 0, 0], [0, 1, 0], [0, 0, 1], [1, 2, 3]])
def test_hydrogens_between_two_opposite_neighbours_are_perpendicular(line):
    line = np.array(line) / np.linalg.norm(line)
    full = add_hydrogens(*batch_of("CCC", [-1.53 * line, 0 * line, 1.53 * line], [3, 2, 3]))
    middle = full[0][0, 6:8]
    np.testing.assert_allclose(middle @ line, 0, atol=1e-12)
    assert stability(*full)[1].item()


@pytest.mark.parametrize("name", BAD)
def test_wrong_skeletons_get_their_hydrogens_and_stay_wrong(name):
    united = batch_of(*BAD[name])
    x, z, mask = add_hydrogens(*united)
    n = united[1].shape[1]
    assert z[0, :n].tolist() == united[1][0].tolist()
    assert z[0, n:].tolist() == [1] * sum(BAD[name][2])
    assert mask.all()
    assert np.isfinite(x).all()
    np.testing.assert_array_equal(x[:, :n], united[0])
    assert not stability(x, z, mask)[1].item()


@pytest.mark.parametrize("noise", [0.05, 0.2, 1.0])
def test_every_hydrogen_is_at_its_atom_and_no_molecule_is_repaired(united, noise):
    x, z, mask, counts = united
    rng = np.random.default_rng(0)
    x = (x + noise * rng.normal(size=x.shape)) * mask[..., None]
    counts = counts + rng.integers(0, 2, counts.shape) * mask * (rng.random(counts.shape) < noise)
    full = add_hydrogens(x, z, mask, counts)
    assert np.isfinite(full[0]).all()
    np.testing.assert_array_equal(full[2].sum(1), mask.sum(1) + counts.sum(1))
    owners = np.repeat(np.arange(mask.size), counts.ravel())
    hydrogens = full[0][full[2] & (np.arange(full[2].shape[1]) >= mask.sum(1)[:, None])]
    distance = np.linalg.norm(hydrogens - x.reshape(-1, 3)[owners], axis=1)
    lengths = np.array([np.nan] * 6 + [1.09, 1.01, 0.96, 0.92])
    np.testing.assert_allclose(distance, lengths[z.ravel()[owners]])
    shortcut, finished = stability(x, z, mask, counts)[1], stability(*full)[1]
    assert not (finished & ~shortcut).any()


def noisy(united):
    """Connected skeletons of three atoms and more, without symmetry, in float64."""
    x, z, mask, counts = united
    x = (x + 0.02 * np.random.default_rng(0).normal(size=x.shape)) * mask[..., None]
    bonded = (bond_orders(x, z, mask) > 0).numpy().astype(float)
    reached = np.linalg.matrix_power(bonded + np.eye(mask.shape[1]), mask.shape[1])[:, 0] > 0
    whole = (reached | ~mask).all(1) & (mask.sum(1) >= 3)
    assert whole.sum() > 150
    return tuple(array[whole] for array in (x, z, mask, counts))


def hydrogens_by_atom(x, z, mask, counts):
    """Positions of the hydrogens of each atom of each molecule."""
    full = add_hydrogens(x, z, mask, counts)[0]
    ends = mask.sum(1)[:, None] + np.cumsum(counts, axis=1)
    return [[full[b, e - k : e] for e, k in zip(ends[b], counts[b], strict=True)] for b in range(len(x))]


def same_sets(left, right):
    return len(left) == 0 or np.linalg.norm(left[:, None] - right, axis=-1).min(1).max() < 1e-6


def test_hydrogens_follow_permutation(united):
    x, z, mask, counts = noisy(united)
    rng = np.random.default_rng(1)
    order = np.stack([np.r_[rng.permutation(n), n : mask.shape[1]] for n in mask.sum(1)])
    moved = [np.take_along_axis(array, order, 1) for array in (z, mask, counts)]
    before = hydrogens_by_atom(x, z, mask, counts)
    after = hydrogens_by_atom(np.take_along_axis(x, order[..., None], 1), *moved)
    for b in range(len(x)):
        assert all(same_sets(after[b][i], before[b][j]) for i, j in enumerate(order[b]))


def test_hydrogens_follow_rotation_and_translation(united):
    x, z, mask, counts = noisy(united)
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    rotation, shift = rotation * np.linalg.det(rotation), np.array([1.0, -2.0, 3.0])
    turned = (x @ rotation.T + shift) * mask[..., None]
    before, after = hydrogens_by_atom(x, z, mask, counts), hydrogens_by_atom(turned, z, mask, counts)
    for b in range(len(x)):
        assert all(same_sets(q, p @ rotation.T + shift) for p, q in zip(before[b], after[b], strict=True))


def test_a_batch_equals_its_molecules_one_by_one(united):
    x, z, mask = add_hydrogens(*united)
    for b in range(len(x)):
        n = united[2][b].sum()
        alone = add_hydrogens(*(array[b : b + 1, :n] for array in united))
        np.testing.assert_allclose(alone[0][0], x[b][mask[b]], atol=1e-6)
        np.testing.assert_array_equal(alone[1][0], z[b][mask[b]])


def test_no_hydrogens_to_add_and_an_empty_batch():
    empty = np.zeros((0, 0, 3)), np.zeros((0, 0), int), np.zeros((0, 0), bool), np.zeros((0, 0), int)
    assert add_hydrogens(*empty)[0].shape == (0, 0, 3)
    x, z, mask, counts = batch_of("CO", [[0, 0, 0], [1.13, 0, 0]], [0, 0])
    np.testing.assert_array_equal(add_hydrogens(x, z, mask, counts)[0], x)


def test_wrong_shapes_and_unknown_elements_are_refused():
    x, z, mask, counts = batch_of("CO", [[0, 0, 0], [1.2, 0, 0]], [2, 0])
    with pytest.raises(MolflowError, match=r"expected hydrogens \(1, 2\), got \(1, 1\)"):
        add_hydrogens(x, z, mask, counts[:, :1])
    with pytest.raises(MolflowError, match="unknown atomic number 300"):
        add_hydrogens(x, np.array([[6, 300]]), mask, counts)


def test_elements_outside_the_tables_get_hydrogens_by_covalent_radii():
    """Methanethiol: single bonds from the radii, angles from two lone pairs."""
    united = batch_of("CS", [[0, 0, 0], [1.82, 0, 0]], [3, 1])
    x, z, _ = add_hydrogens(*united)
    assert z[0].tolist() == [6, 16, 1, 1, 1, 1]
    np.testing.assert_allclose(np.linalg.norm(x[0, 2:5] - x[0, 0], axis=1), 1.09)
    np.testing.assert_allclose(np.linalg.norm(x[0, 5] - x[0, 1]), 1.05 + 0.31)
    mol = to_rdkit(x[0], z[0])
    assert canonical_smiles(mol) == "CS"
    angle = np.degrees(np.arccos((x[0, 5] - x[0, 1]) @ [-1, 0, 0] / 1.36))
    assert angle == pytest.approx(109.4712, abs=0.01)


@pytest.mark.parametrize("noise", [0.0, 0.3])
def test_orders_of_all_atoms_are_those_of_a_fresh_look_up(united, noise):
    x, z, mask, counts = united
    x = (x + noise * np.random.default_rng(0).normal(size=x.shape).astype(np.float32)) * mask[..., None]
    z = np.where(z == 9, 17, z)  # F becomes Cl, an element outside the tables
    full_x, full_z, full_mask, orders = add_hydrogens_and_orders(x, z, mask, counts)
    for result, expected in zip((full_x, full_z, full_mask), add_hydrogens(x, z, mask, counts), strict=True):
        np.testing.assert_array_equal(result, expected)
    fresh = EDM_QM9.bond_orders(full_x, full_z, full_mask, refuse_foreign=False).numpy()
    np.testing.assert_array_equal(orders, fresh)
    assert orders.dtype == np.int8
    known = EDM_QM9.bond_orders(x, z, mask, refuse_foreign=False).numpy()
    np.testing.assert_array_equal(add_hydrogens_and_orders(x, z, mask, counts, known)[3], fresh)


def test_without_hydrogens_to_add_the_orders_are_those_of_the_skeleton():
    x, z, mask, counts = batch_of("CO", [[0, 0, 0], [1.13, 0, 0]], [0, 0])
    assert add_hydrogens_and_orders(x, z, mask, counts)[3].tolist() == [[[0, 3], [3, 0]]]
