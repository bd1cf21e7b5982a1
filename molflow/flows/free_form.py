"""Free-form flows (arXiv 2310.16624): two unconstrained networks, one the approximate inverse of the other."""

from collections.abc import Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from molflow.distributions import StandardNormal
from molflow.errors import MolflowError
from molflow.flows.base import Flow, FlowConfig
from molflow.flows.conditions import Conditions
from molflow.flows.domains.base import Data, Domain
from molflow.flows.networks import build_network, evaluate, transform
from molflow.flows.registry import FLOWS, SURROGATES
from molflow.geometry import Context, P, squared_norm, tensors_of
from molflow.nn import Chain, EGNNConfig, EquivariantTransformer, Network
from molflow.volume import exact_log_det, surrogate_decoder_jvp, surrogate_encoder_jvp

SURROGATES.register("encoder_jvp")(surrogate_encoder_jvp)
SURROGATES.register("decoder_jvp")(surrogate_decoder_jvp)


@FLOWS.register("free_form")
class FreeFormConfig(FlowConfig):
    """`FreeFormFlow`. With `average_velocity` the decoder takes two times and can use several evaluations."""

    encoder: Network = EGNNConfig()
    decoder: Network = EGNNConfig()
    average_velocity: bool = False

    def build(self) -> "FreeFormFlow[Any]":
        domain, conditions = self.build_domain()
        encoder = build_network(self.encoder, domain, conditions)
        decoder = build_network(self.decoder, domain, conditions, 2 if self.average_velocity else 0)
        return FreeFormFlow(domain, encoder, decoder, conditions)


class FreeFormTerms(NamedTuple):
    """The terms of the free-form loss, one number per configuration, (B,).

    Attributes:
        reconstruction: |p - g(f(p))|^2 in model units.
        latent: -log p(f(p)), nats.
        surrogate: a number whose gradient is that of log |det f'(p)|; its value is not the log-determinant.
        correction: what the domain adds to the log-likelihood, nats.
    """

    reconstruction: Tensor
    latent: Tensor
    surrogate: Tensor
    correction: Tensor

    def loss(self, beta: float) -> Tensor:
        """The mean of beta |p - g(f(p))|^2 - log p(f(p)) - surrogate - correction."""
        return (beta * self.reconstruction + self.latent - self.surrogate - self.correction).mean()


