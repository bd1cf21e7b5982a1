"""The contract of every flow: sample, sample with density, and log-likelihood of data.

A flow gives two maps between latent points and data points with their log-determinants. Everything else follows.
"""

import math
import secrets
from abc import ABC, abstractmethod
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from typing import Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Self

import torch
from pydantic import SerializeAsAny
from torch import Tensor, nn

from molflow.config import KindConfig, OneOf
from molflow.distributions import StandardNormal
from molflow.errors import MolflowError, NumericalError
from molflow.flows.acceleration import Acceleration, Precision
from molflow.flows.conditions import Conditions, ConditionsConfig
from molflow.flows.domains.base import Data, Domain, DomainChoice
from molflow.flows.registry import FLOWS
from molflow.flows.sampling import PAIRS_AT_ONCE, PAIRS_WITH_DENSITY, by_size, latents
from molflow.geometry import Context, P, scale, squared_norm

Which = Literal["encoder", "decoder"]


class FlowConfig(KindConfig):
    """Base of the configurations of flows.

    Attributes:
        domain, conditions: what the flow is a distribution over, and what it may be conditioned on.
        trained_by: kind of the objective of an experiment that does not name one.
    """

    trained_by: ClassVar[str] = "likelihood"

    domain: DomainChoice
    conditions: ConditionsConfig | None = None

    def build(self) -> "Flow[Any]":
        """A flow with fresh weights; seed torch before for reproducible ones.

        Raises:
            ValueError: parts that do not fit together.
        """
        raise TypeError(f"{type(self).__name__} must implement build")

    def build_domain(self) -> tuple[Domain[Any], Conditions | None]:
        """The domain and the conditions, which every flow has."""
        return self.domain.build(), None if self.conditions is None else self.conditions.build()


FlowChoice = Annotated[SerializeAsAny[FlowConfig], OneOf(FLOWS, default="free_form")]
"""Type of a configuration field that holds any registered flow."""


class Likelihood(NamedTuple):
    """A log-likelihood with the reconstruction error that it relies on.

    Attributes:
        log_prob: nats, (B,); for dequantised molecules the variational bound at one draw of the noise.
        reconstruction_error: Euclidean distance |p - g(f(p))| between the points and their reconstruction, in model
            units, (B,). The densities of encoder and decoder agree only where it vanishes.
        which: the map whose volume change was used.
        disagreement: the log-likelihood through the encoder minus that through the decoder, nats (B,), if it was asked
            for: what an imperfect inverse or a solver leaves uncertain.
    """

    log_prob: Tensor
    reconstruction_error: Tensor
    which: Which
    disagreement: Tensor | None = None


@dataclass
class Evaluations:
    """Counts of the calls of a flow's networks.

    Attributes:
        calls: calls of any network, each on a batch; calls for derivatives are counted too.
        configurations: configurations in all of these batches; per sample, the number of evaluations.
    """

    calls: int = 0
    configurations: int = 0


