"""Laws of every distribution of compositions, and what is special about the model."""

import math

import pytest
import torch

from molflow.distributions import COMPOSITIONS, CompositionModel, composition_model
from molflow.distributions.compositions import Given
from molflow.distributions.constraint import Constraint
from molflow.errors import MolflowError

TABLE = torch.tensor([[2, 0, 1], [0, 3, 0], [1, 1, 1], [0, 1, 0]])
COUNTS = torch.tensor([5, 3, 2, 2])
ENDS = torch.tensor([[1, 0], [2, 1], [0, 1]])
EVERYTHING = torch.cartesian_prod(*3 * [torch.arange(5)])


def rng(seed=0):
    return torch.Generator().manual_seed(seed)


def fitted(kind, monkeypatch, steps=30):
    monkeypatch.setattr(composition_model, "_STEPS", steps)
    torch.manual_seed(0)
    made = COMPOSITIONS[kind](3, **COMPOSITIONS[kind].sizes(TABLE), ends=ENDS)
    made.fit(TABLE, COUNTS, seed=1)
    return made


@pytest.fixture(params=COMPOSITIONS)
def compositions(request, monkeypatch):
    return fitted(request.param, monkeypatch)


# ---- laws ------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_it_sums_to_one_over_everything(compositions, dtype):
    log_p = compositions.to(dtype).log_prob(EVERYTHING)
    assert log_p.dtype == torch.float64
    assert abs(float(log_p.logsumexp(0))) < 1e-12


def test_what_is_possible_has_a_probability_and_nothing_else_has(compositions):
    possible = compositions.possible(EVERYTHING, TABLE)
    assert torch.equal(compositions.log_prob(EVERYTHING) > -math.inf, possible)
    assert possible[(EVERYTHING.unsqueeze(1) == TABLE).all(-1).any(1)].all()
    assert not possible[0]  # no points


def test_samples_follow_it(compositions):
    types, mask = compositions.sample(20_000, rng())
    found = (torch.nn.functional.one_hot(types, 3) * mask.unsqueeze(-1)).sum(1)
    how_often = (found.unsqueeze(1) == EVERYTHING).all(-1).double().mean(0)
    assert float(how_often.sum()) == pytest.approx(1)
    assert how_often.tolist() == pytest.approx(compositions.log_prob(EVERYTHING).exp().tolist(), abs=0.012)


def test_samples_are_sorted_and_their_padding_is_zero(compositions):
    types, mask = compositions.sample(500, rng())
    assert types.dtype == torch.int64
    assert mask.any(1).all()
    assert mask.any(0).all()
    assert not (mask[:, 1:] & ~mask[:, :-1]).any()
    assert not types[~mask].any()
    assert ((types[:, 1:] >= types[:, :-1]) | ~mask[:, 1:]).all()