class FreeFormFlow(Flow[Data]):
    """z = f(p) and p = g(z) by two networks of any kind.

    On point clouds f(p) = p + encoder(p) and g(z) = z + decoder(z); on vectors f and g are the networks themselves. If
    the decoder is an average velocity u(z, r, t) (MeanFlow, arXiv 2505.13447) of the path from data at time 0 to the
    latent at time 1, g(z) = z - u(z, 0, 1), and k evaluations can refine it: z_r = z_t - (t - r) u(z_t, r, t) between
    the times (i / k)^2, which are dense where bonds are decided.

    Args:
        domain: what the flow is a distribution over.
        encoder: a network (x, h, mask) -> (dx, dh) as in `molflow.nn`; on vectors any module x -> z, which takes the
            condition as second argument if there is one. Training differentiates backward through its forward-mode
            derivative, which is silently wrong for `nn.LayerNorm` and `torch.linalg.solve` (torch 2.13).
        decoder: another one, of any size; with two times (r, t) it is an average velocity.
        conditions: as in `Flow`.
    """

    def __init__(
        self, domain: Domain[Data], encoder: nn.Module, decoder: nn.Module, conditions: Conditions | None = None
    ):
        super().__init__(domain, conditions)
        self.encoder, self.decoder = encoder, decoder

    @property
    def has_average_velocity(self) -> bool:
        return bool(getattr(self.decoder, "n_times", 0) == 2)

    @property
    def takes_evaluations(self) -> bool:
        return self.has_average_velocity

    def encode(self, points: P, context: Context) -> P:
        return transform(self.encoder, points, context)

    def decode(self, latent: P, context: Context, n_evaluations: int | None = None) -> P:
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
            return transform(self.decoder, latent, context)
        points = latent
        for early, late in pairwise((k / n_evaluations) ** 2 for k in range(n_evaluations, -1, -1)):
            r, t = (tensors_of(latent)[0].new_full((len(context.mask),), time) for time in (late, early))
            points = points - self.average_velocity(points, context, r, t) * (early - late)
        return points

    def average_velocity(self, points: P, context: Context, r: Tensor, t: Tensor) -> P:
        """u(z_t, r, t) for r and t (B,); times t - r it is the displacement from time r to time t."""
        return average_velocity(self.decoder, points, context, r, t)

    def encode_with_log_det(self, points: P, context: Context) -> tuple[P, Tensor]:
        return exact_log_det(lambda p: self.encode(p, context), points, self.domain.space(context.mask))

    def decode_with_log_det(self, latent: P, context: Context) -> tuple[P, Tensor]:
        return exact_log_det(lambda z: self.decode(z, context), latent, self.domain.space(context.mask))

    def loss(
        self,
        data: Data,
        condition: Any = None,
        generator: torch.Generator | None = None,
        *,
        beta: float = 100.0,
        n_probes: int = 1,
        surrogate: str = "encoder_jvp",
    ) -> Tensor:
        """The free-form loss of a batch, a scalar: `FreeFormTerms.loss`."""
        return self.terms(data, condition, generator, n_probes, surrogate).loss(beta)

    def terms(
        self,
        data: Data,
        condition: Any = None,
        generator: torch.Generator | None = None,
        n_probes: int = 1,
        surrogate: str = "encoder_jvp",
    ) -> FreeFormTerms:
        """The terms of the free-form loss for a batch of data."""
        points, context, correction = self.to_points(data, generator, condition)
        probes = self.domain.space(context.mask).probes(n_probes, generator, self.dtype)
        return self.terms_of_points(points, context, correction, probes, surrogate)

    def terms_of_points(
        self, points: P, context: Context, correction: Tensor, probes: Sequence[P], surrogate: str
    ) -> FreeFormTerms:
        """`terms` for points and probes that are given: arithmetic alone, which can be compiled."""
        z, reconstruction, value = SURROGATES[surrogate](
            lambda p: self.encode(p, context), lambda z: self.decode(z, context), points, probes
        )
        return FreeFormTerms(
            reconstruction=squared_norm(points - reconstruction),
            latent=-StandardNormal(self.domain.space(context.mask)).log_prob(z),
            surrogate=value,
            correction=correction,
        )

    def reverse_terms(
        self, latent: P, context: Context, probes: Sequence[P], surrogate: str
    ) -> tuple[P, Tensor, Tensor]:
        """Terms for latents: p = g(z), |z - f(p)|^2, and a surrogate with the gradient of log |det g'(z)|."""
        points, returned, value = SURROGATES[surrogate](
            lambda z: self.decode(z, context), lambda p: self.encode(p, context), latent, probes
        )
        return points, squared_norm(latent - returned), value


def average_velocity(network: nn.Module, points: P, context: Context, r: Tensor, t: Tensor) -> P:
    """u(z_t, r, t) by any network with two times; see `FreeFormFlow.average_velocity`."""
    return evaluate(network, points, context, torch.stack([r, t], -1))


def unroll(
    flow: FreeFormFlow[Data], times: Sequence[float], backward: FreeFormFlow[Data] | None = None
) -> FreeFormFlow[Data]:
    """A flow whose decoder is one deep network, equal to several evaluations of an average velocity.

    g = g_k ... g_1 with g_i(z) = z - (t - r) u(z, r, t) for neighbouring times t > r; each step becomes a stage of a
    `Chain`, with weights of its own that can be trained further. Domain and, without `backward`, encoder are shared
    with `flow`.

    Args:
        flow: one with an `EquivariantTransformer` as average velocity.
        times: from 1 down to 0.
        backward: a flow whose average velocity makes the encoder, by the steps back from 0 to 1. It must have been
            trained for these steps and for the same paths as `flow`; it may be `flow` itself.

    Raises:
        MolflowError: another decoder, a conditional flow, or other times.
    """
    if len(times) < 2 or times[0] != 1 or times[-1] != 0 or any(r >= t for t, r in pairwise(times)):
        raise MolflowError(f"times must fall from 1 to 0, got {', '.join(map(str, times))}")
    encoder = flow.encoder if backward is None else _stages(backward, times[::-1])
    return FreeFormFlow(flow.domain, encoder, _stages(flow, times), flow.conditions)


def _stages(flow: FreeFormFlow[Data], times: Sequence[float]) -> nn.Module:
    """The steps of an average velocity between times, one network after another."""
    network = flow.decoder
    if not flow.has_average_velocity or not isinstance(network, EquivariantTransformer):
        raise MolflowError("only a flow whose average velocity is a transformer can be unrolled")
    if flow.conditions is not None:
        raise MolflowError("a conditional flow cannot be unrolled")
    stages = [network.at_times(torch.tensor([r, t]).to(network.spread), r - t) for t, r in pairwise(times)]
    return Chain(stages) if len(stages) > 1 else stages[0]
