"""Densities where a decoder folds: two latents that it maps to one data point both contribute to the density there."""

from functools import partial
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from molflow.distributions import StandardNormal
from molflow.geometry import Context, P, point_of, select, squared_norm, tensors_of
from molflow.volume import exact_jacobian

if TYPE_CHECKING:
    from molflow.flows.free_form import FreeFormFlow

_FAR = 0.04  # |z - f(g(z))|, root mean square over degrees of freedom, above which another latent is looked for
_SHARE = 0.1  # of such latents; of more than these, and more than 10, none is looked for: the maps are no inverses

_STEPS = 30
_STARTS = 1.0, 1.5, 2.0, 0.7  # from z, in units of f(p) - z; f(p) itself may lie at the edge of the fold
_LONGEST = 0.3  # of a step, so that Newton's method does not leave the neighbourhood
_SOLVED = 1e-4  # |g(z') - p|
_APART = 0.02  # |z - z'|


def far_latents(latent: P, back: P, dof: Tensor) -> Tensor:
    """The indices of latents from which the encoder leads elsewhere; none if they are many.

    Args:
        latent: z.
        back: f(g(z)).
        dof: degrees of freedom, (B,).
    """
    far = (squared_norm(back - latent) > _FAR**2 * dof).nonzero().squeeze(1)
    return far if len(far) <= max(10, _SHARE * len(dof)) else far[:0]


def log_branches(
    flow: "FreeFormFlow[Any]", latent: P, points: P, log_det: Tensor, context: Context, temperature: float
) -> Tensor:
    """log (1 + q' / q), with the density q of points p = g(z) by their latent z and q' by another latent, (B,).

    The other latent z' with g(z') = p is found by Newton's method from f(p), the latent that the encoder knows, or from
    farther points on the line from z to f(p). The result is 0 where the method ends at z, or does not converge.

    Args:
        flow: f and g.
        latent: z.
        points: p.
        log_det: log |det g'(z)|.
        context: of the points, which have one size.
        temperature: standard deviation of the latent.
    """
    away = flow.encode(points, context) - latent
    other, solved = latent, torch.zeros_like(log_det, dtype=torch.bool)
    for start in _STARTS:
        other = _replaced(other, latent + away * start, ~solved)
        other, solved = _solve(flow, other, points, context, solved)
    _, other_log_det = flow.decode_with_log_det(other, context)
    prior = StandardNormal(flow.domain.space(context.mask), temperature)
    gain = (prior.log_prob(other) - other_log_det) - (prior.log_prob(latent) - log_det)
    found = solved & (squared_norm(other - latent) > _APART**2) & gain.isfinite()
    return torch.where(found, torch.nn.functional.softplus(gain), 0.0)


def _solve(flow: "FreeFormFlow[Any]", z: P, points: P, context: Context, solved: Tensor) -> tuple[P, Tensor]:
    """Newton's method for g(z) = p, and which configurations it solved; those that are solved already stay."""
    solved, n = solved.clone(), context.mask.shape[1]
    for _ in range(_STEPS):
        left = (~solved).nonzero().squeeze(1)
        if not len(left):
            break
        part, some = select(z, left, n), context.select(left)
        space = flow.domain.space(some.mask)
        value, jacobian = exact_jacobian(partial(flow.decode, context=some), part, space)
        miss = value - select(points, left, n)
        solved[left] = squared_norm(miss) < _SOLVED**2
        step = torch.linalg.solve_ex(jacobian, space.coordinates(miss)).result
        step = step * (_LONGEST / step.norm(dim=1, keepdim=True)).clamp(max=1) * ~solved[left].unsqueeze(1)
        basis = [torch.stack(each) for each in zip(*(tensors_of(e) for e in space.basis(flow.dtype)), strict=True)]
        change = point_of([torch.einsum("bk,kb...->b...", step, each) for each in basis])
        moved = part - change  # type: ignore[operator]
        pairs = zip(tensors_of(z), tensors_of(moved), strict=True)
        z = point_of([a.index_copy(0, left, b) for a, b in pairs])  # type: ignore[assignment]
    return z, solved


def _replaced(point: P, by: P, which: Tensor) -> P:
    """A point with some of its configurations replaced."""
    pairs = zip(tensors_of(point), tensors_of(by), strict=True)
    return point_of([torch.where(which.view(-1, *[1] * (a.ndim - 1)), b, a) for a, b in pairs])  # type: ignore[return-value]
