"""The free-form objective (arXiv 2310.16624): maximum likelihood with a reconstruction error, and by energy."""

from collections.abc import Callable, Mapping
from typing import Annotated, Any, ClassVar, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.config import NameIn
from molflow.data.batches import Batch
from molflow.energies.base import Potential
from molflow.flows.base import Flow
from molflow.flows.free_form import FreeFormFlow, FreeFormTerms
from molflow.flows.registry import SURROGATES
from molflow.geometry import Context, Points
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import CheckedCompile, Objective, ObjectiveConfig, Parts


@OBJECTIVES.register("free_form")
class FreeFormObjectiveConfig(ObjectiveConfig):
    """The free-form loss: `beta` weighs the reconstruction error, `n_probes` vectors estimate the volume change.

    With `first_beta` the weight rises geometrically: first_beta^(1 - s) beta^s after a share s of the training. A small
    weight lets the density take shape quickly, a large one at the end makes the maps each other's inverse.
    """

    requires: ClassVar[tuple[str, ...]] = ("encoder", "decoder", "reverse_terms")
    remedy: ClassVar[str] = "model.kind = 'free_form'"
    exact_likelihood: ClassVar[Literal["always", "cheap", "never"]] = "always"

    beta: float = Field(100.0, gt=0)
    first_beta: float | None = Field(None, gt=0, description="beta at the first step, from which it rises; else beta")
    n_probes: int = Field(1, gt=0)
    surrogate: Annotated[str, NameIn(SURROGATES)] = "encoder_jvp"
    frozen_decoder: bool = Field(False, description="train the encoder alone, to keep a decoder that samples well")
    energy_weight: float = Field(
        0.0, ge=0, lt=1, description="share of training by energy, for data whose energy is known"
    )

    def build(
        self, flow: Flow[Any], *, teacher: nn.Module | None = None, energy: Potential | None = None
    ) -> "FreeFormObjective":
        return FreeFormObjective(flow, self, energy)


class FreeFormObjective(Objective):
    """beta |p - g(f(p))|^2 - log p(f(p)) - surrogate - correction, averaged over the batch (arXiv 2310.16624).

    A flow with a range of noise gets p with noise of a level s drawn for each configuration, log s uniform, and the
    weight beta times the highest s over s.

    With an energy U and a weight w it is (1 - w) times that plus w times its mirror image over latents z, the reverse
    Kullback-Leibler divergence: beta |z - f(g(z))|^2 + U(g(z)) - surrogate of log |det g'(z)|. So the maps invert each
    other wherever latents are drawn, not only at data points.
    """

    likelihood_names: ClassVar[tuple[str, ...]] = (
        "validation_nll_encoder", "validation_nll_decoder", "validation_reconstruction_error",
    )  # fmt: skip
    flow: FreeFormFlow[Any]
    config: FreeFormObjectiveConfig

    def __init__(self, flow: Flow[Any], config: FreeFormObjectiveConfig, energy: Potential | None = None):
        super().__init__(flow, config)
        if config.energy_weight and energy is None:
            raise ValueError("energy_weight needs data whose energy is known")
        self.energy = energy
        self._terms: Callable[..., FreeFormTerms] = self.flow.terms_of_points
        self._reverse_terms: Callable[..., tuple[Points, Tensor, Tensor]] = self.flow.reverse_terms
        self.flow.decoder.requires_grad_(not config.frozen_decoder)

    @property
    def beta(self) -> float:
        """The weight at this share of the training."""
        first = self.config.beta if self.config.first_beta is None else self.config.first_beta
        return float(first ** (1 - self.share) * self.config.beta**self.share)

    def criterion(self, validation: Mapping[str, float | None]) -> float | None:
        """The exact likelihood of the encoder + beta e^2, e the reconstruction error, where likelihoods are validated.

        The value of the loss will not do: only the gradient of its surrogate is that of the volume change.
        """
        if "validation_nll_encoder" not in validation:
            return super().criterion(validation)
        nll, error = validation["validation_nll_encoder"], validation["validation_reconstruction_error"]
        return None if nll is None or error is None else nll + self.config.beta * error**2

    def forward(self, batch: Batch, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        points, context, correction = self.to_points(batch, generator)
        points, context = self.flow.add_drawn_noise(points, context, generator)
        probes = self._probes(context, generator)
        terms = self._terms(points, context, correction, probes, self.config.surrogate)
        loss = terms.loss(self.beta)
        parts = {
            "reconstruction": terms.reconstruction.detach().mean(),
            "latent_nll": terms.latent.detach().mean(),
            "correction": terms.correction.detach().mean(),
        }
        if weight := self.config.energy_weight:
            by_energy, more = self._by_energy(context, generator)
            loss, parts = (1 - weight) * loss + weight * by_energy, parts | more
        return loss, parts

    def _by_energy(self, context: Context, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        """The mirror image of the loss over latents."""
        z = self.flow.domain.space(context.mask).randn(generator, self.flow.dtype)
        probes = self._probes(context, generator)
        points, reconstruction, surrogate = self._reverse_terms(z, context, probes, self.config.surrogate)
        assert self.energy is not None
        u = self.energy(self.flow.domain.from_points(points, context))
        parts = {"energy": u.detach().mean(), "latent_reconstruction": reconstruction.detach().mean()}
        return (self.beta * reconstruction + u - surrogate).mean(), parts

    def _probes(self, context: Context, generator: torch.Generator | None) -> list[Points]:
        return self.flow.domain.space(context.mask).probes(self.config.n_probes, generator, self.flow.dtype)

    def compile_loss(self, dynamic: bool = False) -> None:
        if self.config.surrogate != "decoder_jvp":
            raise ValueError("only the surrogate decoder_jvp can be compiled; set it, or training.compile = false")
        self._terms = CheckedCompile(self.flow.terms_of_points, dynamic)
        self._reverse_terms = CheckedCompile(self.flow.reverse_terms, dynamic)

    def likelihood(self, batch: Batch, seed: int) -> tuple[Tensor, ...]:
        """Mean -log p of held-out data in nats by the encoder and by the decoder, and mean |p - g(f(p))|."""
        data, condition = batch.data, batch.condition
        encoder = self.flow.likelihood(data, condition=condition, which="encoder", seed=seed)
        decoder = self.flow.likelihood(data, condition=condition, which="decoder", seed=seed)
        return -encoder.log_prob.mean(), -decoder.log_prob.mean(), encoder.reconstruction_error.mean()
