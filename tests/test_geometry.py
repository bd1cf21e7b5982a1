"""Laws of every space: projector, basis, probes and normal density agree with each other and ignore padding."""

import pytest
import torch
from laws import SIZES, random_points

from molflow.geometry import (
    Context,
    EuclideanSpace,
    MeanFreeSpace,
    Points,
    helmert_basis,
    inner,
    masked_randn,
    pair_mask,
    point_of,
    project,
    safe_sqrt,
    scale,
    select,
    squared_norm,
    tensors_of,
)

N = 4  # configurations

SPACES = {
    **{
        f"mean-free-{dim}-{n_features}": lambda n, dim=dim, f=n_features: MeanFreeSpace(wide_mask(dim, n), dim, f)
        for dim, n_features in [(3, 5), (2, 0), (1, 1)]
    },
    **{f"euclidean-{f}": lambda n, f=f: EuclideanSpace(n or N, f) for f in (1, 4)},
}
"""Name -> a space for n equal configurations, or for a batch of four."""


def wide_mask(dim, n):
    return random_points(dim, 0)[1] if n is None else torch.arange(4).expand(n, 4) < 3


@pytest.fixture(params=SPACES)
def space_of(request):
    return SPACES[request.param]


@pytest.fixture
def space(space_of):
    return space_of(None)


@pytest.fixture
def mean_free():
    return SPACES["mean-free-3-5"](None)


def noise(space, seed=3):
    """Numbers everywhere: off the space, and at padding."""
    generator = torch.Generator().manual_seed(seed)
    if isinstance(space, EuclideanSpace):
        return torch.randn(space.batch, space.n_features, dtype=torch.float64, generator=generator) + 3
    shape = space.mask.shape
    return Points(
        torch.randn(*shape, space.dim, dtype=torch.float64, generator=generator) + 3,
        torch.randn(*shape, space.n_features, dtype=torch.float64, generator=generator),
    )


def flat(points):
    return torch.cat(tensors_of(points), -1).flatten(1)


def identity(space):
    """The projector on the space, (B, K, K) in coordinates."""
    return torch.diag_embed(space.coordinate_mask().double())


def test_project_is_an_orthogonal_projection(space):
    once, other = space.project(noise(space)), space.project(noise(space, seed=4))
    torch.testing.assert_close(flat(space.project(once)), flat(once), atol=1e-12, rtol=0)
    torch.testing.assert_close(inner(noise(space) - once, other), torch.zeros(4).double(), atol=1e-12, rtol=0)
    assert (flat(once) != 0).any()


def test_project_removes_the_centroid_and_the_padding(mean_free):
    once = mean_free.project(noise(mean_free))
    assert once.x.sum(1).abs().max() < 1e-12
    assert not torch.cat(once, -1)[~mean_free.mask].any()
    assert (once.x[mean_free.mask] != 0).any()


def test_a_euclidean_space_is_everything():
    space = EuclideanSpace(3, 2)
    point = torch.randn(3, 2)
    assert space.project(point) is point
    assert space.coordinates(point) is point
    assert space.coordinate_mask().all()
    assert space.dof.tolist() == [2, 2, 2]
    assert [v.tolist() for v in space.basis()] == [[[1, 0]] * 3, [[0, 1]] * 3]


def test_projection_of_an_empty_batch_is_empty():
    assert not project(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).any()


@pytest.mark.parametrize("draw", ["randn", "rademacher"])
def test_a_draw_lies_in_the_space_and_has_the_identity_as_second_moment(space_of, draw):
    space = space_of(20_000)
    v = getattr(space, draw)(torch.Generator().manual_seed(0), torch.float64)
    torch.testing.assert_close(flat(space.project(v)), flat(v), atol=1e-12, rtol=0)
    c = space.coordinates(v)
    torch.testing.assert_close(c.T @ c / len(c), identity(space)[0], atol=0.05, rtol=0)
    assert c.mean(0).abs().max() < 0.04
    if draw == "rademacher":
        torch.testing.assert_close(c.abs(), space.coordinate_mask().double(), atol=1e-10, rtol=0)
        torch.testing.assert_close(squared_norm(v), space.dof.double(), atol=1e-10, rtol=0)


