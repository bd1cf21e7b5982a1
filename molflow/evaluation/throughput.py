"""How fast a model samples or trains: figures from a run on this machine, with what they depend on.

A figure is a median over repeats after a warm-up, as other work on the machine disturbs single ones.
"""

import resource
import sys
import time
from collections.abc import Callable
from statistics import median
from typing import Any, TypeVar

import torch
from torch import Tensor
from tqdm import tqdm

from molflow.batch import MoleculeBatch
from molflow.chem import stability
from molflow.energies.base import Potential
from molflow.evaluation.boltzmann import evaluate_boltzmann

Sampled = TypeVar("Sampled")


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
    batches, elapsed = _timed(sample, n, batch_size, device, repeats, progress)
    n_stable = sum(map(count_stable, batches))
    record = sampling_record(name, n * repeats, n_stable, elapsed * repeats, device, batch_size)
    return record | {"n": n, "repeats": repeats}


def _timed(
    sample: Callable[[int, int], Sampled], n: int, batch_size: int, device: torch.device | str, repeats: int, bar: bool
) -> tuple[list[Sampled], float]:
    """What `sample(n, seed)` gives in each repeat after a warm-up of one batch, and the median of the seconds."""
    sample(min(n, batch_size), 0)
    batches: list[Sampled] = []
    rounds = tqdm(range(repeats), desc="timing", disable=not bar)
    times = [seconds(lambda: batches.append(sample(n, len(batches))), device) for _ in rounds]
    return batches, median(times)


def particle_throughput(
    name: str,
    sample: Callable[[int, int], Any],
    sample_and_log_prob: Callable[[int, int], tuple[Tensor, Tensor]] | None,
    energy: Potential | None,
    n: int,
    *,
    n_densities: int,
    batch_size: int,
    device: torch.device | str = "cpu",
    repeats: int = 3,
    progress: bool = False,
) -> dict[str, Any]:
    """Time `sample(n, seed)` as `sampling_throughput` does, and once `sample_and_log_prob(n_densities, seed)`.

    An effective sample costs a sample divided by the effective sample size as a fraction, which is measured on the
    samples with densities: without them for averages that need no weights, or with them. What cannot be had is None.

    Args:
        name: of the model, for the record.
        sample: draws n configurations with a seed.
        sample_and_log_prob: draws n configurations and their log density, nats, if it can be had.
        energy: of the target, kT, if it is known.
        n: configurations in each repeat.
        n_densities: configurations whose densities are timed.
        batch_size: what `sample` uses, for the record and the warm-up.
        device: where it runs.
        repeats: timed runs of `sample`.
        progress: show a bar on stderr.
    """
    _, elapsed = _timed(sample, n, batch_size, device, repeats, progress)
    with_density = fraction = error = None
    if sample_and_log_prob is not None:
        sample_and_log_prob(1, 0)
        drawn: list[tuple[Tensor, Tensor]] = []
        with_density = seconds(lambda: drawn.append(sample_and_log_prob(n_densities, 0)), device) / n_densities
        if energy is not None:
            scores = evaluate_boltzmann(drawn[0][0], energy, log_prob=drawn[0][1])
            fraction, error = scores.ess_fraction, scores.ess_fraction_error
    return {
        "model": name,
        "n": n,
        "repeats": repeats,
        "ms_per_sample": 1e3 * elapsed / n,
        "ms_per_effective_sample": 1e3 * elapsed / n / fraction if fraction else None,
        "samples_per_s": n / elapsed,
        "n_densities": n_densities if with_density else None,
        "ms_per_sample_with_density": 1e3 * with_density if with_density else None,
        "ms_per_effective_sample_with_density": 1e3 * with_density / fraction if with_density and fraction else None,
        "ess_fraction": fraction,
        "ess_fraction_error": error,
        **conditions(device, batch_size),
    }


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