class Flow(nn.Module, ABC, Generic[Data]):
    """A distribution over the data of a domain, made from a Gaussian latent.

    Implementing a flow: write `encode_with_log_det` and `decode_with_log_det`, and register a `FlowConfig` with
    `FLOWS.register`. Override the other methods where they can be cheaper.

    Args:
        domain: turns data into points and back.
        conditions: names and scales of the conditions; None for an unconditional flow.

    Attributes:
        keeps_points: whether samples can have points at given positions, see `Context.fixed`.
    """

    keeps_points: ClassVar[bool] = False

    def __init__(self, domain: Domain[Data], conditions: Conditions | None = None):
        super().__init__()
        self.domain, self.conditions = domain, conditions

    def __repr__(self) -> str:
        """One line; `print(*flow.children())` shows the networks."""
        facts = [f"{self.domain!r}", f"{sum(p.numel() for p in self.parameters()):,} parameters"]
        if self.n_evaluations is not None:
            facts.append(f"{self.n_evaluations} evaluation{'s' * (self.n_evaluations > 1)} per sample")
        if self.conditions is not None:
            facts.append(f"conditions {', '.join(self.conditions.names)}")
        return f"{type(self).__name__}({', '.join(facts)})"

    def _repr_html_(self) -> str:
        from molflow.plot.tables import html_table

        parts = [(name, sum(p.numel() for p in part.parameters())) for name, part in self.named_children()]
        return html_table([part for part in parts if part[1]], ("part", "parameters"), repr(self))

    @abstractmethod
    def encode_with_log_det(self, points: P, context: Context) -> tuple[P, Tensor]:
        """z = f(p) and log |det f'(p)|, (B,)."""

    @abstractmethod
    def decode_with_log_det(self, latent: P, context: Context) -> tuple[P, Tensor]:
        """p = g(z) and log |det g'(z)|, (B,)."""

    def encode(self, points: P, context: Context) -> P:
        """Data points -> latent points."""
        return self.encode_with_log_det(points, context)[0]

    def decode(self, latent: P, context: Context, n_evaluations: int | None = None) -> P:
        """Latent points -> data points.

        Args:
            latent: z.
            context: of the points.
            n_evaluations: calls of the network per sample, for flows with `takes_evaluations`.

        Raises:
            MolflowError: more than one evaluation for a flow that makes one.
        """
        if n_evaluations not in (None, 1):
            raise MolflowError(f"this model makes one evaluation per sample, got {n_evaluations}")
        return self.decode_with_log_det(latent, context)[0]

    def request(self, **ask: Any) -> Any:
        """What is asked of samples, as `Domain.request` gives it.

        Raises:
            MolflowError: something that samples of this flow cannot be asked for.
        """
        if ask.get("scaffold") is not None and not self.keeps_points:
            raise MolflowError(
                "this model cannot keep given atoms, as it has no velocity; take one that has, such as qm9-environment"
            )
        return self.domain.request(**ask)

    @property
    def n_evaluations(self) -> int | None:
        """Calls of the network per sample by default; None for an adaptive solver."""
        return 1

    @property
    def takes_evaluations(self) -> bool:
        """Whether `decode` accepts more than one evaluation."""
        return False

    @property
    def noise(self) -> float:
        """Standard deviation of the noise that `likelihood` adds to data by default, model units."""
        return 0.0

    def has_density(self, n_evaluations: int | None) -> bool:
        """Whether `sample_and_log_prob` gives the density of what `sample` makes with this number of evaluations."""
        return n_evaluations in (None, 1)

    @property
    def device(self) -> torch.device:
        return self._any_tensor.device

    @property
    def dtype(self) -> torch.dtype:
        """float32 or float64; raises MolflowError for another one, in which densities would have no digits left."""
        dtype = self._any_tensor.dtype
        if dtype not in (torch.float32, torch.float64):
            raise MolflowError(
                f"this flow is in {str(dtype).removeprefix('torch.')}; convert it with flow.float(). "
                "sample(precision='bfloat16') takes half precision where it is enough, in products of matrices"
            )
        return dtype

    @property
    def _any_tensor(self) -> Tensor:
        tensor = next(self.parameters(), None)
        return torch.zeros(()) if tensor is None else tensor

    def generator(self, seed: int | None) -> torch.Generator:
        """A random generator on the device of the flow; without a seed a fresh one each time.

        Raises:
            MolflowError: a seed of more than 64 bits.
        """
        if seed is not None and not -(2**63) <= seed < 2**64:
            raise MolflowError(f"seed {seed}: expected a whole number of 64 bits")
        return torch.Generator(self.device).manual_seed(secrets.randbits(63) if seed is None else seed)

    @contextmanager
    def counted(self) -> Iterator[Evaluations]:
        """Count evaluations of the networks within a `with` block.

        Example:
            >>> flow = molflow.load_pretrained("dw4")
            >>> with flow.counted() as evaluations:
            ...     samples = flow.sample(100, seed=0)
            >>> evaluations.configurations / 100
            1.0
        """
        evaluations = Evaluations()

        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            evaluations.calls += 1
            evaluations.configurations += len(inputs[0])

        networks = [child for child in self.children() if child not in (self.domain, self.conditions)]
        hooks = [network.register_forward_pre_hook(count) for network in networks]
        try:
            yield evaluations
        finally:
            for hook in hooks:
                hook.remove()

    def sample(
        self,
        n: int,
        *,
        condition: Any = None,
        seed: int | None = None,
        temperature: float = 1.0,
        n_evaluations: int | None = None,
        batch_size: int = 1024,
        compile: bool | None = None,
        precision: Precision = "float32",
        **ask: Any,
    ) -> Data:
        """Draw n samples.

        Args:
            n: number of samples, at least 1.
            condition: for a conditional flow, in the units of its training data: name -> a number, (n,), or a text with
                a unit such as "5.2 eV"; or a tensor (n, C) or (C,) in the order of `flow.conditions.names`.
            seed: the same seed, batch size, device and version give the same samples; None for a new one.
            temperature: standard deviation of the latent.
            n_evaluations: calls of the network per sample, by default those that the flow was made for. A free-form
                flow makes one, and more if its decoder is an average velocity; a continuous flow follows its solver, or
                makes as many steps of Euler's method; a diffusion flow makes as many steps of its sampler.
            batch_size: number of samples drawn at a time.
            compile: compile the networks for a CPU, which changes samples by less than 1e-4 Å; None: where n samples
                repay it, see `molflow.flows.acceleration`.
            precision: of the products of matrices in the networks. "bfloat16" is faster and less exact.
            ask: what all samples must have, see `molflow.flows.domains.asking.Ask`: for molecules `formula="C7H10O2"`,
                `n_atoms=20`, `composition={"CH3": 2, ...}`, `elements=["C", "H", "O"]` or `scaffold=fragment`.
                `domain.log_prob_of` gives the probability that a sample has it by itself.

        Raises:
            MolflowError: a condition that the model does not take or that is missing, something it cannot be asked for,
                or that no sample has.

        Returns:
            A `MoleculeBatch` (angstrom, all hydrogens in place), or a tensor: (n, N, D) for particles, (n, F) for
            vectors.
        """
        batches = self.iter_samples(
            n,
            seed,
            temperature,
            n_evaluations,
            batch_size,
            condition=condition,
            compile=compile,
            precision=precision,
            **ask,
        )
        return self.domain.concatenate(list(batches))

    @torch.no_grad()
    def iter_samples(
        self,
        n: int,
        seed: int | None = None,
        temperature: float = 1.0,
        n_evaluations: int | None = None,
        batch_size: int = 1024,
        *,
        condition: Any = None,
        compile: bool | None = None,
        precision: Precision = "float32",
        **ask: Any,
    ) -> Iterator[Data]:
        """The batches that `sample` joins, as they are made."""
        generator = self.generator(seed)

        def generate(z: P, context: Context) -> tuple[P, Tensor]:
            return self.generate(z, context, n_evaluations, generator), context.mask.sum(1)

        def trial(z: P, context: Context) -> P:  # the same each time, and without effect on the samples
            return self.generate(z, context, n_evaluations, self.generator(0))

        accelerated = Acceleration(self, n, trial, compile, precision)
        for z, context, _ in latents(self, n, condition, generator, temperature, batch_size, ask):
            with accelerated(z, context):
                points, _ = by_size(generate, z, context, PAIRS_AT_ONCE)
            yield self.domain.from_points(points, context)

    def generate(self, latent: P, context: Context, n_evaluations: int | None, generator: torch.Generator) -> P:
        """The samples that `sample` makes of latents: by default those of `decode`.

        A flow overrides it if it samples in another way than by the map whose density it gives, for example by drawing
        further noise. `has_density` is then False.

        Args:
            latent, context, n_evaluations: as in `decode`.
            generator: source of further noise; it has drawn the latents.
        """
        return self.decode(latent, context, n_evaluations)

    def sampled_with_log_det(self, latent: P, context: Context, temperature: float) -> tuple[P, Tensor]:
        """Data points, and log p(z) - log q with their density q; for a map that is one-to-one `decode_with_log_det`.

        Args:
            latent, context: as in `decode`; all configurations have one size.
            temperature: standard deviation of the latent.
        """
        return self.decode_with_log_det(latent, context)

    def guided(self, weight: float) -> Self:
        """The same flow with classifier-free guidance, where it is a velocity.

        Raises:
            MolflowError: a flow without a velocity, or without optional conditions.
        """
        raise MolflowError("guidance mixes velocities; this model is not one of a velocity")

    def sample_and_log_prob(
        self,
        n: int,
        *,
        condition: Any = None,
        seed: int | None = None,
        temperature: float = 1.0,
        batch_size: int = 1024,
    ) -> tuple[Data, Tensor]:
        """Samples and the exact density that the decoder drew them with, in nats, (n,).

        log q(p) = log p(context) + log p(z) - log |det g'(z)| in data units; where a free-form decoder maps another
        latent to the same point, the densities by both are added. For molecules whose types are generated it
        is the joint density of size, positions and continuous type features; unless all atoms are points, of the heavy
        atoms.
        """
        batches = self.iter_samples_and_log_prob(n, seed, temperature, batch_size, condition=condition)
        parts, densities = zip(*batches, strict=True)
        return self.domain.concatenate(parts), torch.cat(densities)

    @torch.no_grad()
    def iter_samples_and_log_prob(
        self,
        n: int,
        seed: int | None = None,
        temperature: float = 1.0,
        batch_size: int = 1024,
        *,
        condition: Any = None,
    ) -> Iterator[tuple[Data, Tensor]]:
        """The batches that `sample_and_log_prob` joins, as they are made."""
        for z, context, log_p in latents(self, n, condition, self.generator(seed), temperature, batch_size):
            decode = partial(self.sampled_with_log_det, temperature=temperature)
            points, log_det = by_size(decode, z, context, PAIRS_WITH_DENSITY)
            density = log_p - log_det + self.domain.log_unit(context.mask, self.dtype)
            yield self.domain.from_points(points, context), density

    def log_prob(
        self,
        data: Data,
        *,
        condition: Any = None,
        which: Which = "encoder",
        seed: int = 0,
        noise: float | None = None,
    ) -> Tensor:
        """Log-likelihood of data, nats, (B,); arguments as in `likelihood`."""
        return self.likelihood(data, condition=condition, which=which, seed=seed, noise=noise).log_prob

    @torch.no_grad()
    def likelihood(
        self,
        data: Data,
        *,
        condition: Any = None,
        which: Which = "encoder",
        seed: int = 0,
        noise: float | None = None,
        compare: bool = False,
    ) -> Likelihood:
        """Log-likelihood in data units, with the exact volume change of one of the maps.

        With noise it is the density of x + s e at one draw of e, standard normal on the space of the points: data that
        lie on a surface have no density of their own, and a figure has a meaning only at a stated noise.

        Where types are dequantised it is the variational bound at one draw of that noise, and no bound with further
        noise, which the features of types get too. Otherwise it is exact, and -inf for a molecule whose composition is
        not in the model's table.
        encoder: log p(z) + log |det f'(p)| with z = f(p); decoder: log p(z) - log |det g'(z)| at the same z.

        Args:
            data: a `MoleculeBatch` (angstrom), or a tensor: (B, N, D) for particles, (B, F) for vectors.
            condition: as in `sample`.
            which: the map whose volume change is computed.
            seed: of the noise; unused without noise and dequantisation.
            noise: s, standard deviation in model units, by default `flow.noise`; 0 takes the data as they are.
            compare: also compute the volume change of the other map, and report the difference as `disagreement`.

        Raises:
            ValueError: another `which`, or noise that the flow was not made for.
            NumericalError: a density that is not a number, such as of coordinates so far out that squares overflow.
        """
        if which not in ("encoder", "decoder"):
            raise ValueError(f"which must be 'encoder' or 'decoder', got {which!r}")
        points, context, correction = self.noisy_points(data, self.generator(seed), condition, noise)
        found = self.points_likelihood(points, context, which, compare)
        return found._replace(log_prob=self._refuse_nan(found.log_prob) + correction)

    def _refuse_nan(self, log_prob: Tensor) -> Tensor:
        """Log-densities (B,) as they are; raises NumericalError for one that is not a number."""
        if (lost := log_prob.isnan()).any():
            raise NumericalError(
                f"configuration {int(lost.long().argmax())} of the batch: its density is not a number in {self.dtype}; "
                "are its coordinates too far out, or the weights of the model damaged?"
            )
        return log_prob

    def nll(self, data: Data, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        """Negative log-likelihood of data through the encoder, nats (B,), for training: it can be differentiated."""
        points, context, correction = self.noisy_points(data, generator, condition)
        z, log_det = by_size(self.encode_with_log_det, points, context, PAIRS_WITH_DENSITY)
        return -StandardNormal(self.domain.space(context.mask)).log_prob(z) - log_det - correction

    def initialize(self, data: Data, condition: Any = None) -> None:
        """Set the parameters that start from a batch of data, once; by default there are none."""

    def loss(self, data: Data, condition: Any = None, generator: torch.Generator | None = None) -> Tensor:
        """The mean of `nll` over a batch, a scalar to minimise."""
        return self.nll(data, condition, generator).mean()

    def to_points(
        self, data: Data, generator: torch.Generator | None, condition: Any = None
    ) -> tuple[Any, Context, Tensor]:
        """`Domain.to_points` in the precision of the flow, with the condition in the context.

        Raises:
            MolflowError: no configurations, or one without points; a condition that the flow does not take, or a
                missing one.
        """
        points, context, correction = self.domain.to_points_in(self.dtype, data, generator)
        context = context._replace(condition=self.standardized(condition, len(context.mask)))
        return points, context, correction + self.domain.log_prob_of_condition(context).to(correction)

    def noisy_points(
        self, data: Data, generator: torch.Generator | None, condition: Any = None, noise: float | None = None
    ) -> tuple[Any, Context, Tensor]:
        """`to_points` with noise as in `likelihood`."""
        points, context, correction = self.to_points(data, generator, condition)
        return *self.add_noise(points, context, self.noise if noise is None else noise, generator), correction

    def add_noise(
        self, points: P, context: Context, noise: float | Tensor, generator: torch.Generator | None
    ) -> tuple[P, Context]:
        """Points with Gaussian noise, and their context that says how much.

        Args:
            points: in model units.
            context: of the points.
            noise: standard deviation, one for all or (B,); the number 0 leaves both unchanged.
            generator: source of the noise.

        Raises:
            ValueError: noise below 0.
        """
        if not isinstance(noise, Tensor):
            if not 0 <= noise < math.inf:
                raise ValueError(f"noise must be a number from 0, got {noise}")
            if noise == 0:
                return points, context
        level = torch.as_tensor(noise, dtype=self.dtype, device=context.mask.device).expand(len(context.mask))
        noisy = points + scale(self.domain.space(context.mask).randn(generator, self.dtype), level)
        return noisy, context._replace(noise=level)

    def standardized(self, condition: Any, n: int) -> Tensor | None:
        """The condition of n configurations as networks take it, (n, C); None for an unconditional flow.

        Raises:
            MolflowError: a condition that the flow does not take, or a missing one.
        """
        if self.conditions is None:
            if condition is not None:
                raise MolflowError("this model was made without conditions; leave the condition out")
            return None
        if condition is None:
            return self.conditions.none_given(n, self.dtype)
        standardized: Tensor = self.conditions(condition, n, self.dtype)
        return standardized

    def points_log_prob(self, points: P, context: Context, which: Which) -> tuple[Tensor, Tensor]:
        """Log density of points in model units given their context, and the reconstruction error, (B,) each.

        It can be differentiated, at the cost of keeping the graph of the whole Jacobian.
        """
        return self.points_likelihood(points, context, which)[:2]

    def points_likelihood(self, points: P, context: Context, which: Which, compare: bool = False) -> Likelihood:
        """`points_log_prob` with the disagreement of the two maps, if it is asked for."""

        def of_one_size(points: P, context: Context) -> tuple[P, Tensor]:
            log_dets = []
            if compare or which == "encoder":
                z, log_det = self.encode_with_log_det(points, context)
                log_dets.append(log_det)
            else:
                z = self.encode(points, context)
            if compare or which == "decoder":
                reconstruction, inverse_log_det = self.decode_with_log_det(z, context)
                log_dets.append(-inverse_log_det)
            else:
                reconstruction = self.decode(z, context)
            log_p = StandardNormal(self.domain.space(context.mask)).log_prob(z)
            return reconstruction, log_p.unsqueeze(1) + torch.stack(log_dets, 1)

        reconstruction, log_p = by_size(of_one_size, points, context, PAIRS_WITH_DENSITY)
        error = squared_norm(points - reconstruction).sqrt()
        disagreement = log_p[:, 0] - log_p[:, 1] if compare else None
        return Likelihood(log_p[:, 0 if which == "encoder" else -1], error, which, disagreement)
