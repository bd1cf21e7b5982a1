"""The linear spaces that densities live on, and pair distances that are safe at zero.

A configuration of n points with D coordinates and F features is a pair (x, h). Requiring a zero centroid removes
translations, so it lives on a linear space of dimension (n - 1) D + n F, the `MeanFreeSpace`. Vectors of F numbers live
on the `EuclideanSpace`. Both are a `Space`: latents, probe vectors, exact Jacobians and divergences need nothing else.
"""

import math
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from typing import Generic, NamedTuple, TypeVar

import torch
from torch import Tensor


class Points(NamedTuple):
    """Positions `x` (B, N, D) and per-point features `h` (B, N, F); F may be 0. Padding is zero in both."""

    x: Tensor
    h: Tensor

    def __add__(self, other: tuple[Tensor, Tensor]) -> "Points":  # type: ignore[override]
        return Points(self.x + other[0], self.h + other[1])

    def __sub__(self, other: tuple[Tensor, Tensor]) -> "Points":
        return Points(self.x - other[0], self.h - other[1])

    def __mul__(self, scale: float | Tensor) -> "Points":  # type: ignore[override]
        """Multiply by a number, or each configuration by its own number, (B,)."""
        if isinstance(scale, Tensor) and scale.ndim:
            scale = scale[:, None, None]
        return Points(self.x * scale, self.h * scale)

    def dot(self, other: tuple[Tensor, Tensor]) -> Tensor:
        """Inner product over points and channels, shape (B,)."""
        return (self.x * other[0]).sum((1, 2)) + (self.h * other[1]).sum((1, 2))

    def squared_norm(self) -> Tensor:
        """Squared Euclidean length over points and channels, shape (B,)."""
        return self.dot(self)

    def detach(self) -> "Points":
        return Points(self.x.detach(), self.h.detach())


P = TypeVar("P", Points, Tensor)
"""A point of a space: `Points` for point clouds, a tensor (B, F) for vectors."""


def tensors_of(point: Points | Tensor) -> tuple[Tensor, ...]:
    """The tensors that a point consists of.

    Args:
        point: point clouds, x (B, N, D) and h (B, N, F), or vectors (B, F).

    Example:
        >>> len(tensors_of(Points(torch.zeros(2, 3, 3), torch.zeros(2, 3, 1)))), len(tensors_of(torch.zeros(2, 5)))
        (2, 1)
    """
    return (point,) if isinstance(point, Tensor) else tuple(point)


def point_of(tensors: Sequence[Tensor]) -> Points | Tensor:
    """The point that consists of these tensors: the inverse of `tensors_of`.

    Args:
        tensors: two of point clouds, (B, N, D) and (B, N, F), or one of vectors, (B, F).

    Example:
        >>> point_of([torch.zeros(2, 5)]).shape
        torch.Size([2, 5])
    """
    return tensors[0] if len(tensors) == 1 else Points(*tensors)


def scale(point: P, factor: Tensor) -> P:
    """Multiply each configuration by its own number, (B,).

    Args:
        point: point clouds or vectors.
        factor: (B,).

    Example:
        >>> scale(torch.ones(2, 3), torch.tensor([1.0, 5.0])).tolist()
        [[1.0, 1.0, 1.0], [5.0, 5.0, 5.0]]
    """
    return point * factor.unsqueeze(1) if isinstance(point, Tensor) else point * factor


def inner(a: P, b: P) -> Tensor:
    """Inner product over all numbers of a configuration, (B,).

    Args:
        a, b: point clouds or vectors.

    Example:
        >>> inner(torch.ones(2, 3), torch.ones(2, 3)).tolist()
        [3.0, 3.0]
    """
    return (a * b).sum(1) if isinstance(a, Tensor) else a.dot(b)


def squared_norm(point: Points | Tensor) -> Tensor:
    """Squared Euclidean length of each configuration, (B,).

    Args:
        point: point clouds or vectors.

    Example:
        >>> squared_norm(torch.ones(2, 3)).tolist()
        [3.0, 3.0]
    """
    return point.square().sum(1) if isinstance(point, Tensor) else point.squared_norm()


def select(point: P, index: Tensor, n: int) -> P:
    """The configurations `index`; those of point clouds are cut to their first n points.

    Args:
        point: point clouds, x (B, N, D) and h (B, N, F), or vectors (B, F).
        index: (b,), of the configurations.
        n: number of points to keep.

    Example:
        >>> select(Points(torch.zeros(4, 9, 3), torch.zeros(4, 9, 1)), torch.tensor([0, 2]), 5).x.shape
        torch.Size([2, 5, 3])
    """
    return point[index] if isinstance(point, Tensor) else Points(point.x[index, :n], point.h[index, :n])


