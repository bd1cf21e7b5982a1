"""Pairing of data with noise: rotation and permutation within labels, which never increase the distance, and the best
assignment over the batch."""

import math
from itertools import permutations

import pytest
import torch
from laws import random_case

from molflow.batch import MoleculeBatch
from molflow.data import Batch
from molflow.geometry import Context, MeanFreeSpace, Points, squared_distances
from molflow.training.pairing import PAIRINGS, align, aligned_overlaps, overlaps, random_orthogonal, transport, turn

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


def test_alignment_rotates_and_permutes_within_labels(case):
    """Each point is identified by its sorted distances to points of each label, and by its own label."""
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


def test_alignment_keeps_distances_and_lengths(case):
    points, latent, context = case
    aligned = align(points, latent, context)
    before, after = (squared_distances(p.x).sum((1, 2)) for p in (points, aligned))
    torch.testing.assert_close(after, before, atol=1e-9, rtol=0)
    torch.testing.assert_close(aligned.squared_norm(), points.squared_norm(), atol=1e-9, rtol=0)
    assert aligned.x.sum(1).abs().max() < 1e-10


@pytest.mark.parametrize("n_rounds", [1, 2, 5])
def test_alignment_reduces_the_distance(case, n_rounds):
    points, latent, context = case
    before, after = cost(points, latent), cost(align(points, latent, context, n_rounds), latent)
    assert (after <= before + 1e-10).all()
    assert after[0] < 0.9 * before[0]


def test_more_rounds_never_increase_the_distance(case):
    points, latent, context = case
    costs = torch.stack([cost(align(points, latent, context, n), latent) for n in (1, 2, 3, 8)])
    assert (costs.diff(dim=0) < 1e-10).all()


def test_padding_stays_zero_and_changes_nothing(case):
    points, latent, context = case
    aligned = align(points, latent, context)
    assert not torch.cat(aligned, -1)[~context.mask].any()

    def wide(t):
        return torch.cat([t, t.new_zeros(len(t), 3, t.shape[2])], 1)

    wide_context = Context(torch.nn.functional.pad(context.mask, (0, 3)), wide(context.labels))
    again = align(Points(*map(wide, points)), Points(*map(wide, latent)), wide_context)
    for a, b in zip(aligned, again, strict=True):
        torch.testing.assert_close(wide(a), b, atol=1e-10, rtol=0)


def test_data_equal_to_their_noise_stay(case):
    points, _, context = case
    for a, b in zip(align(points, points, context), points, strict=True):
        torch.testing.assert_close(a, b, atol=1e-10, rtol=0)


def rotated_and_permuted(points, context, angle, generator):
    """A copy whose points of equal labels are shuffled, rotated by an angle in one plane."""
    n = points.x.shape[1]
    keys = torch.rand(len(points.x), n, generator=generator) + 10 * context.labels.argmax(-1)
    place = context.labels.argmax(-1).argsort(dim=1, stable=True)
    order = torch.empty_like(place).scatter(1, place, keys.argsort(1))
    turn = torch.eye(3).double()
    turn[:2, :2] = torch.tensor([[math.cos(angle), -math.sin(angle)], [math.sin(angle), math.cos(angle)]])
    return Points(*(torch.take_along_dim(t, order.unsqueeze(-1), 1) for t in (points.x @ turn, points.h)))


@pytest.mark.parametrize(("angle", "share"), [(0.0, 1.0), (0.2, 0.95), (0.4, 0.9)])
def test_alignment_finds_a_rotated_and_permuted_copy(angle, share):
    """It finds a local minimum, which is mostly the right one for a small rotation."""
    generator = torch.Generator().manual_seed(0)
    points, context = random_case(3, 0, 3, [6] * 200)
    latent = rotated_and_permuted(points, context, angle, generator)
    assert ((latent.x - points.x).abs().amax((1, 2)) > 1e-3).double().mean() > 0.9  # the shuffle of few may be none
    found = cost(align(points, latent, context), latent) < 1e-12
    assert found.double().mean() >= share


def test_points_of_different_labels_are_never_exchanged():
    """Two points lie on each other's noise, and no rotation helps."""
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


def test_distant_points_of_different_labels_are_not_exchanged():
    """The ban on exchange holds in units a hundred times larger too."""
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


# ---- random rotations ------------------------------------------------------------------------------------------------


def rotations(n, dim, seed=0):
    """The matrices that random_orthogonal applies."""
    identity = Points(torch.eye(dim).double().expand(n, dim, dim), torch.zeros(n, dim, 0).double())
    return random_orthogonal(identity, torch.Generator().manual_seed(seed)).x


