"""Real molecules whose reports were worked out by hand, and laws that hold for any molecule."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from molflow.chem import Structure, perceive, read_structures
from molflow.evaluation import STATUSES, Tally, inspect, inspect_all
from molflow.evaluation.distributions import N_BINS, QUANTITIES, coarse, counts_of, group_distance, mean, wasserstein

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
NOTHING_MEASURED = np.zeros(N_BINS, dtype=np.int64)


def embedded(smiles):
    """A molecule with hydrogens at MMFF94's bond lengths."""
    from rdkit import Chem
    from rdkit.Chem import AllChem

    mol = Chem.AddHs(Chem.MolFromSmiles(smiles))
    assert AllChem.EmbedMolecule(mol, randomSeed=1) == 0
    AllChem.MMFFOptimizeMolecule(mol)
    return Structure(mol.GetConformer().GetPositions(), np.array([atom.GetAtomicNum() for atom in mol.GetAtoms()]))


def with_atom(structure, number, position):
    return Structure(np.vstack([structure.positions, position]), np.append(structure.atomic_numbers, number))


def bent_water(degrees, length=0.96):
    angle = np.radians(degrees)
    return Structure(
        length * np.array([[0, 0, 0], [1, 0, 0], [np.cos(angle), np.sin(angle), 0]]),
        np.array([8, 1, 1]),
    )


def histogram(report):
    found = NOTHING_MEASURED.copy()
    found[report.measured[0]] += report.measured[1]
    return found


def test_methanol_is_stable_by_every_protocol():
    report = inspect(embedded("CO"))
    assert (report.status, report.reason, report.perception) == ("stable", "", "")
    assert (report.n_atoms, report.formula, report.smiles) == (6, "CH4O", "CO")
    assert (report.stable_atoms, report.perceived_stable_atoms) == (6, 6)
    assert (report.edm_smiles, report.perceived_smiles) == ("[H]OC([H])([H])[H]", "CO")
    flags = ("stable", "valid", "connected", "largest_fragment_valid", "perceived_stable", "perceived_valid",
             "perceived_connected", "default_connected")  # fmt: skip
    assert all(getattr(report, name) for name in flags)
    assert (report.fragments, report.perceived_fragments, report.clashes, report.strain) == (1, 1, 0, None)
    assert report.descriptors.molecular_weight == pytest.approx(32.04, abs=0.01)
    assert (report.descriptors.rings, report.descriptors.aromatic_rings) == (0, 0)
    counts = {name: int(counts_of(histogram(report), name).sum()) for name in QUANTITIES}
    assert {name: n for name, n in counts.items() if n and QUANTITIES[name].group in ("bond length", "angle")} == {
        "bond H-C": 3, "bond C-O": 1, "bond H-O": 1, "angle H-C-H": 3, "angle H-C-O": 3, "angle H-O-C": 1,
    }  # fmt: skip
    assert (counts["dihedral about C-O"], counts["distance H H"], counts["atoms"]) == (3, 6, 1)


def test_a_fifth_hydrogen_on_carbon():
    methane = embedded("C")
    report = inspect(with_atom(methane, 1, methane.positions[0] - methane.positions[1:3].sum(0) * 0.86))
    assert report.status == "invalid"
    assert report.reason == "RDKit refuses the look-up bonds: atom 1 (C) has valence 5, expected 4"
    assert report.perception == "atom 1 (C) has 5 neighbours, at most 4 are possible"
    assert (report.stable_atoms, report.perceived_stable_atoms) == (5, 0)
    assert (report.valid, report.edm_smiles, report.descriptors) == (False, None, None)


def test_a_radical_is_valid_but_not_stable():
    ethane = embedded("CC")
    report = inspect(Structure(ethane.positions[:-1], ethane.atomic_numbers[:-1]))
    assert (report.status, report.reason) == ("unstable", "atom 2 (C) has valence 3, expected 4")
    assert (report.valid, report.connected, report.smiles) == (True, True, "[CH2]C")
    assert report.edm_smiles == "[H]C([H])C([H])([H])[H]"  # the missing hydrogen is implied, as EDM's code does
    assert (report.perceived_valid, report.perception) == (False, "no bond orders give net charge 0")


@pytest.mark.parametrize(
    ("smiles", "status"),
    [
        ("C[N+](=O)[O-]", "unstable"),  # five bonds at nitrogen, which RDKit mends by charges of its own
        ("C[N+](C)(C)[O-]", "invalid"),  # four bonds at a neutral nitrogen
        ("C[N+](C)(C)CC(=O)[O-]", "disconnected"),  # a bond of MMFF94's betaine is longer than the look-up allows
    ],
)
def test_a_zwitterion_is_stable_by_perceived_bonds_only(smiles, status):
    report = inspect(embedded(smiles))
    assert report.status == status
    assert not report.stable
    assert report.perceived_stable
    assert report.perceived_connected
    assert report.perceived_smiles == smiles


