"""The log-determinant of a path: the integral of the divergence along it, to an accuracy that each configuration meets.

A path is followed first, which needs no derivative. The divergence is then a function of time alone, and is integrated
by the rules of Kronrod (15 nodes) and Gauss (7 of these), whose difference tells the error. A solver for path and
log-determinant together takes many times as many divergences, and one stiff configuration among many escapes it.
"""

import logging
from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor

from molflow.geometry import Context, P, select

log = logging.getLogger("molflow")

TOLERANCE = 0.05
"""Largest difference between the two rules over an interval, nats; the error is about a tenth of it."""
_INTERVALS, _HALVINGS = 2, 4

_GAUSS, _GAUSS_WEIGHTS = np.polynomial.legendre.leggauss(7)
_ADDED = np.array([0.207784955007898468, 0.586087235467691130, 0.864864423359769073, 0.991455371120812640])
_NODES = np.sort(np.concatenate([_GAUSS, _ADDED, -_ADDED]))
_POLYNOMIALS = np.polynomial.legendre.legvander(_NODES, 14).T  # integrated exactly: 2, 0, 0, ...
_KRONROD = np.linalg.solve(_POLYNOMIALS, 2 * np.eye(15)[0])
_DIFFERENCE = _KRONROD - np.insert(np.zeros(8), range(1, 8), _GAUSS_WEIGHTS)

Follow = Callable[[P, Context, Sequence[float]], Sequence[P]]
"""(points at the start, their context, times) -> points at these times."""
Divergence = Callable[[P, Context, float], Tensor]
"""(points, their context, time) -> divergence of the velocity there, (B,)."""


def along_path(
    follow: Follow[P], divergence: Divergence[P], points: P, context: Context, start: float, end: float
) -> tuple[P, Tensor]:
    """Follow paths and integrate the divergence along them; both can be differentiated.

    Where the two rules differ by more than `TOLERANCE`, the interval is halved, up to four times. A warning tells how
    many configurations are too stiff even then.

    Args:
        follow, divergence: of the flow.
        points: at time `start`, all of one size.
        context: of the points.
        start, end: times.

    Returns:
        The points at time `end`, and the integral, nats (B,).
    """
    n = context.mask.shape[1]
    due = torch.ones(len(context.mask), _INTERVALS, dtype=torch.bool, device=context.mask.device)
    ends: list[P] = []
    total = uncertain = torch.zeros(len(due), device=due.device)
    for level in range(_HALVINGS + 1):
        index = due.any(1).nonzero().squeeze(1)
        if not len(index):
            break
        some, given = select(points, index, n), context.select(index)
        half: float = 0.5 * (end - start) / due.shape[1]
        middles: list[float] = [start + half * (2 * k + 1) for k in range(due.shape[1])]
        path = follow(some, given, [*(middle + half * node for middle in middles for node in _NODES.tolist()), end])
        ends = ends or [path[-1]]
        differs = torch.zeros_like(due)
        for k, middle in enumerate(middles):
            rows = due[index, k].nonzero().squeeze(1)
            if not len(rows):
                continue
            values = torch.stack(
                [
                    divergence(select(path[k * 15 + j], rows, n), given.select(rows), middle + half * node)
                    for j, node in enumerate(_NODES.tolist())
                ],
                1,
            )
            integral = values @ values.new_tensor(half * _KRONROD)
            error = (values.detach() @ values.new_tensor(half * _DIFFERENCE)).abs()
            halve = error > (TOLERANCE if level < _HALVINGS else torch.inf)
            total = total.to(values).index_add(0, index[rows], torch.where(halve, 0, integral))
            uncertain = uncertain.to(values).index_add(0, index[rows], torch.where(halve, 0, error))
            differs[index[rows], k] = halve
        due = differs.repeat_interleave(2, 1)
    _warn(uncertain)
    return ends[0], total


def _warn(uncertain: Tensor) -> None:
    stiff = int((uncertain > 2 * TOLERANCE).sum())
    if stiff:
        log.warning(
            "%d of %d configurations are stiff: their density is uncertain by up to %.2g nats",
            stiff, len(uncertain), float(uncertain.max()),
        )  # fmt: skip
