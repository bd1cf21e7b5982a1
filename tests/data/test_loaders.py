"""The laws of batches: each molecule at most once, one size or one shape, the order a function of (seed, epoch)."""

import numpy as np
import pytest

from molflow.data import Batches, EqualCostBatches, EqualSizeBatches, MixedSizeBatches
from molflow.errors import MolflowError

N_ATOMS = np.random.default_rng(1).integers(3, 30, 1000)


@pytest.mark.parametrize("batch_size", [1, 7, 64, 5000])
def test_an_epoch_is_a_partition_by_size(batch_size):
    batches = EqualSizeBatches(N_ATOMS, batch_size)
    epoch = batches.epoch(3)
    assert len(epoch) == len(batches)
    np.testing.assert_array_equal(np.sort(np.concatenate(epoch)), np.arange(1000))
    assert all(1 <= len(batch) <= batch_size and len(set(N_ATOMS[batch])) == 1 for batch in epoch)
    assert sum(len(batch) < batch_size for batch in epoch) <= 27


def same(one, other):
    return len(one) == len(other) and all(np.array_equal(a, b) for a, b in zip(one, other, strict=True))


KINDS = {
    "equal": lambda seed: EqualSizeBatches(N_ATOMS, 16, seed),
    "mixed": lambda seed: MixedSizeBatches(len(N_ATOMS), 16, seed),
}


@pytest.mark.parametrize("kind", KINDS)
def test_order_is_a_function_of_seed_and_epoch(kind):
    batches: Batches = KINDS[kind](5)
    first = batches.epoch(2)
    batches.epoch(9)
    assert same(first, batches.epoch(2))
    assert same(first, KINDS[kind](5).epoch(2))
    assert not same(first, batches.epoch(3))
    assert not same(first, KINDS[kind](6).epoch(2))
    assert len(first) == len(batches)
    assert max(map(len, first)) == batches.batch_size == 16


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_mixed_batches_are_full_and_visit_no_molecule_twice(batch_size):
    batches = MixedSizeBatches(1000, batch_size, seed=3)
    epoch = batches.epoch(4)
    assert len(epoch) == len(batches) == 1000 // batch_size
    assert {len(batch) for batch in epoch} == {batch_size}
    indices = np.concatenate(epoch)
    assert len(set(indices.tolist())) == len(indices) > 1000 - batch_size
    assert set(indices.tolist()) <= set(range(1000))


def test_mixed_batches_omit_other_data_in_each_epoch():
    batches = MixedSizeBatches(10, 7)
    left_out = [set(range(10)) - set(batches.epoch(i)[0].tolist()) for i in range(30)]
    assert set().union(*left_out) == set(range(10))


def test_mixed_batches_mix_sizes():
    assert all(len(set(N_ATOMS[batch])) > 1 for batch in MixedSizeBatches(1000, 16).epoch(0))


@pytest.mark.parametrize(("n_molecules", "batch_size", "seed"), [(0, 1, 0), (3, 4, 0), (3, 0, 0), (3, 2, -1)])
def test_bad_arguments_of_mixed_batches(n_molecules, batch_size, seed):
    with pytest.raises(MolflowError, match=f"must be 1 to {n_molecules} and seed 0 or more"):
        MixedSizeBatches(n_molecules, batch_size, seed)


def test_batch_order_does_not_follow_size():
    sizes = [N_ATOMS[batch[0]] for batch in EqualSizeBatches(N_ATOMS, 16).epoch(0)]
    assert sizes != sorted(sizes)


def test_qm9_fills_nearly_all_batches(qm9):
    epoch = EqualSizeBatches(qm9.n_atoms, 64).epoch(0)
    assert sum(len(batch) < 64 for batch in epoch) <= 27
    positions, _, mask = qm9.padded(epoch[0])
    assert mask.all()
    assert positions.shape[:2] == mask.shape


@pytest.mark.parametrize(("n_atoms", "batch_size", "seed"), [([], 4, 0), ([3], 0, 0), ([3], 4, -1)])
def test_bad_arguments(n_atoms, batch_size, seed):
    with pytest.raises(MolflowError):
        EqualSizeBatches(np.array(n_atoms), batch_size, seed)


def test_batches_of_equal_cost_bound_the_pairs_and_visit_each_molecule_once():
    sizes = np.random.default_rng(0).integers(3, 80, 1000)
    batches = EqualCostBatches(sizes, 16)
    epoch = batches.epoch(0)
    assert len(epoch) == len(batches)
    assert same(epoch, batches.epoch(0))
    assert not same(epoch, batches.epoch(1))
    assert sorted(np.concatenate(epoch).tolist()) == list(range(1000))
    pairs = [len(batch) * int(sizes[batch].max()) ** 2 for batch in epoch]
    assert max(pairs) <= 16 * np.square(sizes).mean()
    assert np.median(pairs) > 0.7 * max(pairs)
    large = EqualCostBatches(np.array([2] * 50 + [500]), 4).epoch(0)
    assert [50] in [batch.tolist() for batch in large]  # a molecule beyond the bound comes alone