def test_benzene_has_six_aromatic_bonds_and_is_stable_when_kekulised():
    report = inspect(embedded("c1ccccc1"))
    assert (report.status, report.perceived_stable, report.perceived_smiles) == ("unstable", True, "c1ccccc1")
    assert report.descriptors.aromatic_rings == 1
    found = histogram(report)
    assert counts_of(found, "bond C:C").sum() == 6
    assert mean(found, "bond C:C") == pytest.approx(1.39, abs=0.01)
    assert mean(found, "angle C-C-C") == pytest.approx(120, abs=0.2)
    assert counts_of(found, "dihedral about C-C").sum() == 24


def test_two_waters_are_two_fragments():
    water = bent_water(104.5)
    both = Structure(np.vstack([water.positions, water.positions + 9]), np.tile(water.atomic_numbers, 2))
    report = inspect(both)
    assert (report.status, report.reason, report.fragments) == ("disconnected", "2 fragments", 2)
    assert (report.stable, report.valid, report.connected, report.edm_smiles) == (True, True, False, "[H]O[H]")
    assert (report.perceived_valid, report.perceived_connected, report.perceived_fragments) == (True, False, 2)
    assert (report.perceived_stable, report.default_connected, report.descriptors) == (True, False, None)


def test_the_largest_fragment_can_be_valid_where_the_whole_is_not():
    crowd = np.array([[9, 0, 0], [9.74, 0, 0], [10.48, 0, 0]])  # H-H-H
    methanol = embedded("CO")
    report = inspect(Structure(np.vstack([methanol.positions, crowd]), np.append(methanol.atomic_numbers, [1, 1, 1])))
    assert (report.status, report.fragments) == ("invalid", 2)
    assert report.reason.endswith("atom 8 (H) has valence 2, expected 1; 2 fragments")
    assert (report.valid, report.largest_fragment_valid, report.edm_smiles) == (False, True, None)


def test_coincident_atoms():
    methane = embedded("C")
    report = inspect(with_atom(methane, 1, methane.positions[3]))
    assert report.status == "invalid"
    assert report.reason.startswith("two atoms on one spot (atoms 4 and 6); ")


def test_an_impossible_angle_is_seen_by_geometry_and_strain_alone():
    """At 60 degrees the hydrogens are 0.96 Å apart, further than a bond of theirs, so that every valence is right."""
    report = inspect(bent_water(60), strain="mmff94")
    assert (report.status, report.perceived_stable, report.clashes) == ("stable", True, 0)
    assert mean(histogram(report), "angle H-O-H") == pytest.approx(60, abs=0.2)
    assert report.strain.force_field == "MMFF94"
    assert report.strain.energy > 20 > 1 > inspect(bent_water(104), strain="mmff94").strain.energy
    assert inspect(bent_water(30)).status == "invalid"  # 0.50 Å apart they are bonded


def test_a_clash_is_near_and_not_bonded():
    water = bent_water(104.5)
    for gap, clashes in ((1.3, 1), (1.5, 0)):  # two hydrogens clash below 0.6 x 2.4 Å
        other = water.positions * [-1, 1, 1] + [2 * 0.96 + gap, 0, 0]
        pair = Structure(np.vstack([water.positions, other]), np.tile(water.atomic_numbers, 2))
        assert inspect(pair).clashes == clashes


def test_uff_stands_in_where_mmff94_has_no_parameters():
    report = inspect(Structure(np.array([[0.0, 0, 0], [1.13, 0, 0]]), np.array([6, 8])), strain="mmff94")
    assert report.perceived_smiles == "[C-]#[O+]"
    assert report.strain is None or report.strain.force_field == "UFF"


def test_a_strain_that_is_no_number_is_none():
    methane = embedded("C")
    positions = methane.positions.copy()
    positions[1] = positions[0]  # MMFF94 has no finite energy there
    report = inspect(Structure(positions, methane.atomic_numbers), strain="mmff94")
    assert report.strain is None
    assert counts_of(histogram(report), "strain energy").sum() == 0


def test_too_many_atoms_are_unsupported(monkeypatch):
    monkeypatch.setattr("molflow.evaluation.inspection.MOST_ATOMS", 5)
    report = inspect(embedded("CO"))
    assert (report.status, report.reason) == ("unsupported", "6 atoms, at most 5 are supported")


def test_an_invalid_structure_has_a_reason():
    assert inspect(Structure(np.zeros((0, 3)), np.zeros(0, dtype=int))).reason == "no atoms"
    lost = inspect(Structure(np.array([[0, 0, 0], [np.nan, 0, 0]]), np.array([1, 1])))
    assert (lost.status, lost.reason) == ("invalid", "atom 2 has no finite place within 1,000,000 Å")
    assert {"stable", "unstable", "disconnected", "invalid", "timed out", "crashed", "unreadable"} < STATUSES.keys()


@pytest.mark.parametrize(
    "smiles",
    ["CS(C)=O", "CS(N)(=O)=O", "CP(=O)(O)O", "Clc1ccccc1", "Brc1ccsc1", "C[Si](C)(C)C", "CB(O)O", "IC=C", "CS"],
)
def test_molecules_of_other_elements_are_stable_by_their_perceived_bonds(smiles):
    report = inspect(embedded(smiles))
    assert (report.perceived_stable, report.perception) == (True, "")
    assert report.perceived_connected
    assert report.descriptors is not None


