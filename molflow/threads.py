"""The number of threads that torch computes with."""

from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager

import torch

_WORTH_THREADS = 200_000  # numbers in a tensor

_chosen = False


@contextmanager
def limited_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads within a block."""
    before = torch.get_num_threads()
    torch.set_num_threads(number)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def chosen_threads(number: int) -> Iterator[None]:
    """Let torch use so many threads within a block, also where `threads_for` would take fewer."""
    global _chosen
    before, _chosen = _chosen, True
    try:
        with limited_threads(number):
            yield
    finally:
        _chosen = before


def threads_for(numbers: int) -> AbstractContextManager[None]:
    """Compute with one thread in a block whose tensors have about so many numbers, if these are few.

    Threads that share little work cost more than they gain: DW4 takes as long with two as with one, and twice the
    processor time. Where a user has chosen the number of threads, it stays.
    """
    is_automatic = numbers < _WORTH_THREADS and not _chosen
    return limited_threads(1 if is_automatic else torch.get_num_threads())
