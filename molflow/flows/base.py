"""The contract of every flow: sample, sample with density, and log-likelihood of data.

A concrete flow gives two maps between latent points and data points and their log-determinants; everything here
follows from those.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator
from typing import Generic, Literal, NamedTuple

import torch
from torch import Tensor, nn

from molflow.distributions import MeanFreeNormal
from molflow.errors import MolflowError
from molflow.flows.domains import Data, Domain
from molflow.geometry import Points

Which = Literal["encoder", "decoder"]

PAIRS_IN_CACHE = 2048  # pairs of points; with 64 channels in float32, half a megabyte


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


class Flow(nn.Module, ABC, Generic[Data]):
    """A distribution over the data of a domain, made from a mean-free Gaussian latent.

    Args:
        domain: turns data into points and back.
    """

    def __init__(self, domain: Domain[Data]):
        super().__init__()
        self.domain = domain

    @abstractmethod
    def encode(self, points: Points, mask: Tensor) -> Points:
        """Data points -> latent points."""

    @abstractmethod
    def decode(self, latent: Points, mask: Tensor) -> Points:
        """Latent points -> data points."""

    @abstractmethod
    def encode_with_log_det(self, points: Points, mask: Tensor) -> tuple[Points, Tensor]:
        """z = f(p) and log |det f'(p)|, (B,)."""

    @abstractmethod
    def decode_with_log_det(self, latent: Points, mask: Tensor) -> tuple[Points, Tensor]:
        """p = g(z) and log |det g'(z)|, (B,)."""

    @property
    def device(self) -> torch.device:
        return next(self.parameters()).device

    @property
    def dtype(self) -> torch.dtype:
        return next(self.parameters()).dtype

    def generator(self, seed: int) -> torch.Generator:
        """A source of randomness on the device of the flow."""
        return torch.Generator(self.device).manual_seed(seed)

    def sample(self, n: int, *, seed: int, temperature: float = 1.0, batch_size: int = 1024) -> Data:
        """Draw n samples with one decoder call each.

        Args:
            n: how many, at least 1.
            seed: the same seed, batch size, device and version give the same samples.
            temperature: standard deviation of the latent.
            batch_size: how many are drawn at a time.

        Returns:
            A `MoleculeBatch` (angstrom), or a tensor (n, N, D) for particles.
        """
        return self.domain.concatenate(list(self.iter_samples(n, seed, temperature, batch_size)))

    @torch.no_grad()
    def iter_samples(self, n: int, seed: int, temperature: float = 1.0, batch_size: int = 1024) -> Iterator[Data]:
        """The batches that `sample` joins, as they are made."""
        for z, mask, _ in self._latents(n, seed, temperature, batch_size):
            points, _ = _by_size(lambda z, mask: (self.decode(z, mask), mask.sum(1)), z, mask)
            yield self.domain.from_points(points, mask)

    @torch.no_grad()
    def sample_and_log_prob(
        self, n: int, *, seed: int, temperature: float = 1.0, batch_size: int = 1024
    ) -> tuple[Data, Tensor]:
        """Samples and the exact density the decoder drew them with, in nats, (n,).

        log q(p) = log p(N) + log p(z) - log |det g'(z)| in data units. For molecules it is the joint density of size,
        positions and continuous type features.
        """
        parts, densities = [], []
        for z, mask, log_p in self._latents(n, seed, temperature, batch_size):
            points, log_det = _by_size(self.decode_with_log_det, z, mask)
            parts.append(self.domain.from_points(points, mask))
            densities.append(log_p - log_det + self.domain.log_unit(mask, z.x.dtype))
        return self.domain.concatenate(parts), torch.cat(densities)

    def log_prob(self, data: Data, *, which: Which = "encoder", seed: int = 0) -> Tensor:
        """Log-likelihood of data, nats, (B,). See `likelihood`."""
        return self.likelihood(data, which=which, seed=seed).log_prob

    @torch.no_grad()
    def likelihood(self, data: Data, *, which: Which = "encoder", seed: int = 0) -> Likelihood:
        """Log-likelihood on the mean-free space in data units, with the exact volume change of one of the maps.

        For molecules it is the variational bound at one draw of the dequantisation noise; for particles it is exact.
        encoder: log p(z) + log |det f'(p)| with z = f(p); decoder: log p(z) - log |det g'(z)| at the same z.

        Args:
            data: a `MoleculeBatch` (angstrom), or a tensor (B, N, D) for particles.
            which: the map whose volume change is computed.
            seed: of the dequantisation noise of molecules; unused for particles.
        """
        if which not in ("encoder", "decoder"):
            raise ValueError(f"which must be 'encoder' or 'decoder', got {which!r}")
        points, mask, correction = self.to_points(data, self.generator(seed))
        log_p, error = self.points_log_prob(points, mask, which)
        return Likelihood(log_p + correction, error, which)

    def to_points(self, data: Data, generator: torch.Generator | None) -> tuple[Points, Tensor, Tensor]:
        """`Domain.to_points` in the precision of the flow.

        Raises:
            MolflowError: no configurations, or one without points.
        """
        points, mask, correction = self.domain.to_points(data, generator)
        if not len(mask) or not mask.any(1).all():
            raise MolflowError("expected at least one configuration, and at least one point in each")
        return Points(points.x.to(self.dtype), points.h.to(self.dtype)), mask, correction.to(self.dtype)

    def points_log_prob(self, points: Points, mask: Tensor, which: Which) -> tuple[Tensor, Tensor]:
        """Log density of points in model units given their number, and the reconstruction error, both (B,).

        It can be differentiated, at the cost of keeping the whole Jacobian's graph; `likelihood` does not.
        """

        def of_one_size(points: Points, mask: Tensor) -> tuple[Points, Tensor]:
            latent = MeanFreeNormal(self.domain.space(mask))
            if which == "encoder":
                z, log_det = self.encode_with_log_det(points, mask)
                reconstruction = self.decode(z, mask)
            else:
                z = self.encode(points, mask)
                reconstruction, inverse_log_det = self.decode_with_log_det(z, mask)
                log_det = -inverse_log_det
            return reconstruction, latent.log_prob(z) + log_det

        reconstruction, log_p = _by_size(of_one_size, points, mask)
        return log_p, (points - reconstruction).squared_norm().sqrt()

    def _latents(
        self, n: int, seed: int, temperature: float, batch_size: int
    ) -> Iterator[tuple[Points, Tensor, Tensor]]:
        """Batches of latent points, their mask, and log p(N) + log p(z)."""
        if n < 1 or batch_size < 1:
            raise ValueError(f"n and batch_size must be at least 1, got {n} and {batch_size}")
        generator = self.generator(seed)
        for start in range(0, n, batch_size):
            mask = self.domain.sample_mask(min(batch_size, n - start), generator, self.device)
            latent = MeanFreeNormal(self.domain.space(mask), temperature)
            z = latent.sample(generator, self.dtype)
            yield z, mask, self.domain.log_prob_mask(mask) + latent.log_prob(z)


