"""Samples around points that are given, from a velocity that was trained without them."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from molflow.geometry import Context, Points, project

if TYPE_CHECKING:
    from molflow.flows.continuous import ContinuousFlow

RESAMPLINGS = 4
"""How often each step is made; the table in experiments/scaffolds.py has what it gives."""


def sample_around(
    flow: "ContinuousFlow[Any]", latent: Points, context: Context, times: Sequence[float], generator: torch.Generator
) -> Points:
    """Sample points whose first K are `context.fixed`, by replacement with resampling (RePaint, arXiv 2201.09865).

    On straight paths p_t = (1 - t) p + t e the velocity predicts p' = p_t - t v and e' = p_t + (1 - t) v. The fixed
    points take the place of their predictions, moved and turned onto them, and the step goes to
    p_s = (1 - s) p' + s e'. Noise takes p_s back to time t, and the step is made again, so that the other points learn
    of the fixed ones. In the end the whole configuration is moved so that the fixed points lie where they are given.

    Args:
        flow: its velocity.
        latent: at time 1.
        context: with `fixed`, (B, K, D).
        times: from 1 down to 0.
        generator: source of the noise.

    Returns:
        Points that are not centred, as the fixed ones set the frame.
    """
    assert context.fixed is not None
    space, points = flow.domain.space(context.mask), latent
    for t, s in pairwise(times):
        at = torch.full((len(context.mask),), t, dtype=flow.dtype, device=context.mask.device)
        back = (1 - t) / (1 - s)
        spread = math.sqrt(max(0.0, t * t - (s * back) ** 2))
        for again in reversed(range(RESAMPLINGS)):
            velocity = flow.velocity(points, context, at)
            data = replaced(points - velocity * t, context)
            points = data * (1 - s) + (points + velocity * (1 - t)) * s
            if again:
                points = points * back + space.randn(generator, flow.dtype) * spread
    turn, own, given = rigid_motion(context.fixed, points.x)
    return Points(((points.x - own) @ turn.mT + given) * context.mask.unsqueeze(-1), points.h)


def replaced(data: Points, context: Context) -> Points:
    """Points whose first K are the fixed ones, moved and turned onto them; the whole is centred again."""
    assert context.fixed is not None
    turn, own, given = rigid_motion(context.fixed, data.x)
    moved = (context.fixed - given) @ turn + own
    return Points(project(torch.cat([moved, data.x[:, moved.shape[1] :]], 1), context.mask), data.h)


def rigid_motion(fixed: Tensor, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """The motion of fixed points onto the first points of x with the least squared distance, (f - b) Q + a.

    Q = U V^T from the singular values U S V^T of (f - b)^T (x - a) (Kabsch 1976), a reflection where that is nearer:
    flows over point clouds do not know left from right.

    Args:
        fixed: f, (B, K, D).
        x: (B, N, D).

    Returns:
        Q (B, D, D), the centre a of the first points of x and the centre b of the fixed ones, (B, 1, D).
    """
    first = x[:, : fixed.shape[1]]
    own, given = first.mean(1, keepdim=True), fixed.mean(1, keepdim=True)
    u, _, vh = torch.linalg.svd((fixed - given).mT @ (first - own))
    return u @ vh, own, given
