"""Refuse a model that would fill the memory, before it does."""

import math
from typing import Any

import torch
from torch.overrides import TorchFunctionMode

LARGEST = 1 << 29
"""Numbers in all tensors of a model."""

MOST_CALLS = 1 << 16
"""Calls of torch that make and initialise a model; each layer takes a handful."""

_MAKERS = {torch.empty, torch.zeros, torch.ones, torch.full, torch.rand, torch.randn, torch.eye, torch.arange}


class BoundedTensors(TorchFunctionMode):
    """Bound what is made within a block.

    Raises:
        ValueError: within the block, before a tensor is made after which there would be more than `LARGEST` numbers, or
            after more than `MOST_CALLS` calls.
    """

    def __init__(self) -> None:
        super().__init__()
        self.size = self.calls = 0

    def __torch_function__(self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Any = None) -> Any:
        self.calls += 1
        if func in _MAKERS:
            shape = args[0] if args and isinstance(args[0], list | tuple) else args
            self.size += math.prod(length for length in shape if isinstance(length, int))
        if self.size > LARGEST or self.calls > MOST_CALLS:
            raise ValueError(f"a model of more than {LARGEST:,} numbers, or of more layers than can be made")
        return func(*args, **(kwargs or {}))
