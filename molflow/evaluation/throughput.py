"""Speed of sampling and training: figures from a run on this machine, with the settings that they depend on.

A figure is a median over repeats after a warm-up, because other work on the machine disturbs single runs.
"""

import resource
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from itertools import product
from pathlib import Path
from statistics import median
from typing import Any, Generic, NamedTuple, TypeVar

import torch
from torch import Tensor

from molflow.batch import MoleculeBatch
from molflow.energies.base import Potential
from molflow.evaluation.boltzmann import evaluate_boltzmann
from molflow.evaluation.molecules import evaluate, stability_of
from molflow.evaluation.novelty import TrainingReference
from molflow.evaluation.options import Bonds, EvaluationOptions
from molflow.evaluation.statistics import wilson_interval
from molflow.memory import release_freed_memory
from molflow.progress import progress_bar

Sampled = TypeVar("Sampled")


def peak_memory_mb(device: torch.device | str = "cpu") -> float:
    """Peak memory of this process (on CUDA: of torch on that device) since its start or the last reset, MB."""
    if torch.device(device).type == "cuda":
        return torch.cuda.max_memory_allocated(device) / 1e6
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit / 1e6


def reset_peak_memory(device: torch.device | str = "cpu") -> bool:
    """Reset `peak_memory_mb` to the memory in use now. Return False if the system cannot (other than Linux)."""
    if torch.device(device).type == "cuda":
        torch.cuda.reset_peak_memory_stats(device)
        return True
    release_freed_memory()
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True


def seconds(work: Callable[[], Any], device: torch.device | str = "cpu") -> float:
    """Wall time of a call in seconds; on CUDA, until the device is done."""
    cuda = torch.device(device).type == "cuda"
    if cuda:
        torch.cuda.synchronize(device)
    start = time.perf_counter()
    work()
    if cuda:
        torch.cuda.synchronize(device)
    return time.perf_counter() - start


def conditions(device: torch.device | str, batch_size: int) -> dict[str, Any]:
    """Settings that a speed depends on, under the names of the benchmark's JSON."""
    name = torch.cuda.get_device_name(device) if torch.device(device).type == "cuda" else str(device)
    return {
        "peak_memory_mb": peak_memory_mb(device),
        "device": name,
        "threads": torch.get_num_threads(),
        "batch_size": batch_size,
    }


def count_stable(batch: MoleculeBatch, bonds: Bonds = "lookup") -> int:
    """Number of stable molecules by the bonds of a protocol."""
    return int(stability_of(batch.to("cpu"), bonds)[1].sum())


def count_new(batch: MoleculeBatch, training: TrainingReference, bonds: Bonds = "lookup") -> int:
    """Number of distinct SMILES of connected valid molecules that are not among the training molecules."""
    found: set[str | None] = set()
    options = EvaluationOptions(scope="lookup" if bonds == "lookup" else "all", bonds=bonds)
    evaluate(batch, options=options, each=lambda report, _: found.add(report.smiles if report.connected else None))
    return len(found - {None} - training.smiles)


