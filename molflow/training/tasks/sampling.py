"""Samples of a flow for the command line: drawn in batches, counted, timed, and written to a file."""

import time
from abc import abstractmethod
from collections.abc import Callable, Iterator, Mapping, Sequence, Sized
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, Literal, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor
from tqdm import tqdm

from molflow.data.base import DataSetConfig
from molflow.data.files import save_arrays
from molflow.errors import MolflowError
from molflow.evaluation.throughput import conditions
from molflow.files import Closing, check_writable
from molflow.flows.acceleration import Precision
from molflow.flows.base import Flow
from molflow.progress import progress_bar

Data = TypeVar("Data", bound=Sized)
Record = dict[str, Any]


@dataclass(frozen=True)
class SamplingOptions:
    """Options of `molflow sample`.

    Attributes:
        model: name or folder of the model, for labels.
        n: number of samples.
        batch_size: samples drawn at a time.
        device: device of the flow, for records.
        evaluations: network evaluations for each sample; by default those the model was made for.
        seed: seed of the samples.
        temperature: standard deviation of the latent.
        density: compute the exact density of each sample, where the task and the flow can.
        only: "stable" draws until n molecules are stable and keeps those.
        correct: how samples are turned into samples of the target density.
        condition: value of each condition of a conditional model.
        compile, precision: as in `Flow.sample`; samples with their density take neither.
        ask: what all samples must have, as in `Flow.sample`; samples with their density cannot be asked for anything.
        progress: show a progress bar.
    """

    model: str
    n: int
    batch_size: int
    device: str
    evaluations: int | None = None
    seed: int = 0
    temperature: float = 1.0
    density: bool = True
    only: Literal["stable"] | None = None
    correct: Literal["metropolis", "importance", "annealing"] | None = None
    condition: Mapping[str, float | str] | None = None
    compile: bool | None = None
    precision: Precision = "float32"
    ask: Mapping[str, Any] = field(default_factory=dict)
    progress: bool = True

    @property
    def label(self) -> str:
        """The model, with the number of evaluations if one was given, and with what makes it faster."""
        name = self.model if self.evaluations is None else f"{self.model}@{self.evaluations}"
        faster = ["compiled"] * bool(self.compile) + [self.precision] * (self.precision != "float32")
        return ", ".join([name, *faster])

    def evaluations_of(self, flow: Flow[Any]) -> int | None:
        """The given number of evaluations, or else the flow's own; None where an adaptive solver decides."""
        return self.evaluations or flow.n_evaluations


class Samples(NamedTuple, Generic[Data]):
    """Samples on the CPU, and the log density with which they were drawn, nats (n,), if it is known."""

    data: Data
    log_prob: Tensor | None = None


def mean_condition(flow: Flow[Any]) -> Tensor | None:
    """The mean of the training data's conditions, (C,); None for a model that needs none."""
    return None if flow.conditions is None or flow.conditions.optional else flow.conditions.mean


class SampleWriter(Closing, Generic[Data]):
    """Writes samples to a file.

    Attributes:
        count: samples written.
        whole: those that are in the file whatever happens next.
    """

    count: int = 0
    whole: int = 0

    @abstractmethod
    def write(self, samples: Samples[Data]) -> None:
        """Append samples. Ctrl-C takes effect between two samples."""


class Scoring(Closing, Generic[Data]):
    """Collects samples and scores them in the end.

    Args:
        score: gives the scores of all samples.
        concatenate: joins batches.
    """

    def __init__(self, score: Callable[[Samples[Data]], Record], concatenate: Callable[[list[Data]], Data]):
        self._score, self._concatenate = score, concatenate
        self._parts: list[Samples[Data]] = []

    def add(self, samples: Samples[Data]) -> None:
        """Take further samples."""
        self._parts.append(samples)

    def record(self) -> Record:
        """Scores of all samples, of which there must be one."""
        return self._score(join(self._parts, self._concatenate))

    def close(self) -> None:
        """Nothing has to be ended."""


