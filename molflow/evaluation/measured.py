"""Checked arrays of samples and a reference, with their energies and importance weights."""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from molflow.energies.base import Potential
from molflow.energies.reweighting import normalized_weights, weigh
from molflow.errors import MolflowError
from molflow.evaluation.statistics import Array

ArrayLike = Array | Tensor | Sequence[Any]

_PAIRS_AT_ONCE = 1 << 18  # distances in one chunk: some MB, about the size of a processor's cache


class Measured(NamedTuple):
    """Checked arrays: positions (n, N, D), energies (n,), log densities (n,), logarithms of the weights (n,), and the
    weights (n,) with sum 1; None where they are not known."""

    samples: Array
    energies: Array
    log_prob: Array | None
    log_weights: Array | None
    weights: Array | None
    reference: Array | None
    reference_energies: Array | None


def measure(samples: ArrayLike, energy: Potential, log_prob: ArrayLike | None, reference: ArrayLike | None) -> Measured:
    """Check arrays and compute their energies; arguments and errors as in `evaluate_boltzmann`."""
    x = _configurations(samples, "samples")
    log_q = None if log_prob is None else vector(log_prob, "log_prob", len(x))
    y = None if reference is None else _configurations(reference, "reference", x.shape[1:])
    u = energies_of(energy, x)
    finite = finite_configurations(x)
    if finite.any() and np.isnan(u[finite]).all():
        raise MolflowError(
            f"samples: the energy of all {int(finite.sum()):,} finite configurations is NaN; expected numbers"
        )
    log_w = None if log_q is None else weigh(torch.from_numpy(u), torch.from_numpy(log_q))
    weights = None if log_w is None or not log_w.isfinite().any() else normalized_weights(log_w).numpy()
    u_reference = None
    if y is not None:
        u_reference = energies_of(energy, y)
        if not np.isfinite(u_reference).all():
            bad = int(np.argmin(np.isfinite(u_reference)))
            raise MolflowError(f"reference configuration {bad + 1}: energy {u_reference[bad]}; expected a finite one")
    return Measured(x, u, log_q, None if log_w is None else log_w.numpy(), weights, y, u_reference)


def vector(values: ArrayLike, name: str, n: int | None = None) -> Array:
    """Values as float64 (n,), of any length but 0 if n is None. Raises MolflowError with `name` for another shape."""
    array = _array(values, name)
    if array.ndim != 1 or len(array) != (len(array) if n is None else n) or len(array) == 0:
        raise MolflowError(f"{name}: expected shape ({'k' if n is None else n},), got {array.shape}")
    return array.astype(np.float64)


def finite_configurations(positions: Array) -> Array:
    """Whether each configuration (n, N, D) has finite coordinates only, (n,) bool."""
    return np.asarray(np.isfinite(positions).all((1, 2)))


def chunks(positions: Array) -> Iterator[tuple[slice, Tensor]]:
    """Slices of configurations (n, N, D) with these in float64, so few that all their pairs fit in memory."""
    n = positions.shape[1]
    step = max(1, 2 * _PAIRS_AT_ONCE // (n * (n - 1)))
    for start in range(0, len(positions), step):
        part = slice(start, start + step)
        yield part, torch.from_numpy(positions[part].astype(np.float64))


def energies_of(energy: Potential, positions: Array) -> Array:
    """Energies of configurations (n, N, D), float64 (n,)."""
    values = []
    for _, chunk in chunks(positions):
        with torch.no_grad():
            u = torch.as_tensor(energy(chunk))
        if u.shape != (len(chunk),):
            raise MolflowError(f"energy of {tuple(chunk.shape)}: expected shape ({len(chunk)},), got {tuple(u.shape)}")
        values.append(u.cpu().double())
    return torch.cat(values).numpy()


def _configurations(values: ArrayLike, name: str, like: tuple[int, ...] | None = None) -> Array:
    x = _array(values, name)
    expected = "(n, N, D) with n >= 1, N >= 2, D >= 1" if like is None else f"(n, {like[0]}, {like[1]}) with n >= 1"
    fits = x.ndim == 3 and len(x) > 0 and (x.shape[1:] == like if like else x.shape[1] >= 2 and x.shape[2] >= 1)
    if not fits:
        raise MolflowError(f"{name}: expected shape {expected}, got {x.shape}")
    return x


def _array(values: ArrayLike, name: str) -> Array:
    array = values.detach().cpu().numpy() if isinstance(values, Tensor) else np.asarray(values)
    if array.dtype.kind not in "fiu":
        raise MolflowError(f"{name}: expected real numbers, got {array.dtype}")
    return array
