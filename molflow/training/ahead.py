"""Batches that are made ready ahead of the step that takes them, in worker processes."""

from collections.abc import Generator, Iterable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from molflow.errors import MolflowError
from molflow.interrupts import end_with_parent, ignored_interrupts
from molflow.training.objectives import Preparation


class Task(NamedTuple):
    """What a batch is made of.

    Attributes:
        indices: of the data in the training set.
        data: on the CPU.
        seed: of its noise.
    """

    indices: np.ndarray
    data: Any
    seed: int


class Ready(NamedTuple):
    """A batch, and the indices of its data."""

    indices: np.ndarray
    batch: Any


@contextmanager
def made_ready(prepare: Preparation, tasks: Iterable[Task], workers: int) -> Iterator[Iterator[Ready]]:
    """prepare(data, generator of the seed) of each task, in order; the same for any number of workers.

    Workers are started anew (spawn), use one thread each, and are at most two tasks each ahead.

    Args:
        prepare: can be pickled.
        tasks: in order.
        workers: processes; 0 for none, where each batch is made when it is asked for.

    Raises:
        MolflowError: a worker ended before its time.
    """
    loader: Any = DataLoader(
        _Prepared(prepare),
        batch_size=None,
        sampler=tasks,
        num_workers=workers,
        collate_fn=_as_it_is,
        multiprocessing_context="spawn" if workers else None,
        worker_init_fn=_end_with_parent,
        generator=torch.Generator(),  # or it would draw from the global one
    )
    batches = _iterate(loader)
    try:
        yield batches
    except RuntimeError as error:  # from wherever the loss of the child was noticed
        if not str(error).startswith("DataLoader worker"):
            raise
        raise MolflowError(
            f"a process that prepares batches ended ({str(error).strip()}); resume the run, or set training.workers = 0"
        ) from error
    finally:
        batches.close()


def _iterate(loader: DataLoader) -> Generator[Ready, None, None]:
    with ignored_interrupts():  # Ctrl-C reaches children too; this process decides what becomes of them
        batches = iter(loader)
    yield from batches


class _Prepared(Dataset[Ready]):
    """Tasks -> what is ready."""

    def __init__(self, prepare: Preparation):
        self.prepare = prepare

    def __getitem__(self, task: Task) -> Ready:
        generator = torch.Generator().manual_seed(task.seed)
        threads = torch.get_num_threads()
        torch.set_num_threads(1)  # as in a worker: the last digit can depend on their number
        try:
            return Ready(task.indices, self.prepare(task.data, generator))
        finally:
            torch.set_num_threads(threads)


def _end_with_parent(worker: int) -> None:
    end_with_parent()


def _as_it_is(ready: Any) -> Any:
    return ready