@pytest.mark.parametrize("draw", ["randn", "rademacher", "probes"])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64], ids=str)
def test_a_seed_determines_the_draws_in_the_given_precision(space, draw, dtype):
    count = (1,) if draw == "probes" else ()
    draws = []
    for seed in (0, 0, 1):
        drawn = getattr(space, draw)(*count, torch.Generator().manual_seed(seed), dtype)
        draws.append(drawn[0] if draw == "probes" else drawn)
    assert all(tensor.dtype == dtype for tensor in tensors_of(draws[0]))
    assert torch.equal(flat(draws[0]), flat(draws[1]))
    assert not torch.equal(flat(draws[0]), flat(draws[2]))


def test_degrees_of_freedom_to_divide_by(space):
    assert torch.equal(space.dof_or_one(torch.float64), space.dof.clamp(min=1).double())
    assert MeanFreeSpace(torch.ones(1, 1, dtype=torch.bool), 3).dof_or_one(torch.float32).tolist() == [1]


@pytest.mark.parametrize("n", [1, 2, 9])
def test_helmert_basis_is_an_orthonormal_basis_of_the_contrasts(n):
    q = helmert_basis(n, torch.float64, torch.device("cpu"))
    torch.testing.assert_close(q.T @ q, torch.eye(n - 1).double(), atol=1e-14, rtol=0)
    torch.testing.assert_close(q @ q.T, torch.eye(n).double() - 1 / n, atol=1e-14, rtol=0)


def test_basis_is_orthonormal_and_coordinates_are_its_coefficients(space):
    points = space.project(noise(space))
    basis = list(space.basis(torch.float64))
    own = space.coordinate_mask()
    coordinates = space.coordinates(points)
    assert coordinates.shape == own.shape == (4, len(basis))
    assert (coordinates * ~own).abs().max() < 1e-14
    torch.testing.assert_close(own.sum(1), space.dof)
    matrix = torch.stack([flat(b) for b in basis], -1)
    gram = matrix.transpose(1, 2) @ matrix
    torch.testing.assert_close(gram, torch.diag_embed(own.double()), atol=1e-14, rtol=0)
    torch.testing.assert_close((matrix @ coordinates[..., None])[..., 0], flat(points), atol=1e-12, rtol=0)
    torch.testing.assert_close(coordinates.square().sum(1), squared_norm(points))


def test_degrees_of_freedom():
    mask = torch.arange(4) < torch.tensor([0, 1, 2, 4]).unsqueeze(1)
    space = MeanFreeSpace(mask, 3, 2)
    assert space.position_dof.tolist() == [0, 0, 3, 9]
    assert space.dof.tolist() == [0, 2, 7, 17]


def test_log_normal_is_that_of_the_coordinates(space):
    points = space.project(noise(space))
    each = torch.distributions.Normal(0.0, 1.0).log_prob(space.coordinates(points))
    torch.testing.assert_close(space.log_normal(points), (each * space.coordinate_mask()).sum(1), atol=1e-12, rtol=0)


def test_probes_are_orthogonal_vectors_of_the_space(space):
    count = min(3, int(space.dof.min()))
    probes = space.probes(count, torch.Generator().manual_seed(0), torch.float64)
    v = torch.stack([flat(p) for p in probes], -1)
    lengths = space.dof.double()[:, None, None] * torch.eye(count).double()
    torch.testing.assert_close(v.transpose(1, 2) @ v, lengths, atol=1e-12, rtol=0)
    for p in probes:
        torch.testing.assert_close(flat(space.project(p)), flat(p), atol=1e-12, rtol=0)


def test_a_full_set_of_probes_resolves_the_identity(space_of):
    space = space_of(3)
    dof = int(space.dof[0])
    v = torch.stack([flat(p) for p in space.probes(dof, torch.Generator().manual_seed(0), torch.float64)], -1)
    direction = noise(space)
    image = (v @ (v.transpose(1, 2) @ flat(direction)[..., None]))[..., 0]
    torch.testing.assert_close(image, dof * flat(space.project(direction)), atol=1e-10, rtol=0)


@pytest.mark.parametrize("count", [1, 2])
def test_probes_have_the_identity_as_second_moment(space_of, count):
    space = space_of(20_000)
    count = min(count, int(space.dof[0]))
    for probe in space.probes(count, torch.Generator().manual_seed(0), torch.float64):
        y = space.coordinates(probe)
        torch.testing.assert_close(y.T @ y / len(y), identity(space)[0], atol=0.05, rtol=0)


