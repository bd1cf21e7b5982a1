"""Prefetching: worker processes prepare batches ahead of the training steps that use them."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from molflow.data.batches import Batch
from molflow.errors import MolflowError
from molflow.interrupts import end_with_parent, ignored_interrupts
from molflow.threads import limited_threads
from molflow.training.objectives.base import Preparation

AHEAD = 2
"""Batches that a worker prepares ahead of the training step."""


class Request(NamedTuple):
    """A batch to prepare.

    Attributes:
        indices: indices of the data in the training set.
        batch: the data with their conditions, on the CPU.
        seed: seed of the noise.
    """

    indices: np.ndarray
    batch: Batch
    seed: int


class Prepared(NamedTuple):
    """A prepared batch, and the indices of its data."""

    indices: np.ndarray
    batch: Any


@contextmanager
def prefetch(prepare: Preparation, requests: Iterable[Request], workers: int) -> Iterator[Iterator[Prepared]]:
    """Prepare each requested batch, prepare(batch, generator of the seed), in order.

    The result is the same for any number of workers. They are started anew (spawn), use one thread each, and are at
    most `AHEAD` batches each ahead of the caller.

    Args:
        prepare: can be pickled.
        requests: in order; taken one by one.
        workers: number of processes; with 0 each batch is prepared when it is needed.

    Raises:
        MolflowError: a worker process died.
    """
    loader: DataLoader[Prepared] = DataLoader(
        _PreparedDataset(prepare),
        batch_size=None,
        sampler=requests,
        num_workers=workers,
        prefetch_factor=AHEAD if workers else None,
        collate_fn=_unchanged,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # without one it would draw from the global generator
    )
    batches = _iterate(loader)
    try:
        with naming_deaths():
            yield batches
    finally:
        batches.close()


@contextmanager
def naming_deaths() -> Iterator[None]:
    """Turn what torch raises where a worker died into a MolflowError.

    torch raises in a signal handler, so anywhere, and even after the end of the pipe was an error already.
    """
    try:
        yield
    except (RuntimeError, ConnectionError, EOFError) as error:
        if isinstance(error, RuntimeError) and not str(error).startswith("DataLoader worker"):
            raise
        raise MolflowError(
            f"a process that prepares batches ended ({str(error).strip()}); resume the run, or set training.workers = 0"
        ) from error


def _iterate(loader: DataLoader[Prepared]) -> Generator[Prepared, None, None]:
    with ignored_interrupts():  # Ctrl-C reaches child processes too, and this process decides what to do
        batches = iter(loader)
    yield from batches


class _PreparedDataset(Dataset[Prepared]):
    """Requests -> prepared batches."""

    def __init__(self, prepare: Preparation):
        self.prepare = prepare

    def __getitem__(self, request: Request) -> Prepared:
        generator = torch.Generator().manual_seed(request.seed)
        with limited_threads(1):  # as in a worker: the last digit can depend on the number of threads
            return Prepared(request.indices, self.prepare(request.batch, generator))


def _end_with_parent(worker: int) -> None:
    end_with_parent()


def _unchanged(prepared: Any) -> Any:
    return prepared
