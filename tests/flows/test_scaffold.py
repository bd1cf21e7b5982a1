"""Samples around given atoms: the atoms stay, the composition has room for them, and what cannot be is refused."""

import pytest
import torch

import molflow
from molflow.batch import MoleculeBatch
from molflow.errors import MolflowError
from molflow.flows.domains.room import Room
from molflow.flows.scaffold import rigid_motion

# N-C=O of formamide, as in a molecule of QM9
AMIDE = MoleculeBatch(
    torch.tensor([[[-0.02, 1.36, 0.0], [0.12, 0.0, 0.0], [1.19, -0.57, 0.0]]]) + 5.0,
    torch.tensor([[7, 6, 8]]),
    torch.ones(1, 3, dtype=torch.bool),
)


def molecule(*numbers: int) -> MoleculeBatch:
    """Atoms along a line, too far apart for bonds."""
    x = torch.zeros(1, len(numbers), 3)
    x[0, :, 0] = 4.0 * torch.arange(len(numbers))
    return MoleculeBatch(x, torch.tensor([numbers]), torch.ones(1, len(numbers), dtype=torch.bool))


@pytest.mark.parametrize("reflected", [False, True])
def test_the_motion_of_points_onto_their_moved_image_is_found(reflected):
    torch.manual_seed(0)
    fixed = torch.randn(5, 4, 3, dtype=torch.float64)
    q, _ = torch.linalg.qr(torch.randn(5, 3, 3, dtype=torch.float64))
    q = q * torch.det(q).sign()[:, None, None] * (-1 if reflected else 1)
    x = torch.cat([fixed @ q + torch.randn(5, 1, 3), torch.randn(5, 2, 3)], 1)
    turn, own, given = rigid_motion(fixed, x)
    torch.testing.assert_close(turn, q)
    torch.testing.assert_close((fixed - given) @ turn + own, x[:, :4])


def test_scaffold_atoms_stay_and_others_are_drawn():
    flow = molflow.load_pretrained("qm9-environment")
    samples = flow.sample(24, seed=0, scaffold=AMIDE, n_evaluations=8)
    torch.testing.assert_close(samples.positions[:, :3], AMIDE.positions.expand(24, -1, -1), atol=1e-4, rtol=0)
    assert (samples.atomic_numbers[:, :3] == AMIDE.atomic_numbers).all()
    orders = samples.bond_orders()
    assert (orders[:, 0, 1] > 0).all()
    assert (orders[:, 1, 2] == 2).all()
    rest = samples.positions[:, 3]
    assert rest.std(0).min() > 0.1
    again = flow.sample(24, seed=0, scaffold=AMIDE, n_evaluations=8)
    assert torch.equal(again.positions, samples.positions)


def test_a_scaffold_and_a_formula_can_both_be_asked_for():
    flow = molflow.load_pretrained("qm9-environment")
    samples = flow.sample(4, seed=0, scaffold=AMIDE, formula="C4H7NO", n_evaluations=2)
    for molecule in samples.atomic_numbers:
        assert torch.bincount(molecule, minlength=9)[[1, 6, 7, 8]].tolist() == [7, 4, 1, 1]


def test_the_points_of_a_scaffold_come_first_and_its_choice_is_random():
    allowed = torch.tensor([[True, True, False], [False, True, True]])
    types, mask = torch.tensor([[0, 1, 1, 2], [0, 1, 0, 0]]), torch.tensor([[True] * 4, [True, True, False, False]])
    choices = set()
    for seed in range(20):
        arranged = Room(torch.zeros(2, 3), allowed).arranged(types, mask, torch.Generator().manual_seed(seed))
        assert allowed[torch.arange(2), arranged[:, :2]].all()
        assert arranged[1].tolist() == [0, 1, 0, 0]
        assert sorted(arranged[0].tolist()) == [0, 1, 1, 2]
        choices.add(tuple(arranged[0, :2].tolist()))
    assert choices == {(0, 1), (0, 2), (1, 1), (1, 2)}


def test_a_condition_holds_for_what_is_drawn_around_a_scaffold():
    """Around the same atoms a gap of 4 eV takes other compositions than one of 10 eV, those that the model prefers."""
    flow = molflow.load_pretrained("qm9-cond")
    request = flow.request(scaffold=AMIDE)

    def preferred(gap):
        """Mean of log p(c | 4 eV) - log p(c | 10 eV) over compositions drawn for a gap."""
        condition = flow.standardized({"gap": gap}, 300)
        context = flow.domain.sample_context(300, flow.generator(0), flow.device, flow.dtype, request, condition)
        compositions = context.labels.sum(1).round().long()
        assert request.constraint.holds(compositions).all()
        low, high = (
            flow.domain.compositions.log_prob(compositions, flow.standardized({"gap": each}, 300))
            for each in ("4 eV", "10 eV")
        )
        return float((low - high).mean())

    assert preferred("4 eV") > preferred("10 eV") + 1


@pytest.mark.parametrize(
    ("model", "scaffold", "complaint"),
    [
        ("qm9", AMIDE, "cannot keep given atoms"),
        ("dw4", AMIDE, "cannot keep given atoms"),
        ("qm9-environment", molecule(16), "atom 1 of those kept, S, is no type of this model"),
        ("qm9-environment", molecule(*[6] * 12), "has room for the scaffold"),
        ("qm9-environment", MoleculeBatch.concatenate([AMIDE, AMIDE]), "expected a scaffold of one molecule"),
    ],
)
def test_scaffolds_that_cannot_be_are_refused(model, scaffold, complaint):
    with pytest.raises(MolflowError, match=complaint):
        molflow.load_pretrained(model).sample(2, seed=0, scaffold=scaffold)