def sampling_record(
    name: str, n: int, n_stable: int, elapsed: float, device: torch.device | str, batch_size: int
) -> dict[str, Any]:
    """Sampling speed for each molecule and each stable molecule, from their numbers and the seconds that they took.

    The cost of a stable molecule is None if none is stable.
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


class Timing(NamedTuple, Generic[Sampled]):
    """Result of the timed repeats of a sampler.

    Attributes:
        samples: samples of each repeat.
        seconds: median over the repeats.
        peak_memory_mb: largest peak of a repeat; where the system cannot reset it, the largest so far.
    """

    samples: list[Sampled]
    seconds: float
    peak_memory_mb: float


def time_sampling(
    samplers: Sequence[Callable[[int, int], Sampled]],
    n: int,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    repeats: int = 3,
    progress: bool = False,
) -> list[Timing[Sampled]]:
    """Time `sampler(n, seed)` after a warm-up of one batch. Samplers take turns, so that disturbances affect all.

    Args:
        samplers: each draws n samples with a seed.
        n: samples in each repeat.
        batch_size: batch size of the samplers, for the warm-up.
        device: device that they run on.
        repeats: number of timed runs.
        progress: show a progress bar on stderr.
    """
    for sampler in samplers:
        sampler(min(n, batch_size), 0)
    samples: list[list[Sampled]] = [[] for _ in samplers]
    times: list[list[float]] = [[] for _ in samplers]
    peaks = [0.0 for _ in samplers]
    turns = list(product(range(repeats), range(len(samplers))))
    for seed, i in progress_bar(turns, desc="timing", disable=not progress):
        reset_peak_memory(device)
        times[i].append(seconds(partial(_append, samples[i], samplers[i], n, seed), device))
        peaks[i] = max(peaks[i], peak_memory_mb(device))
    return [Timing(some, median(t), peak) for some, t, peak in zip(samples, times, peaks, strict=True)]


def _append(to: list[Sampled], sampler: Callable[[int, int], Sampled], n: int, seed: int) -> None:
    to.append(sampler(n, seed))


def sampling_throughput(
    samplers: Mapping[str, Callable[[int, int], MoleculeBatch]],
    n: int,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    repeats: int = 3,
    training: TrainingReference | None = None,
    bonds: Mapping[str, Bonds] | None = None,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Speeds of models by name, timed by `time_sampling`, and the fraction of stable molecules in all repeats.

    With `training`, also the time for each valid, unique and novel molecule: the time over the number of distinct
    SMILES of connected valid molecules that are not among the training molecules, averaged over the repeats. It depends
    on n, because distinct molecules become rarer.

    Args:
        samplers, n, batch_size, device, repeats, progress: as in `time_sampling`, samplers by the names of models.
        training: the training molecules.
        bonds: the protocol of each model's bonds, by default look-up bonds.
    """
    of_each = list(samplers.values())
    timings = time_sampling(of_each, n, batch_size=batch_size, device=device, repeats=repeats, progress=progress)
    records = []
    for name, timing in zip(samplers, timings, strict=True):
        of = (bonds or {}).get(name, "lookup")
        n_stable, drawn = sum(count_stable(batch, of) for batch in timing.samples), n * repeats
        record = sampling_record(name, drawn, n_stable, timing.seconds * repeats, device, batch_size)
        record |= {"n": n, "repeats": repeats, "warm_up": min(n, batch_size), "peak_memory_mb": timing.peak_memory_mb}
        share = {"molecule_stability": n_stable / drawn}
        n_new = None if training is None else sum(count_new(batch, training, of) for batch in timing.samples) / repeats
        records.append(
            record
            | share
            | {"molecule_stability_interval": wilson_interval(n_stable, drawn)}
            | {"valid_unique_novel": None if n_new is None else n_new / n}
            | {"ms_per_valid_unique_novel_molecule": 1e3 * timing.seconds / n_new if n_new else None}
        )
    return records


class ParticleSampler(NamedTuple):
    """Functions that sample configurations from a model.

    Attributes:
        sample: draws n configurations with a seed.
        sample_and_log_prob: draws n configurations and their log density in nats; None if the model has none.
        energy: energy of the target in kT; None if it is unknown.
        n_densities: number of configurations whose densities are timed.
    """

    sample: Callable[[int, int], Any]
    sample_and_log_prob: Callable[[int, int], tuple[Tensor, Tensor]] | None
    energy: Potential | None
    n_densities: int


def particle_throughput(
    samplers: Mapping[str, ParticleSampler],
    n: int,
    *,
    batch_size: int,
    device: torch.device | str = "cpu",
    repeats: int = 3,
    progress: bool = False,
) -> list[dict[str, Any]]:
    """Speeds of models by name: samples timed by `time_sampling`, and one run of samples with densities.

    The cost of an effective sample is that of a sample, without or with its density, divided by the fraction of
    effective samples, which is measured on the samples with densities. Unknown figures are None.
    """
    timings = time_sampling(
        [sampler.sample for sampler in samplers.values()],
        n,
        batch_size=batch_size,
        device=device,
        repeats=repeats,
        progress=progress,
    )
    return [
        _particle_record(name, sampler, timing, n, device)
        | {"repeats": repeats, **conditions(device, batch_size), "peak_memory_mb": timing.peak_memory_mb}
        for (name, sampler), timing in zip(samplers.items(), timings, strict=True)
    ]


def _particle_record(
    name: str, sampler: ParticleSampler, timing: Timing[Any], n: int, device: torch.device | str
) -> dict[str, Any]:
    with_density = fraction = error = None
    if draw := sampler.sample_and_log_prob:
        draw(1, 0)
        drawn: list[tuple[Tensor, Tensor]] = []
        with_density = seconds(lambda: drawn.append(draw(sampler.n_densities, 0)), device) / sampler.n_densities
        if sampler.energy is not None:
            scores = evaluate_boltzmann(drawn[0][0], sampler.energy, log_prob=drawn[0][1])
            fraction, error = scores.ess_fraction, scores.ess_fraction_error
    each = timing.seconds / n
    return {
        "model": name,
        "n": n,
        "ms_per_sample": 1e3 * each,
        "ms_per_effective_sample": 1e3 * each / fraction if fraction else None,
        "samples_per_s": 1 / each,
        "n_densities": sampler.n_densities if with_density else None,
        "ms_per_sample_with_density": 1e3 * with_density if with_density else None,
        "ms_per_effective_sample_with_density": 1e3 * with_density / fraction if with_density and fraction else None,
        "ess_fraction": fraction,
        "ess_fraction_error": error,
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
    times = [seconds(step, device) for _ in progress_bar(range(repeats), desc="timing", disable=not progress)]
    return {
        "model": name,
        "ms_per_step": 1e3 * median(times),
        "molecules_per_s": batch_size / median(times),
        "repeats": repeats,
        **conditions(device, batch_size),
    }
