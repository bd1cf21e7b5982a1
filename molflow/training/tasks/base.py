"""The contract of tasks: the splits that a model trains on, and how samples are drawn, written, scored and timed."""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar, Generic

import numpy as np
import torch
from torch import Tensor

from molflow.checksums import digest
from molflow.data.base import DataSetConfig, Loaded
from molflow.data.batches import Batch
from molflow.data.loaders import Batches, MixedSizeBatches
from molflow.energies.base import Potential
from molflow.errors import MolflowError
from molflow.evaluation.options import EvaluationOptions
from molflow.flows.base import Flow
from molflow.flows.conditions import ConditionsConfig
from molflow.flows.domains import Domain
from molflow.training.tasks.sampling import (
    Data,
    Record,
    Sampler,
    Samples,
    SampleWriter,
    Sampling,
    SamplingOptions,
    Scoring,
)

if TYPE_CHECKING:
    from molflow.evaluation import TrainingReference
    from molflow.training.config import ExperimentConfig
    from molflow.training.objectives.base import ObjectiveConfig


_SEVERAL_EVALUATIONS = (4, 16)  # numbers of evaluations at which validation samples an average velocity


class Splits(ABC, Generic[Data]):
    """Training and validation data of an experiment, and its model fitted to them.

    Attributes:
        task: the task of the data.
        config: the experiment; the fields of its model that follow from the data are filled in.
        training, validation: a `MoleculeSet`, or a tensor.
        conditions: of training and validation data, (n, C) each, or None.
    """

    training: Any
    validation: Any

    def __init__(self, task: "Task[Data]", config: "ExperimentConfig", training: Loaded[Any], validation: Loaded[Any]):
        self.task = task
        self.config = _with_conditions(config, training.condition)
        self.training, self.validation = training.data, validation.data
        self.conditions: tuple[Tensor, Tensor] | None = None
        if training.condition is not None and validation.condition is not None:
            self.conditions = training.condition, validation.condition

    @property
    def split(self) -> str:
        """Words for the data that the model is trained on, for its card."""
        return self.config.data.split_text(len(self.training))

    def fingerprint(self) -> str:
        """A hash of all data."""
        return digest([self.training, self.validation, self.conditions])

    @property
    def target(self) -> Potential | None:
        """The energy for objectives that train by energy, kT, where it is known."""
        return None

    def fit(self, domain: Domain[Any]) -> None:
        """Fit a new domain to the training data."""

    def batches(self) -> Batches:
        """The order of training data in batches; by default full batches in random order."""
        return MixedSizeBatches(len(self.training), self.config.training.batch_size, self.config.seed)

    @property
    def one_shape(self) -> bool:
        """Whether all batches have the same shape, which a compiled loss needs."""
        return True

    def validates_likelihood(self, objective: "ObjectiveConfig") -> bool:
        """Whether validation computes the exact likelihood of held-out data."""
        return objective.exact_likelihood == "always" or (
            objective.exact_likelihood == "cheap" and self.task.exact_likelihood
        )

    def batch(self, indices: np.ndarray) -> Batch:
        """Training data on the CPU."""
        chosen = torch.from_numpy(indices)
        condition = None if self.conditions is None else self._hidden(self.conditions[0][chosen], indices)
        return Batch(self._training_batch(indices), condition)

    def _hidden(self, condition: Tensor, indices: np.ndarray) -> Tensor:
        """Conditions of a batch (B, C), a share of them NaN; which ones depends on the batch and the seed alone."""
        if not (share := self.config.training.condition_dropout):
            return condition
        random = np.random.default_rng([self.config.seed, *indices.tolist()]).random(tuple(condition.shape))
        return condition.masked_fill(torch.from_numpy(random < share), torch.nan)

    def held_out(self, n: int) -> Batch:
        """The first n validation data on the CPU."""
        return Batch(self._validation_batch(n), None if self.conditions is None else self.conditions[1][:n])

    def sample(self, flow: Flow[Data], n: int, seed: int, n_evaluations: int | None = None) -> Data:
        """Samples of a flow for validation, under the conditions of validation data if the model has conditions."""
        return flow.sample(n, seed=seed, n_evaluations=n_evaluations, condition=self.condition(n))

    def condition(self, n: int) -> Tensor | None:
        """The conditions of n samples (n, C), those of the validation data in turn; None without conditions.

        Where no validation datum is possible under the model, they are those of the training data.
        """
        if self.conditions is None:
            return None
        training, validation = self.conditions
        values = validation if len(validation) else training
        return values[torch.arange(n, device=values.device) % len(values)]

    def _training_batch(self, indices: np.ndarray) -> Data:
        data: Data = self.training[torch.from_numpy(indices)]
        return data

    def _validation_batch(self, n: int) -> Data:
        data: Data = self.validation[:n]
        return data

    @abstractmethod
    def sample_figures(self, flow: Flow[Data], n: int, seed: int) -> Record:
        """Figures of n samples of a flow, for the log."""


def _with_conditions(config: "ExperimentConfig", values: Tensor | None) -> "ExperimentConfig":
    """The experiment with names, means and standard deviations of the training data's conditions in its model."""
    names = config.data.condition
    if values is None:
        if config.model.conditions is not None:
            raise MolflowError("model.conditions: name the conditions in data.condition; training fills in the rest")
        return config
    if values.shape[1] != len(names):
        raise MolflowError(f"data.condition: the data set gives {values.shape[1]} values, got {len(names)} names")
    mean, std = values.double().mean(0), values.double().std(0)
    if not (std > 0).all():
        constant = names[int((std > 0).long().argmin())]
        raise MolflowError(f"data.condition: {constant} is the same for all training data")
    units = tuple(config.data.units.get(name, "") for name in names)
    optional = config.training.condition_dropout > 0
    fitted = ConditionsConfig(
        names=names, mean=tuple(mean.tolist()), std=tuple(std.tolist()), units=units, optional=optional
    )
    return with_model(config, conditions=fitted)