def test_the_generator_decides_the_samples(compositions):
    state = torch.random.get_rng_state()
    one, same, other = (compositions.sample(50, rng(seed))[0] for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert one.shape != other.shape or not torch.equal(one, other)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_a_state_dict_carries_it(compositions):
    other = type(compositions)(3, **compositions.sizes(TABLE), ends=ENDS)
    other.load_state_dict(compositions.state_dict())
    assert torch.equal(other.log_prob(TABLE), compositions.log_prob(TABLE))
    assert torch.equal(other.sample(9, rng())[0], compositions.sample(9, rng())[0])


def test_the_same_seed_fits_the_same(compositions, monkeypatch):
    kind = next(kind for kind, made in COMPOSITIONS.items() if made is type(compositions))
    again = fitted(kind, monkeypatch)
    assert torch.equal(again.log_prob(EVERYTHING), compositions.log_prob(EVERYTHING))


def test_the_optimiser_of_a_flow_does_not_see_it(compositions):
    assert not any(parameter.requires_grad or parameter.grad is not None for parameter in compositions.parameters())
    assert not compositions.log_prob(TABLE).requires_grad


@pytest.mark.parametrize("kind", COMPOSITIONS)
def test_it_must_be_fitted_first(kind):
    with pytest.raises(MolflowError, match="this model has no compositions yet: train it, or load its weights"):
        COMPOSITIONS[kind](3).sample(1, None)
    with pytest.raises(MolflowError, match="no compositions yet"):
        COMPOSITIONS[kind](3).log_prob(TABLE)


# ---- the model -------------------------------------------------------------------------------------------------------


def test_the_model_comes_near_the_frequencies(monkeypatch):
    made = fitted("model", monkeypatch, steps=300)
    frequencies = COUNTS / COUNTS.sum()
    assert made.log_prob(TABLE).exp().tolist() == pytest.approx(frequencies.tolist(), abs=0.03)
    new = torch.tensor([[1, 0, 1], [3, 0, 0], [0, 0, 1]])
    assert (made.log_prob(new) > -math.inf).all()
    assert made.log_prob(torch.tensor([[4, 0, 0], [2, 1, 1], [0, 0, 0]])).tolist() == 3 * [-math.inf]


def test_bond_ends_that_must_pair_up_are_learned(monkeypatch):
    """Of all compositions of up to six points with an even sum; without the parity it is not learned this soon."""
    monkeypatch.setattr(composition_model, "_STEPS", 300)
    monkeypatch.setattr(composition_model, "_BATCH", 64)
    table = torch.cartesian_prod(*3 * [torch.arange(3)])[1:]
    ends = torch.tensor([[1], [1], [1]])
    table = table[(table @ ends % 2 == 0).all(1)]
    shares = []
    for given in (ends, None):
        torch.manual_seed(0)
        made = CompositionModel(3, **CompositionModel.sizes(table), ends=given)
        made.fit(table, torch.ones(len(table), dtype=torch.int64))
        _, mask = made.sample(2000, rng())
        shares.append(float((mask.sum(1) % 2 == 0).double().mean()))
    assert shares[0] > 0.97
    assert shares[0] > shares[1]


def test_a_model_learns_how_compositions_depend_on_conditions(monkeypatch):
    """q decides between two compositions; without q each has its share; probabilities sum to one under every q."""
    table, counts = torch.tensor([[2, 0, 0], [0, 1, 1]]), torch.tensor([30, 10])
    rows = torch.tensor([0, 0, 0, 1]).repeat(50)
    q = torch.stack([2.0 * rows - 1 + 0.1 * torch.randn(200, generator=rng()), torch.ones(200)], 1)
    made = CompositionModel(3, max_points=2, n_conditions=2)
    monkeypatch.setattr(composition_model, "_STEPS", 300)
    made.fit(table, counts, given=Given(q, rows, optional=True))
    for condition, shares in (([1.0, 1.0], [0, 1]), ([-1.0, 1.0], [1, 0]), ([0.0, 0.0], [0.75, 0.25])):
        given = torch.tensor([condition]).expand(2, -1)
        assert made.log_prob(table, given).exp().tolist() == pytest.approx(shares, abs=0.05)
        types, mask = made.sample(400, rng(), conditions=torch.tensor([condition]).expand(400, -1))
        is_pair = (mask.sum(1) == 2) & (types[:, 0] == 0)
        assert float(is_pair.float().mean()) == pytest.approx(shares[0], abs=0.08)
        every = torch.tensor([[a, b, c] for a in range(3) for b in range(3) for c in range(3) if 0 < a + b + c <= 2])
        total = made.log_prob(every, torch.tensor([condition]).expand(len(every), -1)).exp().sum()
        assert float(total) == pytest.approx(1, abs=1e-6)
    assert torch.equal(made.log_prob(table), made.log_prob(table, torch.zeros(2, 2)))


def test_a_constraint_holds_under_each_condition():
    made = CompositionModel(3, max_points=2, n_conditions=1)
    made.n_fitted.fill_(1)
    asked = Constraint(torch.ones(3, dtype=torch.bool), torch.tensor([[1, 1, 1]]), torch.tensor([2]), "two points")
    _, mask = made.sample(50, rng(), asked, torch.arange(50.0).unsqueeze(1) % 3)
    assert (mask.sum(1) == 2).all()
