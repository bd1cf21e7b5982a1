"""The mean-free space: projector, basis, probes and normal density agree with each other and ignore padding."""

import pytest
import torch
from laws import SIZES, random_points

from molflow.geometry import Context, MeanFreeSpace, Points, helmert_basis, masked_randn, pair_mask, project, safe_sqrt

SPACES = [(3, 5), (2, 0), (1, 1)]


@pytest.fixture(params=SPACES, ids=str)
def space(request):
    dim, n_features = request.param
    return MeanFreeSpace(random_points(dim, n_features)[1], dim, n_features)


def noise(space, seed=3):
    """Numbers everywhere: off the space, and at padding."""
    shape, generator = space.mask.shape, torch.Generator().manual_seed(seed)
    return Points(
        torch.randn(*shape, space.dim, dtype=torch.float64, generator=generator) + 3,
        torch.randn(*shape, space.n_features, dtype=torch.float64, generator=generator),
    )


def flat(points):
    return torch.cat([points.x, points.h], -1).flatten(1)


def test_project_is_an_orthogonal_projection(space):
    once, other = space.project(noise(space)), space.project(noise(space, seed=4))
    torch.testing.assert_close(flat(space.project(once)), flat(once), atol=1e-12, rtol=0)
    torch.testing.assert_close((noise(space) - once).dot(other), torch.zeros(4).double(), atol=1e-12, rtol=0)
    assert once.x.sum(1).abs().max() < 1e-12
    assert not flat(once)[:, :, None].unflatten(1, (7, -1))[~space.mask].any()
    assert (once.x[space.mask] != 0).any()


def test_project_of_nothing_is_nothing():
    assert not project(torch.ones(1, 3, 2), torch.zeros(1, 3, dtype=torch.bool)).any()


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
    assert coordinates[~own].abs().max() < 1e-14
    torch.testing.assert_close(own.sum(1), space.dof)
    matrix = torch.stack([flat(b) for b in basis], -1)
    gram = matrix.transpose(1, 2) @ matrix
    torch.testing.assert_close(gram, torch.diag_embed(own.double()), atol=1e-14, rtol=0)
    torch.testing.assert_close((matrix @ coordinates[..., None])[..., 0], flat(points), atol=1e-12, rtol=0)
    torch.testing.assert_close(coordinates.square().sum(1), points.squared_norm())


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


def test_a_full_set_of_probes_resolves_the_identity():
    space = MeanFreeSpace(torch.arange(6).expand(3, 6) < 4, 2, 3)
    dof = int(space.dof[0])
    v = torch.stack([flat(p) for p in space.probes(dof, torch.Generator().manual_seed(0), torch.float64)], -1)
    direction = noise(space)
    image = (v @ (v.transpose(1, 2) @ flat(direction)[..., None]))[..., 0]
    torch.testing.assert_close(image, dof * flat(space.project(direction)), atol=1e-10, rtol=0)


def test_one_probe_has_the_identity_as_second_moment():
    space = MeanFreeSpace(torch.ones(20_000, 3, dtype=torch.bool), 1, 1)
    (probe,) = space.probes(1, torch.Generator().manual_seed(0), torch.float64)
    y = space.coordinates(probe)
    torch.testing.assert_close(y.T @ y / len(y), torch.eye(5).double(), atol=0.04, rtol=0)


def test_too_many_probes_are_refused():
    space = MeanFreeSpace(random_points(2, 0)[1], 2)
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