def _by_size(
    function: Callable[[Points, Tensor], tuple[Points, Tensor]], points: Points, mask: Tensor
) -> tuple[Points, Tensor]:
    """Apply a map to the configurations of each size without their padding, so that none is computed.

    The map gives points and one number for each configuration.
    """
    order, values, clouds = [], [], []
    for index, n in _groups(mask):
        cloud, value = function(Points(points.x[index, :n], points.h[index, :n]), mask[index, :n])
        clouds.append([nn.functional.pad(t, (0, 0, 0, mask.shape[1] - n)) for t in cloud])
        values.append(value)
        order.append(index)
    back = torch.cat(order).argsort()
    x, h = (torch.cat(tensors)[back] for tensors in zip(*clouds, strict=True))
    return Points(x, h), torch.cat(values)[back]


def _groups(mask: Tensor) -> Iterator[tuple[Tensor, int]]:
    """Indices of configurations of one size, and that size; few at a time on a CPU, to keep pair tensors in cache."""
    sizes = mask.sum(1)
    for n in sizes.unique().tolist():
        index = (sizes == n).nonzero().squeeze(1)
        at_once = max(1, PAIRS_IN_CACHE // n**2) if mask.device.type == "cpu" else len(index)
        yield from ((part, n) for part in index.split(at_once))
