"""The gradient of a batch that is computed in parts: to save memory, or by several processes.

The parts draw the random numbers of the whole batch and keep their own, so the gradient is the same for any parts.
"""

from collections.abc import Callable
from contextlib import AbstractContextManager, nullcontext
from functools import cache
from typing import Any

import torch
from torch import Tensor, nn
from torch.overrides import TorchFunctionMode

from molflow.errors import MolflowError
from molflow.training.distributed import Ranks, Sums


def accumulate_gradients(
    objective: nn.Module,
    batch: Any,
    generator: torch.Generator | None,
    micro_batch: int | None = None,
    ranks: Ranks = Ranks(),  # noqa: B008
) -> tuple[float, dict[str, float]]:
    """Add the gradient of the mean loss of a batch to the parameters' gradients, one part of the batch at a time.

    The memory needed is that of a part, not of the batch.

    Args:
        objective: (batch, generator) -> (loss, parts), means over the given configurations; or `Ranks.distribute` of
            one. A part (K,) has the values of those configurations for which it is defined.
        batch: anything with a length that can be sliced; the same on all ranks.
        generator: source of the noise.
        micro_batch: configurations in a part; by default all.
        ranks: the processes that share the batch.

    Returns:
        The loss and its parts, means over the batch.
    """
    sums: Sums = {}
    parts = ranks.parts(len(batch), micro_batch)
    begin = None if generator is None else generator.get_state()
    for i, (part, weight) in enumerate(parts):
        piece = batch[part]
        if generator is not None and begin is not None:
            generator.set_state(begin)
        exchange = nullcontext() if i == len(parts) - 1 else ranks.without_exchange(objective)
        with exchange:
            with draws_of(objective, batch, part, generator):
                loss, figures = objective(piece, generator)
            # DistributedDataParallel divides the sum over ranks by their number.
            (loss * (weight * ranks.size)).backward()
        if weight:
            for name, value in {"loss": loss, **figures}.items():
                _add(sums, name, value.detach(), len(piece))
    means = {name: total / n for name, (total, n) in ranks.total(sums).items()}
    return means.pop("loss"), means


def _add(sums: Sums, name: str, value: Tensor, n: int) -> None:
    """Add the values of some configurations, or a mean over n of them."""
    total, count = (value.sum().item(), len(value)) if value.ndim else (n * value.item(), n)
    if count:
        before, others = sums.get(name, (0.0, 0.0))
        sums[name] = before + total, others + count


def draws_of(
    objective: nn.Module, batch: Any, part: slice, generator: torch.Generator | None
) -> AbstractContextManager[Any]:
    """A block in which an objective draws, for a part of a batch, what it would draw for the whole batch."""
    n_part = len(range(*part.indices(len(batch))))
    if generator is None or n_part == len(batch):
        return nullcontext()
    return _WholeDraws(generator, len(batch), part, lambda: objective_of(objective).sizes(batch))


def objective_of(module: nn.Module) -> Any:
    """The objective itself, of `Ranks.distribute`."""
    for name in ("module", "objective"):
        module = getattr(module, name, module)
    return module


class _WholeDraws(TorchFunctionMode):
    """Draw a row for each configuration of the whole batch, or for each of its points, and keep those of a part.

    A draw of a single number is shared by all.
    """

    def __init__(self, generator: torch.Generator, total: int, part: slice, sizes: Callable[[], Tensor]):
        super().__init__()
        self.generator, self.total, self.part, self._sizes = generator, total, part, cache(sizes)
        self.n_part = len(range(*part.indices(total)))

    def __torch_function__(self, function: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = dict(kwargs or {})
        if kwargs.get("generator") is not self.generator:
            return function(*args, **kwargs)
        if function not in (torch.rand, torch.randn):
            name = getattr(function, "__name__", function)
            raise MolflowError(f"{name}: its draws cannot be shared between processes or parts; use rand or randn")
        size = kwargs.pop("size", args)
        size = tuple(size[0] if len(size) == 1 and not isinstance(size[0], int) else size)
        if not size:
            return function(size, **kwargs)
        n, rows = self._rows(*size)
        return function((n, *size[1:]), **kwargs)[rows]

    def _rows(self, n: int, *shape: int) -> tuple[int, slice | Tensor]:
        """The number of rows of the whole batch, and which of them are those of the part.

        Points have rows (n, channels), as `masked_randn` draws them: n tells them from configurations, unless each
        configuration of the part is a single point.
        """
        if n == self.n_part and len(shape) != 1:
            return self.total, self.part
        sizes = self._sizes()
        chosen = torch.zeros_like(sizes, dtype=torch.bool)
        chosen[self.part] = True
        if n == int(sizes[chosen].sum()):
            return int(sizes.sum()), chosen.repeat_interleave(sizes)
        if n == self.n_part:
            return self.total, self.part
        raise MolflowError(
            f"a draw of {n} rows for {self.n_part} configurations cannot be shared between processes or parts; "
            "draw a row for each configuration or for each point"
        )
