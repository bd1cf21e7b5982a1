"""Families of the package zuko (MIT licence), which is imported when one of them is built."""

from collections.abc import Callable
from functools import partial
from types import ModuleType
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn
from torch.distributions import AffineTransform, Distribution, Transform, constraints

from molflow.extras import import_extra
from molflow.flows.registry import FLOWS
from molflow.flows.zoo.base import Bijection, BijectiveConfig, Composed, invert_increasing
from molflow.flows.zoo.linear import ActNorm
from molflow.nn.network import Layers


class ZukoConfig(BijectiveConfig):
    """Base of the configurations of families that zuko has."""

    n_transforms: int = Field(5, gt=0, description="transforms, one after another")
    hidden: int = Field(64, gt=0, description="width of the networks that give the parameters of a transform")
    n_layers: Layers = Field(2, description="hidden layers of these networks")

    def build_bijection(self, n_features: int, n_conditions: int) -> Bijection:
        return ZukoBijection(self.build_transform(_import_zuko(self.kind), n_features, n_conditions))

    def build_transform(self, zuko: ModuleType, n_features: int, n_conditions: int) -> nn.Module:
        """The lazy transform of zuko from data to latents."""
        raise TypeError(f"{type(self).__name__} must implement build_transform")

    @property
    def _widths(self) -> list[int]:
        return [self.hidden] * self.n_layers


@FLOWS.register("nice")
class NICEConfig(ZukoConfig):
    """NICE (arXiv 1410.8516): additive couplings of numbers in turn, then a scale for each number.

    A condition decides the shifts and the scales.
    """

    n_transforms: int = Field(6, gt=0, description="couplings")

    def build_transform(self, zuko: ModuleType, n_features: int, n_conditions: int) -> nn.Module:
        additive = {"univariate": zuko.transforms.AdditiveTransform, "shapes": [()]}
        couplings = zuko.flows.NICE(
            n_features, n_conditions, self.n_transforms, hidden_features=self._widths, **additive
        ).transform.transforms
        if n_conditions:
            scales = zuko.flows.gaussianization.ElementWiseTransform(
                n_features, n_conditions, univariate=_scaled, shapes=[()], hidden_features=self._widths
            )
        else:
            scales = zuko.lazy.UnconditionalTransform(_scaled, torch.zeros(n_features))
        composed: nn.Module = zuko.lazy.LazyComposedTransform(*couplings, scales)
        return composed


@FLOWS.register("realnvp")
class RealNVPConfig(ZukoConfig):
    """RealNVP (arXiv 1605.08803): affine couplings of numbers in turn."""

    n_transforms: int = Field(6, gt=0, description="couplings")

    def build_transform(self, zuko: ModuleType, n_features: int, n_conditions: int) -> nn.Module:
        flow = zuko.flows.RealNVP(n_features, n_conditions, self.n_transforms, hidden_features=self._widths)
        transform: nn.Module = flow.transform
        return transform


@FLOWS.register("maf")
class MAFConfig(ZukoConfig):
    """Masked autoregressive flow (arXiv 1705.07057): one pass for a density, F passes for a sample."""

    def build_transform(self, zuko: ModuleType, n_features: int, n_conditions: int) -> nn.Module:
        flow = zuko.flows.MAF(n_features, n_conditions, self.n_transforms, hidden_features=self._widths)
        transform: nn.Module = flow.transform
        return transform


@FLOWS.register("iaf")
class IAFConfig(MAFConfig):
    """Inverse autoregressive flow (arXiv 1606.04934), a MAF turned round: F passes for a density, one for a sample."""

    def build_transform(self, zuko: ModuleType, n_features: int, n_conditions: int) -> nn.Module:
        turned: nn.Module = super().build_transform(zuko, n_features, n_conditions).inv  # type: ignore[assignment]
        return turned


@FLOWS.register("nsf")
class NSFConfig(ZukoConfig):
    """Neural spline flow (arXiv 1906.04032), autoregressive: monotone rational-quadratic splines within -5 and 5.

    Model units are standard deviations of the data; a number outside -5 and 5 is not transformed.
    """

    n_bins: int = Field(8, gt=1, description="bins of a spline")

    def build_transform(self, zuko: ModuleType, n_features: int, n_conditions: int) -> nn.Module:
        flow = zuko.flows.NSF(
            n_features, n_conditions, bins=self.n_bins, transforms=self.n_transforms, hidden_features=self._widths
        )
        transform: nn.Module = flow.transform
        return transform


