"""The contract of objectives: a configuration that is chosen by name, and a loss as one module.

The loss is computed in one `forward`, which `Ranks.distribute` wraps for training on several processes. The arithmetic
on tensors, which can be compiled, is separate from drawing noise and pairing data, which cannot. Pairing takes long and
needs no network, so it is separate from the module and worker processes can do it.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Literal

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from molflow.config import KindConfig
from molflow.data.batches import Batch
from molflow.energies.base import Potential
from molflow.errors import MolflowError
from molflow.flows.base import Flow, FlowConfig
from molflow.geometry import Context
from molflow.training.objectives import OBJECTIVES

Parts = dict[str, Tensor]
Preparation = Callable[[Batch, torch.Generator | None], Any]


class ObjectiveConfig(KindConfig):
    """Base of the configurations of objectives.

    Implementing an objective: one file with a configuration and a loss.

    Example:
        >>> from molflow.training.objectives import OBJECTIVES
        >>> from molflow.training.objectives.base import Objective, ObjectiveConfig
        >>> @OBJECTIVES.register("reconstruction")
        ... class ReconstructionObjectiveConfig(ObjectiveConfig):
        ...     requires = ("encoder", "decoder")
        ...
        ...     def build(self, flow, *, teacher=None, energy=None):
        ...         return ReconstructionObjective(flow, self)
        >>> class ReconstructionObjective(Objective):
        ...     def forward(self, batch, generator):
        ...         points, context, _ = self.to_points(batch, generator)
        ...         error = points - self.flow.decode(self.flow.encode(points, context), context)
        ...         return error.squared_norm().mean(), {}
        >>> OBJECTIVES["reconstruction"]()
        ReconstructionObjectiveConfig()

    Attributes:
        requires: names of the attributes that a flow must have; one that is False counts as missing.
        remedy: the setting of a model that gives a flow these attributes, for error messages.
        exact_likelihood: whether validation computes the exact likelihood of held-out data: always, never, or where it
            is cheap, which the task decides.
    """

    requires: ClassVar[tuple[str, ...]] = ()
    remedy: ClassVar[str] = ""
    exact_likelihood: ClassVar[Literal["always", "cheap", "never"]] = "never"

    @abstractmethod
    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "Objective":
        """The loss that this configuration describes.

        Args:
            flow: the flow to train.
            teacher: a flow or a network to learn from, for an objective that needs one.
            energy: energy of the data in kT, for an objective that trains by it.

        Raises:
            ValueError: the objective does not fit the flow, or lacks its teacher or its energy.
        """

    @property
    def needs_weights(self) -> str | None:
        """Why a new run must start from given weights; None where it may start from random ones."""
        return None

    def load_teacher(self, model: FlowConfig) -> Flow[Any] | None:
        """The trained flow to learn from, where the configuration names one.

        Args:
            model: configuration of the flow to train.

        Raises:
            MolflowError: the teacher cannot be loaded, or is a distribution over something else.
        """
        return None


class Objective(nn.Module, ABC):
    """A loss: a batch -> one number. The batch is the result of `preparation`.

    Args:
        flow: the flow to train.
        config: settings of the loss.

    Attributes:
        teacher: a frozen network or flow to learn from, where the objective needs one.
        share: of the training that has passed, 0 to 1, for weights that change with it.

    Raises:
        ValueError: the flow lacks an attribute that the objective requires.
    """

    likelihood_names: ClassVar[tuple[str, ...]] = ("validation_nll", "validation_reconstruction_error")
    flow: Flow[Any]

    def __init__(self, flow: Flow[Any], config: ObjectiveConfig):
        super().__init__()
        _check_requirements(flow, config)
        self.flow, self.config = flow, config
        self.teacher: nn.Module | None = None
        self.share = 0.0

    def preparation(self) -> Preparation:
        """The function (batch, generator) -> prepared batch, both on the CPU, with the present domain of the flow.

        It holds no network and can be pickled. A prepared batch has a length, can be sliced, and has `to(device)`.
        """
        return unprepared

    @abstractmethod
    def forward(self, batch: Any, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        """The loss, a mean over configurations, and its parts for the log.

        Each is a mean too, or has the values (K,) of those configurations for which it is defined. Numbers are drawn by
        `torch.rand` and `torch.randn`, a row for each configuration or for each point, so that processes can share a
        batch.
        """

    def criterion(self, validation: Mapping[str, float | None]) -> float | None:
        """What `training.patience` waits to fall, from the figures of a validation: the loss; None is no number."""
        return validation["validation_loss"]

    def initialize(self, batch: Any) -> None:
        """Set the parameters that start from the first batch of data; by default there are none."""

    def sizes(self, batch: Any) -> Tensor:
        """Points of each configuration of a prepared batch, (B,)."""
        with torch.no_grad():
            return self.to_points(batch, self.flow.generator(0))[1].mask.sum(1)

    def compile_loss(self, dynamic: bool = False) -> None:
        """Let torch.compile fuse the arithmetic; worth it for many steps.

        Args:
            dynamic: compile once for batches of all sizes, and not anew for each shape.

        Raises:
            ValueError: this loss cannot be compiled.
        """
        raise ValueError("this objective cannot be compiled; set training.compile = false")

    def likelihood(self, batch: Batch, seed: int) -> tuple[Tensor, ...]:
        """The figures `likelihood_names` of held-out data: here -log p in nats, and |p - g(f(p))|, means."""
        likelihood = self.flow.likelihood(batch.data, condition=batch.condition, seed=seed)
        return -likelihood.log_prob.mean(), likelihood.reconstruction_error.mean()

    def to_points(self, batch: Batch, generator: torch.Generator | None) -> tuple[Any, Context, Tensor]:
        """Points, their context with the condition of the batch, and the domain's correction, as `Flow.to_points`."""
        return self.flow.to_points(batch.data, generator, condition=batch.condition)


