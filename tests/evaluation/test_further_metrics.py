"""Diversity, scaffolds, alerts, Jensen-Shannon distances, usual geometry, ring sizes and strain on molecules known."""

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem, DataStructs
from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

from molflow.chem import Structure, read_structures
from molflow.evaluation import METRICS, EvaluationOptions, Ratio, Tally, TrainingReference, inspect_all
from molflow.evaluation.distributions import KNOWN, N_BINS, QUANTITIES, counts_of, jensen_shannon, usual_bins
from molflow.evaluation.metrics.diversity import MOST
from molflow.evaluation.novelty import scaffold

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
STRUCTURES = read_structures(QM9)[:60]
TOLUENE, BENZOIC_ACID, CYCLOHEXANE, ETHANOL = "Cc1ccccc1", "O=C(O)c1ccccc1", "C1CCCCC1", "CCO"
NOTHING = np.zeros(N_BINS, dtype=np.int64)


@pytest.fixture(scope="module")
def options():
    training = TrainingReference.from_structures(STRUCTURES[:2], [TOLUENE, ETHANOL], name="a few")
    return EvaluationOptions(training=training, reference="qm9", workers=0)


@pytest.fixture(scope="module")
def reports(options):
    return list(inspect_all(STRUCTURES, options=options))


def test_internal_diversity_is_that_of_rdkit(options, reports):
    names = [report.smiles for report in reports if report.connected]
    prints = [GetMorganGenerator(radius=2, fpSize=2048).GetFingerprint(Chem.MolFromSmiles(name)) for name in names]
    similar = [DataStructs.BulkTanimotoSimilarity(prints[k], prints[:k]) for k in range(1, len(prints))]
    found = METRICS["internal_diversity"](options).value(Counter(names))
    assert found.value == pytest.approx(1 - np.mean(np.concatenate(similar)), abs=1e-5)
    assert found.of == len(names)


def test_large_sets_are_sampled(options):
    metric = METRICS["internal_diversity"](options)
    found = metric.value(Counter({ETHANOL: 3 * MOST, TOLUENE: MOST, None: 5}))
    assert found.of == MOST
    similar = TrainingReference.from_structures([], [TOLUENE], name="one").nearest_similarity([ETHANOL])[0]
    assert found.value == pytest.approx(2 * (1 / 4) * (3 / 4) * (1 - similar), abs=0.03)
    assert metric.value(Counter({ETHANOL: 1})).value is None


def test_a_scaffold_is_rings_and_what_links_them(options):
    assert [scaffold(text) for text in (TOLUENE, ETHANOL, "c1ccccc1CC1CC1C")] == ["c1ccccc1", "", "c1ccc(CC2CC2)cc1"]
    metric = METRICS["scaffold_novelty"](options)
    assert metric.value(Counter([BENZOIC_ACID, ETHANOL, CYCLOHEXANE, TOLUENE, None])) == Ratio(1, 3)


def test_a_molecule_that_resembles_no_training_molecule_is_new(options):
    nearest = options.training.nearest_similarity([CYCLOHEXANE, "CCCO"])
    assert nearest[0] < 0.4 < nearest[1]
    metric = METRICS["nearest_neighbour_novelty"](options)
    assert metric.value(Counter([CYCLOHEXANE, "CCCO", ETHANOL, None])) == Ratio(1, 3)


def test_alerts_are_found(options):
    metric = METRICS["without_alerts"](options)
    assert metric.value(Counter(["CC=O", "CC(=O)Cl", ETHANOL, TOLUENE, None])) == Ratio(2, 4)


def test_jensen_shannon_distances():
    rings = QUANTITIES["ring size"]
    a, b, c = NOTHING.copy(), NOTHING.copy(), NOTHING.copy()
    for histogram, counts in ((a, {5: 7}), (b, {15: 2, 25: 2}), (c, {5: 1, 15: 1})):
        for size, count in counts.items():
            histogram[rings.first + size] = count
    assert jensen_shannon(a, a, "ring size") == 0
    assert jensen_shannon(a, b, "ring size") == pytest.approx(1)
    # p = (1, 0), q = (1, 1) / 2, m = (3, 1) / 4: KL(p, m) = log2(4 / 3), KL(q, m) = (log2(2 / 3) + log2(2)) / 2
    divergence = (np.log2(4 / 3) + (np.log2(2 / 3) + 1) / 2) / 2
    assert jensen_shannon(a, c, "ring size") == pytest.approx(divergence**0.5)
    assert jensen_shannon(a, NOTHING, "ring size") is None


def test_usual_bins_lie_between_the_quantiles():
    reference, bond = NOTHING.copy(), QUANTITIES["bond C-C"]
    counts = counts_of(reference, "bond C-C")
    counts[[100, 200, 300, 400]] = 1, KNOWN, 10_000, 5
    for tail, low, high in ((1e-4, 200, 400), (1e-3, 200, 300), (1e-9, 100, 400)):
        usual = usual_bins(reference, ("bond length",), tail)
        assert np.flatnonzero(usual[bond.first : bond.first + bond.bins])[[0, -1]].tolist() == [low, high]
        assert usual.sum() == N_BINS - bond.bins + high - low + 1
    counts[:] = 0
    counts[5] = KNOWN - 1
    assert usual_bins(reference, ("bond length",), 1e-4).all()


def test_real_geometry_is_usual_and_noise_is_not(options):
    metric, generator = METRICS["validity_3d"](options), np.random.default_rng(0)
    shares = []
    for noise in (0.0, 0.1):
        moved = [Structure(s.positions + noise * generator.normal(size=s.positions.shape), s[1]) for s in STRUCTURES]
        reports = list(inspect_all(moved, workers=0))
        of = sum(metric.of(report) for report in reports)
        shares.append(sum(metric.counts(report) for report in reports) / of)
    assert shares[0] > 0.95
    assert shares[1] < 0.05


def test_ring_sizes_are_those_of_rdkit(options, reports):
    tally = Tally(options)
    sizes = Counter()
    for report in reports:
        tally.add(report)
        if report.perceived_smiles:
            mol = Chem.MolFromSmiles(report.perceived_smiles)
            sizes.update(len(ring) for ring in mol.GetRingInfo().AtomRings())
    counted = counts_of(tally.histogram, "ring size")
    assert {size: counted[size] for size in np.flatnonzero(counted).tolist()} == dict(sizes)
    rare = METRICS["rare_ring_sizes"](options)
    assert rare.value(tally.histogram).of == sizes.total()
    strange = NOTHING.copy()
    counts_of(strange, "ring size")[[5, 12]] = 3, 1
    assert rare.value(strange) == Ratio(1, 4)


def test_strain_per_atom_is_a_median(options):
    metric = METRICS["strain_per_atom"](replace(options, strain="mmff94"))
    reports = list(inspect_all(STRUCTURES[:9], strain="mmff94", workers=0))
    state = metric.empty()
    for report in reports:
        state = metric.add(state, report)
    expected = np.median([report.strain.energy / report.n_atoms for report in reports])
    assert metric.value(state).value == pytest.approx(expected, abs=0.001)
    assert metric.value(state).of == 9
