"""How fast a model samples or trains: figures from a run on this machine, with what they depend on.

A figure is a median over repeats after a warm-up, as other work on the machine disturbs single ones.
"""

import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any

import torch
from tqdm import tqdm

from molflow.batch import MoleculeBatch
from molflow.chem import stability


def peak_memory_mb(device: torch.device | str = "cpu") -> float:
    """Most memory this process (on CUDA: torch on that device) has held so far, MB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def seconds(work: Callable[[], Any], device: torch.device | str = "cpu") -> float:
    """Wall time of a call, on CUDA until the device is done."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def conditions(device: torch.device | str, batch_size: int) -> dict[str, Any]:
    """What a speed depends on, under the names of the benchmark's JSON."""
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device)
    return {
        "peak_memory_mb": peak_memory_mb(device),
        "device": name,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
    }


def count_stable(batch: MoleculeBatch) -> int:
    """How many molecules are stable by EDM's rules."""
    batch = batch.to("cpu")
    return int(stability(batch.positions, batch.atomic_numbers, batch.mask)[1].sum())


def sampling_record(
    name: str, n: int, n_stable: int, elapsed: float, device: torch.device | str, batch_size: int
) -> dict[str, Any]:
    """Sampling speed, raw and for each stable molecule, from numbers of molecules and the seconds they took.

    The cost of a stable molecule is None where none is stable.
    """
    return {
        "model": name,
        "n": n,
        "ms_per_molecule": 1e3 * elapsed / n,
        "ms_per_stable_molecule": 1e3 * elapsed / n_stable if n_stable else None,
        "molecules_per_s": n / elapsed,
        "stable_molecules_per_s": n_stable / elapsed,
        **conditions(device, batch_size),
    }


def sampling_throughput(
    name: str,
    sample: Callable[[int, int], MoleculeBatch],
    n: int,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    repeats: int = 3,
    progress: bool = False,
) -> dict[str, Any]:
    """Time `sample(n, seed)` after a warm-up of one batch; the record holds the median of the repeats.

    Args:
        name: of the model, for the record.
        sample: draws n molecules with a seed.
        n: molecules in each repeat.
        batch_size: what `sample` uses, for the record and the warm-up.
        device: where it runs.
        repeats: timed runs.
        progress: show a bar on stderr.
    """
    sample(min(n, batch_size), 0)
    batches: list[MoleculeBatch] = []
    rounds = tqdm(range(repeats), desc="timing", disable=not progress)
    times = [seconds(lambda: batches.append(sample(n, len(batches))), device) for _ in rounds]
    n_stable = sum(map(count_stable, batches))
    record = sampling_record(name, n * repeats, n_stable, median(times) * repeats, device, batch_size)
    return record | {"n": n, "repeats": repeats}


def training_throughput(
    name: str,
    step: Callable[[], Any],
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    repeats: int = 5,
    progress: bool = False,
) -> dict[str, Any]:
    """Time a training step, forward, backward and update, after one warm-up step."""
    step()
    times = [seconds(step, device) for _ in tqdm(range(repeats), desc="timing", disable=not progress)]
    return {
        "model": name,
        "ms_per_step": 1e3 * median(times),
        "molecules_per_s": batch_size / median(times),
        "repeats": repeats,
        **conditions(device, batch_size),
    }
