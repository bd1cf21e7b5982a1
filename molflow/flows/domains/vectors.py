"""Vectors of F numbers, such as the parameters of a simulator."""

from collections.abc import Sequence
from typing import Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor

from molflow.errors import MolflowError, NumericalError
from molflow.flows.domains.base import Domain, DomainConfig
from molflow.flows.registry import DOMAINS
from molflow.geometry import Context, EuclideanSpace


@DOMAINS.register("vectors")
class VectorsConfig(DomainConfig):
    """`VectorDomain`; training fills in what is left out from its data."""

    task: ClassVar[str] = "vectors"
    n_features: int = Field(0, ge=0, description="numbers of a vector; by default those of the data")
    mean: tuple[float, ...] = Field((), description="of the data, subtracted in model units")
    std: tuple[float, ...] = Field((), description="of the data, one model unit")

    def build(self) -> "VectorDomain":
        return VectorDomain(self.n_features, self.mean or None, self.std or None)


class VectorDomain(Domain[Tensor]):
    """Vectors x in R^F, tensors (B, F); in model units (x - mean) / std.

    Args:
        n_features: F.
        mean: (F,), by default 0.
        std: (F,), positive, by default 1.

    Raises:
        ValueError: no features, or values of another shape or sign.

    Example:
        >>> points, context, _ = VectorDomain(2, mean=[1.0, 1.0]).to_points(torch.ones(5, 2), None)
        >>> points[0].tolist()
        [0.0, 0.0]
    """

    task: ClassVar[str] = "vectors"
    acts_on: ClassVar[Literal["points", "vectors"]] = "vectors"
    mean: Tensor
    std: Tensor

    def __init__(self, n_features: int, mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        super().__init__()
        self.n_features = n_features
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            tensor = torch.tensor([default] * n_features if values is None else list(values), dtype=torch.float64)
            if n_features < 1 or tensor.shape != (n_features,) or (name == "std" and not (tensor > 0).all()):
                raise ValueError(f"expected n_features of 1 or more and as many {name} values, std above 0")
            self.register_buffer(name, tensor, persistent=False)

    def __repr__(self) -> str:
        return f"{self.n_features} features"

    def space(self, mask: Tensor) -> EuclideanSpace:
        return EuclideanSpace(len(mask), self.n_features, mask.device)

    def log_unit(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """-sum_k log std_k, (B,)."""
        return -self.std.log().sum().to(dtype).expand(len(mask))

    def to_points(self, data: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Context, Tensor]:
        if data.ndim != 2 or data.shape[1] != self.n_features:
            raise MolflowError(f"expected vectors (B, {self.n_features}), got {tuple(data.shape)}")
        data = data if data.is_floating_point() else data.to(self.mean.dtype)
        context = self._context(len(data), data.device, data.dtype)
        points = (data - self.mean.to(data.dtype)) / self.std.to(data.dtype)
        return points, context, self.log_unit(context.mask, data.dtype)

    def from_points(self, points: Tensor, context: Context) -> Tensor:
        vectors = points * self.std.to(points.dtype) + self.mean.to(points.dtype)
        if not (finite := vectors.isfinite().all(1)).all():
            raise NumericalError(
                f"sample {int((~finite).long().argmax())} of the batch is not finite in {points.dtype}; is its "
                "condition far from those of the training data, or are the weights of the model damaged?"
            )
        return vectors

    def sample_context(
        self,
        n: int,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
        asked: Any = None,
        condition: Tensor | None = None,
    ) -> Context:
        return self._context(n, device, dtype)

    def concatenate(self, parts: Sequence[Tensor]) -> Tensor:
        return torch.cat(list(parts))

    def _context(self, n: int, device: torch.device, dtype: torch.dtype) -> Context:
        mask = torch.ones(n, 1, dtype=torch.bool, device=device)
        return Context(mask, torch.zeros(n, 1, 0, dtype=dtype, device=device))