def test_charged_atoms_need_their_own_valence():
    diradical = perceive(*without(embedded("CCC"), [3, 8])[:2])
    assert not diradical.stable.all()  # perceived as a carbocation beside a carbanion
    assert "(C) with charge +1 has valence 3, no stable valence is known for it" in diradical.problem


def without(structure, atoms):
    return Structure(np.delete(structure.positions, atoms, axis=0), np.delete(structure.atomic_numbers, atoms))


def comparable(report):
    """A report without the places of atoms, and figures to compare within rounding."""
    words = report.reason.partition("atom ")[0]
    numbers = report.descriptors and np.round(report.descriptors, 6).tolist()
    return replace(report, reason=words, perception=report.perception[-20:], descriptors=numbers)


def test_a_report_is_invariant_to_rotation_translation_and_permutation():
    generator = np.random.default_rng(0)
    for positions, numbers, _ in read_structures(QM9)[::10]:
        positions = positions.astype(np.float64)
        turn = np.linalg.qr(generator.normal(size=(3, 3)))[0]
        order = generator.permutation(len(numbers))
        report = inspect(Structure(positions, numbers))
        changed = inspect(Structure((positions @ turn + [5, -3, 2])[order], numbers[order]))
        assert comparable(changed) == comparable(report)
        before, after = histogram(report), histogram(changed)
        assert before.sum() == after.sum()
        for name, quantity in QUANTITIES.items():  # at most to the next bin
            assert (wasserstein(before, after, name) or 0) <= quantity.width


def test_the_tally_of_a_set_is_that_of_its_parts():
    reports = list(inspect_all(read_structures(QM9)[:50], workers=0))
    whole, first, second = Tally(), Tally(), Tally()
    for place, report in enumerate(reports):
        whole.add(report)
        (second if place % 3 else first).add(report)
    first.merge(second)
    assert first.scores() == whole.scores()
    assert first.scores().n_molecules == 50


def test_wasserstein_distances_of_histograms():
    short, long = (histogram(inspect(bent_water(104.5, length))) for length in (0.95, 1.00))
    assert wasserstein(short, long, "bond H-O") == pytest.approx(0.05, abs=0.0011)
    assert wasserstein(short, short, "bond H-O") == 0
    assert wasserstein(short, NOTHING_MEASURED, "bond H-O") is None
    assert group_distance(short, long, "bond length") == pytest.approx(0.05, abs=0.0011)
    assert group_distance(short, long, "dihedral") is None


def test_the_fields_of_a_table_are_plain_values():
    row = inspect(bent_water(104.5), strain="mmff94").to_dict()
    assert all(isinstance(value, str | int | float | bool | None) for value in row.values())
    assert row.keys() >= {"status", "reason", "qed", "rings", "strain_energy", "strain_force_field"}


@pytest.mark.parametrize("name", ["atoms", "QED", "logP", "distance C C"])
def test_a_coarse_histogram_has_all_counts(name):
    quantity, generator = QUANTITIES[name], np.random.default_rng(0)
    histogram, reference = (np.zeros(N_BINS, dtype=np.int64) for _ in range(2))
    for each, n in ((histogram, 300), (reference, 2000)):
        places = generator.integers(quantity.bins // 4, quantity.bins // 2, n)
        np.add.at(each, quantity.first + places, 1)
    histogram[quantity.first + quantity.bins - 1] += 1  # far beyond the rest, less than a thousandth of the reference
    drawn = coarse(histogram, reference, name)
    edges = np.array(drawn["edges"])
    assert 10 < len(edges) <= 41
    assert np.allclose(np.diff(edges), edges[1] - edges[0])
    for key, each in (("samples", histogram), ("reference", reference)):
        shares, counts = np.array(drawn[key]), counts_of(each, name)
        assert shares.sum() == pytest.approx(1, abs=1e-4)
        lower = quantity.low + quantity.width * np.arange(quantity.bins)
        inside = counts[(lower >= edges[3] - 1e-9) & (lower < edges[7] - 1e-9)].sum() / counts.sum()
        assert shares[3:7].sum() == pytest.approx(inside, abs=1e-4)
    assert coarse(histogram, None, name)["reference"] is None
    assert coarse(reference * 0, reference, name) is None


def test_metrics_are_also_functions():
    from molflow.chem import bonded_mol, perceive
    from molflow.chem.bonds import orders_of_one
    from molflow.chem.build import bond_list
    from molflow.chem.relaxation import strain
    from molflow.evaluation import clashes, descriptors

    for structure in read_structures(QM9)[:20]:
        report, found = inspect(structure, strain="mmff94"), perceive(*structure[:2])
        assert report.descriptors == descriptors(found.mol)
        assert report.strain == strain(found.mol)
        assert report.clashes == clashes(*structure[:2], bond_list(orders_of_one(*structure[:2])))
        assert report.fragments == 1
        assert bonded_mol(*structure).GetNumAtoms() == report.n_atoms
