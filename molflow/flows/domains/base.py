"""The contract of a domain: the data that a flow is a distribution over, and their conversion to points and back."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import Annotated, Any, ClassVar, Generic, Literal, TypeVar

import torch
from pydantic import SerializeAsAny
from torch import Tensor, nn

from molflow.config import KindConfig, OneOf
from molflow.errors import MolflowError
from molflow.flows.registry import DOMAINS
from molflow.geometry import Context, Space, point_of, tensors_of

Data = TypeVar("Data")


class DomainConfig(KindConfig):
    """Base of the configurations of domains.

    Attributes:
        task: name of the task that trains on this domain and scores its samples, see `molflow.training.tasks`.
    """

    task: ClassVar[str]

    def build(self) -> "Domain[Any]":
        """The domain. Raises ValueError for values that cannot be, such as those that training has to fill in."""
        raise TypeError(f"{type(self).__name__} must implement build")


DomainChoice = Annotated[SerializeAsAny[DomainConfig], OneOf(DOMAINS)]
"""Type of a configuration field that holds any registered domain."""


class Domain(nn.Module, ABC, Generic[Data]):
    """Data <-> points of a space, in model units so that the flow sees numbers of order one.

    Attributes:
        task: as in `DomainConfig`.
        acts_on: which networks it takes: "points" (point clouds) or "vectors".
        n_features: F, numbers of a point (of a vector) that the flow generates, besides positions.
        n_labels: L, features of a point that are given and not generated.
    """

    task: ClassVar[str]
    acts_on: ClassVar[Literal["points", "vectors"]] = "points"
    n_features: int
    n_labels: int = 0

    def __repr__(self) -> str:
        """A few words, for the `repr` of a flow."""
        return self.task

    @abstractmethod
    def space(self, mask: Tensor) -> Space[Any]:
        """The space of points, by the mask of their context."""

    @abstractmethod
    def log_unit(self, mask: Tensor, dtype: torch.dtype) -> Tensor:
        """log |det d(points) / d(data)|, nats (B,): the term that model units add to a log density."""

    @abstractmethod
    def to_points(self, data: Data, generator: torch.Generator | None) -> tuple[Any, Context, Tensor]:
        """Points, their context, and c (B,) such that log p(data) >= E[log p(points | context) + c], in nats."""

    def to_points_in(
        self, dtype: torch.dtype, data: Data, generator: torch.Generator | None
    ) -> tuple[Any, Context, Tensor]:
        """`to_points` in a precision.

        Raises:
            MolflowError: no configurations, one without points, or one with a number that is not finite.
        """
        points, context, correction = self.to_points(data, generator)
        _check_finite(getattr(data, "positions", data))
        if not len(context.mask) or not context.mask.any(1).all():
            raise MolflowError("expected at least one configuration, and at least one point in each")
        points = point_of([tensor.to(dtype) for tensor in tensors_of(points)])
        return points, Context(context.mask, context.labels.to(dtype)), correction.to(dtype)

    @abstractmethod
    def from_points(self, points: Any, context: Context) -> Data:
        """The data of given points: the inverse of `to_points`."""

    @abstractmethod
    def sample_context(
        self,
        n: int,
        generator: torch.Generator | None,
        device: torch.device,
        dtype: torch.dtype,
        asked: Any = None,
        condition: Tensor | None = None,
    ) -> Context:
        """Draw the contexts of n new configurations, such as sizes and types.

        Args:
            n, generator, device, dtype: of the contexts.
            asked: what they must have, as `request` gives it.
            condition: standardised conditions of the configurations, (n, C), where contexts may depend on them. They
                are not put into the contexts.

        Raises:
            MolflowError: no configuration has what is asked.
        """

    def request(self, **ask: Any) -> Any:
        """What is asked of samples, for `sample_context`; None where nothing is.

        Raises:
            MolflowError: something that these samples cannot be asked for.
        """
        if asked := [name for name, value in ask.items() if value is not None]:
            raise MolflowError(f"samples of {self.task} cannot be asked for {', '.join(asked)}")
        return None

    def log_prob_of(self, **ask: Any) -> Tensor:
        """log p in nats, (), that a sample has what is asked, as in `Flow.sample`.

        Raises:
            MolflowError: something that these samples cannot be asked for.
        """
        self.request(**ask)
        return torch.zeros((), dtype=torch.float64)

    def log_prob_context(self, context: Context) -> Tensor:
        """Log probability of a context, (B,); by default 0, for contexts that are not random."""
        return torch.zeros(len(context.mask), device=context.mask.device)

    def log_prob_of_condition(self, context: Context) -> Tensor:
        """What the condition of a context adds to `log_prob_context`, (B,); 0 where contexts do not depend on it."""
        return torch.zeros(len(context.mask), device=context.mask.device)

    @abstractmethod
    def concatenate(self, parts: Sequence[Data]) -> Data:
        """Join batches."""


def _check_finite(values: Any) -> None:
    if isinstance(values, Tensor) and not (finite := values.isfinite()).all():
        first = int((~finite).nonzero()[0, 0])
        raise MolflowError(
            f"configuration {first} of the batch: expected finite numbers, but it is not finite at time 0, the data"
        )
