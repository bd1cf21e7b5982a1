"""Free-form flows (arXiv 2310.16624): two unconstrained networks, one the approximate inverse of the other."""

from typing import Literal, NamedTuple

import torch
from torch import Tensor, nn

from molflow.distributions import MeanFreeNormal
from molflow.flows.base import Flow
from molflow.flows.domains import Data, Domain
from molflow.geometry import Points
from molflow.volume import exact_log_det, surrogate_decoder_jvp, surrogate_encoder_jvp

Surrogate = Literal["encoder_jvp", "decoder_jvp"]
SURROGATES = {"encoder_jvp": surrogate_encoder_jvp, "decoder_jvp": surrogate_decoder_jvp}


class FreeFormTerms(NamedTuple):
    """The terms of the free-form loss, one number per configuration, (B,).

    Attributes:
        reconstruction: |p - g(f(p))|^2 in model units.
        latent: -log p(f(p)), nats.
        surrogate: its gradient is that of log |det f'(p)|; its value is not the log-determinant.
        correction: what the domain adds to the log-likelihood, nats.
    """

    reconstruction: Tensor
    latent: Tensor
    surrogate: Tensor
    correction: Tensor

    def loss(self, beta: float) -> Tensor:
        return (beta * self.reconstruction + self.latent - self.surrogate - self.correction).mean()


class FreeFormFlow(Flow[Data]):
    """z = p + encoder(p) and p = z + decoder(z), on the mean-free space of positions and features.

    Args:
        domain: what the flow is a distribution over.
        encoder: a network (x, h, mask) -> (dx, dh) as in `molflow.nn`.
        decoder: another one, of any size.
    """

    def __init__(self, domain: Domain[Data], encoder: nn.Module, decoder: nn.Module):
        super().__init__(domain)
        self.encoder, self.decoder = encoder, decoder

    def encode(self, points: Points, mask: Tensor) -> Points:
        return points + self.encoder(points.x, points.h, mask)

    def decode(self, latent: Points, mask: Tensor) -> Points:
        return latent + self.decoder(latent.x, latent.h, mask)

    def encode_with_log_det(self, points: Points, mask: Tensor) -> tuple[Points, Tensor]:
        return exact_log_det(lambda p: self.encode(p, mask), points, self.domain.space(mask))

    def decode_with_log_det(self, latent: Points, mask: Tensor) -> tuple[Points, Tensor]:
        return exact_log_det(lambda z: self.decode(z, mask), latent, self.domain.space(mask))

    def terms(
        self, data: Data, generator: torch.Generator | None, n_probes: int = 1, surrogate: Surrogate = "encoder_jvp"
    ) -> FreeFormTerms:
        """The terms of the training loss for a batch of data."""
        points, mask, correction = self.to_points(data, generator)
        space = self.domain.space(mask)
        probes = space.probes(n_probes, generator, points.x.dtype)
        z, reconstruction, value = SURROGATES[surrogate](
            lambda p: self.encode(p, mask), lambda z: self.decode(z, mask), points, probes
        )
        return FreeFormTerms(
            reconstruction=(points - reconstruction).squared_norm(),
            latent=-MeanFreeNormal(space).log_prob(z),
            surrogate=value,
            correction=correction,
        )
