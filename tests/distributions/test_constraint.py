"""Compositions that meet a constraint: the right ones, with the right frequencies, in table and model."""

import itertools

import pytest
import torch

from molflow.distributions import COMPOSITIONS
from molflow.distributions.constraint import Constraint, Remainders
from molflow.errors import MolflowError

AMOUNTS = torch.tensor([[1, 1, 0, 0], [0, 2, 1, 3]])  # two elements in points of four types
MOST = 5


def constraint(totals, allowed=(True, True, True, True)):
    return Constraint(torch.tensor(allowed), AMOUNTS, torch.tensor(totals), "what is asked")


def every_composition():
    counts = itertools.product(range(MOST + 1), repeat=4)
    return torch.tensor([c for c in counts if 1 <= sum(c) <= MOST])


def fitted(kind):
    table = every_composition()
    weights = torch.randint(1, 20, (len(table),), generator=torch.Generator().manual_seed(0))
    cls = COMPOSITIONS[kind]
    compositions = cls(4, **cls.sizes(table))
    if kind == "table":
        compositions.fit(table, weights)
    else:  # random weights of the network are a distribution too
        torch.manual_seed(0)
        compositions.n_fitted.fill_(1)
    return compositions


CASES = [constraint((2, 3)), constraint((1, 5)), constraint((0, 4)), constraint((2, 3), (True, False, True, True))]


@pytest.mark.parametrize("asked", CASES)
@pytest.mark.parametrize("kind", list(COMPOSITIONS.names()))
def test_restricted_compositions_have_their_conditional_distribution(kind, asked):
    compositions, table = fitted(kind), every_composition()
    p = compositions.log_prob(table).exp() * asked.holds(table)
    assert compositions.log_prob_of(asked).exp() == pytest.approx(float(p.sum()), rel=0.1 if kind == "model" else 1e-9)
    types, mask = compositions.sample(20_000, torch.Generator().manual_seed(1), asked)
    drawn = (torch.nn.functional.one_hot(types, 4) * mask.unsqueeze(-1)).sum(1)
    assert asked.holds(drawn).all()
    found = (drawn.unsqueeze(1) == table).all(-1).double().mean(0)
    assert torch.allclose(found, p / p.sum(), atol=0.03)
    again = compositions.sample(50, torch.Generator().manual_seed(1), asked)
    assert torch.equal(again[0], compositions.sample(50, torch.Generator().manual_seed(1), asked)[0])


@pytest.mark.parametrize("kind", list(COMPOSITIONS.names()))
def test_what_no_composition_has_is_an_error(kind):
    compositions = fitted(kind)
    impossible = constraint((0, 1), (False, True, False, True))
    assert compositions.log_prob_of(impossible) == -torch.inf
    with pytest.raises(MolflowError, match="no composition of this model has what is asked"):
        compositions.sample(3, torch.Generator().manual_seed(0), impossible)


def test_remainders_are_those_of_all_compositions():
    asked, table = constraint((3, 4)), every_composition()
    remainders = Remainders(asked, MOST)
    for start in range(4):
        later = table[(table[:, :start] == 0).all(1)]
        for totals in itertools.product(range(4), range(5)):
            sizes = later[((later.unsqueeze(1) * AMOUNTS).sum(-1) == torch.tensor(totals)).all(1)].sum(1)
            least = 0 if totals == (0, 0) else min(sizes.tolist(), default=MOST + 1)
            assert min(int(remainders.least[start][totals]), MOST + 1) == least


def test_a_table_that_is_too_large_is_an_error():
    rows = torch.ones(4, 4, dtype=torch.int64)
    with pytest.raises(MolflowError, match="too large to search"):
        Remainders(Constraint(torch.ones(4, dtype=torch.bool), rows, torch.full((4,), 200), "it"), 9)