class Context(NamedTuple):
    """The values that are given about configurations before their points are drawn.

    Attributes:
        mask: True for a real point, padding at the end, (B, N); for vectors (B, 1).
        labels: fixed features of the points, zero at padding, (B, N, L); L may be 0.
        condition: numbers that describe the whole configuration, (B, C); None in a model without conditions.
        noise: standard deviation of the Gaussian noise that was added to the points, model units (B,); None for none.
        fixed: positions that the first K points of a sample must have but for a rigid motion and a reflection, model
            units (B, K, D); None for free points.
    """

    mask: Tensor
    labels: Tensor
    condition: Tensor | None = None
    noise: Tensor | None = None
    fixed: Tensor | None = None

    def select(self, index: Tensor | slice, n: int | None = None) -> "Context":
        """The configurations of these indices, cut to their first n points."""
        whole = (None if value is None else value[index] for value in self[2:])
        return Context(self.mask[index, :n], self.labels[index, :n], *whole)

    def to(self, device: torch.device | str) -> "Context":
        """The same context on another device."""
        return Context(*(None if value is None else value.to(device) for value in self))  # type: ignore[arg-type]


def project(x: Tensor, mask: Tensor) -> Tensor:
    """Remove the centroid of the real points and zero the padding: x_i - sum_j m_j x_j / n, times m_i.

    Args:
        x: positions, (B, N, D).
        mask: True for a real point, (B, N).

    Example:
        >>> project(torch.ones(1, 3, 2), torch.tensor([[True, True, False]])).tolist()
        [[[0.0, 0.0], [0.0, 0.0], [0.0, 0.0]]]
    """
    m = mask.unsqueeze(-1).to(x.dtype)
    centroid = (x * m).sum(1, keepdim=True) / m.sum(1, keepdim=True).clamp(min=1)
    return (x - centroid) * m


def squared_distances(x: Tensor) -> Tensor:
    """Squared distances between all pairs of points, (B, N, D) -> (B, N, N).

    Written with differences: |a|^2 + |b|^2 - 2ab loses half of the digits for close points.

    Args:
        x: positions, (B, N, D).

    Example:
        >>> squared_distances(torch.tensor([[[0.0, 0.0], [3.0, 4.0]]])).tolist()
        [[[0.0, 25.0], [25.0, 0.0]]]
    """
    return (x.unsqueeze(2) - x.unsqueeze(1)).square().sum(-1)


def safe_sqrt(squared: Tensor, epsilon: float = 1e-12) -> Tensor:
    """sqrt(s + epsilon): at s = 0 the first and second derivatives and the forward-mode tangent stay finite.

    Args:
        squared: s, 0 or more, (...).
        epsilon: what is added.

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> safe_sqrt(x.square()).sum().backward()
        >>> x.grad.tolist()
        [0.0]
    """
    return (squared + epsilon).sqrt()


def pair_mask(mask: Tensor) -> Tensor:
    """(B, N) -> (B, N, N): True for ordered pairs of two different real points.

    Args:
        mask: True for a real point, (B, N).

    Example:
        >>> pair_mask(torch.tensor([[True, True, False]])).int().tolist()
        [[[0, 1, 0], [1, 0, 0], [0, 0, 0]]]
    """
    off_diagonal = ~torch.eye(mask.shape[1], dtype=torch.bool, device=mask.device)
    return mask.unsqueeze(1) & mask.unsqueeze(2) & off_diagonal


def helmert_basis(n: int, dtype: torch.dtype, device: torch.device) -> Tensor:
    """Orthonormal basis (n, n - 1) of the vectors of n numbers that sum to zero (Helmert contrasts).

    Column k is (1, ..., 1, -k, 0, ..., 0) / sqrt(k (k + 1)) with k ones. It touches the first k + 1 points only, so the
    first n_real - 1 columns are a basis for a configuration that is padded at its end.

    Args:
        n: number of points.
        dtype, device: of the basis.

    Example:
        >>> basis = helmert_basis(3, torch.float64, torch.device("cpu"))
        >>> (basis.T @ basis).round(decimals=6).tolist()
        [[1.0, 0.0], [0.0, 1.0]]
    """
    k = torch.arange(1, n, dtype=dtype, device=device)
    i = torch.arange(n, dtype=dtype, device=device).unsqueeze(1)
    columns = torch.where(i < k, 1.0, torch.where(i == k, -k, 0.0))
    return columns / (k * (k + 1)).sqrt()


