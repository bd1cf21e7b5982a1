"""Batches made ready ahead: the same for any number of workers, and errors that say what became of a worker."""

import os
import re
import signal
from functools import partial

import pytest
import torch

from molflow.errors import MolflowError
from molflow.flows import ParticleDomain
from molflow.training.ahead import Task, made_ready
from molflow.training.paths import DrawPaths, moments


def tasks(n=5):
    generator = torch.Generator().manual_seed(0)
    for step in range(n):
        data = torch.randn(16, 4, 3, generator=generator)
        yield Task(torch.arange(step, step + 16).numpy(), data, seed=step)


def paths(pairing):
    return DrawPaths(ParticleDomain(4, 3), torch.float32, pairing, moments)


def in_one_process(prepare):
    return [prepare(task.data, torch.Generator().manual_seed(task.seed)) for task in tasks()]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_makes_the_same_batches(workers):
    prepare = paths("equivariant_optimal_transport")
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    with made_ready(prepare, tasks(), workers) as ready:
        found = list(ready)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    expected = in_one_process(prepare)
    assert len(found) == len(expected)
    for (indices, batch), (first, _, _), other in zip(found, tasks(), expected, strict=True):
        assert (indices == first).all()
        assert torch.equal(batch.at.x, other.at.x)
        assert torch.equal(batch.velocity.x, other.velocity.x)
        assert torch.equal(batch.t, other.t)


def test_workers_are_a_few_batches_ahead():
    taken = []

    def counted():
        for task in tasks(50):
            taken.append(task)
            yield task

    with made_ready(paths("none"), counted(), workers=1) as ready:
        for done in range(1, 6):
            next(ready)
            assert done <= len(taken) <= done + 2


def fails(error, data, generator):
    raise error


def ends(data, generator):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_error(workers):
    for error in (MolflowError("no such type"), RuntimeError("out of luck")):
        with pytest.raises(type(error), match=str(error)), made_ready(partial(fails, error), tasks(), workers) as ready:
            next(ready)


def test_a_worker_that_ends_is_an_error_that_says_so():
    message = "a process that prepares batches ended (DataLoader worker"
    with (
        pytest.raises(MolflowError, match=rf"{re.escape(message)}.*; resume the run, or set training\.workers = 0$"),
        made_ready(ends, tasks(), 1) as ready,
    ):
        next(ready)
