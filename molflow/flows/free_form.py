"""Free-form flows (arXiv 2310.16624): two unconstrained networks, one the approximate inverse of the other."""

import math
from collections.abc import Sequence
from itertools import pairwise
from typing import Any, ClassVar, NamedTuple, cast

import torch
from pydantic import Field, field_validator, model_validator
from torch import Tensor, nn

from molflow.config import Config
from molflow.distributions import StandardNormal
from molflow.errors import MolflowError
from molflow.flows.base import Flow, FlowConfig
from molflow.flows.conditions import Conditions
from molflow.flows.domains.base import Data, Domain
from molflow.flows.domains.vectors import VectorDomain
from molflow.flows.folds import far_latents, log_branches
from molflow.flows.networks import (
    build_network,
    check_layers,
    check_shapes,
    evaluate,
    pass_again,
    passes,
    transform,
)
from molflow.flows.registry import FLOWS, SURROGATES
from molflow.geometry import Context, P, select, squared_norm, tensors_of
from molflow.nn import Chain, EGNNConfig, Network, TransformerConfig
from molflow.volume import exact_log_det, surrogate_decoder_jvp, surrogate_encoder_jvp

SURROGATES.register("encoder_jvp")(surrogate_encoder_jvp)
SURROGATES.register("decoder_jvp")(surrogate_decoder_jvp)


class NoiseRange(Config):
    """Standard deviations of the noise that a flow is trained for, model units (SoftFlow, arXiv 2006.04604).

    Attributes:
        lowest, highest: the range, on which log s is uniform.
    """

    lowest: float = Field(0.01, gt=0, description="noise at which samples are drawn and likelihoods are computed")
    highest: float = Field(0.15, gt=0)

    @model_validator(mode="after")
    def _check(self) -> "NoiseRange":
        if not self.lowest < self.highest:
            raise ValueError("lowest must be below highest")
        return self

    def draw(self, n: int, generator: torch.Generator | None, dtype: torch.dtype) -> Tensor:
        """n levels whose logarithm is uniform."""
        device = None if generator is None else generator.device
        u = torch.rand(n, generator=generator, dtype=dtype, device=device)
        return self.lowest * (self.highest / self.lowest) ** u

    def scaled(self, level: Tensor) -> Tensor:
        """The logarithm of a level as networks take it: -1 at the lowest and 1 at the highest."""
        return 2 * (level / self.lowest).log() / math.log(self.highest / self.lowest) - 1


class DenoiserConfig(Config):
    """The velocity of a continuous flow, and the times at which it is evaluated.

    Attributes:
        network: the velocity, a network of one time.
    """

    network: Network = TransformerConfig()
    times: tuple[float, ...] = Field((0.1, 0.0), description="of the steps, falling to 0 once or several times")

    @field_validator("times")
    @classmethod
    def _check(cls, times: tuple[float, ...]) -> tuple[float, ...]:
        passes(times, start_from_noise=False)
        return times


@FLOWS.register("free_form")
class FreeFormConfig(FlowConfig):
    """`FreeFormFlow`. With `average_velocity` the decoder takes two times and can use several evaluations.

    Attributes:
        domain, conditions: as in `FreeFormFlow`.
        encoder, decoder: the two networks.
        noise: levels that the flow is trained for; None for data without noise.
        denoiser: removes that noise from samples, or None.
    """

    trained_by: ClassVar[str] = "free_form"
    encoder: Network = EGNNConfig()
    decoder: Network = EGNNConfig()
    average_velocity: bool = False
    noise: NoiseRange | None = None
    denoiser: DenoiserConfig | None = None

    def build(self) -> "FreeFormFlow[Any]":
        if self.average_velocity and self.noise:
            raise ValueError("an average velocity takes two times and no noise; leave out average_velocity or noise")
        if self.denoiser and not self.noise:
            raise ValueError("a denoiser needs noise to remove; set model.noise")
        domain, conditions = self.build_domain()
        of_noise = 1 if self.noise else 0
        encoder = build_network(self.encoder, domain, conditions, of_noise)
        decoder = build_network(self.decoder, domain, conditions, 2 if self.average_velocity else of_noise)
        denoiser = None if self.denoiser is None else build_network(self.denoiser.network, domain, conditions, 1)
        return FreeFormFlow(
            encoder,
            decoder,
            domain=domain,
            condition=conditions,
            noise=self.noise,
            denoiser=denoiser,
            denoiser_times=() if self.denoiser is None else self.denoiser.times,
        )


class FreeFormTerms(NamedTuple):
    """The terms of the free-form loss, one number per configuration, (B,).

    Attributes:
        reconstruction: |p - g(f(p))|^2 in model units.
        latent: -log p(f(p)), nats.
        surrogate: a number whose gradient is that of log |det f'(p)|; its value is not the log-determinant.
        correction: what the domain adds to the log-likelihood, nats.
        weight: of the reconstruction: the highest noise over the noise of the points, 1 without noise. What is left of
            an error must be small against the noise.
    """

    reconstruction: Tensor
    latent: Tensor
    surrogate: Tensor
    correction: Tensor
    weight: Tensor

    def loss(self, beta: float) -> Tensor:
        """The mean of beta weight |p - g(f(p))|^2 - log p(f(p)) - surrogate - correction."""
        return (beta * self.weight * self.reconstruction + self.latent - self.surrogate - self.correction).mean()


