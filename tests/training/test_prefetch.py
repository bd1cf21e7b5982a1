"""Prefetching: the same batches for any number of workers, a bound on those ahead, and errors of workers."""

import os
import re
import signal
from functools import partial

import pytest
import torch

from molflow.data.batches import Batch
from molflow.errors import MolflowError
from molflow.flows import ParticleDomain
from molflow.training.paths import DrawPaths, single_times
from molflow.training.prefetch import Request, prefetch


def requests(n=5):
    generator = torch.Generator().manual_seed(0)
    for step in range(n):
        data = torch.randn(16, 4, 3, generator=generator)
        yield Request(torch.arange(step, step + 16).numpy(), Batch(data), seed=step)


def paths(pairing):
    return DrawPaths(ParticleDomain(4, 3), torch.float32, pairing, single_times)


def in_one_process(prepare):
    return [prepare(batch, torch.Generator().manual_seed(seed)) for _, batch, seed in requests()]


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_any_number_of_workers_prepares_the_same_batches(workers):
    prepare = paths("equivariant_optimal_transport")
    state, threads = torch.random.get_rng_state(), torch.get_num_threads()
    with prefetch(prepare, requests(), workers) as prepared:
        found = list(prepared)
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.get_num_threads() == threads
    expected = in_one_process(prepare)
    assert len(found) == len(expected)
    for (indices, batch), (first, _, _), other in zip(found, requests(), expected, strict=True):
        assert (indices == first).all()
        assert torch.equal(batch.at.x, other.at.x)
        assert torch.equal(batch.velocity.x, other.velocity.x)
        assert torch.equal(batch.t, other.t)


@pytest.mark.parametrize("workers", [0, 1, 2])
def test_each_worker_is_two_batches_ahead_and_never_more(workers):
    taken = []

    def counted():
        for request in requests(50):
            taken.append(request)
            yield request

    with prefetch(paths("none"), counted(), workers) as prepared:
        for done in range(1, 6):
            next(prepared)
            assert len(taken) == done + 2 * workers


def fails(error, batch, generator):
    raise error


def ends(batch, generator):
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.parametrize("workers", [0, 1])
def test_an_error_in_a_worker_is_the_error(workers):
    for error in (MolflowError("no such type"), RuntimeError("out of luck")):
        with (
            pytest.raises(type(error), match=str(error)),
            prefetch(partial(fails, error), requests(), workers) as prepared,
        ):
            next(prepared)


def test_a_killed_worker_is_an_error_that_says_so():
    message = "a process that prepares batches ended (DataLoader worker"
    with (
        pytest.raises(MolflowError, match=rf"{re.escape(message)}.*; resume the run, or set training\.workers = 0$"),
        prefetch(ends, requests(), 1) as prepared,
    ):
        next(prepared)
