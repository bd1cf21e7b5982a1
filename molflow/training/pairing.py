"""Which noise belongs to which data: turn and renumber a molecule so that it lies close to its latent.

Straight paths between the two then cross less, and a network learns their velocity sooner (equivariant optimal
transport, arXiv 2306.15030). The turned molecule is as likely as the given one, so the data distribution is unchanged.
"""

import numpy as np
import torch
from scipy.optimize import linear_sum_assignment
from torch import Tensor

from molflow.geometry import Context, Points

_FORBIDDEN = 1e6  # cost of exchanging points of different labels; squared distances are of order one


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