class FreeFormFlow(Flow[Data]):
    """z = f(p) and p = g(z) by two networks of any kind.

    On point clouds f(p) = p + encoder(p) and g(z) = z + decoder(z); on vectors f and g are the networks themselves. If
    the decoder is an average velocity u(z, r, t) (MeanFlow, arXiv 2505.13447) of the path from data at time 0 to the
    latent at time 1, g(z) = z - u(z, 0, 1), and k evaluations can refine it: z_r = z_t - (t - r) u(z_t, r, t) between
    the times (i / k)^2, which are dense where bonds are decided.

    Molecules lie so close to a surface that their density has no bound, and likelihood training ends in a blow-up. With
    a `noise` range the flow is the density of p + s e for every s of the range, e standard normal: training draws s,
    networks are told s as their time, likelihoods and samples are those at the lowest s (SoftFlow, arXiv 2006.04604).
    A denoiser takes a sample at that noise to data without; it is no part of the density. It is the velocity v of a
    continuous flow: with times t_0 > ... > t_k = 0 a sample p becomes (1 - t_0) p, a point of a path at time t_0, and
    then follows the path by Euler steps p - (t_i - t_(i + 1)) v(p, t_i), once or several times.

    Args:
        encoder: on vectors any module x -> z of shape (B, F), which takes the condition as second argument if there is
            one; on point clouds a network (x, h, mask) -> (dx, dh) as in `molflow.nn`. Use smooth activations such as
            SiLU or Tanh: with ReLU the Jacobian has no gradient at the kinks and training fails. Backward through the
            forward-mode derivative, which training does, is silently wrong for `torch.linalg.solve` (torch 2.13).
        decoder: another one, of any size; with two times (r, t) it is an average velocity.
        domain: what the flow is a distribution over; or instead
        features: F, for vectors in units of order one.
        condition: C, the numbers of the condition, in units of order one; or their names and scales.
        noise: levels of noise, for encoder and decoder with one time.
        denoiser: a network with one time, a velocity.
        denoiser_times: of its steps.

    Raises:
        ValueError: neither or both of domain and features; a network with a layer that cannot be in a flow, such as
            BatchNorm or Dropout, or one on vectors that changes their number or length, or takes no such condition.

    Example:
        >>> encoder, decoder = (torch.nn.Sequential(torch.nn.Linear(2, 64), torch.nn.SiLU(), torch.nn.Linear(64, 2))
        ...                     for _ in range(2))
        >>> flow = FreeFormFlow(encoder, decoder, features=2)
        >>> flow.loss(torch.randn(8, 2)).shape, flow.sample(8).shape, flow.log_prob(torch.randn(8, 2)).shape
        (torch.Size([]), torch.Size([8, 2]), torch.Size([8]))
    """

    def __init__(
        self,
        encoder: nn.Module,
        decoder: nn.Module,
        *,
        domain: Domain[Data] | None = None,
        features: int | None = None,
        condition: Conditions | int | None = None,
        noise: NoiseRange | None = None,
        denoiser: nn.Module | None = None,
        denoiser_times: Sequence[float] = (),
    ):
        if (domain is None) == (features is None):
            raise ValueError("give either features, the length of the vectors, or a domain")
        if isinstance(condition, int):
            condition = Conditions([f"c{k + 1}" for k in range(condition)])
        super().__init__(domain or cast(Domain[Data], VectorDomain(features or 0)), condition)
        self.encoder, self.decoder, self.noise_range = encoder, decoder, noise
        self.denoiser, self.denoiser_times = denoiser, tuple(denoiser_times)
        for name in ("encoder", "decoder"):
            check_layers(getattr(self, name), name)
        if self.domain.acts_on == "vectors":
            of_noise = 1 if noise else 0
            check_shapes(self, "encoder", of_noise)
            check_shapes(self, "decoder", 2 if self.has_average_velocity else of_noise)

    @property
    def noise(self) -> float:
        return self.noise_range.lowest if self.noise_range else 0.0

    def has_density(self, n_evaluations: int | None) -> bool:
        return self.denoiser is None and super().has_density(n_evaluations)

    @property
    def has_average_velocity(self) -> bool:
        return bool(getattr(self.decoder, "n_times", 0) == 2)

    @property
    def takes_evaluations(self) -> bool:
        return self.has_average_velocity

    @property
    def has_stages(self) -> bool:
        """Whether encoder or decoder is a `Chain`."""
        return isinstance(self.encoder, Chain) or isinstance(self.decoder, Chain)

    def encode(self, points: P, context: Context) -> P:
        return transform(self.encoder, points, context, self._noise_input(context))

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
            return transform(self.decoder, latent, context, self._noise_input(context))
        points = latent
        for early, late in pairwise((k / n_evaluations) ** 2 for k in range(n_evaluations, -1, -1)):
            r, t = (tensors_of(latent)[0].new_full((len(context.mask),), time) for time in (late, early))
            points = points - self.average_velocity(points, context, r, t) * (early - late)
        return points

    def generate(self, latent: P, context: Context, n_evaluations: int | None, generator: torch.Generator) -> P:
        return self.denoise(self.decode(latent, context, n_evaluations), context)

    def denoise(self, points: P, context: Context) -> P:
        """Data points without the noise that decoded ones have; unchanged without a denoiser."""
        if (network := self.denoiser) is None:
            return points

        def velocity(points: P, t: Tensor) -> P:
            return evaluate(network, points, context, t.unsqueeze(-1))

        return pass_again(velocity, points, passes(self.denoiser_times, start_from_noise=False))

    def add_noise(
        self, points: P, context: Context, noise: float | Tensor, generator: torch.Generator | None
    ) -> tuple[P, Context]:
        known = self.noise_range
        if known and not isinstance(noise, Tensor) and noise != 0 and not known.lowest <= noise <= known.highest:
            raise ValueError(f"this flow is one of data with noise {known.lowest} to {known.highest}, got {noise}")
        return super().add_noise(points, context, noise, generator)

    def _noise_input(self, context: Context) -> Tensor | None:
        """The level of noise as networks take it, (B, 1); None for a flow without."""
        if self.noise_range is None:
            return None
        if context.noise is None:
            return torch.full((len(context.mask), 1), -1.0, dtype=self.dtype, device=context.mask.device)
        return self.noise_range.scaled(context.noise).unsqueeze(-1)

    def average_velocity(self, points: P, context: Context, r: Tensor, t: Tensor) -> P:
        """u(z_t, r, t) for r and t (B,); times t - r it is the displacement from time r to time t."""
        return average_velocity(self.decoder, points, context, r, t)

    def encode_with_log_det(self, points: P, context: Context) -> tuple[P, Tensor]:
        return exact_log_det(lambda p: self.encode(p, context), points, self.domain.space(context.mask))

    def decode_with_log_det(self, latent: P, context: Context) -> tuple[P, Tensor]:
        return exact_log_det(lambda z: self.decode(z, context), latent, self.domain.space(context.mask))

    def sampled_with_log_det(self, latent: P, context: Context, temperature: float) -> tuple[P, Tensor]:
        """`Flow.sampled_with_log_det`: a decoder without constraints may map two latents to one point.

        Where f(g(z)) is not z, the latent that the encoder leads to is looked for and its density is added. Molecules
        are left out: no energy weighs them, and their maps differ by more than rare folds.
        """
        points, log_det = self.decode_with_log_det(latent, context)
        if self.domain.task == "molecules":
            return points, log_det
        index = far_latents(latent, self.encode(points, context), self.domain.space(context.mask).dof)
        if len(index):
            n = context.mask.shape[1]
            parts = (select(latent, index, n), select(points, index, n), log_det[index], context.select(index))
            log_det = log_det.index_add(0, index, -log_branches(self, *parts, temperature))
        return points, log_det

    def loss(
        self,
        data: Data,
        condition: Any = None,
        generator: torch.Generator | None = None,
        *,
        beta: float = 5.0,
        n_probes: int = 1,
        surrogate: str = "encoder_jvp",
    ) -> Tensor:
        """The free-form loss of a batch, a scalar to minimise: `FreeFormTerms.loss`.

        Args:
            data: vectors (B, F), or what the domain takes.
            condition: (B, C), for a conditional flow.
            generator: of the random vectors; by default torch's global one.
            beta: weight of the reconstruction error. The default suits networks that start far from the identity; from
                near the identity, as the networks of `molflow.nn` do, 25 to 1000 gives maps that invert each other
                better.
            n_probes: random vectors that estimate the volume change.
            surrogate: which map is differentiated in forward mode, encoder_jvp or decoder_jvp.
        """
        return self.terms(data, condition, generator, n_probes, surrogate).loss(beta)

    def terms(
        self,
        data: Data,
        condition: Any = None,
        generator: torch.Generator | None = None,
        n_probes: int = 1,
        surrogate: str = "encoder_jvp",
    ) -> FreeFormTerms:
        """The terms of the free-form loss for a batch of data, with noise of all levels."""
        points, context, correction = self.to_points(data, generator, condition)
        points, context = self.add_drawn_noise(points, context, generator)
        probes = self.domain.space(context.mask).probes(n_probes, generator, self.dtype)
        return self.terms_of_points(points, context, correction, probes, surrogate)

    def add_drawn_noise(self, points: P, context: Context, generator: torch.Generator | None) -> tuple[P, Context]:
        """Points with noise of a level drawn for each configuration; as they are, for a flow without noise."""
        if self.noise_range is None:
            return points, context
        return self.add_noise(
            points, context, self.noise_range.draw(len(context.mask), generator, self.dtype), generator
        )

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
            weight=self._weight(context),
        )

    def _weight(self, context: Context) -> Tensor:
        if self.noise_range is None or context.noise is None:
            return torch.ones(len(context.mask), dtype=self.dtype, device=context.mask.device)
        return self.noise_range.highest / context.noise

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