def with_model(config: "ExperimentConfig", **update: Any) -> "ExperimentConfig":
    """The experiment with other values in its model."""
    return config.model_copy(update={"model": config.model.model_copy(update=update)})


Novelty = Callable[[], "TrainingReference | None"]


class Task(ABC, Generic[Data]):
    """The contract of training, sampling and scoring for one kind of data.

    Args:
        data: the data set of the model, if it is known.

    Attributes:
        name: the name in the registry and in `Domain.task`.
        noun: the plural noun for samples, such as "configurations".
        default_output: file of `molflow sample`.
        formats: formats of files of samples, the first of which is that of shards by default.
        exact_likelihood: whether exact likelihoods are cheap enough for every validation.
        rate_key: key of the speed in the record of `molflow benchmark training`.
        price_key: key of the cost by which `molflow benchmark sampling` compares models.
    """

    name: ClassVar[str]
    noun: ClassVar[str]
    default_output: ClassVar[str]
    formats: ClassVar[tuple[str, ...]] = ("npz",)
    exact_likelihood: ClassVar[bool] = True
    rate_key: ClassVar[str] = "samples_per_s"
    price_key: ClassVar[str] = "ms_per_sample"

    def __init__(self, data: type[DataSetConfig] | None = None):
        self.data = data

    @property
    def energy(self) -> Potential | None:
        """The energy whose samples the data are, kT, where it is known."""
        return None

    @abstractmethod
    def splits(self, config: "ExperimentConfig") -> Splits[Data]:
        """Read the data of an experiment and fit its model to them; raises MolflowError where they do not fit."""

    @abstractmethod
    def sampling(self, flow: Flow[Data], options: SamplingOptions) -> Sampling[Data]:
        """Prepare to draw samples for `molflow sample`."""

    @abstractmethod
    def check_output(self, path: Path, format: str | None = None) -> None:
        """Raise MolflowError if samples cannot be written to a file; by default in the format that its suffix names."""

    @abstractmethod
    def writer(self, path: Path, format: str | None = None) -> SampleWriter[Data]:
        """Open a file for samples, by default of the format that its suffix names."""

    def write_shard(self, path: Path, format: str, batches: Iterable[Samples[Data]], scored: bool) -> Record:
        """Write samples to a new file; an exception leaves it unfinished.

        Returns:
            `n`, the number of samples, and what adds up over shards: molecules have `scores`, a count and the number
            of what it is out of for each score, where they are to be scored.
        """
        with self.writer(path, format) as writer:
            for samples in batches:
                writer.write(samples)
        return {"n": writer.count}

    @abstractmethod
    def score(self, samples: Samples[Data], options: EvaluationOptions) -> Record:
        """Scores of samples.

        Args:
            samples: at least one.
            options: molecules: how much is computed, and the training molecules for novelty.
        """

    def scoring(self, flow: Flow[Data], options: EvaluationOptions) -> Scoring[Data]:
        """Prepare to score samples of a flow that arrive in batches; arguments as in `score`."""
        return Scoring(partial(self.score, options=options), flow.domain.concatenate)

    @abstractmethod
    def random_data(self, flow: Flow[Data], n: int, n_atoms: int | None = None) -> tuple[Data, Record]:
        """n random data on the CPU for the benchmark of training, and the figures of their shape."""

    @abstractmethod
    def throughput(
        self, samplers: Mapping[str, Sampler[Data]], n: int, novelty: Novelty, **settings: Any
    ) -> list[Record]:
        """Speeds of models by name, for `molflow benchmark sampling`.

        Args:
            samplers: each draws n samples with a seed.
            n: samples in each repeat.
            novelty: gives the reference for novelty, where it can be had.
            settings: `batch_size`, `device` and `progress` of `molflow.evaluation.throughput`.
        """

    def random_condition(self, flow: Flow[Data], n: int) -> Tensor | None:
        """Random conditions of n data (n, C) on the CPU; None for a model without conditions."""
        if flow.conditions is None:
            return None
        mean, std = flow.conditions.mean.cpu(), flow.conditions.std.cpu()
        noise = torch.randn(n, len(mean), generator=torch.Generator().manual_seed(0), dtype=mean.dtype, device="cpu")
        return mean + std * noise

    def check_data(self, config: "ExperimentConfig") -> None:
        """Raise MolflowError if the model is not for this kind of data."""
        domain = config.model.domain
        if domain.task != self.name:
            raise MolflowError(f"model.domain.kind is {domain.kind}; the data set {config.data.name} is of {self.name}")


def suffix(n_evaluations: int | None) -> str:
    """Ending of the name of a figure of samples drawn with this number of evaluations."""
    return "" if n_evaluations is None else f"_{n_evaluations}_evaluations"


def evaluations_to_try(flow: Flow[Any]) -> tuple[int | None, ...]:
    """Numbers of network evaluations that validation samples with: the flow's own, and more for an average velocity."""
    return (None, *_SEVERAL_EVALUATIONS) if getattr(flow, "has_average_velocity", False) else (None,)
