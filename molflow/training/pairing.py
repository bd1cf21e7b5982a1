"""Pairing: assign noise to data within a batch, then rotate and permute each configuration to match its noise.

Straight paths between the two then cross less, and a network learns their velocity sooner. Noise is exchanged only
among configurations of one size, and a rotated molecule is as likely as the given one, so data and noise keep their
distributions.
"""

from collections.abc import Callable
from dataclasses import replace

import numpy as np
import torch
from torch import Tensor

from molflow.data.batches import Batch
from molflow.errors import MolflowError
from molflow.geometry import Context, Points, select, tensors_of
from molflow.registry import Registry

_FORBIDDEN = 1e6  # cost of exchanging points of different labels; squared distances are of order one

Pairing = Callable[[Points, Points, Context, torch.Generator | None], tuple[Points, Points]]
"""(data, noise, context of the data, source of randomness) -> data and noise, which belong to the context as before.

Data and noise are (B, N, D) and (B, N, F), positions with zero centroid, padded alike.
"""

PAIRINGS: Registry[Pairing] = Registry("pairing")
NEED_POSITIONS = ("alignment", "equivariant_optimal_transport")
"""Pairings that rotate positions, and so do not apply to vectors."""


@PAIRINGS.register("none")
def unpaired(
    points: Points, latent: Points, context: Context, generator: torch.Generator | None
) -> tuple[Points, Points]:
    """Data and noise as they were drawn."""
    return points, latent


@PAIRINGS.register("alignment")
def alignment(
    points: Points, latent: Points, context: Context, generator: torch.Generator | None
) -> tuple[Points, Points]:
    """Rotate and permute each configuration to match its own noise (`align`), after a random rotation."""
    return align(random_orthogonal(points, generator), latent, context), latent


@PAIRINGS.register("optimal_transport")
def optimal_transport(
    points: Points, latent: Points, context: Context, generator: torch.Generator | None
) -> tuple[Points, Points]:
    """Assign noise over the batch, sum_i |p_i - z_s(i)|^2 minimal (arXiv 2302.00482, 2304.14772)."""
    return points, transport(points, latent, context, overlaps)


@PAIRINGS.register("equivariant_optimal_transport")
def equivariant_optimal_transport(
    points: Points, latent: Points, context: Context, generator: torch.Generator | None
) -> tuple[Points, Points]:
    """Optimal transport for the distance after alignment, and then alignment (arXiv 2306.15030)."""
    points = random_orthogonal(points, generator)
    latent = transport(points, latent, context, aligned_overlaps)
    return align(points, latent, context), latent


Overlaps = Callable[[Points, Points, Context], np.ndarray]


def transport(points: Points, latent: Points, context: Context, overlaps: Overlaps) -> Points:
    """Reassign noise among the configurations of each size, so that the sum of overlaps is greatest.

    As |p - z|^2 = |p|^2 + |z|^2 - 2 <p, z> and every z is used once, the sum of squared distances is then least.

    Args:
        points: (B, N, D) and (B, N, F).
        latent: the same shapes.
        context: context of the points.
        overlaps: (points, latent, context) of K configurations of one size -> <p_i, z_j>, (K, K).

    Raises:
        MolflowError: the configurations have conditions. Noise assigned by the data would depend on the condition, and
            a flow that is sampled with independent noise would be wrong.
    """
    if context.condition is not None:
        raise MolflowError("optimal transport would make the noise depend on the condition; choose another pairing")
    sizes = context.mask.sum(1)
    assigned = torch.arange(len(sizes), device="cpu")
    for n in sizes.unique().tolist():
        index = (sizes == n).nonzero().squeeze(1)
        p, z = (select(q, index, n) for q in (points, latent))
        _, columns = _assign(overlaps(p, z, context.select(index, n)), maximize=True)
        assigned[index] = index[torch.from_numpy(columns)]
    return select(latent, assigned, context.mask.shape[1])


def overlaps(points: Points, latent: Points, context: Context) -> np.ndarray:
    """<p_i, z_j> of all pairs of configurations, (K, K)."""
    p, z = (torch.cat(tensors_of(q), -1).flatten(1).double() for q in (points, latent))
    return np.asarray(p @ z.T)