def masked_randn(
    mask: Tensor, channels: int, generator: torch.Generator | None, dtype: torch.dtype = torch.float32
) -> Tensor:
    """Standard normal noise at the real points, (B, N, channels), zero at padding; more padding does not change it.

    Args:
        mask: True for a real point, (B, N).
        channels: numbers of a point.
        generator: source of randomness; None for torch's own.
        dtype: of the noise.

    Example:
        >>> masked_randn(torch.tensor([[True, False]]), 3, torch.Generator().manual_seed(0)).shape
        torch.Size([1, 2, 3])
    """
    noise = torch.zeros(*mask.shape, channels, dtype=dtype, device=mask.device)
    noise[mask] = torch.randn(int(mask.sum()), channels, generator=generator, dtype=dtype, device=mask.device)
    return noise


class Space(ABC, Generic[P]):
    """A linear space for each configuration of a batch, with an orthonormal basis.

    Implementing a space: give the methods below; `log_normal` follows from `dof`.
    """

    @property
    @abstractmethod
    def dof(self) -> Tensor:
        """Dimension of the space of each configuration, (B,)."""

    @abstractmethod
    def project(self, point: P) -> P:
        """Orthogonal projection onto the space."""

    @abstractmethod
    def randn(self, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> P:
        """A standard normal draw on the space."""

    @abstractmethod
    def rademacher(self, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> P:
        """Random signs as coordinates in an orthonormal basis: length sqrt(dof), and E[v v^T] is the identity."""

    @abstractmethod
    def probes(self, count: int, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> list[P]:
        """`count` random orthogonal vectors of length sqrt(dof), so that E[v v^T] is the identity on the space.

        The vectors of a configuration without degrees of freedom are zero.

        Raises:
            ValueError: if a configuration has degrees of freedom, but fewer than `count`.
        """

    @abstractmethod
    def coordinates(self, point: P) -> Tensor:
        """Coordinates in an orthonormal basis, (B, K). Coordinates of padding are zero."""

    @abstractmethod
    def coordinate_mask(self) -> Tensor:
        """True where a coordinate belongs to the configuration and not to padding, (B, K)."""

    @abstractmethod
    def basis(self, dtype: torch.dtype = torch.float32) -> Iterator[P]:
        """The basis vectors of `coordinates`, one after another. Where a coordinate is padding, the vector is zero."""

    def dof_or_one(self, dtype: torch.dtype) -> Tensor:
        """Degrees of freedom to divide by, (B,): 1 where there are none."""
        return self.dof.clamp(min=1).to(dtype)

    def log_normal(self, point: P) -> Tensor:
        """Log density of the standard normal, -|z|^2 / 2 - dof/2 log 2 pi, in nats, (B,)."""
        squared = squared_norm(point)
        return -0.5 * squared - 0.5 * math.log(2 * math.pi) * self.dof.to(squared.dtype)


class EuclideanSpace(Space[Tensor]):
    """R^F for each of B configurations; its points are tensors (B, F).

    Args:
        batch: B.
        n_features: F.
        device: where the points are.

    Example:
        >>> EuclideanSpace(batch=4, n_features=2).randn(torch.Generator().manual_seed(0), torch.float32).shape
        torch.Size([4, 2])
    """

    def __init__(self, batch: int, n_features: int, device: torch.device | str = "cpu"):
        self.batch, self.n_features, self.device = batch, n_features, device

    @property
    def dof(self) -> Tensor:
        return torch.full((self.batch,), self.n_features, device=self.device)

    def project(self, point: Tensor) -> Tensor:
        return point

    def randn(self, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> Tensor:
        return torch.randn(self.batch, self.n_features, generator=generator, dtype=dtype, device=self.device)

    def rademacher(self, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> Tensor:
        return self.randn(generator, dtype).sign()

    def probes(self, count: int, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> list[Tensor]:
        draws = torch.stack([self.randn(generator, dtype) for _ in range(count)], -1)
        return list(_orthogonal(draws, self.dof).unbind(-1))

    def coordinates(self, point: Tensor) -> Tensor:
        return point

    def coordinate_mask(self) -> Tensor:
        return torch.ones(self.batch, self.n_features, dtype=torch.bool, device=self.device)

    def basis(self, dtype: torch.dtype = torch.float32) -> Iterator[Tensor]:
        yield from torch.eye(self.n_features, dtype=dtype, device=self.device).unsqueeze(1).expand(-1, self.batch, -1)


def _orthogonal(draws: Tensor, dof: Tensor) -> Tensor:
    """Orthogonal columns of length sqrt(dof) from random ones, (B, K, count).

    Raises:
        ValueError: fewer degrees of freedom than columns.
    """
    count = draws.shape[-1]
    if (too_few := (dof > 0) & (dof < count)).any():
        raise ValueError(f"{count} orthogonal probes need {count} dimensions, got {int(dof[too_few].min())}")
    orthonormal = draws / draws.norm(dim=1, keepdim=True).clamp(min=1e-30) if count == 1 else torch.linalg.qr(draws).Q
    scaled: Tensor = orthonormal * dof.to(draws.dtype).sqrt()[:, None, None]
    return scaled


class MeanFreeSpace(Space[Points]):
    """The space of (x, h) with sum_i x_i = 0 and zero padding, one per configuration of a batch.

    Args:
        mask: True for a real point, padding at the end, (B, N).
        dim: D, the number of coordinates of a point.
        n_features: F, the number of features of a point.

    Example:
        >>> space = MeanFreeSpace(torch.ones(2, 4, dtype=torch.bool), dim=3)
        >>> space.dof.tolist(), space.randn(torch.Generator().manual_seed(0), torch.float32).x.shape
        ([9, 9], torch.Size([2, 4, 3]))
    """

    def __init__(self, mask: Tensor, dim: int, n_features: int = 0):
        self.mask, self.dim, self.n_features = mask, dim, n_features

    @property
    def n_points(self) -> Tensor:
        """Real points of each configuration, (B,)."""
        return self.mask.sum(1)

    @property
    def position_dof(self) -> Tensor:
        """Degrees of freedom of the positions, (n - 1) D, shape (B,)."""
        return (self.n_points - 1).clamp(min=0) * self.dim

    @property
    def dof(self) -> Tensor:
        """Dimension of the whole space, (n - 1) D + n F, shape (B,)."""
        return self.position_dof + self.n_points * self.n_features

    def project(self, points: tuple[Tensor, Tensor]) -> Points:
        """Orthogonal projection onto the space."""
        x, h = points
        return Points(project(x, self.mask), h * self.mask.unsqueeze(-1).to(h.dtype))

    def randn(self, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> Points:
        """A standard normal draw on the space."""
        noise = masked_randn(self.mask, self.dim + self.n_features, generator, dtype)
        return self.project((noise[..., : self.dim], noise[..., self.dim :]))

    def rademacher(self, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> Points:
        signs = masked_randn(self.mask, self.dim + self.n_features, generator, dtype).sign()
        q = helmert_basis(self.mask.shape[1], dtype, self.mask.device)
        # There is one contrast less than points, so the signs of the first point are not used.
        return Points(torch.einsum("nk,bkd->bnd", q, signs[:, 1:, : self.dim]), signs[..., self.dim :])

    def probes(self, count: int, generator: torch.Generator | None, dtype: torch.dtype = torch.float32) -> list[Points]:
        draws = [self.randn(generator, dtype) for _ in range(count)]
        flat = torch.stack([torch.cat([v.x, v.h], -1).flatten(1) for v in draws], -1)
        vectors = _orthogonal(flat, self.dof).view(*self.mask.shape, self.dim + self.n_features, count)
        return [Points(v[..., : self.dim], v[..., self.dim :]) for v in vectors.unbind(-1)]

    def coordinates(self, points: tuple[Tensor, Tensor]) -> Tensor:
        """Coordinates in an orthonormal basis, (B, (N - 1) D + N F). Coordinates of padding are zero."""
        x, h = points
        q = helmert_basis(x.shape[1], x.dtype, x.device)
        return torch.cat([torch.einsum("nk,bnd->bkd", q, x).flatten(1), h.flatten(1)], 1)

    def coordinate_mask(self) -> Tensor:
        x = self.mask[:, 1:].repeat_interleave(self.dim, 1)
        return torch.cat([x, self.mask.repeat_interleave(self.n_features, 1)], 1)

    def basis(self, dtype: torch.dtype = torch.float32) -> Iterator[Points]:
        batch, n = self.mask.shape
        q = helmert_basis(n, dtype, self.mask.device)
        zero = Points(q.new_zeros(batch, n, self.dim), q.new_zeros(batch, n, self.n_features))
        for k in range(n - 1):
            column = q[:, k] * self.mask[:, k + 1, None].to(dtype)
            for d in range(self.dim):
                x = zero.x.clone()
                x[..., d] = column
                yield Points(x, zero.h)
        for i in range(n):
            for f in range(self.n_features):
                h = zero.h.clone()
                h[:, i, f] = self.mask[:, i].to(dtype)
                yield Points(zero.x, h)