@pytest.mark.parametrize("dim", [1, 2, 3])
def test_random_rotations_are_orthogonal_and_uniform(dim):
    n = 20_000
    matrices = rotations(n, dim)
    gram = matrices @ matrices.transpose(1, 2)
    torch.testing.assert_close(gram, torch.eye(dim).double().expand_as(gram), atol=1e-12, rtol=0)
    assert matrices.mean(0).abs().max() < 4 / math.sqrt(n)
    torch.testing.assert_close(matrices.square().mean(0), torch.full((dim, dim), 1 / dim).double(), atol=0.02, rtol=0)
    assert abs(torch.linalg.det(matrices).mean()) < 4 / math.sqrt(n)  # as many reflections as rotations
    moved = matrices @ rotations(1, dim, seed=5)  # Haar measure: a further rotation changes no moment
    for power in (3, 4):
        a, b = ((m[:, 0, 0] ** power).mean() for m in (matrices, moved))
        assert abs(a - b) < 0.05


def test_random_rotations_leave_features_and_distances(case):
    points, _, _ = case
    rotated = random_orthogonal(points, torch.Generator().manual_seed(0))
    assert torch.equal(rotated.h, points.h)
    torch.testing.assert_close(squared_distances(rotated.x), squared_distances(points.x), atol=1e-10, rtol=0)
    assert (rotated.x - points.x).abs().max() > 0.1
    again = random_orthogonal(points, torch.Generator().manual_seed(0))
    assert torch.equal(rotated.x, again.x)


# ---- over a batch ----------------------------------------------------------------------------------------------------


def noise(context, dim, n_features, seed=9):
    return MeanFreeSpace(context.mask, dim, n_features).randn(torch.Generator().manual_seed(seed), torch.float64)


def rows_of(assigned, latent):
    """The noise that each configuration got; each is used once."""
    far = (torch.cat(assigned, -1)[:, None] - torch.cat(latent, -1)).abs().amax((2, 3))
    order = far.argmin(1)
    assert far.amin(1).max() == 0
    assert order.sort().values.tolist() == list(range(len(order)))
    return order


def after_alignment(points, latent, context):
    """Squared distances of all pairs after one round of `align`, one pair after another, (B, B)."""
    every = range(len(points.x))
    return torch.stack(
        [
            cost(
                align(points, Points(*(t[[j] * len(every)] for t in latent)), context, n_rounds=1), latent_of(latent, j)
            )
            for j in every
        ],
        1,
    )


def latent_of(latent, j):
    return Points(latent.x[j : j + 1], latent.h[j : j + 1])


@pytest.mark.parametrize("measure", [overlaps, aligned_overlaps])
@pytest.mark.parametrize("sizes", [[4, 4, 4, 4], [5, 5, 5, 5, 5], [1, 1, 2, 2, 2]], ids=str)
def test_the_assignment_is_the_best_of_all_permutations(measure, sizes):
    """Brute force over four or five configurations; noise of another size is no candidate."""
    points, context = random_case(3, 2, 2, sizes)
    latent = noise(context, 3, 2)
    far = (
        (torch.cat(points, -1)[:, None] - torch.cat(latent, -1)).square().sum((2, 3))
        if measure is overlaps
        else after_alignment(points, latent, context)
    )
    same_size = torch.tensor(sizes)[:, None] == torch.tensor(sizes)
    far = torch.where(same_size, far, torch.inf)
    every = torch.arange(len(sizes))
    best = min((far[every, list(order)].sum().item(), order) for order in permutations(range(len(sizes))))
    order = rows_of(transport(points, latent, context, measure), latent)
    assert far[every, order].sum().item() == pytest.approx(best[0], abs=1e-9)
    assert best[0] < far.diagonal().sum().item()


@pytest.mark.parametrize("labels", [0, 3])
def test_aligned_overlaps_are_those_of_align(labels):
    """|p|^2 + |z|^2 - 2 <p, z> is the squared distance after one round of alignment."""
    points, context = random_case(3, 2, labels, [6] * 5)
    latent = noise(context, 3, 2)
    found = torch.from_numpy(aligned_overlaps(points, latent, context))
    squared = points.squared_norm()[:, None] + latent.squared_norm() - 2 * found
    torch.testing.assert_close(squared, after_alignment(points, latent, context), atol=1e-9, rtol=0)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_pairings_keep_the_size_of_data_and_the_noise(pairing, case):
    points, latent, context = case
    p, z = PAIRINGS[pairing](points, latent, context, torch.Generator().manual_seed(0))
    torch.testing.assert_close(
        squared_distances(p.x).sum((1, 2)), squared_distances(points.x).sum((1, 2)), atol=1e-9, rtol=0
    )
    assert (rows_of(z, latent) == torch.arange(len(SIZES))).all()  # sizes all differ here
    if pairing == "none":
        assert torch.equal(p.x, points.x)


def total(points, context, pairing):
    latent = noise(context, 3, points.h.shape[-1])
    return cost(*PAIRINGS[pairing](points, latent, context, torch.Generator().manual_seed(0))).mean().item()