def aligned_overlaps(points: Points, latent: Points, context: Context) -> np.ndarray:
    """<p_i, z_j> of all pairs after one round of `align`, (K, K).

    With the points permuted, the best rotation makes the overlap of positions the sum of the singular values of x^T z.
    """
    x, h, z, k = (t.double().numpy() for t in (*points, *latent))
    banned = _FORBIDDEN * _differ(context.labels.numpy())
    result = np.empty((len(x), len(x)))
    for i in range(len(x)):
        cost = banned[i] - x[i] @ z.swapaxes(1, 2) - h[i] @ k.swapaxes(1, 2)
        order = np.stack([_assign(c)[1] for c in cost])[..., None]
        rotated = x[i].T @ np.take_along_axis(z, order, 1)
        features = (h[i] * np.take_along_axis(k, order, 1)).sum((1, 2))
        result[i] = np.linalg.svd(rotated, compute_uv=False).sum(-1) + features
    return result


def _assign(cost: np.ndarray, maximize: bool = False) -> tuple[np.ndarray, np.ndarray]:
    """The best one-to-one assignment of rows to columns: their indices."""
    from scipy.optimize import linear_sum_assignment  # half a second, which sampling does not need

    rows, columns = linear_sum_assignment(cost, maximize=maximize)
    return np.asarray(rows), np.asarray(columns)


def align(points: Points, latent: Points, context: Context, n_rounds: int = 2) -> Points:
    """Rotate or reflect data points, and permute them within equal labels, so that they lie close to `latent`.

    Minimise sum_i |x_i - z_i|^2 + |h_i - k_i|^2 over permutations (linear assignment) and rotations (Kabsch)
    alternately, which finds a local minimum. The result is detached and on the device of `points`.

    Args:
        points: (B, N, D) and (B, N, F), positions with zero centroid.
        latent: the same shapes.
        context: mask and labels; points of different labels are never exchanged.
        n_rounds: rounds of assignment and rotation.
    """
    x, h, z, k, labels = (t.detach().cpu().double().numpy() for t in (*points, *latent, context.labels))
    sizes = context.mask.sum(1).tolist()
    fixed = -2 * h @ k.swapaxes(1, 2) + _FORBIDDEN * _differ(labels)
    order = np.broadcast_to(np.arange(x.shape[1]), x.shape[:2]).copy()
    rotated = x
    for _ in range(n_rounds):
        cost = fixed - 2 * rotated @ z.swapaxes(1, 2)
        for b, n in enumerate(sizes):
            rows, columns = _assign(cost[b, :n, :n])
            order[b, columns] = rows
        permuted = np.take_along_axis(x, order[..., None], 1)
        rotated = x @ _rotation(permuted, z)
    result = np.take_along_axis(rotated, order[..., None], 1), np.take_along_axis(h, order[..., None], 1)
    return Points(*(torch.from_numpy(a).to(p) for a, p in zip(result, points, strict=True)))


def _differ(labels: np.ndarray) -> np.ndarray:
    """1 for pairs of points with different labels, else 0; (B, N, L) -> (B, N, N)."""
    return np.asarray((labels[:, :, None] != labels[:, None]).any(-1), np.float64)


def _rotation(x: np.ndarray, z: np.ndarray) -> np.ndarray:
    """The orthogonal (B, D, D) matrix R, reflections included, that minimises |x R - z| (Kabsch)."""
    u, _, vt = np.linalg.svd(x.swapaxes(1, 2) @ z)
    rotation: np.ndarray = u @ vt
    return rotation


def turn(batch: Batch, seed: int) -> Batch:
    """A batch of particles or molecules in random orientations, mirror images included."""
    x = batch.data if isinstance(batch.data, Tensor) else batch.data.positions
    turned = random_orthogonal(Points(x, x[..., :0]), torch.Generator().manual_seed(seed)).x
    data = turned if isinstance(batch.data, Tensor) else replace(batch.data, positions=turned)
    return Batch(data, batch.condition)


def random_orthogonal(points: Points, generator: torch.Generator | None) -> Points:
    """Rotate or reflect the positions of each configuration at random, uniformly over O(D)."""
    x = points.x
    gauss: Tensor = torch.randn(len(x), x.shape[-1], x.shape[-1], generator=generator, dtype=x.dtype, device=x.device)
    q, r = torch.linalg.qr(gauss)
    return Points(x @ (q * r.diagonal(dim1=-2, dim2=-1).sign().unsqueeze(-2)), points.h)
