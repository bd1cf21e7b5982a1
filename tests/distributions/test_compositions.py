"""The distribution of compositions: the frequencies of its table, and nothing outside it."""

import math

import pytest
import torch

from molflow.distributions import Compositions
from molflow.errors import MolflowError

TABLE = torch.tensor([[2, 0, 1], [0, 3, 0], [1, 1, 1]])
COUNTS = torch.tensor([5, 3, 2])


@pytest.fixture
def compositions():
    made = Compositions(3, 3)
    made.fit(TABLE, COUNTS)
    return made


def test_log_prob_is_the_frequency(compositions):
    assert compositions.log_prob(TABLE).exp().tolist() == pytest.approx([0.5, 0.3, 0.2])
    assert compositions.log_prob(TABLE[[1, 1]]).exp().tolist() == pytest.approx([0.3, 0.3])
    other = Compositions(3, 3)
    other.fit(TABLE.flip(0), COUNTS.flip(0))
    assert torch.equal(other.log_prob(TABLE), compositions.log_prob(TABLE))


def test_it_sums_to_one_over_everything(compositions):
    everything = torch.cartesian_prod(*3 * [torch.arange(6)])
    log_p = compositions.log_prob(everything)
    assert log_p.logsumexp(0).abs() < 1e-12
    assert int((log_p > -math.inf).sum()) == 3


@pytest.mark.parametrize("unknown", [[0, 0, 0], [2, 0, 0], [2, 1, 1], [2, 4, 0], [0, 3, 255], [300, 0, 0]])
def test_an_unknown_composition_has_no_probability(compositions, unknown):
    """Those with a number above all of the table are digits out of range: (2, 4, 0) has the key of (2, 0, 1)."""
    assert compositions.log_prob(torch.tensor([unknown, [0, 3, 0]])).tolist() == [
        -math.inf,
        pytest.approx(math.log(0.3)),
    ]


def test_samples_follow_it(compositions):
    types, mask = compositions.sample(20_000, torch.Generator().manual_seed(0))
    assert torch.equal(mask.sum(1), torch.full((20_000,), 3))
    found, how_often = torch.nn.functional.one_hot(types, 3).sum(1).unique(dim=0, return_counts=True)
    assert found.tolist() == [[0, 3, 0], [1, 1, 1], [2, 0, 1]]
    assert how_often.tolist() == pytest.approx([6000, 4000, 10000], abs=250)


def test_samples_are_sorted_and_their_padding_is_zero():
    compositions = Compositions(2, 3)
    compositions.fit(torch.tensor([[2, 0, 1], [0, 0, 5]]), torch.tensor([1, 1]))
    types, mask = compositions.sample(50, torch.Generator().manual_seed(0))
    assert {tuple(row) for row in torch.where(mask, types, -1).tolist()} == {(0, 0, 2, -1, -1), (2, 2, 2, 2, 2)}
    assert not types[~mask].any()
    again = compositions.sample(50, torch.Generator().manual_seed(0))
    assert all(torch.equal(a, b) for a, b in zip((types, mask), again, strict=True))
    few = compositions.sample(50, torch.Generator().manual_seed(1))
    assert not torch.equal(few[0], types)


def test_a_state_dict_carries_the_table(compositions):
    other = Compositions(3, 3).double()
    other.load_state_dict(compositions.state_dict())
    assert torch.equal(other.log_prob(TABLE), compositions.log_prob(TABLE))
    draws = [c.sample(9, torch.Generator().manual_seed(0))[0] for c in (compositions, other)]
    assert torch.equal(*draws)


@pytest.mark.parametrize("n_compositions", [0, 4])
def test_an_empty_table_is_refused(n_compositions):
    empty = Compositions(n_compositions, 3)
    with pytest.raises(MolflowError, match="no table of compositions yet: train it, or load its weights"):
        empty.sample(1, None)
    if n_compositions:
        assert empty.log_prob(TABLE).tolist() == 3 * [-math.inf]
    else:
        with pytest.raises(MolflowError, match="no table of compositions yet"):
            empty.log_prob(TABLE)


@pytest.mark.parametrize("table", [torch.full((1, 9), 200), torch.tensor([[256]]), torch.ones(1, 64)], ids=str)
def test_too_large_compositions_are_refused(table):
    with pytest.raises(MolflowError, match="are too many"):
        Compositions(*table.shape).fit(table.long(), torch.tensor([1]))