class Sampling(Generic[Data]):
    """Draws samples of a flow for a command, counts and times them. Iterate over it once, then call `figures`.

    Attributes:
        n_drawn: samples drawn.
        seconds: wall time of drawing them.
    """

    def __init__(self, flow: Flow[Data], options: SamplingOptions, noun: str, with_density: bool = False):
        self.flow, self.options, self.noun, self.with_density = flow, options, noun, with_density
        self.n_drawn, self.seconds = 0, 0.0

    def __iter__(self) -> Iterator[Samples[Data]]:
        """The samples to write, in batches."""
        with self._bar(self.options.n) as bar:
            for samples in self._batches(self.options.n, self.options.seed):
                bar.update(len(samples.data))
                yield samples

    def figures(self) -> Record:
        """Speed and settings, for the record of the command."""
        ask = self.options
        key = "ms_per_sample_with_density" if self.with_density else "ms_per_sample"
        return {
            "model": ask.model,
            "n": self.n_drawn,
            key: 1e3 * self.seconds / self.n_drawn,
            **conditions(ask.device, ask.batch_size),
            "sampling_seed": ask.seed,
            "temperature": ask.temperature,
            "evaluations": ask.evaluations_of(self.flow),
            "precision": ask.precision,
        }

    def notes(self) -> Sequence[str]:
        """Sentences that explain the figures."""
        return ()

    def none_left(self) -> str:
        """The error message for no samples to write."""
        return f"no {self.noun} were drawn"

    def _bar(self, total: int) -> "tqdm[Any]":
        return progress_bar(total=total, desc="sampling", unit="sample", disable=not self.options.progress)

    def _batches(self, n: int, seed: int) -> Iterator[Samples[Data]]:
        """n samples in batches on the CPU."""
        ask, condition = self.options, self.options.condition
        batches: Iterator[Any]
        if self.with_density:
            batches = self.flow.iter_samples_and_log_prob(n, seed, ask.temperature, ask.batch_size, condition=condition)
        else:
            plain = self.flow.iter_samples(
                n,
                seed,
                ask.temperature,
                ask.evaluations,
                ask.batch_size,
                condition=condition,
                compile=ask.compile if n == ask.n else bool(ask.compile),  # n may be without end
                precision=ask.precision,
                **ask.ask,
            )
            batches = ((data, None) for data in plain)
        before = time.perf_counter()
        for batch in batches:
            data: Any = batch[0]
            log_prob: Tensor | None = batch[1]
            samples: Samples[Data] = Samples(data.to("cpu"), None if log_prob is None else log_prob.cpu())
            self.seconds += time.perf_counter() - before
            self.n_drawn += len(data)
            yield samples
            before = time.perf_counter()


class Sampler(Generic[Data]):
    """Draws samples for a benchmark and counts the network evaluations of each.

    A conditional model is sampled at the mean of its conditions.
    """

    def __init__(self, flow: Flow[Data], options: SamplingOptions, data: type[DataSetConfig] | None):
        self.flow, self.options, self.data, self.evaluations = flow, options, data, 0.0

    def __call__(self, n: int, seed: int) -> Data:
        ask = self.options
        with self.flow.counted() as used:
            samples = self.flow.sample(
                n,
                seed=seed,
                n_evaluations=ask.evaluations,
                batch_size=ask.batch_size,
                condition=mean_condition(self.flow),
                compile=bool(ask.compile),
                precision=ask.precision,
            )
        self.evaluations = used.configurations / n
        return samples

    @property
    def has_density(self) -> bool:
        """Whether the exact density of these samples can be computed."""
        return self.flow.has_density(self.options.evaluations)

    def with_density(self, n: int, seed: int) -> tuple[Data, Tensor]:
        """n samples with their log density, with a progress bar."""
        batches = self.flow.iter_samples_and_log_prob(
            n, seed, batch_size=self.options.batch_size, condition=mean_condition(self.flow)
        )
        parts = []
        with progress_bar(total=n, desc=f"densities of {self.options.label}", unit="sample") as bar:
            for part in batches:
                parts.append(part)
                bar.update(len(part[0]))
        data, log_prob = zip(*parts, strict=True)
        return self.flow.domain.concatenate(data), torch.cat(log_prob)


class ArrayWriter(SampleWriter[Tensor]):
    """Writes samples that are one tensor to an .npz file, when it is closed.

    Args:
        path: the file; it is not written if there are no samples.
        key: name of the array of samples, beside which `log_prob` has their density if it is known.
        about: further arrays.
    """

    def __init__(self, path: Path, key: str, about: Mapping[str, np.ndarray]):
        self.path, self.key, self.about = path, key, about
        self._parts: list[Samples[Tensor]] = []

    def write(self, samples: Samples[Tensor]) -> None:
        self._parts.append(samples)
        self.count += len(samples.data)

    def close(self) -> None:
        if self._parts:
            data, log_prob = join(self._parts, torch.cat)
            density = {} if log_prob is None else {"log_prob": log_prob.numpy()}
            save_arrays(self.path, {self.key: data.numpy(), **density, **self.about})
            self._parts = []


def join(parts: Sequence[Samples[Data]], concatenate: Callable[[list[Data]], Data]) -> Samples[Data]:
    """All samples of several batches."""
    known = [part.log_prob for part in parts if part.log_prob is not None]
    return Samples(concatenate([part.data for part in parts]), torch.cat(known) if known else None)


def check_npz(path: Path, noun: str) -> None:
    """Raise MolflowError unless samples can be written to this .npz file."""
    if path.suffix.lower() != ".npz":
        raise MolflowError(f"{path}: {noun} go to an .npz file, not to {path.suffix!r}")
    check_writable(path)
