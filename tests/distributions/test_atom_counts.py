"""The distribution of the number of atoms."""

import pytest
import torch

from molflow.distributions import AtomCounts


def test_log_prob_is_the_frequency():
    counts = AtomCounts([0, 1, 0, 3])
    assert counts.log_prob(torch.tensor([1, 2, 3, 4, 99])).exp().tolist() == [0.25, 0, 0.75, 0, 0]
    assert counts.log_prob(torch.arange(4)).logsumexp(0).abs() < 1e-12


def test_samples_follow_it():
    sizes = AtomCounts([0, 1, 0, 3]).sample(20_000, torch.Generator().manual_seed(0))
    assert sizes.unique().tolist() == [1, 3]
    assert abs(float((sizes == 3).double().mean()) - 0.75) < 0.015


@pytest.mark.parametrize("frequencies", [[], [0, 0], [1, 2], [0, -1, 2], [[0, 1]], [0, float("nan")]])
def test_frequencies_that_are_no_distribution_are_refused(frequencies):
    with pytest.raises(ValueError, match="counts of molecules by number of atoms"):
        AtomCounts(frequencies)
