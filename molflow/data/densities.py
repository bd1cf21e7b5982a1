"""Densities in the plane that flows are usually shown on, each with a sampler and its exact log-density.

All are centred near the origin and a few units wide, so that their modes are apart by several standard deviations.
"""

import math
from abc import abstractmethod
from typing import ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from molflow.data.base import DataSetConfig, Loaded, Split
from molflow.data.registry import DATASETS
from molflow.errors import MolflowError


class PlaneDensity(DataSetConfig):
    """Base of densities in the plane: each split is n independent samples, float32 (n, 2).

    Attributes:
        seed: of the samples.

    Example:
        >>> from molflow.data import DATASETS
        >>> rings = DATASETS["rings"](n=1000)
        >>> x = rings.load("test").data
        >>> x.shape, rings.log_prob(x).shape
        (torch.Size([1000, 2]), torch.Size([1000]))
    """

    task: ClassVar[str] = "vectors"
    n: int = Field(50_000, gt=0, description="samples in each split")
    seed: int = Field(0, ge=0)

    def load(self, split: Split) -> Loaded[Tensor]:
        self.check_split(split)
        if self.condition:
            raise MolflowError(f"{self.name}: has no quantities to condition on")
        return Loaded(self.sample(self.n, split_generator(self.seed, split)))

    @abstractmethod
    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        """n independent samples, (n, 2)."""

    @abstractmethod
    def log_prob(self, x: Tensor) -> Tensor:
        """The exact log-density, nats, (n, 2) -> (n,)."""


def split_generator(seed: int, split: Split) -> torch.Generator:
    """A generator for one split of data that are drawn when they are loaded."""
    index = ("train", "validation", "test").index(split)
    word = np.random.SeedSequence([seed, index]).generate_state(1, np.uint64)[0]
    return torch.Generator().manual_seed(int(word >> np.uint64(1)))


