"""Compositions that meet a constraint: the right ones, with the right frequencies, in table and model."""

import itertools

import pytest
import torch

from molflow import load_pretrained
from molflow.distributions import COMPOSITIONS
from molflow.distributions.constraint import Constraint, Remainders
from molflow.errors import MolflowError

AMOUNTS = torch.tensor([[1, 1, 0, 0], [0, 2, 1, 3]])  # two elements in points of four types
MOST = 5


def constraint(totals, allowed=(True, True, True, True), room=None):
    amounts = AMOUNTS if totals else AMOUNTS[:0]
    asked = torch.tensor(totals, dtype=torch.int64)
    return Constraint(
        torch.tensor(allowed), amounts, asked, "what is asked", None if room is None else torch.tensor(room)
    )


def every_composition():
    counts = itertools.product(range(MOST + 1), repeat=4)
    return torch.tensor([c for c in counts if 1 <= sum(c) <= MOST])


def fitted(kind, n_conditions=0):
    table = every_composition()
    weights = torch.randint(1, 20, (len(table),), generator=torch.Generator().manual_seed(0))
    cls = COMPOSITIONS[kind]
    torch.manual_seed(0)
    compositions = cls(4, **cls.sizes(table), n_conditions=n_conditions)
    if kind == "table":
        compositions.fit(table, weights)
    else:  # random weights of the network are a distribution too
        compositions.n_fitted.fill_(1)
    return compositions


# atoms of a scaffold and the types of points that each can be
NESTED = [[True, True, True, False], [False, True, True, False], [False, True, True, False]]
CROSSED = [[True, True, False, False], [False, True, True, False], [True, False, False, True]]
TIGHT = [[True, False, False, False], *2 * [[False, False, True, False]], [False, False, False, True]]
CASES = [
    constraint((2, 3)),
    constraint((1, 5)),
    constraint((0, 4)),
    constraint((2, 3), (True, False, True, True)),
    constraint((), room=NESTED),
    constraint((), room=CROSSED),
    constraint((), room=TIGHT),
    constraint((2, 3), room=NESTED),
    constraint((), (True, False, True, True), NESTED),
    constraint((2, 4), room=CROSSED),
]


def has_room(counts, room):
    """Whether one of all choices of points for the atoms is allowed."""
    points = [t for t, n in enumerate(counts) for _ in range(n)]
    choices = itertools.permutations(points, len(room))
    return any(all(row[t] for row, t in zip(room, chosen, strict=True)) for chosen in choices)


@pytest.mark.parametrize("room", [NESTED, CROSSED, TIGHT], ids=("nested", "crossed", "tight"))
def test_there_is_room_where_each_atom_can_have_a_point_of_its_own(room):
    table = every_composition()
    expected = [has_room(counts, room) for counts in table.tolist()]
    assert constraint((), room=room).holds(table).tolist() == expected
    assert 0 < sum(expected) < len(table)


@pytest.mark.parametrize("asked", CASES)
@pytest.mark.parametrize("kind", list(COMPOSITIONS.names()))
def test_restricted_compositions_have_their_conditional_distribution(kind, asked):
    compositions, table = fitted(kind), every_composition()
    p = compositions.log_prob(table).exp() * asked.holds(table)
    assert compositions.log_prob_of(asked).exp() == pytest.approx(float(p.sum()), rel=0.1 if kind == "model" else 1e-9)
    types, mask = compositions.sample(20_000, torch.Generator().manual_seed(1), asked)
    assert torch.allclose(frequencies(types, mask, asked), p / p.sum(), atol=0.03)
    again = compositions.sample(50, torch.Generator().manual_seed(1), asked)
    assert torch.equal(again[0], compositions.sample(50, torch.Generator().manual_seed(1), asked)[0])


def frequencies(types, mask, asked):
    """How often each of `every_composition` was drawn; all that were drawn meet what is asked."""
    drawn = (torch.nn.functional.one_hot(types, 4) * mask.unsqueeze(-1)).sum(1)
    assert asked.holds(drawn).all()
    digits = (MOST + 1) ** torch.arange(4)
    how_often = torch.bincount(drawn @ digits, minlength=(MOST + 1) ** 4)
    return how_often[every_composition() @ digits].double() / len(drawn)


@pytest.mark.parametrize("asked", CASES)
def test_under_a_condition_they_are_those_of_the_condition(asked):
    """p(c | q) restricted to what is asked, for two conditions q in one batch, whose distributions differ."""
    compositions, table = fitted("model", n_conditions=1), every_composition()
    for parameter in compositions.network.parameters():
        parameter *= 2  # so that the condition matters
    q = torch.tensor([[-3.0], [3.0]])
    types, mask = compositions.sample(20_000, torch.Generator().manual_seed(1), asked, q.repeat(10_000, 1))
    exact = [compositions.log_prob(table, one.expand(len(table), 1)).exp() * asked.holds(table) for one in q]
    first, second = (p / p.sum() for p in exact)
    for place, (own, other) in enumerate(((first, second), (second, first))):
        found = frequencies(types[place::2], mask[place::2], asked)
        assert torch.allclose(found, own, atol=0.03)
        assert (found - own).abs().sum() < (found - other).abs().sum() / 3


def test_what_hardly_occurs_under_a_condition_is_said_once(caplog):
    """Nonane with the heat capacity of ethane: one candidate outweighs all others."""
    flow = load_pretrained("qm9-cond")
    flow.sample(4, seed=0, formula="C9H20")
    assert "rare" not in caplog.text
    for seed in (0, 0):
        flow.sample(4, seed=seed, formula="C9H20", condition={"heat_capacity": "8 cal/mol/K"})
    said = (
        "compositions with the formula C9H20 are rare in this model: all samples rest on about 1.0 of 4,096 candidates"
    )
    assert caplog.text.count(said) == 1


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
            assert min(float(-remainders.most[start, 0][totals]), MOST + 1) == least


def test_a_table_that_is_too_large_is_an_error():
    rows = torch.ones(4, 4, dtype=torch.int64)
    with pytest.raises(MolflowError, match="too large to search"):
        Remainders(Constraint(torch.ones(4, dtype=torch.bool), rows, torch.full((4,), 200), "it"), 9)
