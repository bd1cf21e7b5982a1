"""Pairing of data with noise: a turn and a renumbering within labels, which never lies farther from its noise."""

import math

import pytest
import torch
from laws import random_case

from molflow.geometry import Context, MeanFreeSpace, Points, squared_distances
from molflow.training.pairing import align, random_orthogonal

SIZES = [7, 4, 2, 1, 6]


@pytest.fixture(params=[(3, 0, 3), (3, 2, 0), (2, 1, 2), (1, 0, 0)], ids=str)
def case(request):
    """Points, noise and context for (D, F, L)."""
    dim, n_features, n_labels = request.param
    points, context = random_case(dim, n_features, n_labels, SIZES)
    latent = MeanFreeSpace(context.mask, dim, n_features).randn(torch.Generator().manual_seed(9), torch.float64)
    return points, latent, context


def cost(points, latent):
    return (points - latent).squared_norm()


def relabelled(context, n_labels=1):
    """The same mask, and labels that are all the same."""
    return Context(context.mask, context.mask.unsqueeze(-1).double().expand(-1, -1, n_labels))


def permutation(before, after, n):
    """Row of `before` that each row of `after` is, from rows that all differ."""
    far = (before[None, :n] - after[:n, None]).abs().amax(-1)
    assert far.amin(1).max() < 1e-10
    order = far.argmin(1)
    assert order.sort().values.tolist() == list(range(n))
    return order


def test_it_is_an_orthogonal_turn_and_a_renumbering_within_labels(case):
    """Told from invariants: each point by its sorted distances to points of each label, with its own label."""
    points, latent, context = case
    aligned = align(points, latent, context)
    label = context.labels.argmax(-1) if context.labels.shape[-1] else torch.zeros_like(context.mask, dtype=torch.int64)
    before, after = squared_distances(points.x), squared_distances(aligned.x)
    for b, n in enumerate(SIZES):
        own, d0, d1 = label[b, :n], before[b, :n, :n], after[b, :n, :n]
        # own label enters with a large weight: points of different labels are never taken for each other
        rows = [
            torch.cat([d.sort(1).values, p.h[b, :n], 100 * own[:, None]], 1) for d, p in ((d0, points), (d1, aligned))
        ]
        if n <= 2:  # two points have the same distances
            torch.testing.assert_close(d0, d1, atol=1e-10, rtol=0)
            continue
        order = permutation(*rows, n)
        torch.testing.assert_close(d1, d0[order][:, order], atol=1e-10, rtol=0)
        assert torch.equal(own[order], own)
        torch.testing.assert_close(aligned.h[b, :n], points.h[b, order], atol=1e-12, rtol=0)
        # equal distances about the same centroid: equal up to an orthogonal matrix, which least squares finds
        matrix = torch.linalg.lstsq(points.x[b, order], aligned.x[b, :n]).solution
        torch.testing.assert_close(points.x[b, order] @ matrix, aligned.x[b, :n], atol=1e-10, rtol=0)
        torch.testing.assert_close(matrix @ matrix.T, torch.eye(len(matrix)).double(), atol=1e-10, rtol=0)


def test_distances_and_lengths_stay(case):
    points, latent, context = case
    aligned = align(points, latent, context)
    before, after = (squared_distances(p.x).sum((1, 2)) for p in (points, aligned))
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)
    torch.testing.assert_close(aligned.squared_norm(), points.squared_norm(), atol=1e-9, rtol=0)
    assert aligned.x.sum(1).abs().max() < 1e-10


@pytest.mark.parametrize("n_rounds", [1, 2, 5])
def test_it_lies_closer(case, n_rounds):
    points, latent, context = case
    before, after = cost(points, latent), cost(align(points, latent, context, n_rounds), latent)
    assert (after <= before + 1e-10).all()
    assert after[0] < 0.9 * before[0]


def test_more_rounds_never_lie_farther(case):
    points, latent, context = case
    costs = torch.stack([cost(align(points, latent, context, n), latent) for n in (1, 2, 3, 8)])
    assert (costs.diff(dim=0) < 1e-10).all()


def test_padding_stays_and_does_not_matter(case):
    points, latent, context = case
    aligned = align(points, latent, context)
    assert not torch.cat(aligned, -1)[~context.mask].any()

    def wide(t):
        return torch.nn.functional.pad(t, (0, 0, 0, 3))

    wide_context = Context(torch.nn.functional.pad(context.mask, (0, 3)), wide(context.labels))
    again = align(Points(*map(wide, points)), Points(*map(wide, latent)), wide_context)
    for a, b in zip(aligned, again, strict=True):
        torch.testing.assert_close(wide(a), b, atol=1e-10, rtol=0)


