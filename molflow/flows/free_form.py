"""Free-form flows (arXiv 2310.16624): two unconstrained networks, one the approximate inverse of the other."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from molflow.distributions import MeanFreeNormal
from molflow.errors import MolflowError
from molflow.flows.base import Flow
from molflow.flows.domains import Data, Domain
from molflow.geometry import Context, Points
from molflow.nn import Chain, EquivariantTransformer
from molflow.registry import Registry
from molflow.volume import exact_log_det, surrogate_decoder_jvp, surrogate_encoder_jvp

SURROGATES: Registry[Callable[..., tuple[Points, Points, Tensor]]] = Registry("surrogate")
SURROGATES.register("encoder_jvp")(surrogate_encoder_jvp)
SURROGATES.register("decoder_jvp")(surrogate_decoder_jvp)


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
    """z = p + encoder(p) and p = g(z), on the mean-free space of positions and features.

    g(z) = z + decoder(z); or, where the decoder is an average velocity u(z, r, t) (MeanFlow, arXiv 2505.13447) of the
    path from data at time 0 to the latent at time 1, g(z) = z - u(z, 0, 1), which k evaluations can refine:
    z_r = z_t - (t - r) u(z_t, r, t) between the times (i / k)^2, which are close together where bonds are decided.

    Args:
        domain: what the flow is a distribution over.
        encoder: a network (x, h, mask) -> (dx, dh) as in `molflow.nn`.
        decoder: another one, of any size; with two times (r, t) it is an average velocity.
    """

    def __init__(self, domain: Domain[Data], encoder: nn.Module, decoder: nn.Module):
        super().__init__(domain)
        self.encoder, self.decoder = encoder, decoder

    @property
    def has_average_velocity(self) -> bool:
        return bool(getattr(self.decoder, "n_times", 0) == 2)

    @property
    def n_evaluations(self) -> int:
        return 1

    @property
    def takes_evaluations(self) -> bool:
        return self.has_average_velocity

    def has_density(self, n_evaluations: int | None) -> bool:
        return n_evaluations in (None, 1)

    def encode(self, points: Points, context: Context) -> Points:
        return points + _call(self.encoder, points, context)

    def decode(self, latent: Points, context: Context, n_evaluations: int | None = None) -> Points:
        """Latent points -> data points, by default with one evaluation.

        Raises:
            MolflowError: more than one evaluation of a decoder that is not an average velocity.
            ValueError: less than one evaluation.
        """
        n_evaluations = 1 if n_evaluations is None else n_evaluations
        if n_evaluations < 1:
            raise ValueError(f"n_evaluations must be at least 1, got {n_evaluations}")
        if not self.has_average_velocity:
            if n_evaluations != 1:
                raise MolflowError("this model has a decoder for one evaluation; only an average velocity can use more")
            return latent + _call(self.decoder, latent, context)
        points = latent
        for early, late in pairwise((k / n_evaluations) ** 2 for k in range(n_evaluations, -1, -1)):
            r, t = (latent.x.new_full((len(latent.x),), time) for time in (late, early))
            points = points - self.average_velocity(points, context, r, t) * (early - late)
        return points

    def average_velocity(self, points: Points, context: Context, r: Tensor, t: Tensor) -> Points:
        """u(z_t, r, t), whose product with t - r is the way from time r to time t, both (B,)."""
        return average_velocity(self.decoder, points, context, r, t)

    def encode_with_log_det(self, points: Points, context: Context) -> tuple[Points, Tensor]:
        return exact_log_det(lambda p: self.encode(p, context), points, self.domain.space(context.mask))

    def decode_with_log_det(self, latent: Points, context: Context) -> tuple[Points, Tensor]:
        return exact_log_det(lambda z: self.decode(z, context), latent, self.domain.space(context.mask))

    def terms(
        self, data: Data, generator: torch.Generator | None, n_probes: int = 1, surrogate: str = "encoder_jvp"
    ) -> FreeFormTerms:
        """The terms of the training loss for a batch of data."""
        points, context, correction = self.to_points(data, generator)
        probes = self.domain.space(context.mask).probes(n_probes, generator, points.x.dtype)
        return self.terms_of_points(points, context, correction, probes, surrogate)

    def terms_of_points(
        self, points: Points, context: Context, correction: Tensor, probes: Sequence[Points], surrogate: str
    ) -> FreeFormTerms:
        """`terms` where the data are points already and the probes are drawn: arithmetic alone."""
        z, reconstruction, value = SURROGATES[surrogate](
            lambda p: self.encode(p, context), lambda z: self.decode(z, context), points, probes
        )
        return FreeFormTerms(
            reconstruction=(points - reconstruction).squared_norm(),
            latent=-MeanFreeNormal(self.domain.space(context.mask)).log_prob(z),
            surrogate=value,
            correction=correction,
        )

    def reverse_terms(
        self, latent: Points, context: Context, probes: Sequence[Points], surrogate: str
    ) -> tuple[Points, Tensor, Tensor]:
        """The other way round: p = g(z), |z - f(p)|^2, and a surrogate whose gradient is that of log |det g'(z)|."""
        points, returned, value = SURROGATES[surrogate](
            lambda z: self.decode(z, context), lambda p: self.encode(p, context), latent, probes
        )
        return points, (latent - returned).squared_norm(), value


def average_velocity(network: nn.Module, points: Points, context: Context, r: Tensor, t: Tensor) -> Points:
    """u(z_t, r, t) by any network with two times; see `FreeFormFlow.average_velocity`."""
    return _call(network, points, context, torch.stack([r, t], -1))


def unroll(
    flow: FreeFormFlow[Data], times: Sequence[float], backward: FreeFormFlow[Data] | None = None
) -> FreeFormFlow[Data]:
    """The flow whose decoder is one deep network that does the same as an average velocity does in several evaluations.

    g = g_k ... g_1 with g_i(z) = z - (t - r) u(z, r, t) for neighbouring times t > r; each step becomes a stage of a
    `Chain`, with weights of its own that can be trained further. Domain and, without `backward`, encoder are shared
    with `flow`.

    Args:
        flow: one with an `EquivariantTransformer` as average velocity.
        times: from 1 down to 0.
        backward: its average velocity makes the encoder likewise, by the steps back from 0 to 1. It must have been
            trained for them, and to follow the same paths as `flow`, which it may be itself.

    Raises:
        MolflowError: another decoder, or other times.
    """
    if len(times) < 2 or times[0] != 1 or times[-1] != 0 or any(r >= t for t, r in pairwise(times)):
        raise MolflowError(f"times must fall from 1 to 0, got {', '.join(map(str, times))}")
    encoder = flow.encoder if backward is None else _stages(backward, times[::-1])
    return FreeFormFlow(flow.domain, encoder, _stages(flow, times))


def _stages(flow: FreeFormFlow[Data], times: Sequence[float]) -> nn.Module:
    """The steps of an average velocity between times, one network after another."""
    network = flow.decoder
    if not flow.has_average_velocity or not isinstance(network, EquivariantTransformer):
        raise MolflowError("only a flow whose average velocity is a transformer can be unrolled")
    stages = [network.at_times(torch.tensor([r, t]).to(network.spread), r - t) for t, r in pairwise(times)]
    return Chain(stages) if len(stages) > 1 else stages[0]


def _call(network: nn.Module, points: Points, context: Context, *times: Tensor) -> Points:
    """Labels follow the features at the input of a network."""
    return Points(*network(points.x, torch.cat([points.h, context.labels], -1), context.mask, *times))
