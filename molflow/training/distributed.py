"""Training on several processes (ranks), which torchrun starts, and which share each batch.

    torchrun --nproc-per-node 4 -m molflow train qm9-fff

Each rank prepares the whole batch with its random numbers and keeps every G-th configuration. Gradients and figures are
summed over ranks, so the run is that of one process but for rounding, and a run may be resumed with another number of
ranks. Rank 0 alone prepares data, writes and validates. All ranks read the same files: machines need a shared folder
for the run and for MOLFLOW_CACHE. One process that torchrun did not start is the only rank of its run.
"""

import logging
import math
import os
import warnings
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from datetime import timedelta
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from molflow.errors import MolflowError
from molflow.flows.solvers import IntegrationError

log = logging.getLogger("molflow")

Sums = dict[str, tuple[float, float]]
"""Figures by name: their sum over configurations, and the number of these."""

_LONGEST_WAIT = timedelta(days=7)  # rank 0 may prepare data or validate for hours; torchrun notices a rank that dies


@dataclass(frozen=True)
class Ranks:
    """The processes that train together; by default one alone.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes G.
    """

    rank: int = 0
    size: int = 1

    @property
    def leads(self) -> bool:
        """Whether this process prepares data and writes."""
        return self.rank == 0

    def distribute(self, objective: nn.Module) -> nn.Module:
        """The objective as a module whose gradients are means over all ranks after the backward pass."""
        finite = _NaNWhereNoPath(objective)
        if self.size == 1:
            return finite
        # A parameter may be unused in a loss. Buffers follow from the configuration and the data, alike on all ranks.
        return DistributedDataParallel(finite, find_unused_parameters=True, broadcast_buffers=False)

    def parts(self, total: int, at_once: int | None) -> list[tuple[slice, float]]:
        """The configurations of a batch that this rank computes, in parts of `at_once`, each with its weight.

        A rank takes every G-th configuration, so that all take as long where they are sorted by cost. The weight is
        that of the part's mean in the sum of all ranks. A rank for which none is left takes one with the weight 0.
        """
        mine = range(self.rank, total, self.size)
        starts = range(0, len(mine), at_once or len(mine) or 1)
        parts = [mine[start : start + starts.step] for start in starts]
        return [(slice(part.start, part.stop, self.size), len(part) / total) for part in parts] or [(slice(0, 1), 0.0)]

    def without_exchange(self, module: nn.Module) -> AbstractContextManager[None]:
        """A block whose gradients are added up on this rank, until a backward pass outside of such a block."""
        return module.no_sync() if isinstance(module, DistributedDataParallel) else nullcontext()

    def total(self, sums: Sums) -> Sums:
        """Sums over all ranks."""
        gathered: list[Any] = [sums]
        if self.size > 1:
            gathered = [None] * self.size
            dist.all_gather_object(gathered, sums)
        names = dict.fromkeys(name for each in gathered for name in each)
        found = {name: [each[name] for each in gathered if name in each] for name in names}
        return {name: tuple(map(math.fsum, zip(*pairs, strict=True))) for name, pairs in found.items()}  # type: ignore[misc]

    def any(self, flag: bool) -> bool:
        """Whether the flag is set on any rank."""
        return self.total({"flag": (float(flag), 1)})["flag"][0] > 0

    def wait(self) -> None:
        """Wait for all ranks."""
        self.any(False)

    @contextmanager
    def leader_first(self) -> Iterator[None]:
        """A block that rank 0 runs before the others, which then find the files that it made."""
        if not self.leads:
            self.wait()
        yield
        if self.leads:
            self.wait()


@contextmanager
def joined_ranks(device: str) -> Iterator[Ranks]:
    """The ranks of this run, within a block; all of them must enter it.

    Args:
        device: "cuda" if the networks are on GPUs. Each rank of a machine then takes the GPU of its local number.

    Raises:
        MolflowError: more processes on this machine than GPUs; another process ended within the block.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) == 1 and not dist.is_initialized():
        yield Ranks()
        return
    if device == "cuda":
        torch.cuda.set_device(_gpu())
    if not dist.is_initialized():  # and it stays so: a process may train several models one after another
        backend = "cpu:gloo,cuda:nccl" if device == "cuda" else "gloo"
        dist.init_process_group(backend, timeout=_LONGEST_WAIT)
    ranks = Ranks(dist.get_rank(), dist.get_world_size())
    level = log.level
    if not ranks.leads:
        log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", "Grad strides do not match")  # of DistributedDataParallel, of no weight
            warnings.filterwarnings("ignore", ".*broadcast_buffers")  # its successor is missing in torch 2.9
            yield ranks
            ranks.wait()
    except RuntimeError as error:
        if not isinstance(error, dist.DistError) and "gloo" not in str(error):
            raise
        raise MolflowError(f"rank {ranks.rank}: another process of this run ended; continue with --resume") from error
    finally:
        log.setLevel(level)


def is_leader() -> bool:
    """Whether this process is the one of its run that prints: rank 0 of torchrun, or a process alone."""
    return os.environ.get("RANK", "0") == "0"


def _gpu() -> int:
    local, n = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
    if local >= n:
        raise MolflowError(f"process {local + 1} of this machine finds {n} GPUs; start at most {n} processes on it")
    return local


class _NaNWhereNoPath(nn.Module):
    """An objective whose loss is NaN where a path cannot be integrated, so that no rank waits for the gradient."""

    def __init__(self, objective: nn.Module):
        super().__init__()
        self.objective = objective

    def forward(self, batch: Any, generator: torch.Generator | None) -> tuple[Tensor, dict[str, Tensor]]:
        try:
            result: tuple[Tensor, dict[str, Tensor]] = self.objective(batch, generator)
            return result
        except IntegrationError as error:
            log.warning("%s", error)
            trained = [parameter for parameter in self.objective.parameters() if parameter.requires_grad]
            return torch.stack([parameter.sum() for parameter in trained]).sum() * math.nan, {}
