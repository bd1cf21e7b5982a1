"""Which noise belongs to which data: noise is dealt out over a batch, molecules are turned and renumbered towards it.

Straight paths between the two then cross less, and a network learns their velocity sooner. Noise is exchanged only
among configurations it could have been drawn for, and a turned molecule is as likely as the given one, so both keep
their distributions.
"""

from collections.abc import Callable

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from molflow.geometry import Context, Points
from molflow.training.config import Pairing

_FORBIDDEN = 1e6  # cost of exchanging points of different labels; squared distances are of order one


def pair(
    points: Points, latent: Points, context: Context, pairing: Pairing, generator: torch.Generator | None
) -> tuple[Points, Points]:
    """Data and noise of a batch in the pairs that straight paths join.

    - none: as they were drawn;
    - alignment: each configuration turned and renumbered towards its own noise (`align`), after a random turn;
    - optimal_transport: noise assigned over the batch, sum_i |p_i - z_s(i)|^2 minimal (arXiv 2302.00482, 2304.14772);
    - equivariant_optimal_transport: the same for the distance after alignment, and then aligned (arXiv 2306.15030).

    Args:
        points: data, (B, N, D) and (B, N, F), positions with zero centroid.
        latent: noise of the same shapes, padded as the data are.
        context: of the data.
        pairing: one of the above.
        generator: source of the random turn.

    Returns:
        Data and noise, which belong to `context` as before.
    """
    aligned = pairing in ("alignment", "equivariant_optimal_transport")
    if aligned:
        points = random_orthogonal(points, generator)
    if pairing == "optimal_transport":
        latent = transport(points, latent, context, overlaps)
    if pairing == "equivariant_optimal_transport":
        latent = transport(points, latent, context, aligned_overlaps)
    return align(points, latent, context) if aligned else points, latent


Overlaps = Callable[[Points, Points, Context], np.ndarray]


def transport(points: Points, latent: Points, context: Context, overlaps: Overlaps) -> Points:
    """Noise dealt out anew among the configurations of each size, so that the sum of overlaps is greatest.

    As |p - z|^2 = |p|^2 + |z|^2 - 2 <p, z> and every z is dealt once, the sum of squared distances is then least.

    Args:
        points: (B, N, D) and (B, N, F).
        latent: the same shapes.
        context: mask and labels of the points.
        overlaps: (points, latent, context) of K configurations of one size -> <p_i, z_j>, (K, K).
    """
    sizes = context.mask.sum(1)
    dealt = torch.arange(len(sizes))
    for n in sizes.unique().tolist():
        index = (sizes == n).nonzero().squeeze(1)
        p, z = (Points(q.x[index, :n], q.h[index, :n]) for q in (points, latent))
        _, columns = linear_sum_assignment(overlaps(p, z, context.select(index, n)), maximize=True)
        dealt[index] = index[torch.from_numpy(columns)]
    return Points(latent.x[dealt], latent.h[dealt])


def overlaps(points: Points, latent: Points, context: Context) -> np.ndarray:
    """<p_i, z_j> of all pairs of configurations, (K, K)."""
    p, z = (torch.cat(q, -1).flatten(1).double() for q in (points, latent))
    return np.asarray(p @ z.T)


def aligned_overlaps(points: Points, latent: Points, context: Context) -> np.ndarray:
    """<p_i, z_j> of all pairs after one round of `align`, (K, K).

    With the points renumbered, the best turn makes the overlap of positions the sum of the singular values of x^T z.
    """
    x, h, z, k = (t.double().numpy() for t in (*points, *latent))
    banned = _FORBIDDEN * _differ(context.labels.numpy())
    result = np.empty((len(x), len(x)))
    for i in range(len(x)):
        cost = banned[i] - x[i] @ z.swapaxes(1, 2) - h[i] @ k.swapaxes(1, 2)
        order = np.stack([linear_sum_assignment(c)[1] for c in cost])[..., None]
        turned = x[i].T @ np.take_along_axis(z, order, 1)
        features = (h[i] * np.take_along_axis(k, order, 1)).sum((1, 2))
        result[i] = np.linalg.svd(turned, compute_uv=False).sum(-1) + features
    return result


def align(points: Points, latent: Points, context: Context, n_rounds: int = 2) -> Points:
    """Data points, turned or reflected and renumbered within equal labels, that lie close to `latent`.

    It minimises sum_i |x_i - z_i|^2 + |h_i - k_i|^2 over permutations (linear assignment) and rotations (Kabsch) in
    turns, which finds a local minimum. The result is detached and on the device of `points`.

    Args:
        points: (B, N, D) and (B, N, F), positions with zero centroid.
        latent: the same shapes.
        context: mask and labels; points of different labels are never exchanged.
        n_rounds: of assignment and rotation.
    """
    x, h, z, k, labels = (t.detach().cpu().double().numpy() for t in (*points, *latent, context.labels))
    sizes = context.mask.sum(1).tolist()
    fixed = -2 * h @ k.swapaxes(1, 2) + _FORBIDDEN * _differ(labels)
    order = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2]).copy()
    turned = x
    for _ in range(n_rounds):
        cost = fixed - 2 * turned @ z.swapaxes(1, 2)
        for b, n in enumerate(sizes):
            rows, columns = linear_sum_assignment(cost[b, :n, :n])
            order[b, columns] = rows
        renumbered = np.take_along_axis(x, order[..., None], 1)
        turned = x @ _rotation(renumbered, z)
    result = np.take_along_axis(turned, order[..., None], 1), np.take_along_axis(h, order[..., None], 1)
    return Points(*(torch.from_numpy(a).to(p) for a, p in zip(result, points, strict=True)))


def _differ(labels: np.ndarray) -> np.ndarray:
    """(B, N, L) -> (B, N, N): 1 for pairs of points with different labels."""
    return (labels[:, :, None] != labels[:, None]).any(-1).astype(np.float64)


def _rotation(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The orthogonal (B, D, D) matrix R, reflections included, that minimises |x R - z| (Kabsch)."""
    u, _, vt = np.linalg.svd(x.swapaxes(1, 2) @ z)
    rotation: np.ndarray = u @ vt
    return rotation


def random_orthogonal(points: Points, generator: torch.Generator | None) -> Points:
    """Positions turned or reflected at random, uniformly over O(D), each configuration for itself."""
    x = points.x
    gauss: Tensor = torch.randn(len(x), x.shape[-1], x.shape[-1], generator=generator, dtype=x.dtype, device=x.device)
    q, r = torch.linalg.qr(gauss)
    return Points(x @ (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)), points.h)
