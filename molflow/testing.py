"""The laws that networks and flows obey, as assertions that anyone can run on their own.

All of them take callables, draw their randomness from a seed, and raise AssertionError with the measured error.
"""

import math
from collections.abc import Callable, Iterator
from typing import NamedTuple

import torch
from torch import Tensor

from molflow.geometry import Points, masked_randn

Network = Callable[[Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]
PointMap = Callable[[Points, Tensor], Points]
PointMapWithLogDet = Callable[[Points, Tensor], tuple[Points, Tensor]]

TOLERANCE = {torch.float64: 1e-10, torch.float32: 1e-4}
"""The error that each precision may have, relative to the largest entry or to 1, whichever is larger."""


def assert_equivariant(
    network: Network, x: Tensor, h: Tensor, mask: Tensor, *, seed: int = 0, rotations: bool = True
) -> dict[str, float]:
    """Check a network (x, h, mask) -> (dx, dh) of point clouds, whatever its number of coordinates.

    For a random rotation or reflection R in O(D), translation a and permutation P of the real points
    dx(R x) = R dx(x), dx(x + a) = dx(x), dx(P x, P h) = P dx(x, h); dh permutes and does nothing else; more padding
    changes nothing, and both outputs are zero at padding.

    Args:
        network: for one with a time, `lambda x, h, mask: network(x, h, mask, t)`.
        x: positions (B, N, D).
        h: features (B, N, F).
        mask: True for a real point, padding at the end (B, N).
        seed: of the transformations.
        rotations: whether rotations and reflections are tried.

    Returns:
        The error measured for each transformation; see `TOLERANCE` for what is accepted.

    Raises:
        AssertionError: a law is broken; the message names it and the error.

    Example:
        >>> network, mask = molflow.nn.EGNN(0, n_blocks=2), torch.ones(4, 7, dtype=torch.bool)
        >>> errors = assert_equivariant(network, torch.randn(4, 7, 2), torch.zeros(4, 7, 0), mask)
    """
    points, value = Points(x, h), Points(*network(x, h, mask))
    _check("zero padding", torch.cat(value, -1)[~mask], x.new_zeros(()))
    errors = {}
    for law in _symmetries(points, mask, torch.Generator(x.device).manual_seed(seed), translate=True):
        if law.name in ("rotation", "reflection") and not rotations:
            continue
        moved = network(*law.on_input(points), law.mask)
        expected = law.on_output(value)
        errors[law.name] = _check(law.name, torch.cat(moved, -1), torch.cat(expected, -1))
    return errors


def assert_invariant(
    log_prob: Callable[[Points, Tensor], Tensor], points: Points, mask: Tensor, *, seed: int = 0
) -> dict[str, float]:
    """Check that a density of points, (points, mask) -> (B,), is the same after any transformation of its argument.

    These are rotations, reflections, permutations of the real points, and more padding; arguments, returns and raises
    as in `assert_equivariant`. Translations leave the mean-free space and are not among them.

    Args:
        log_prob: the density.
        points: the points at which it is checked.
        mask: True for a real point, padding at the end (B, N).
        seed: of the transformations.

    Example:
        >>> mask = torch.ones(2, 4, dtype=torch.bool)
        >>> points = molflow.geometry.MeanFreeSpace(mask, 3, 1).randn(torch.Generator().manual_seed(0), torch.float64)
        >>> errors = assert_invariant(lambda points, mask: -points.x.square().sum((1, 2)), points, mask)
    """
    value = log_prob(points, mask)
    laws = _symmetries(points, mask, torch.Generator(mask.device).manual_seed(seed), translate=False)
    return {law.name: _check(law.name, log_prob(law.on_input(points), law.mask), value) for law in laws}


def assert_inverse(forward: PointMap, inverse: PointMap, points: Points, mask: Tensor) -> None:
    """Check inverse(forward(p)) = p at the given points. Raises AssertionError with the error.

    Args:
        forward, inverse: the two maps.
        points: the points at which they are checked.
        mask: True for a real point, padding at the end (B, N).

    Example:
        >>> mask = torch.ones(2, 4, dtype=torch.bool)
        >>> points = molflow.geometry.MeanFreeSpace(mask, 3, 1).randn(torch.Generator().manual_seed(0), torch.float64)
        >>> double = lambda points, mask: points._replace(x=2 * points.x)
        >>> assert_inverse(double, lambda points, mask: points._replace(x=points.x / 2), points, mask)
    """
    _check("inverse", torch.cat(inverse(forward(points, mask), mask), -1), torch.cat(points, -1))


def reference_log_det(function: PointMap, points: Points, mask: Tensor) -> Tensor:
    """log |det J| of a map of the mean-free space to itself, nats (B,): slow, and no code shared with `molflow.volume`.

    One configuration at a time without its padding, a basis from the SVD of the constraint sum_i x_i = 0, and the
    Jacobian row by row in reverse mode.

    Args:
        function: the map.
        points: the points at which it is taken.
        mask: True for a real point, padding at the end (B, N).

    Raises:
        AssertionError: the map leaves the mean-free space.

    Example:
        >>> mask = torch.ones(2, 4, dtype=torch.bool)
        >>> points = molflow.geometry.MeanFreeSpace(mask, 3, 1).randn(torch.Generator().manual_seed(0), torch.float64)
        >>> reference_log_det(lambda points, mask: points._replace(x=2 * points.x), points, mask)  # 9 log 2
        tensor([6.2383, 6.2383], dtype=torch.float64)
    """
    results = []
    for i, n in enumerate(mask.sum(1).tolist()):
        x, h = points.x[i, :n], points.h[i, :n]
        null_space = torch.linalg.svd(x.new_ones(1, n)).Vh[1:].T
        basis = torch.block_diag(torch.kron(null_space, torch.eye(x.shape[1]).to(x)), torch.eye(h.numel()).to(x))

        def in_basis(
            y: Tensor, basis: Tensor = basis, x: Tensor = x, h: Tensor = h, real: Tensor = mask[i : i + 1, :n]
        ) -> Tensor:
            flat_x, flat_h = (basis @ y).split([x.numel(), h.numel()])
            image = function(Points(flat_x.view(1, *x.shape), flat_h.view(1, *h.shape)), real)
            flat = torch.cat([image.x.flatten(), image.h.flatten()])
            _check("mean-free output", basis @ (basis.T @ flat), flat)
            return basis.T @ flat

        y = basis.T @ torch.cat([x.flatten(), h.flatten()]).detach()
        jacobian = torch.autograd.functional.jacobian(in_basis, y)
        results.append(torch.linalg.slogdet(jacobian).logabsdet)
    return torch.stack(results)


def assert_log_det(
    function: PointMapWithLogDet, points: Points, mask: Tensor, *, tolerance: float | None = None
) -> None:
    """Check the log-determinant that a map (points, mask) -> (image, (B,)) reports, against `reference_log_det`.

    Args:
        function: the map.
        points: the points at which the map is checked.
        mask: True for a real point, padding at the end (B, N).
        tolerance: in place of that of `TOLERANCE`, for a map that integrates its log-determinant in steps.

    Raises:
        AssertionError: with the error.

    Example:
        >>> mask = torch.ones(2, 4, dtype=torch.bool)
        >>> points = molflow.geometry.MeanFreeSpace(mask, 3, 1).randn(torch.Generator().manual_seed(0), torch.float64)
        >>> def double(points, mask):
        ...     return points._replace(x=2 * points.x), torch.full((2,), 9 * np.log(2))
        >>> assert_log_det(double, points, mask)
    """
    reported = function(points, mask)[1]
    expected = reference_log_det(lambda p, m: function(p, m)[0], points, mask)
    _check("log-determinant", reported, expected, tolerance)


def assert_integrates_to_one(
    log_prob: Callable[[Tensor], Tensor],
    dim: int,
    extent: float,
    *,
    tolerance: float = 0.01,
    n_radii: int = 2000,
    dtype: torch.dtype = torch.float64,
    seed: int = 0,
) -> None:
    """Check that a density of two particles in D dimensions has integral 1 over its mean-free space.

    The space is x = (y, -y) / sqrt 2 with y in R^D, and the integral that of r^(D-1) S_D p(r u) over r = |y|, with S_D
    the area of the unit sphere: the midpoint rule in r, a random direction u at each radius.

    Args:
        log_prob: nats; configurations (n_radii, 2, D) -> (n_radii,).
        dim: D.
        extent: largest r, in the units of the data; the density must be negligible beyond.
        tolerance: of the integral.
        n_radii: nodes of the quadrature.
        dtype: of the configurations.
        seed: of the directions.

    Raises:
        AssertionError: with the integral.

    Example:
        >>> assert_integrates_to_one(lambda x: -x.square().sum((1, 2)) / 2 - np.log(2 * np.pi), dim=2, extent=8.0)
    """
    step = extent / n_radii
    r = (torch.arange(n_radii, dtype=dtype) + 0.5) * step
    u = torch.randn(n_radii, dim, dtype=dtype, generator=torch.Generator().manual_seed(seed))
    y = r[:, None] * u / u.norm(dim=1, keepdim=True)
    log_area = math.log(2) + dim / 2 * math.log(math.pi) - math.lgamma(dim / 2)
    log_p = log_prob(torch.stack([y, -y], 1) / math.sqrt(2)).detach()
    integral = float((log_p + (dim - 1) * r.log() + log_area + math.log(step)).logsumexp(0).exp())
    assert abs(integral - 1) <= tolerance, f"the density integrates to {integral:.6f}, expected 1 within {tolerance}"


class _Symmetry(NamedTuple):
    """A transformation of the input, the expected transformation of the output, and the mask of both."""

    name: str
    on_input: Callable[[Points], Points]
    on_output: Callable[[Points], Points]
    mask: Tensor


def _symmetries(points: Points, mask: Tensor, generator: torch.Generator, translate: bool) -> Iterator[_Symmetry]:
    x, real = points.x, mask.unsqueeze(-1)
    gaussian = torch.randn(x.shape[-1], x.shape[-1], dtype=x.dtype, device=x.device, generator=generator)
    q, r = torch.linalg.qr(gaussian)
    rotation = q * r.diagonal().sign()  # Haar measure on O(D): the signs make the decomposition unique
    rotation[0] *= torch.linalg.det(rotation)
    reflection = rotation.clone()
    reflection[0] *= -1
    for name, matrix in ("rotation", rotation), ("reflection", reflection):

        def turn(p: Points, matrix: Tensor = matrix) -> Points:
            return Points(p.x @ matrix.T, p.h)

        yield _Symmetry(name, turn, turn, mask)
    if translate:
        shift = torch.randn(len(x), 1, x.shape[-1], dtype=x.dtype, device=x.device, generator=generator)
        yield _Symmetry("translation", lambda p: Points(p.x + shift * real, p.h), lambda p: p, mask)

    order = masked_randn(mask, 1, generator).masked_fill(~real, torch.inf).argsort(1)

    def permute(p: Points) -> Points:
        return Points(*(torch.take_along_dim(t, order, 1) for t in p))

    yield _Symmetry("permutation", permute, permute, mask)

    def pad(p: Points) -> Points:
        return Points(*(torch.cat([t, t.new_zeros(len(t), 2, t.shape[-1])], 1) for t in p))

    yield _Symmetry("padding", pad, pad, torch.nn.functional.pad(mask, (0, 2)))


def _check(name: str, got: Tensor, expected: Tensor, tolerance: float | None = None) -> float:
    """The largest deviation, relative to the largest entry or to 1; by default it must be within `TOLERANCE`."""
    if not got.numel():
        return 0.0
    got, expected = got.detach(), expected.detach()
    error = float((got - expected).abs().max() / expected.abs().max().clamp(min=1))
    allowed = TOLERANCE[got.dtype] if tolerance is None else tolerance
    assert error <= allowed, f"{name}: error {error:.2e}, allowed are {allowed:.0e} in {got.dtype}"
    return error
