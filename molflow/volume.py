"""Volume changes of maps and vector fields: log-determinants, divergences, the free-form surrogate.

Everything here works on any `Space`: on point clouds, and on plain tensor functions (B, F) -> (B, F) with the
`EuclideanSpace`.
"""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from molflow.geometry import P, Space, inner, point_of, tensors_of

Map = Callable[[P], P]

DERIVATIVES_AT_ONCE = 4096  # directions times configurations: bounds the memory of an exact Jacobian


def jvp(function: Map[P], at: P, tangent: P) -> tuple[P, P]:
    """function(at) and J(at) tangent, by forward mode; both can be differentiated in reverse mode."""
    value, derivative = torch.func.jvp(_on_tensors(function), tensors_of(at), tensors_of(tangent))  # type: ignore[misc]
    return point_of(value), point_of(derivative)  # type: ignore[return-value]


def vjp(function: Map[P], at: P) -> tuple[P, Callable[[P], P]]:
    """Value and pull-back: function(at) and v -> v^T J(at); both can be differentiated in reverse mode."""
    value, pull_back = torch.func.vjp(_on_tensors(function), *tensors_of(at))  # type: ignore[misc]
    return point_of(value), lambda v: point_of(pull_back(tensors_of(v)))  # type: ignore[return-value]


def _on_tensors(function: Map[P]) -> Callable[..., tuple[Tensor, ...]]:
    """A map of points as a map of the tensors that they consist of, which is what `torch.func` takes."""
    return lambda *tensors: tensors_of(function(point_of(tensors)))  # type: ignore[arg-type]


def exact_log_det(function: Map[P], at: P, space: Space[P]) -> tuple[P, Tensor]:
    """log |det J| of a map of a space to itself, from its Jacobian in an orthonormal basis.

    It takes one derivative per dimension, many at a time, then an LU decomposition. They are in forward mode, which can
    be differentiated, or in reverse mode within `torch.no_grad()`, which takes two thirds of the time.

    Args:
        function: the map.
        at: the point at which the log-determinant is computed.
        space: of the points.

    Returns:
        function(at), and the log-determinant in nats, (B,).

    Example:
        >>> from molflow.geometry import EuclideanSpace
        >>> double = exact_log_det(lambda x: 2 * x, torch.zeros(1, 3), EuclideanSpace(1, 3))[1]
        >>> bool((double - 3 * torch.tensor(2.0).log()).abs() < 1e-6)
        True
    """
    value, jacobian = exact_jacobian(function, at, space)
    return value, torch.linalg.slogdet(jacobian).logabsdet


def exact_jacobian(function: Map[P], at: P, space: Space[P]) -> tuple[P, Tensor]:
    """The value and the Jacobian of a map of a space to itself, in an orthonormal basis, as `exact_log_det` takes it.

    Args:
        function, at, space: as in `exact_log_det`.

    Returns:
        function(at), and J (B, K, K); coordinates that are padding have a diagonal of 1.

    Example:
        >>> from molflow.geometry import EuclideanSpace
        >>> exact_jacobian(lambda x: 2 * x, torch.zeros(1, 2), EuclideanSpace(1, 2))[1].tolist()
        [[[2.0, 0.0], [0.0, 2.0]]]
    """
    first = tensors_of(at)[0]
    if torch.is_grad_enabled():
        value = function(at)
        columns = _along_basis(lambda v: space.coordinates(jvp(function, at, v)[1]), at, space)
        lines = None if columns is None else columns.permute(1, 2, 0)
    else:
        value, pull_back = vjp(function, at)
        rows = _along_basis(lambda v: space.coordinates(pull_back(v)), at, space)
        lines = None if rows is None else rows.permute(1, 0, 2)
    if lines is None:
        return value, first.new_zeros(len(first), 0, 0)
    return value, lines + torch.diag_embed((~space.coordinate_mask()).to(first.dtype))


def divergence(field: Map[P], at: P, space: Space[P], probes: Sequence[P] | None = None) -> tuple[P, Tensor]:
    """div f = tr J of a vector field f, exactly or by Hutchinson's estimate.

    The exact value is sum_k e_k^T J e_k over an orthonormal basis: one reverse-mode derivative per dimension, many at a
    time. Reverse mode takes half as long as forward mode and gives f(at) as well. With probes the result is the mean of
    v^T J v, whose expectation is the trace where E[v v^T] = 1 (arXiv 1810.01367). Differentiable.

    Args:
        field: f, from points to velocities.
        at: the point at which the divergence is computed.
        space: of the points.
        probes: for an estimate, at least one.

    Returns:
        f(at), and the divergence, (B,).
    """
    velocity, pull_back = vjp(field, at)
    if probes is not None:
        return velocity, torch.stack([inner(pull_back(v), v) for v in probes]).mean(0)
    diagonal = _along_basis(lambda v: inner(pull_back(v), v), at, space)
    first = tensors_of(at)[0]
    return velocity, first.new_zeros(len(first)) if diagonal is None else diagonal.sum(0)


def _along_basis(function: Callable[[P], Tensor], at: P, space: Space[P]) -> Tensor | None:
    """A function of each vector of an orthonormal basis, (K, ...), many at a time; None where there is no vector."""
    first = tensors_of(at)[0]
    basis = [tensors_of(v) for v in space.basis(first.dtype)]
    if not basis:
        return None
    directions = [torch.stack(tensors) for tensors in zip(*basis, strict=True)]
    chunk_size = max(1, DERIVATIVES_AT_ONCE // len(first))

    def of_tensors(*tensors: Tensor) -> Tensor:
        return function(point_of(tensors))  # type: ignore[arg-type]

    values: Tensor = torch.func.vmap(of_tensors, chunk_size=chunk_size)(*directions)
    return values


def surrogate_encoder_jvp(encoder: Map[P], decoder: Map[P], x: P, probes: Sequence[P]) -> tuple[P, P, Tensor]:
    """The FFF surrogate with the encoder in forward mode: the mean over probes of sg(v^T g'(z)) f'(x) v.

    Where g inverts f, its gradient with respect to the encoder's parameters is, in expectation over probes with
    E[v v^T] = 1, the gradient of log |det f'(x)|. Its value is not the log-determinant (arXiv 2310.16624).

    Returns:
        z = encoder(x), x' = decoder(z), the surrogate (B,).
    """
    z, pushed = jvp(encoder, x, probes[0])
    derivatives = [pushed] + [jvp(encoder, x, v)[1] for v in probes[1:]]
    reconstruction, pull_back = vjp(decoder, z)
    with torch.no_grad():
        pulled = [pull_back(v) for v in probes]
    terms = [inner(p, d) for p, d in zip(pulled, derivatives, strict=True)]
    return z, reconstruction, torch.stack(terms).mean(0)


def surrogate_decoder_jvp(encoder: Map[P], decoder: Map[P], x: P, probes: Sequence[P]) -> tuple[P, P, Tensor]:
    """The mirrored surrogate, with the decoder in forward mode: the mean over probes of v^T f'(x) sg(g'(z) v).

    The expectation of its gradient is that of `surrogate_encoder_jvp`.
    """
    z, pull_back = vjp(encoder, x)
    terms = []
    reconstruction: P | None = None
    for v in probes:
        value, pushed = jvp(decoder, z, v)
        reconstruction = value if reconstruction is None else reconstruction
        terms.append(inner(pull_back(v), pushed.detach()))
    assert reconstruction is not None
    return z, reconstruction, torch.stack(terms).mean(0)