def test_the_order_of_the_pairings():
    points, context = random_case(3, 2, 2, [5] * 32)
    costs = {pairing: total(points, context, pairing) for pairing in PAIRINGS}
    assert costs["optimal_transport"] < 0.9 * costs["none"]
    assert costs["alignment"] < 0.9 * costs["none"]
    assert costs["equivariant_optimal_transport"] < 0.9 * min(costs["optimal_transport"], costs["alignment"])


def test_transport_finds_noise_that_is_a_rotated_copy_of_the_data():
    """The labels identify the points, so any rotation is found, of whichever configuration of the batch."""
    points, _ = random_case(3, 0, 0, [5] * 20)
    context = Context(torch.ones(20, 5, dtype=torch.bool), torch.eye(5).double().expand(20, 5, 5))
    generator = torch.Generator().manual_seed(3)
    shuffled = torch.randperm(20, generator=generator)
    latent = random_orthogonal(Points(points.x[shuffled], points.h[shuffled]), generator)
    p, z = PAIRINGS["equivariant_optimal_transport"](points, latent, context, generator)
    assert cost(p, z).max() < 1e-20
    assert (shuffled[rows_of(z, latent)] == torch.arange(20)).all()


def test_transport_finds_noise_that_is_a_permuted_copy_of_the_data():
    """For a small rotation between them, since the permutation starts from the given pose."""
    points, _ = random_case(3, 0, 0, [5] * 20)
    one = torch.nn.functional.one_hot(torch.tensor([0, 0, 0, 1, 1])).double()
    context = Context(torch.ones(20, 5, dtype=torch.bool), one.expand(20, 5, 2))
    generator = torch.Generator().manual_seed(3)
    latent = rotated_and_permuted(points, context, 0.1, generator)
    shuffled = torch.randperm(20, generator=generator)
    latent = Points(latent.x[shuffled], latent.h[shuffled])
    assigned = transport(points, latent, context, aligned_overlaps)
    found = cost(align(points, assigned, context), assigned) < 1e-12
    assert found.double().mean() >= 0.9
    assert (shuffled[rows_of(assigned, latent)] == torch.arange(20))[found].all()


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_the_distributions_of_data_and_noise_stay(pairing):
    """Noise is reassigned, not changed: the same rows. Data are rotated: the same distances, no preferred direction."""
    points, context = random_case(3, 1, 0, [4] * 400)
    points = Points(points.x * torch.tensor([2.0, 1.0, 1.0]).double(), points.h)
    latent = noise(context, 3, 1)
    parts = [slice(k, k + 50) for k in range(0, 400, 50)]
    pairs = [
        PAIRINGS[pairing](
            *(Points(q.x[i], q.h[i]) for q in (points, latent)), context.select(i), torch.Generator().manual_seed(k)
        )
        for k, i in enumerate(parts)
    ]  # fmt: skip
    p, z = (Points(*(torch.cat(t) for t in zip(*side, strict=True))) for side in zip(*pairs, strict=True))
    rows_of(z, latent)
    distances = [squared_distances(q.x).flatten(1).sort(1).values for q in (p, points)]
    torch.testing.assert_close(*distances, atol=1e-9, rtol=0)
    torch.testing.assert_close(p.h.sum(1), points.h.sum(1), atol=1e-12, rtol=0)
    width = p.x.square().sum(1).mean(0)
    if pairing in ("alignment", "equivariant_optimal_transport"):
        assert (width / width.mean() - 1).abs().max() < 0.15
    else:
        assert torch.equal(p.x, points.x)


def test_dtype_is_kept_over_a_batch(case):
    points, latent, context = case
    single = [Points(*(t.float() for t in q)) for q in (points, latent)]
    context = Context(context.mask, context.labels.float())
    for pairing in PAIRINGS:
        pairs = PAIRINGS[pairing](*single, context, torch.Generator().manual_seed(0))
        assert {t.dtype for q in pairs for t in q} == {torch.float32}


def test_batches_are_turned_and_nothing_else():
    x = torch.randn(6, 4, 3, generator=torch.Generator().manual_seed(0))
    condition = torch.arange(6.0).unsqueeze(1)
    turned = turn(Batch(x, condition), seed=1)
    torch.testing.assert_close(torch.cdist(turned.data, turned.data), torch.cdist(x, x), atol=1e-4, rtol=0)
    assert turned.condition is condition
    matrices = torch.linalg.lstsq(x, turned.data).solution
    assert (matrices - matrices[:1]).abs().amax((1, 2))[1:].min() > 0.1
    assert torch.equal(turn(Batch(x), seed=1).data, turned.data)
    assert not torch.equal(turn(Batch(x), seed=2).data, turned.data)
    numbers, mask = torch.full((6, 4), 6), torch.ones(6, 4, dtype=torch.bool)
    molecules = turn(Batch(MoleculeBatch(x, numbers, mask)), seed=1).data
    assert torch.equal(molecules.positions, turned.data)
    assert torch.equal(molecules.atomic_numbers, numbers)
