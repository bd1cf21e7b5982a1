"""The contract of every flow: sample, sample with density, and log-likelihood of data.

A concrete flow gives two maps between latent points and data points and their log-determinants; everything here
follows from those.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Generic, Literal, NamedTuple

import torch
from torch import Tensor, nn

from molflow.distributions import MeanFreeNormal
from molflow.flows.domains import Data, Domain
from molflow.geometry import Context, Points

Which = Literal["encoder", "decoder"]

PAIRS_AT_ONCE = 32768  # pairs of points; with 64 channels in float32, eight megabytes
PAIRS_WITH_DENSITY = 8192  # fewer, as a Jacobian multiplies them by its columns


class Likelihood(NamedTuple):
    """A log-likelihood with what is needed to judge it.

    Attributes:
        log_prob: nats, (B,); for molecules the variational bound at one draw of the dequantisation noise.
        reconstruction_error: Euclidean distance |p - g(f(p))| between the points and their reconstruction, in model
            units, (B,). The encoder's and the decoder's density agree only where it vanishes.
        which: the map whose volume change was used.
    """

    log_prob: Tensor
    reconstruction_error: Tensor
    which: Which


@dataclass
class Evaluations:
    """How much the networks of a flow were used.

    Attributes:
        calls: of any of its networks, on a batch each; also those for derivatives.
        configurations: in all of these batches; divided by the number of samples, evaluations for a sample.
    """

    calls: int = 0
    configurations: int = 0


class Flow(nn.Module, ABC, Generic[Data]):
    """A distribution over the data of a domain, made from a mean-free Gaussian latent.

    Args:
        domain: turns data into points and back.
    """

    def __init__(self, domain: Domain[Data]):
        super().__init__()
        self.domain = domain

    @abstractmethod
    def encode(self, points: Points, context: Context) -> Points:
        """Data points -> latent points."""

    @abstractmethod
    def decode(self, latent: Points, context: Context, n_evaluations: int | None = None) -> Points:
        """Latent points -> data points, with `n_evaluations` calls of the network where they are given."""

    @abstractmethod
    def encode_with_log_det(self, points: Points, context: Context) -> tuple[Points, Tensor]:
        """z = f(p) and log |det f'(p)|, (B,)."""

    @abstractmethod
    def decode_with_log_det(self, latent: Points, context: Context) -> tuple[Points, Tensor]:
        """p = g(z) and log |det g'(z)|, (B,)."""

    @property
    @abstractmethod
    def n_evaluations(self) -> int | None:
        """Calls of the network that `decode` makes unless told otherwise; None where it decides as it goes."""

    @property
    @abstractmethod
    def takes_evaluations(self) -> bool:
        """Whether `decode` can be told to make more than one."""

    @abstractmethod
    def has_density(self, n_evaluations: int | None) -> bool:
        """Whether `sample_and_log_prob` has the density of what `decode` gives with so many evaluations."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def generator(self, seed: int) -> torch.Generator:
        """A source of randomness on the device of the flow."""
        return torch.Generator(self.device).manual_seed(seed)

    @contextmanager
    def counted(self) -> Iterator[Evaluations]:
        """Count evaluations of the networks while the context lasts.

        Example:
            >>> with flow.counted() as evaluations:
            ...     samples = flow.sample(100, seed=0)
            >>> evaluations.configurations / 100
            1.0
        """
        evaluations = Evaluations()

        def count(_: nn.Module, inputs: tuple[Tensor, ...]) -> None:
            evaluations.calls += 1
            evaluations.configurations += len(inputs[0])

        networks = [child for child in self.children() if child is not self.domain]
        hooks = [network.register_forward_pre_hook(count) for network in networks]
        try:
            yield evaluations
        finally:
            for hook in hooks:
                hook.remove()

    def sample(
        self, n: int, *, seed: int, temperature: float = 1.0, n_evaluations: int | None = None, batch_size: int = 1024
    ) -> Data:
        """Draw n samples.

        Args:
            n: how many, at least 1.
            seed: the same seed, batch size, device and version give the same samples.
            temperature: standard deviation of the latent.
            n_evaluations: calls of the network for each sample, by default as the flow was made for. A free-form flow
                makes one, and can use more if its decoder is an average velocity; a continuous flow makes those of its
                solver, or if they are given as many steps of Euler's method.
            batch_size: how many are drawn at a time.

        Returns:
            A `MoleculeBatch` (angstrom, all hydrogens in place), or a tensor (n, N, D) for particles.
        """
        return self.domain.concatenate(list(self.iter_samples(n, seed, temperature, n_evaluations, batch_size)))

    @torch.no_grad()
    def iter_samples(
        self, n: int, seed: int, temperature: float = 1.0, n_evaluations: int | None = None, batch_size: int = 1024
    ) -> Iterator[Data]:
        """The batches that `sample` joins, as they are made."""
        for z, context, _ in self._latents(n, seed, temperature, batch_size):
            points, _ = _by_size(
                lambda z, context: (self.decode(z, context, n_evaluations), context.mask.sum(1)),
                z,
                context,
                PAIRS_AT_ONCE,
            )
            yield self.domain.from_points(points, context)

    def sample_and_log_prob(
        self, n: int, *, seed: int, temperature: float = 1.0, batch_size: int = 1024
    ) -> tuple[Data, Tensor]:
        """Samples and the exact density the decoder drew them with, in nats, (n,).

        log q(p) = log p(context) + log p(z) - log |det g'(z)| in data units. For molecules whose types are generated it
        is the joint density of size, positions and continuous type features; for united atoms, of the heavy atoms.
        """
        batches = self.iter_samples_and_log_prob(n, seed, temperature, batch_size)
        parts, densities = zip(*batches, strict=True)
        return self.domain.concatenate(parts), torch.cat(densities)

    @torch.no_grad()
    def iter_samples_and_log_prob(
        self, n: int, seed: int, temperature: float = 1.0, batch_size: int = 1024
    ) -> Iterator[tuple[Data, Tensor]]:
        """The batches that `sample_and_log_prob` joins, as they are made."""
        for z, context, log_p in self._latents(n, seed, temperature, batch_size):
            points, log_det = _by_size(self.decode_with_log_det, z, context, PAIRS_WITH_DENSITY)
            density = log_p - log_det + self.domain.log_unit(context.mask, z.x.dtype)
            yield self.domain.from_points(points, context), density

    def log_prob(self, data: Data, *, which: Which = "encoder", seed: int = 0) -> Tensor:
        """Log-likelihood of data, nats, (B,). See `likelihood`."""
        return self.likelihood(data, which=which, seed=seed).log_prob

    @torch.no_grad()
    def likelihood(
        self, data: Data, *, condition: Tensor | None = None, which: Which = "encoder", seed: int = 0
    ) -> Likelihood:
        """Log-likelihood on the mean-free space in data units, with the exact volume change of one of the maps.

        Where types are dequantised it is the variational bound at one draw of the noise; otherwise it is exact, and
        -inf for a molecule whose composition the training data did not have.
        encoder: log p(z) + log |det f'(p)| with z = f(p); decoder: log p(z) - log |det g'(z)| at the same z.

        Args:
            data: a `MoleculeBatch` (angstrom), or a tensor (B, N, D) for particles.
            which: the map whose volume change is computed.
            seed: of the dequantisation noise; unused without dequantisation.
        """
        if which not in ("encoder", "decoder"):
            raise ValueError(f"which must be 'encoder' or 'decoder', got {which!r}")
        points, context, correction = self.to_points(data, self.generator(seed), condition)
        log_p, error = self.points_log_prob(points, context, which)
        return Likelihood(log_p + correction, error, which)

    def nll(self, data: Data, condition: Tensor | None = None, generator: torch.Generator | None = None) -> Tensor:
        """-log p(data) through the encoder in nats, (B,), differentiable."""
        points, context, correction = self.to_points(data, generator, condition)
        return -(self.points_log_prob(points, context, "encoder")[0] + correction)

    def to_points(
        self, data: Data, generator: torch.Generator | None, condition: Tensor | None = None
    ) -> tuple[Points, Context, Tensor]:
        """`Domain.to_points` in the precision of the flow.

        Raises:
            MolflowError: no configurations, or one without points.
        """
        points, context, correction = self.domain.to_points_in(self.dtype, data, generator)
        return points, context if condition is None else context._replace(condition=condition), correction

    def points_log_prob(self, points: Points, context: Context, which: Which) -> tuple[Tensor, Tensor]:
        """Log density of points in model units given their context, and the reconstruction error, both (B,).

        It can be differentiated, at the cost of keeping the whole Jacobian's graph; `likelihood` does not.
        """

        def of_one_size(points: Points, context: Context) -> tuple[Points, Tensor]:
            latent = MeanFreeNormal(self.domain.space(context.mask))
            if which == "encoder":
                z, log_det = self.encode_with_log_det(points, context)
                reconstruction = self.decode(z, context)
            else:
                z = self.encode(points, context)
                reconstruction, inverse_log_det = self.decode_with_log_det(z, context)
                log_det = -inverse_log_det
            return reconstruction, latent.log_prob(z) + log_det

        reconstruction, log_p = _by_size(of_one_size, points, context, PAIRS_WITH_DENSITY)
        return log_p, (points - reconstruction).squared_norm().sqrt()

    def _latents(
        self, n: int, seed: int, temperature: float, batch_size: int
    ) -> Iterator[tuple[Points, Context, Tensor]]:
        """Batches of latent points, their context, and log p(context) + log p(z)."""
        if n < 1 or batch_size < 1:
            raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
        generator = self.generator(seed)
        for start in range(0, n, batch_size):
            context = self.domain.sample_context(min(batch_size, n - start), generator, self.device, self.dtype)
            latent = MeanFreeNormal(self.domain.space(context.mask), temperature)
            z = latent.sample(generator, self.dtype)
            yield z, context, self.domain.log_prob_context(context).to(self.dtype) + latent.log_prob(z)


def _by_size(
    function: Callable[[Points, Context], tuple[Points, Tensor]], points: Points, context: Context, pairs_at_once: int
) -> tuple[Points, Tensor]:
    """Apply a map to the configurations of each size without their padding, so that none is computed.

    The map gives points and one number for each configuration.
    """
    order, values, clouds = [], [], []
    width = context.mask.shape[1]
    for index, n in _groups(context.mask, pairs_at_once):
        cloud, value = function(Points(points.x[index, :n], points.h[index, :n]), context.select(index, n))
        clouds.append([nn.functional.pad(t, (0, 0, 0, width - n)) for t in cloud])
        values.append(value)
        order.append(index)
    back = torch.cat(order).argsort()
    x, h = (torch.cat(tensors)[back] for tensors in zip(*clouds, strict=True))
    return Points(x, h), torch.cat(values)[back]


def _groups(mask: Tensor, pairs_at_once: int) -> Iterator[tuple[Tensor, int]]:
    """Indices of configurations of one size, and that size; not all at once on a CPU, where memory is slow."""
    sizes = mask.sum(1)
    for n in sizes.unique().tolist():
        index = (sizes == n).nonzero().squeeze(1)
        at_once = max(1, pairs_at_once // n**2) if mask.device.type == "cpu" else len(index)
        yield from ((part, n) for part in index.split(at_once))
