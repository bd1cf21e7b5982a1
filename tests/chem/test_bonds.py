"""The look-up rules on molecules worked out by hand, and the vectorised code against a loop on real molecules."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from molflow.chem import (
    EDM_QM9,
    SYMBOLS,
    BondRules,
    atomic_number,
    bond_orders,
    read_structures,
    stability,
    strip_hydrogens,
    symbol,
)
from molflow.chem.elements import COVALENT_RADII
from molflow.errors import MolflowError

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"

# A copy of the published tables (arXiv 2203.17003 and its code): single, double and triple bonds in pm.
PUBLISHED = {
    "H-H": (74,), "H-C": (109,), "H-N": (101,), "H-O": (96,), "H-F": (92,), "C-C": (154, 134, 120),
    "C-N": (147, 129, 116), "C-O": (143, 120, 113), "C-F": (135,), "N-N": (145, 125, 110), "N-O": (140, 121),
    "N-F": (136,), "O-O": (148, 121), "O-F": (142,), "F-F": (142,),
}  # fmt: skip
LENGTHS = {tuple(pair.split("-")): lengths for pair, lengths in PUBLISHED.items()}
MARGINS = (10, 5, 3)
VALENCES = {"H": 1, "C": 4, "N": 3, "O": 2, "F": 1}

TETRAHEDRON = np.array([[1, 1, 1], [1, -1, -1], [-1, 1, -1], [-1, -1, 1]]) / np.sqrt(3)

# name -> elements, positions in Å, bonds {(i, j): order}, stable atoms
BY_HAND = {
    "water": ("OHH", [[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]], {(0, 1): 1, (0, 2): 1}, [1, 1, 1]),
    "methane": ("CHHHH", [[0, 0, 0], *(1.09 * TETRAHEDRON)], {(0, k): 1 for k in range(1, 5)}, [1] * 5),
    "methyl radical": ("CHHH", [[0, 0, 0], *(1.09 * TETRAHEDRON[:3])], {(0, k): 1 for k in range(1, 4)}, [0, 1, 1, 1]),
    "HCN": ("HCN", [[-1.06, 0, 0], [0, 0, 0], [1.15, 0, 0]], {(0, 1): 1, (1, 2): 3}, [1, 1, 1]),
    "CO2": ("OCO", [[-1.16, 0, 0], [0, 0, 0], [1.16, 0, 0]], {(0, 1): 2, (1, 2): 2}, [1, 1, 1]),
    "H:O:H with a third H": ("OHHH", [[0, 0, 0], [0.96, 0, 0], [-0.96, 0, 0], [0, 0.96, 0]], None, [0, 1, 1, 1]),
    "a hydrogen between two": ("HHH", [[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]], {(0, 1): 1, (1, 2): 1}, [1, 0, 1]),
    "two carbons on one spot": ("CC", [[0, 0, 0], [0, 0, 0]], {(0, 1): 3}, [0, 0]),
    "two hydrogens on one spot": ("HH", [[1, 1, 1], [1, 1, 1]], {(0, 1): 1}, [1, 1]),
    "lone atom": ("C", [[0, 0, 0]], {}, [0]),
    "atom at NaN": ("HH", [[0, 0, 0], [np.nan, 0, 0]], {}, [0, 0]),
}


def batch_of(elements, positions):
    numbers = np.array([[atomic_number(element) for element in elements]])
    return np.array([positions], dtype=np.float64), numbers, np.ones(numbers.shape, dtype=bool)


@pytest.mark.parametrize("name", BY_HAND)
def test_molecules_worked_out_by_hand(name):
    elements, positions, bonds, stable = BY_HAND[name]
    batch = batch_of(elements, positions)
    orders = bond_orders(*batch)[0]
    if bonds is not None:
        found = {(i, j): int(orders[i, j]) for i, j in orders.triu().nonzero().tolist()}
        assert found == bonds
    atoms, molecules = stability(*batch)
    assert atoms[0].tolist() == [bool(s) for s in stable]
    assert molecules.tolist() == [all(stable)]


def test_the_tables_are_the_published_ones():
    assert EDM_QM9.lengths == LENGTHS
    assert EDM_QM9.margins == MARGINS
    assert EDM_QM9.valences == {element: (valence,) for element, valence in VALENCES.items()}
    assert EDM_QM9.elements == tuple(VALENCES)


@pytest.mark.parametrize(("pair", "lengths"), LENGTHS.items())
def test_every_limit_of_the_published_tables_is_strict(pair, lengths):
    for order, (length, margin) in enumerate(zip(lengths, MARGINS, strict=False), start=1):
        limit = (length + margin) / 100
        for elements in (pair, pair[::-1]):
            for distance, expected in ((limit - 1e-6, order), (limit, order - 1), (limit + 1e-6, order - 1)):
                orders = bond_orders(*batch_of(elements, [[0, 0, 0], [0, 0, distance]]))
                assert orders[0].tolist() == [[0, expected], [expected, 0]]


def loop_over_pairs(positions, numbers):
    """The rules as EDM states them, pair by pair."""
    elements = [symbol(int(z)) for z in numbers]
    orders = np.zeros((len(elements), len(elements)), dtype=int)
    for i in range(len(elements)):
        for j in range(i):
            lengths = LENGTHS.get((elements[i], elements[j])) or LENGTHS[elements[j], elements[i]]
            distance = 100 * np.linalg.norm(positions[i].astype(np.float64) - positions[j].astype(np.float64))
            if distance < lengths[0] + 10:
                order = 1
                if len(lengths) > 1 and distance < lengths[1] + 5:
                    order = 2
                    if len(lengths) > 2 and distance < lengths[2] + 3:
                        order = 3
                orders[i, j] = orders[j, i] = order
    return orders, orders.sum(1) == [VALENCES[element] for element in elements]


@pytest.fixture(scope="module")
def qm9():
    with np.load(QM9) as archive:
        return archive["positions"], archive["atomic_numbers"], archive["mask"]


@pytest.mark.parametrize("noise", [0.0, 0.15, 0.4])
def test_equals_a_loop_over_pairs_on_real_molecules(qm9, noise):
    positions, numbers, mask = qm9
    positions = positions + noise * np.random.default_rng(0).normal(size=positions.shape).astype(np.float32)
    orders = bond_orders(positions, numbers, mask)
    atoms, molecules = stability(positions, numbers, mask)
    seen = set()
    for b in range(len(mask)):
        n = mask[b].sum()
        expected_orders, expected_atoms = loop_over_pairs(positions[b, :n], numbers[b, :n])
        np.testing.assert_array_equal(orders[b, :n, :n], expected_orders)
        assert atoms[b, :n].tolist() == expected_atoms.tolist()
        assert bool(molecules[b]) == expected_atoms.all()
        seen |= set(expected_orders.flat)
    assert seen == {0, 1, 2, 3}


def test_padding_permutation_and_order_of_molecules_change_nothing(qm9):
    positions, numbers, mask = (torch.as_tensor(array) for array in qm9)
    atoms, molecules = stability(positions, numbers, mask)
    assert 0 < molecules.sum() < len(molecules)
    assert not atoms[~mask].any()

    # Arbitrary values in the padding, more padding, shuffled atoms and molecules: the results are shuffled alike.
    generator = torch.Generator().manual_seed(0)
    wide = [torch.cat([t, torch.zeros(len(t), 5, *t.shape[2:], dtype=t.dtype)], 1) for t in (positions, numbers, mask)]
    wide[0] = wide[0].where(wide[2][..., None], 0.3)
    wide[1] = wide[1].where(wide[2], 16)
    place = torch.randperm(len(mask), generator=generator)
    atom = torch.randperm(wide[2].shape[1], generator=generator)
    shuffled_atoms, shuffled_molecules = stability(*(t[place][:, atom] for t in wide))
    padded_atoms = torch.cat([atoms, torch.zeros(len(atoms), 5, dtype=torch.bool)], 1)
    assert torch.equal(shuffled_atoms, padded_atoms[place][:, atom])
    assert torch.equal(shuffled_molecules, molecules[place])


def test_far_from_the_origin_distances_stay_precise(qm9):
    positions, numbers, mask = qm9
    moved = positions.astype(np.float64) + 1e5
    assert torch.equal(bond_orders(moved, numbers, mask), bond_orders(positions, numbers, mask))


def test_orders_are_symmetric_and_zero_on_the_diagonal_and_in_padding(qm9):
    orders = bond_orders(*qm9)
    real = torch.as_tensor(qm9[2])
    assert torch.equal(orders, orders.transpose(1, 2))
    assert not orders.diagonal(dim1=1, dim2=2).any()
    assert not orders[~real].any()


def test_a_molecule_without_atoms_is_not_stable():
    atoms, molecules = stability(np.zeros((2, 3, 3)), np.zeros((2, 3), int), np.zeros((2, 3), bool))
    assert not atoms.any()
    assert molecules.tolist() == [False, False]


def test_stability_of_the_200_real_molecules(qm9):
    assert len(read_structures(QM9)) == 200
    assert int(stability(*qm9)[1].sum()) == 190


@pytest.mark.parametrize(("element", "count"), [("C", 4), ("N", 3), ("O", 2), ("F", 1)])
def test_carried_hydrogens_count_as_single_bonds(element, count):
    united = batch_of(element, [[0, 0, 0]])
    for hydrogens in range(5):
        assert stability(*united, np.array([[hydrogens]]))[1].tolist() == [hydrogens == count]
    carbonyl = batch_of("CO", [[0, 0, 0], [1.2, 0, 0]])
    assert stability(*carbonyl, torch.tensor([[2, 0]]))[0].tolist() == [[True, True]]
    assert stability(*carbonyl, torch.tensor([[1, 1]]))[0].tolist() == [[False, False]]


def test_real_molecules_are_as_stable_with_carried_hydrogens(qm9):
    *heavy, hydrogens = strip_hydrogens(*qm9)
    atoms, molecules = stability(*heavy, hydrogens.astype(np.uint8))
    assert torch.equal(molecules, stability(*qm9)[1])
    assert not atoms[~torch.as_tensor(heavy[2])].any()
    assert stability(*heavy)[1].sum() < molecules.sum() / 10


def test_hydrogens_of_another_shape_are_refused():
    with pytest.raises(MolflowError, match=r"expected hydrogens \(1, 1\), got \(1, 2\)"):
        stability(*batch_of("C", [[0, 0, 0]]), np.array([[4, 0]]))


def test_an_element_outside_the_tables_is_named_with_its_place():
    numbers = np.array([[8, 1], [1, 16]])
    with pytest.raises(MolflowError, match=r"molecule 2 of the batch, atom 2: element S .* H C N O F"):
        bond_orders(np.zeros((2, 2, 3)), numbers, np.ones((2, 2), bool))
    for function in (bond_orders, stability):
        with pytest.raises(MolflowError, match="unknown atomic number 300"):
            function(np.zeros((1, 1, 3)), np.array([[300]]), np.ones((1, 1), bool))


def test_a_molecule_with_an_element_outside_the_tables_is_not_stable():
    methane = [[0, 0, 0], *(1.09 * TETRAHEDRON)]
    positions = np.array([[*methane, [9, 9, 9]], [*methane, [9, 9, 9]]])
    numbers = np.array([[6, 1, 1, 1, 1, 17], [6, 1, 1, 1, 1, 0]])
    atoms, molecules = stability(positions, numbers, numbers > 0)
    assert molecules.tolist() == [False, True]
    assert atoms.tolist() == [[False] * 6, [True] * 5 + [False]]
    orders = EDM_QM9.bond_orders(positions, numbers, numbers > 0, refuse_foreign=False)
    assert torch.equal(orders[0], orders[1])
    far_apart = batch_of(["C", "Cl"], [[0, 0, 0], [9, 9, 9]])
    assert not stability(*far_apart, np.array([[4, 1]]))[0].any()


def test_covered_elements():
    assert EDM_QM9.covers(np.array([[1, 6, 7, 8, 9], [0, 5, 16, 300, -1]])).tolist() == [[True] * 5, [False] * 5]
    assert EDM_QM9.covers(np.array([9, 17], dtype=np.uint8)).tolist() == [True, False]


def test_rules_of_other_elements_with_several_valences():
    rules = BondRules(
        name="sulphur",
        protocol="for a test",
        lengths={("S", "H"): (134,), ("S", "O"): (170, 150), ("H", "O"): (96,), ("Cl", "S"): (200, 180, 190)},
        valences={"H": (1,), "O": (2,), "S": (2, 4, 6), "Cl": (1,)},
    )
    dioxide = batch_of(["O", "S", "O"], [[-1.43, 0, 0], [0, 0, 0], [0.7, 1.25, 0]])
    assert rules.bond_orders(*dioxide)[0].tolist() == [[0, 2, 0], [2, 0, 2], [0, 2, 0]]
    assert rules.stability(*dioxide)[1].tolist() == stability(*dioxide, rules=rules)[1].tolist() == [True]
    assert rules.stability(*(array[:, :2] for array in dioxide))[0].tolist() == [[True, True]]  # S with 2
    three = batch_of(["S", "O", "H"], [[0, 0, 0], [1.43, 0, 0], [-1.34, 0, 0]])
    assert rules.stability(*three)[0].tolist() == [[False, True, True]]  # S with 3
    # A triple bond needs the double bond's limit as well, whatever its own is.
    for distance, order in ((1.84, 3), (1.86, 1), (2.11, 0)):
        assert int(bond_orders(*batch_of(["S", "Cl"], [[0, 0, 0], [0, 0, distance]]), rules)[0, 0, 1]) == order
    assert rules.bond_orders(*batch_of(["H", "Cl"], [[0, 0, 0], [0, 0, 1.27]])).sum() == 0
    with pytest.raises(MolflowError, match=r"element C is outside .* H O S Cl$"):
        bond_orders(*batch_of("C", [[0, 0, 0]]), rules)


@pytest.mark.parametrize(
    ("lengths", "message"),
    [
        ({("H", "Si"): (148,)}, "valences of both"),
        ({("H", "C"): (109,), ("C", "H"): (109,)}, "given twice"),
        ({("C", "C"): (154, 134, 120, 110)}, "4 lengths"),
    ],
)
def test_tables_that_contradict_themselves_are_refused(lengths, message):
    with pytest.raises(ValueError, match=message):
        BondRules("wrong", "", lengths, {"H": (1,), "C": (4,)})


def test_rules_need_no_torch():
    script = (
        "import sys, numpy as np; from molflow.chem.bonds import EDM_QM9; assert EDM_QM9.covers(np.array([6])).all();"
        "assert EDM_QM9.valences['C'] == (4,); sys.exit('torch' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", script], check=False).returncode == 0


def test_shapes_that_disagree_are_shown():
    with pytest.raises(MolflowError, match=r"got \(2, 3, 2\), \(2, 3\) and \(2, 3\)"):
        bond_orders(np.zeros((2, 3, 2)), np.ones((2, 3), int), np.ones((2, 3), bool))
    with pytest.raises(MolflowError, match=r"got \(2, 3, 3\), \(2, 3\) and \(2, 4\)"):
        bond_orders(np.zeros((2, 3, 3)), np.ones((2, 3), int), np.ones((2, 4), bool))


def test_elements_are_the_periodic_table():
    Chem = pytest.importorskip("rdkit.Chem")
    table = Chem.GetPeriodicTable()
    assert [table.GetElementSymbol(z) for z in range(1, 119)] == list(SYMBOLS)
    assert [atomic_number(s) for s in SYMBOLS] == list(range(1, 119))
    np.testing.assert_allclose(COVALENT_RADII[1:88], [table.GetRcovalent(z) for z in range(1, 88)], atol=1e-6)
    assert (symbol(17), atomic_number("CL"), atomic_number("cl")) == ("Cl", 17, 17)
    with pytest.raises(MolflowError, match="'Xx'"):
        atomic_number("Xx")
    for z in (0, -1, 119):
        with pytest.raises(MolflowError, match=f"unknown atomic number {z};"):
            symbol(z)
