"""Faster networks: compiled by torch.compile in sampling on a CPU, or with their products in bfloat16."""

import logging
import os
import shutil
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache, partial
from typing import TYPE_CHECKING, Any, Literal
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn

from molflow.errors import MolflowError
from molflow.geometry import Context, select
from molflow.nn import Chain
from molflow.nn.network import PointNetwork

if TYPE_CHECKING:
    from molflow.flows.base import Flow

log = logging.getLogger("molflow")

Precision = Literal["float32", "bfloat16"]

TOLERANCES: dict[Precision, tuple[float, float]] = {"float32": (0.95, 1e-4), "bfloat16": (0.5, 0.1)}
"""The share of compiled samples that must be this close to the eager ones, in the units of data: Å for molecules.

A few samples amplify any rounding: of 2,000 molecules of `qm9`, 6 differ by more than 1e-4 Å, at most by 2e-4 Å.
"""

REPAYS = 1e13
"""Floating-point operations of all samples from which on compiling repays itself, about five minutes of one core."""

_FEW = 10_000  # samples for which compiling is not even considered
_CHECKED = 100  # samples that are compared
_COUNTED = 8  # samples whose operations are counted

_checked: WeakKeyDictionary[nn.Module, set[Precision]] = WeakKeyDictionary()  # flows compared in these precisions


class Acceleration:
    """Runs the networks of a flow faster where that was asked for, or where it pays.

    Every network on point clouds and every stage of a `Chain` is compiled for all sizes and numbers of points at once,
    so nothing is padded. Before the first batch some of its samples are compared with the eager ones.

    Args:
        flow: the flow.
        n: number of samples that will be drawn.
        decode: latent points and their context -> data points.
        compile: True, False, or None: on a CPU with a C++ compiler, where n samples repay it.
        precision: of the products of matrices in the networks.

    Raises:
        MolflowError: as `check`; or compiling was asked for, and it fails or gives other samples.
    """

    def __init__(
        self,
        flow: "Flow[Any]",
        n: int,
        decode: Callable[[Any, Context], Any],
        compile: bool | None = None,
        precision: Precision = "float32",
    ):
        check(flow, compile, precision)
        self.flow, self.n, self.decode, self.precision = flow, n, decode, precision
        self.networks = networks_of(flow)
        self.compile, self._asked = compile, bool(compile)

    @contextmanager
    def __call__(self, latent: Any, context: Context) -> Iterator[None]:
        """A block in which the networks run faster; the first batch decides how."""
        if self.compile is None:
            self.compile = self._repays(latent, context)
        if self.compile and self.precision not in _checked.get(self.flow, ()):
            self._check(latent, context)
        with faster(self.networks, self.precision, compile=bool(self.compile)):
            yield

    def _repays(self, latent: Any, context: Context) -> bool:
        if self.n < _FEW or self.flow.device.type != "cpu" or not self.networks:
            return False
        from torch.utils.flop_counter import FlopCounterMode

        few = slice(_COUNTED)
        index = torch.arange(len(context.mask), device=context.mask.device)[few]
        with FlopCounterMode(display=False) as counter:
            self.decode(select(latent, index, context.mask.shape[1]), context.select(few))
        if self.n * counter.get_total_flops() / len(index) < REPAYS:
            return False
        if obstacle := _obstacle(self.flow):
            log.info("sampling is not compiled, although that would pay: %s", obstacle)
            return False
        log.info("sampling is compiled, which takes about a minute the first time; --no-compile leaves it out")
        return True

    def _check(self, latent: Any, context: Context) -> None:
        """Compare compiled with eager samples, of the size that is most common."""
        sizes = context.mask.sum(1)
        n = int(sizes.mode().values)
        index = (sizes == n).nonzero().squeeze(1)[:_CHECKED]
        points, given = select(latent, index, n), context.select(index, n)
        try:
            with faster(self.networks, self.precision, compile=True):
                compiled = self.decode(points, given)
        except Exception as error:
            self._refuse(f"{type(error).__name__}: {str(error).strip().splitlines()[0][:200]}")
            return
        with faster(self.networks, self.precision):
            eager = self.decode(points, given)
        share, tolerance = TOLERANCES[self.precision]
        scale = float(getattr(self.flow.domain, "scale", 1.0))
        apart = torch.cat([(a - b).abs().flatten(1) for a, b in zip(compiled, eager, strict=True)], 1).amax(1) * scale
        if (reached := float(apart.quantile(share))) < tolerance:
            _checked.setdefault(self.flow, set()).add(self.precision)
        else:
            self._refuse(f"compiled samples are {reached:.2g} from the eager ones, more than {tolerance:g}")

    def _refuse(self, reason: str) -> None:
        """Go on without compiling, unless it was asked for."""
        if self._asked:
            raise MolflowError(f"these networks cannot be compiled: {reason}")
        log.warning("sampling is not compiled: %s", reason)
        self.compile = False


