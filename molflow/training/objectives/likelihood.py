"""The negative log-likelihood of any flow that computes one."""

import inspect
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.config import NameIn
from molflow.data.batches import Batch
from molflow.energies.base import Potential
from molflow.flows.base import Flow
from molflow.flows.registry import DIVERGENCES
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import Objective, ObjectiveConfig, Parts


@OBJECTIVES.register("likelihood")
class LikelihoodObjectiveConfig(ObjectiveConfig):
    """The negative log-likelihood of a flow. A setting that is left out has the flow's own default."""

    requires: ClassVar[tuple[str, ...]] = ("nll",)
    exact_likelihood: ClassVar[Literal["always", "cheap", "never"]] = "always"

    divergence: Annotated[str, NameIn(DIVERGENCES)] | None = Field(
        None, description="of a continuous flow: exact, or estimated with `n_probes` random vectors"
    )
    n_probes: int | None = Field(None, gt=0)
    kinetic_energy: float | None = Field(None, ge=0, description="weight of the velocity's square along the path")

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "LikelihoodObjective":
        return LikelihoodObjective(flow, self)


class LikelihoodObjective(Objective):
    """-log p(data), averaged over the batch: the mean of `Flow.nll`.

    A flow may add terms of its own, as a continuous one adds w int |f|^2 dt / dof (arXiv 1810.01367, 2002.02798). A
    flow with a method `nll_terms`, which returns `nll` and a dictionary of its terms, has the means of these logged.

    Raises:
        ValueError: a setting that the flow's `nll` does not take.
    """

    config: LikelihoodObjectiveConfig

    def __init__(self, flow: Flow[Any], config: LikelihoodObjectiveConfig):
        super().__init__(flow, config)
        self.settings = {name: value for name, value in config.settings().items() if value is not None}
        parameters = inspect.signature(flow.nll).parameters
        takes_any = any(parameter.kind is parameter.VAR_KEYWORD for parameter in parameters.values())
        if not takes_any and (strange := [name for name in self.settings if name not in parameters]):
            raise ValueError(f"the likelihood of a {type(flow).__name__} takes no {', '.join(strange)}; leave it out")

    def initialize(self, batch: Batch) -> None:
        self.flow.initialize(batch.data, batch.condition)

    def forward(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        arguments = batch.data, batch.condition, generator
        if (nll_terms := getattr(self.flow, "nll_terms", None)) is None:
            return self.flow.nll(*arguments, **self.settings).mean(), {}
        nll, terms = nll_terms(*arguments, **self.settings)
        return nll.mean(), {name: term.detach().mean() for name, term in terms.items()}
