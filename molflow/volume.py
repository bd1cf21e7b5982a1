"""How maps and fields of point clouds change volume: log-determinants, divergences, the free-form surrogate."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from molflow.geometry import MeanFreeSpace, Points

Map = Callable[[Points], Points]

DERIVATIVES_AT_ONCE = 4096  # directions times configurations: bounds the memory of an exact Jacobian


def jvp(function: Map, at: Points, tangent: Points) -> tuple[Points, Points]:
    """function(at) and J(at) tangent, by forward mode; both can be differentiated in reverse mode."""
    value, derivative = torch.func.jvp(  # type: ignore[misc]
        lambda x, h: tuple(function(Points(x, h))), tuple(at), tuple(tangent)
    )
    return Points(*value), Points(*derivative)


def vjp(function: Map, at: Points) -> tuple[Points, Callable[[Points], Points]]:
    """Value and pull-back: function(at) and v -> v^T J(at); both can be differentiated in reverse mode."""
    value, pull_back = torch.func.vjp(  # type: ignore[misc]
        lambda x, h: tuple(function(Points(x, h))), *at
    )
    return Points(*value), lambda v: Points(*pull_back(tuple(v)))


def exact_log_det(function: Map, at: Points, space: MeanFreeSpace) -> tuple[Points, Tensor]:
    """log |det J| of a map of the mean-free space to itself, from its Jacobian in an orthonormal basis.

    One forward-mode derivative per dimension, many at a time, then an LU decomposition. Differentiable.

    Returns:
        function(at), and the log-determinant in nats, (B,).
    """
    columns = _along_basis(lambda v: space.coordinates(jvp(function, at, v)[1]), at, space)
    if columns is None:
        return function(at), at.x.new_zeros(len(at.x))
    padding = torch.diag_embed((~space.coordinate_mask()).to(at.x.dtype))
    return function(at), torch.linalg.slogdet(columns.permute(1, 2, 0) + padding).logabsdet


def divergence(
    field: Map, at: Points, space: MeanFreeSpace, probes: Sequence[Points] | None = None
) -> tuple[Points, Tensor]:
    """div f = tr J of a vector field f of the mean-free space, exactly or by Hutchinson's estimate.

    Exactly it is sum_k e_k^T J e_k over an orthonormal basis, one derivative per dimension, many at a time. They are in
    reverse mode, which takes half as long as forward mode and gives f(at) on the way. With probes it is the mean of
    v^T J v, whose expectation is the trace where E[v v^T] = 1 (arXiv 1810.01367). Differentiable.

    Args:
        field: f, from points to velocities.
        at: where.
        space: of the points.
        probes: for an estimate, at least one.

    Returns:
        f(at), and the divergence, (B,).
    """
    velocity, pull_back = vjp(field, at)
    if probes is not None:
        return velocity, torch.stack([pull_back(v).dot(v) for v in probes]).mean(0)
    diagonal = _along_basis(lambda v: pull_back(v).dot(v), at, space)
    return velocity, at.x.new_zeros(len(at.x)) if diagonal is None else diagonal.sum(0)


def _along_basis(function: Callable[[Points], Tensor], at: Points, space: MeanFreeSpace) -> Tensor | None:
    """A function of each vector of an orthonormal basis, (dof, ...), many at a time; None where there is no vector."""
    basis = list(space.basis(at.x.dtype))
    if not basis:
        return None
    directions = torch.stack([v.x for v in basis]), torch.stack([v.h for v in basis])
    chunk_size = max(1, DERIVATIVES_AT_ONCE // len(at.x))
    values: Tensor = torch.func.vmap(lambda x, h: function(Points(x, h)), chunk_size=chunk_size)(*directions)
    return values


def surrogate_encoder_jvp(
    encoder: Map, decoder: Map, x: Points, probes: Sequence[Points]
) -> tuple[Points, Points, Tensor]:
    """The FFF surrogate with the encoder differentiated forwards: mean over probes of sg(v^T g'(z)) f'(x) v.

    Where g inverts f, its gradient with respect to the encoder's parameters is, in expectation over probes with
    E[v v^T] = 1, that of log |det f'(x)|. Its value means nothing (arXiv 2310.16624).

    Returns:
        z = encoder(x), x' = decoder(z), the surrogate (B,).
    """
    z, pushed = jvp(encoder, x, probes[0])
    derivatives = [pushed] + [jvp(encoder, x, v)[1] for v in probes[1:]]
    reconstruction, pull_back = vjp(decoder, z)
    with torch.no_grad():
        pulled = [pull_back(v) for v in probes]
    terms = [p.dot(d) for p, d in zip(pulled, derivatives, strict=True)]
    return z, reconstruction, torch.stack(terms).mean(0)


def surrogate_decoder_jvp(
    encoder: Map, decoder: Map, x: Points, probes: Sequence[Points]
) -> tuple[Points, Points, Tensor]:
    """The mirrored surrogate, the encoder differentiated twice in reverse: mean over probes of v^T f'(x) sg(g'(z) v).

    Same expectation and meaning as `surrogate_encoder_jvp`.
    """
    z, pull_back = vjp(encoder, x)
    terms = []
    reconstruction: Points | None = None
    for v in probes:
        value, pushed = jvp(decoder, z, v)
        reconstruction = value if reconstruction is None else reconstruction
        terms.append(pull_back(v).dot(pushed.detach()))
    assert reconstruction is not None
    return z, reconstruction, torch.stack(terms).mean(0)