def test_what_lies_on_its_noise_stays(case):
    points, _, context = case
    for a, b in zip(align(points, points, context), points, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def turned_and_renumbered(points, context, angle, generator):
    """A copy whose points of equal labels are shuffled, turned by an angle in one plane."""
    n = points.x.shape[1]
    keys = torch.rand(len(points.x), n, generator=generator) + 10 * context.labels.argmax(-1)
    place = context.labels.argmax(-1).argsort(dim=1, stable=True)
    order = torch.empty_like(place).scatter(1, place, keys.argsort(1))
    turn = torch.eye(3).double()
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return Points(*(torch.take_along_dim(t, order.unsqueeze(-1), 1) for t in (points.x @ turn, points.h)))


@pytest.mark.parametrize(("angle", "share"), [(0.0, 1.0), (0.2, 0.95), (0.4, 0.9)])
def test_a_turned_and_renumbered_copy_is_found(angle, share):
    """A local minimum, but mostly the right one where the turn is small."""
    generator = torch.Generator().manual_seed(0)
    points, context = random_case(3, 0, 3, [6] * 200)
    latent = turned_and_renumbered(points, context, angle, generator)
    assert ((latent.x - points.x).abs().amax((1, 2)) > 1e-3).double().mean() > 0.9  # the shuffle of few may be none
    found = cost(align(points, latent, context), latent) < 1e-12
    assert found.double().mean() >= share


def test_labels_are_never_mixed_even_where_it_would_pay():
    """Two points that sit on each other's noise, in one dimension without a turn that helps."""
    x = torch.tensor([[[-1.0, 0], [1.0, 0], [0, 3.0], [0, -3.0]]]).double()
    latent = Points(x[:, [1, 0, 2, 3]], x[..., :0])
    points = Points(x, x[..., :0])
    mask = torch.ones(1, 4, dtype=torch.bool)
    same = align(points, latent, Context(mask, torch.ones(1, 4, 1).double()))
    assert cost(same, latent) < 1e-20
    labels = torch.nn.functional.one_hot(torch.tensor([[0, 1, 2, 3]])).double()
    apart = align(points, latent, Context(mask, labels))
    distance = squared_distances(apart.x)
    torch.testing.assert_close(distance, squared_distances(x), atol=1e-10, rtol=0)  # each kept its number
    labels = torch.nn.functional.one_hot(torch.tensor([[0, 0, 1, 1]])).double()
    assert cost(align(points, latent, Context(mask, labels)), latent) < 1e-20


def test_far_points_are_not_exchanged_between_labels():
    """In units a hundred times larger the ban on exchange still holds."""
    points, context = random_case(3, 0, 3, [6] * 20)
    latent = MeanFreeSpace(context.mask, 3, 0).randn(torch.Generator().manual_seed(9), torch.float64)
    points, latent = points * 100.0, latent * 100.0
    aligned = align(points, latent, context)
    total = [squared_distances(p.x) @ context.labels for p in (points, aligned)]  # to all points of each label
    for label in range(3):
        own = context.labels[..., label].bool()
        rows = [torch.where(own[..., None], t, 0).sort(1).values for t in total]
        torch.testing.assert_close(*rows, atol=1e-4, rtol=0)


def test_precision_is_kept_and_nothing_is_differentiated(case):
    points, latent, context = case
    leaf = Points(*(t.float().requires_grad_() for t in points))
    aligned = align(leaf, Points(*(t.float() for t in latent)), Context(context.mask, context.labels.float()))
    assert [t.dtype for t in aligned] == [torch.float32] * 2
    assert not any(t.requires_grad for t in aligned)
    torch.testing.assert_close(aligned.x.double(), align(points, latent, context).x, atol=1e-5, rtol=0)


# ---- random turns ----------------------------------------------------------------------------------------------------


def turns(n, dim, seed=0):
    """The matrices of random_orthogonal."""
    identity = Points(torch.eye(dim).double().expand(n, dim, dim), torch.zeros(n, dim, 0).double())
    return random_orthogonal(identity, torch.Generator().manual_seed(seed)).x


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_random_turns_are_orthogonal_and_uniform(dim):
    n = 20_000
    matrices = turns(n, dim)
    gram = matrices @ matrices.transpose(1, 2)
    torch.testing.assert_close(gram, torch.eye(dim).double().expand_as(gram), atol=1e-12, rtol=0)
    assert matrices.mean(0).abs().max() < 4 / math.sqrt(n)
    torch.testing.assert_close(matrices.square().mean(0), torch.full((dim, dim), 1 / dim).double(), atol=0.02, rtol=0)
    assert abs(torch.linalg.det(matrices).mean()) < 4 / math.sqrt(n)  # as many reflections as rotations
    moved = matrices @ turns(1, dim, seed=5)  # Haar measure: a further turn changes no moment
    for power in (3, 4):
        a, b = ((m[:, 0, 0] ** power).mean() for m in (matrices, moved))
        assert abs(a - b) < 0.05


def test_random_turns_leave_features_and_distances(case):
    points, _, _ = case
    turned = random_orthogonal(points, torch.Generator().manual_seed(0))
    assert torch.equal(turned.h, points.h)
    torch.testing.assert_close(squared_distances(turned.x), squared_distances(points.x), atol=1e-10, rtol=0)
    assert (turned.x - points.x).abs().max() > 0.1
    again = random_orthogonal(points, torch.Generator().manual_seed(0))
    assert torch.equal(turned.x, again.x)