@DATASETS.register("two-moons")
class TwoMoons(PlaneDensity):
    """Two half circles of radius 1.5 with Gaussian noise.

    The density is an integral of Gaussians over the half circle, computed by Gauss-Legendre quadrature to at least
    six digits.
    """

    noise: float = Field(0.15, ge=0.05, description="standard deviation of the noise")
    radius: ClassVar[float] = 1.5

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        angle = math.pi * torch.rand(n, generator=generator)
        lower = torch.rand(n, generator=generator) < 0.5
        moon = self._moon(angle)
        moon = torch.where(lower.unsqueeze(1), -moon, moon)
        return moon + self.noise * torch.randn(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        nodes, weights = np.polynomial.legendre.leggauss(math.ceil(12 / self.noise))
        centres = self._moon(torch.as_tensor(0.5 * math.pi * (nodes + 1)).to(x))
        log_weights = torch.as_tensor(weights / 4).log().to(x)  # the mean over the angle, and one half for each moon
        squared = (x.unsqueeze(1) - torch.cat([centres, -centres])).square().sum(2)
        log_normal = -squared / (2 * self.noise**2) - math.log(2 * math.pi * self.noise**2)
        return torch.logsumexp(log_normal + log_weights.repeat(2), 1)

    def _moon(self, angle: Tensor) -> Tensor:
        """Points of the upper half circle; the lower one is its image under x -> -x."""
        return torch.stack([self.radius * (angle.cos() - 0.5), self.radius * (angle.sin() - 0.25)], 1)


@DATASETS.register("eight-gaussians")
class EightGaussians(PlaneDensity):
    """Eight Gaussians on a circle of radius 3 with equal weights."""

    noise: float = Field(0.3, gt=0, description="standard deviation of each")

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        centres = _on_circle(8, 3.0)[torch.randint(8, (n,), generator=generator)]
        return centres + self.noise * torch.randn(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        squared = (x.unsqueeze(1) - _on_circle(8, 3.0).to(x)).square().sum(2)
        return torch.logsumexp(-squared / (2 * self.noise**2), 1) - math.log(8 * 2 * math.pi * self.noise**2)


@DATASETS.register("pinwheel")
class Pinwheel(PlaneDensity):
    """Five Gaussian arms that are wound up: an arm along the first axis is turned by its angle plus `twist` |x|.

    The turn depends on the distance from the origin alone, so it preserves area and the density is that of the arms.
    """

    twist: float = Field(0.5, description="radians by which a point turns for each unit of its distance")
    spread: ClassVar[tuple[float, float]] = (0.7, 0.2)
    distance: ClassVar[float] = 2.2

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        arm = torch.randn(n, 2, generator=generator) * torch.tensor(self.spread)
        arm[:, 0] += self.distance
        angle = 2 * math.pi / 5 * torch.randint(5, (n,), generator=generator)
        return _turned(arm, angle + self.twist * arm.norm(dim=1))

    def log_prob(self, x: Tensor) -> Tensor:
        back = -self.twist * x.norm(dim=1)
        centre, spread = x.new_tensor([self.distance, 0.0]), x.new_tensor(self.spread)
        arms = torch.stack([_turned(x, back - 2 * math.pi / 5 * k) for k in range(5)], 1)
        log_normal = -0.5 * ((arms - centre) / spread).square().sum(2) - (2 * math.pi * spread.prod()).log()
        return torch.logsumexp(log_normal, 1) - math.log(5)


@DATASETS.register("checkerboard")
class Checkerboard(PlaneDensity):
    """The uniform density on the eight dark squares of a board of four by four, [-4, 4] on both axes."""

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        column = torch.randint(4, (n,), generator=generator)
        row = 2 * torch.randint(2, (n,), generator=generator) + column % 2
        corner = 2.0 * torch.stack([column, row], 1) - 4
        return corner + 2 * torch.rand(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        square = ((x + 4) / 2).floor()
        dark = (square.sum(1) % 2 == 0) & (x.abs() <= 4).all(1)
        return torch.where(dark, -math.log(32), -math.inf)


@DATASETS.register("rings")
class Rings(PlaneDensity):
    """Four circles of radius 1 to 4 with Gaussian noise, with weights in proportion to their radius."""

    noise: float = Field(0.15, gt=0, description="standard deviation of the noise")
    radii: ClassVar[tuple[float, ...]] = (1.0, 2.0, 3.0, 4.0)

    def sample(self, n: int, generator: torch.Generator | None = None) -> Tensor:
        radii = torch.tensor(self.radii)
        radius = radii[torch.multinomial(radii, n, replacement=True, generator=generator)]
        angle = 2 * math.pi * torch.rand(n, generator=generator)
        circle = radius.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1)
        return circle + self.noise * torch.randn(n, 2, generator=generator)

    def log_prob(self, x: Tensor) -> Tensor:
        """A ring has the density exp(-(|x| - R)^2 / 2 s^2) exp(-k) I_0(k) / (2 pi s^2) with k = |x| R / s^2."""
        variance, radii = self.noise**2, x.new_tensor(self.radii)
        distance = x.norm(dim=1, keepdim=True)
        bessel = torch.special.i0e(distance * radii / variance).log()
        log_ring = -(distance - radii).square() / (2 * variance) + bessel - math.log(2 * math.pi * variance)
        return torch.logsumexp(log_ring + (radii / radii.sum()).log(), 1)


def _on_circle(n: int, radius: float) -> Tensor:
    """n points at equal distances on a circle, (n, 2)."""
    angle = 2 * math.pi * torch.arange(n, dtype=torch.float64) / n
    return (radius * torch.stack([angle.cos(), angle.sin()], 1)).float()


def _turned(x: Tensor, angle: Tensor) -> Tensor:
    """Each point turned about the origin by its own angle."""
    cos, sin = angle.cos(), angle.sin()
    return torch.stack([cos * x[:, 0] - sin * x[:, 1], sin * x[:, 0] + cos * x[:, 1]], 1)
