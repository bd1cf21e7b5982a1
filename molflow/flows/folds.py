"""Densities where a decoder folds: two latents that it maps to one data point both contribute to the density there."""

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from molflow.distributions import StandardNormal
from molflow.geometry import Context, P, point_of, squared_norm, tensors_of
from molflow.volume import exact_jacobian

if TYPE_CHECKING:
    from molflow.flows.free_form import FreeFormFlow

FAR = 0.1
"""|z - f(g(z))| of a latent above which another one is looked for."""

_STEPS = 60
_LONGEST = 0.3  # of a step, so that Newton's method does not leave the neighbourhood
_SOLVED = 1e-4  # |g(z') - p|
_APART = 0.02  # |z - z'|


def log_branches(
    flow: "FreeFormFlow[Any]", latent: P, points: P, log_det: Tensor, context: Context, temperature: float
) -> Tensor:
    """log (1 + q' / q), with the density q of points p = g(z) by their latent z and q' by another latent, (B,).

    The other latent z' with g(z') = p is found by Newton's method from f(p), the latent that the encoder knows. It is 0
    where the method ends at z, or does not converge.

    Args:
        flow: f and g.
        latent: z.
        points: p.
        log_det: log |det g'(z)|.
        context: of the points, which have one size.
        temperature: standard deviation of the latent.
    """
    space = flow.domain.space(context.mask)
    basis = [torch.stack(each) for each in zip(*(tensors_of(e) for e in space.basis(flow.dtype)), strict=True)]
    other = flow.encode(points, context)
    for _ in range(_STEPS):
        value, jacobian = exact_jacobian(lambda z: flow.decode(z, context), other, space)
        if bool((squared_norm(value - points) < _SOLVED**2).all()):
            break
        step = torch.linalg.solve_ex(jacobian, space.coordinates(value - points)).result
        step = step * (_LONGEST / step.norm(dim=1, keepdim=True)).clamp(max=1)
        other = other - point_of([torch.einsum("bk,kb...->b...", step, each) for each in basis])
    value, other_log_det = flow.decode_with_log_det(other, context)
    prior = StandardNormal(space, temperature)
    gain = (prior.log_prob(other) - other_log_det) - (prior.log_prob(latent) - log_det)
    found = (squared_norm(value - points) < _SOLVED**2) & (squared_norm(other - latent) > _APART**2) & gain.isfinite()
    return torch.where(found, torch.nn.functional.softplus(gain), 0.0)