def _check_requirements(flow: Flow[Any], config: ObjectiveConfig) -> None:
    if lacking := _lacking(flow, type(config)):
        served = ", ".join(name for name, other in OBJECTIVES.items() if not _lacking(flow, other))
        remedy = f" ({config.remedy})" if config.remedy else ""
        raise ValueError(
            f"the {config.kind} objective needs a flow with {', '.join(lacking)}{remedy}; "
            f"a {type(flow).__name__} can be trained by: {served}"
        )


def _lacking(flow: Flow[Any], config: type[ObjectiveConfig]) -> list[str]:
    """Required attributes that a flow does not have."""
    return [name for name in config.requires if getattr(flow, name, False) is False]


def unprepared(batch: Batch, generator: torch.Generator | None) -> Batch:
    """The preparation of an objective that draws its noise in the training step: the unchanged batch."""
    return batch


def robust(errors: Tensor, loss_exponent: float) -> Tensor:
    """e / (sg(e) + 1e-3)^a of squared errors e (B,), sg without gradient: it has the gradient of e^(1 - a)."""
    return errors * (errors.detach() + 1e-3) ** -loss_exponent


def robust_mean(errors: Tensor, loss_exponent: float) -> Tensor:
    """The mean of `robust` over a batch."""
    return robust(errors, loss_exponent).mean()


class CheckedCompile:
    """A compiled function of tensors, `dynamic` for all their sizes. Its first result is compared with the eager one.

    Raises:
        MolflowError: the two differ, at the first call.
    """

    def __init__(self, function: Callable[..., Any], dynamic: bool):
        self.eager, self.compiled, self.checked = function, torch.compile(function, dynamic=dynamic or None), False

    def __call__(self, *arguments: Any) -> Any:
        values = self.compiled(*arguments)
        if not self.checked:
            self.checked = True
            pairs = list(zip(tree_leaves(values), tree_leaves(self.eager(*arguments)), strict=True))
            if not all(torch.allclose(a, b, rtol=1e-2, atol=1e-3) for a, b in pairs):
                difference = max(float((a - b).detach().abs().max()) for a, b in pairs)
                raise MolflowError(
                    f"the compiled loss differs from the eager one by {difference:.2g}: do not compile here"
                )
        return values