def test_too_many_probes_are_refused():
    for space in (MeanFreeSpace(random_points(2, 0)[1], 2), EuclideanSpace(4, 2)):
        with pytest.raises(ValueError, match="3 orthogonal probes need 3 dimensions, got 2"):
            space.probes(3, None)


def test_noise_does_not_depend_on_padding():
    mask = random_points(3, 0)[1]
    wide = torch.nn.functional.pad(mask, (0, 4))
    few, many = (masked_randn(m, 2, torch.Generator().manual_seed(5), torch.float64) for m in (mask, wide))
    assert torch.equal(few, many[:, : max(SIZES)])
    assert torch.equal(many.abs().sum(-1) > 0, wide)


def test_context_of_some_configurations():
    mask = random_points(3, 0)[1]
    labels = torch.arange(4 * 7 * 2.0).view(4, 7, 2) * mask.unsqueeze(-1)
    few = Context(mask, labels).select(torch.tensor([3, 1]), 3)
    assert few.mask.tolist() == [[True, True, False], [True, True, True]]
    assert torch.equal(few.labels, labels[[3, 1], :3])


def test_a_condition_follows_its_configuration():
    context = Context(torch.ones(3, 1, dtype=torch.bool), torch.zeros(3, 1, 0), torch.arange(6.0).view(3, 2))
    assert context.select(torch.tensor([2, 0])).condition.tolist() == [[4, 5], [0, 1]]
    assert context.select(slice(1, 2)).condition.tolist() == [[2, 3]]
    assert context._replace(condition=None).select(slice(1, 2)).condition is None
    assert context.to("cpu").condition.tolist() == context.condition.tolist()


@pytest.mark.parametrize("kind", ["points", "vectors"])
def test_points_and_vectors_obey_the_same_algebra(kind):
    generator = torch.Generator().manual_seed(0)

    def draw():
        x, h = (torch.randn(3, *shape, dtype=torch.float64, generator=generator) for shape in [(5, 2), (5, 4)])
        return Points(x, h) if kind == "points" else torch.cat([x, h], -1).flatten(1)

    a, b, factor = draw(), draw(), torch.tensor([2.0, -1.0, 0.5]).double()
    torch.testing.assert_close(inner(a, b), (flat(a) * flat(b)).sum(1))
    torch.testing.assert_close(squared_norm(a), inner(a, a))
    torch.testing.assert_close(flat(scale(a, factor)), flat(a) * factor[:, None])
    torch.testing.assert_close(flat(a + b * 2.0 - a), flat(b) * 2)
    assert torch.equal(flat(point_of(tensors_of(a))), flat(a))
    some = select(a, torch.tensor([2, 0]), 3 if kind == "points" else 1)
    whole = select(a, torch.tensor([2, 0]), 5)
    assert torch.equal(flat(whole), flat(a)[[2, 0]])
    assert [len(t) for t in tensors_of(some)] == [2] * len(tensors_of(a))
    if kind == "points":
        assert torch.equal(some.x, a.x[[2, 0], :3])


def test_pairs_are_of_two_different_real_points():
    pairs = pair_mask(torch.tensor([[True, True, False]]))
    assert pairs[0].tolist() == [[False, True, False], [True, False, False], [False, False, False]]


def test_safe_sqrt_has_finite_derivatives_at_zero():
    def distance(difference):
        return safe_sqrt(difference.square().sum(-1))

    zero = torch.zeros(3, dtype=torch.float64)
    assert torch.isfinite(torch.autograd.functional.jacobian(distance, zero)).all()
    assert torch.isfinite(torch.autograd.functional.hessian(distance, zero)).all()
    assert torch.isfinite(torch.func.jvp(distance, (zero,), (torch.ones_like(zero),))[1])
    torch.testing.assert_close(distance(torch.tensor([3.0, 4.0], dtype=torch.float64)), torch.tensor(5.0).double())


@pytest.mark.parametrize("count", [1, 2])
def test_probes_of_a_single_point_are_zero(count):
    mask = torch.tensor([[True, False, False], [True, True, True]])
    for probe in MeanFreeSpace(mask, 3).probes(count, None, torch.float64):
        assert not probe.x[0].any()
        torch.testing.assert_close(probe.squared_norm(), torch.tensor([0.0, 6.0]).double())