@FLOWS.register("naf")
class NAFConfig(ZukoConfig):
    """Neural autoregressive flow (arXiv 1804.00779): each number by a network that increases with it.

    The networks are zuko's. Their inverse is our own root finding, so that no range of numbers has to be assumed. An
    `ActNorm` after each transform makes up for the small slope of fresh networks.
    """

    n_transforms: int = Field(3, gt=0, description="autoregressive transforms")
    n_signals: int = Field(16, gt=0, description="numbers that say to a monotone network which map to be")
    n_units: int = Field(16, gt=0, description="pairs of units in each of its two layers")

    def build_bijection(self, n_features: int, n_conditions: int) -> Bijection:
        zuko, order = _import_zuko(self.kind), torch.arange(n_features)
        transforms = (
            zuko.flows.MaskedAutoregressiveTransform(
                n_features,
                n_conditions,
                order=order.flip(0) if i % 2 else order,
                univariate=Monotone(
                    zuko.nn.MonotonicMLP(1 + self.n_signals, 1, [2 * self.n_units] * 2, stack=n_features)
                ),
                shapes=[(self.n_signals,)],
                hidden_features=self._widths,
            )
            for i in range(self.n_transforms)
        )
        steps = ((ZukoBijection(transform), ActNorm(n_features)) for transform in transforms)
        return Composed(bijection for step in steps for bijection in step)


def _scaled(log_scale: Tensor) -> Transform:
    return AffineTransform(0.0, log_scale.exp())


class ZukoBijection(Bijection):
    """A lazy transform of zuko, condition -> transform, as a bijection."""

    def __init__(self, transform: nn.Module):
        super().__init__()
        self.transform = transform

    def _forward(self, x: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        y, log_det = self.transform(condition).call_and_ladj(x)
        return y, log_det

    def _inverse(self, y: Tensor, condition: Tensor | None) -> tuple[Tensor, Tensor]:
        x, log_det = self.transform(condition).inv.call_and_ladj(y)
        return x, log_det


class Monotone(nn.Module):
    """Signals (B, F, S) -> a transform of (B, F), each number by a network that increases with it.

    Args:
        network: (B, F, 1 + S) -> (B, F, 1), which increases with the first of its inputs.
    """

    def __init__(self, network: nn.Module):
        super().__init__()
        self.network = network

    def forward(self, signals: Tensor) -> Transform:
        return _MonotoneTransform(partial(self._value, signals))

    def _value(self, signals: Tensor, x: Tensor) -> Tensor:
        value: Tensor = self.network(torch.cat([x.unsqueeze(-1), signals.expand(*x.shape, -1)], -1))
        return value.squeeze(-1)


class _MonotoneTransform(Transform):
    """An increasing function of numbers; its slope is found by autograd."""

    domain = codomain = constraints.real
    bijective = True

    def __init__(self, function: Callable[[Tensor], Tensor]):
        super().__init__()
        self.function = function

    def _call(self, x: Tensor) -> Tensor:
        return self.function(x)

    def _inverse(self, y: Tensor) -> Tensor:
        return invert_increasing(lambda x: self._with_slope(x.detach(), keep_graph=False), y)

    def call_and_ladj(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """The image and the logarithm of the slope, as zuko asks for them together."""
        value, slope = self._with_slope(x, keep_graph=torch.is_grad_enabled())
        return value, slope.log()

    def log_abs_det_jacobian(self, x: Tensor, y: Tensor) -> Tensor:
        return self.call_and_ladj(x)[1]

    def _with_slope(self, x: Tensor, keep_graph: bool) -> tuple[Tensor, Tensor]:
        with torch.enable_grad():
            x = x.clone().requires_grad_()  # the parameters of the function may depend on x as well
            value = self.function(x)
            slope = torch.autograd.grad(value.sum(), x, create_graph=keep_graph, retain_graph=True)[0]
        return value, slope


def _import_zuko(kind: str | None) -> Any:
    """The package, without its change of the default of `torch.distributions` that arguments are checked."""
    checks_arguments: bool = Distribution._validate_args
    try:
        return import_extra("zuko", "zoo", f"the flow {kind}")
    finally:
        Distribution.set_default_validate_args(checks_arguments)