@contextmanager
def faster(networks: Sequence[PointNetwork], precision: Precision, *, compile: bool = False) -> Iterator[None]:
    """Replace the `forward` of networks within a block."""
    if not compile and precision == "float32":
        yield
        return
    for network in networks:
        network.forward = partial(_forward, network, compile, precision)  # type: ignore[method-assign]
    try:
        yield
    finally:
        for network in networks:
            del network.forward


def check(flow: "Flow[Any]", compile: bool | None, precision: Precision) -> None:
    """Raise MolflowError for an unknown precision, and for networks that cannot be compiled or have no other one."""
    if precision not in ("float32", "bfloat16"):
        raise MolflowError(f"unknown precision {precision!r}; expected float32 or bfloat16")
    if precision != "float32" and not networks_of(flow):
        raise MolflowError("this flow has no network on point clouds that could use another precision")
    if compile and (obstacle := _obstacle(flow)):
        raise MolflowError(f"these networks cannot be compiled: {obstacle}")


def networks_of(flow: "Flow[Any]") -> list[PointNetwork]:
    """The networks that can be compiled one by one: those on point clouds, and of a `Chain` its stages."""
    return [m for m in flow.modules() if isinstance(m, PointNetwork) and not isinstance(m, Chain)]


def _obstacle(flow: "Flow[Any]") -> str | None:
    """The reason why nothing can be compiled, if there is one."""
    if not networks_of(flow):
        return "the flow has none on point clouds"
    if flow.device.type != "cpu":
        return f"only those on a CPU can be, these are on {flow.device.type}"
    return None if has_compiler() else f"no C++ compiler {compiler()!r} was found; install one or name one in CXX"


def compiler() -> str:
    """The C++ compiler that torch.compile uses: CXX, or else the usual one of the system."""
    usual = {"darwin": "clang++", "win32": "cl"}.get(sys.platform, "g++")
    return os.environ.get("CXX") or usual


def has_compiler() -> bool:
    """Whether the C++ compiler is there."""
    return shutil.which(compiler()) is not None


def _forward(
    network: PointNetwork,
    compile: bool,
    precision: Precision,
    x: Tensor,
    h: Tensor,
    mask: Tensor,
    *global_inputs: Tensor | None,
) -> tuple[Tensor, Tensor]:
    """The output of a network, compiled or in another precision."""
    function: Callable[..., tuple[Tensor, Tensor]] = type(network).forward
    inputs = [tensor.contiguous() for tensor in (x, h, mask)]
    given = [None if tensor is None else tensor.contiguous() for tensor in global_inputs]
    if compile and min(mask.shape) > 1:  # torch.compile would compile anew for sizes of 1
        function = _compiled(function)
        for tensor in inputs:
            _mark_dynamic(tensor, 0, 1)
        for numbers in given:
            if numbers is not None:
                _mark_dynamic(numbers, 0)
    with torch.autocast(x.device.type, torch.bfloat16, enabled=precision == "bfloat16"):
        dx, dh = function(network, *inputs, *given)
    return dx.to(x.dtype), dh.to(x.dtype)


@cache
def _compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The compiled form of the `forward` of a class of networks; networks of equal sizes share their code."""
    return torch.compile(function, fullgraph=True)


def _mark_dynamic(tensor: Tensor, *dimensions: int) -> None:
    """Let compiled code take any size of these dimensions."""
    for dimension in dimensions:
        torch._dynamo.maybe_mark_dynamic(tensor, dimension)
