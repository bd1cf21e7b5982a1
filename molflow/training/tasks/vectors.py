"""Vectors: the model fitted to their mean and spread, and the distance of its samples from held-out data."""

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from molflow.errors import MolflowError
from molflow.evaluation import EvaluationOptions
from molflow.evaluation.throughput import ParticleSampler, particle_throughput
from molflow.flows.base import Flow
from molflow.training.metrics import attempt
from molflow.training.tasks.base import Novelty, Splits, Task, evaluations_to_try, suffix, with_model
from molflow.training.tasks.registry import TASKS
from molflow.training.tasks.sampling import (
    ArrayWriter,
    Record,
    Sampler,
    Samples,
    Sampling,
    SamplingOptions,
    check_npz,
)

if TYPE_CHECKING:
    from molflow.training.config import ExperimentConfig

_MOST_DENSITIES = 10_000


@TASKS.register("vectors")
class VectorsTask(Task[Tensor]):
    """Vectors (n, F)."""

    name = noun = "vectors"
    default_output = "vectors.npz"

    def splits(self, config: "ExperimentConfig") -> "VectorSplits":
        self.check_data(config)
        domain: Any = config.model.domain
        training, validation = (config.data.load(split) for split in ("train", "validation"))
        n_features = training.data.shape[1]
        if domain.n_features not in (0, n_features):
            raise MolflowError(
                f"model.domain.n_features is {domain.n_features}; the vectors of {config.data.name} have {n_features}"
            )
        mean, std = training.data.double().mean(0), training.data.double().std(0)
        if not (std > 0).all():
            raise MolflowError(
                f"{config.data.name}: number {int((std > 0).long().argmin())} of all vectors is the same"
            )
        found = {
            "n_features": n_features,
            "mean": domain.mean or tuple(mean.tolist()),
            "std": domain.std or tuple(std.tolist()),
        }
        config = with_model(config, domain=domain.model_copy(update=found))
        return VectorSplits(self, config, training, validation)

    def sampling(self, flow: Flow[Tensor], options: SamplingOptions) -> Sampling[Tensor]:
        return Sampling(flow, options, self.noun, options.density and flow.has_density(options.evaluations))

    def check_output(self, path: Path, format: str | None = None) -> None:
        check_npz(path, self.noun)

    def writer(self, path: Path, format: str | None = None) -> ArrayWriter:
        return ArrayWriter(path, "x", {})

    def score(self, samples: Samples[Tensor], options: EvaluationOptions) -> Record:
        """Mean and standard deviation of each number."""
        x = samples.data.double()
        return {
            "n_samples": len(x),
            "n_features": x.shape[1],
            "mean": x.mean(0).tolist(),
            "std": x.std(0, correction=0).tolist(),
        }

    def random_data(self, flow: Flow[Tensor], n: int, n_atoms: int | None = None) -> tuple[Tensor, Record]:
        generator = flow.generator(0)
        context = flow.domain.sample_context(n, generator, flow.device, flow.dtype)
        x = flow.domain.from_points(flow.domain.space(context.mask).randn(generator, flow.dtype), context)
        return x.to("cpu"), {"n_features": flow.domain.n_features}

    def throughput(
        self, samplers: Mapping[str, Sampler[Tensor]], n: int, novelty: Novelty, **settings: Any
    ) -> list[Record]:
        timed = {
            name: ParticleSampler(
                sample=sampler,
                sample_and_log_prob=sampler.with_density if sampler.has_density else None,
                energy=None,
                n_densities=min(n, _MOST_DENSITIES),
            )
            for name, sampler in samplers.items()
        }
        return particle_throughput(timed, n, **settings)


class VectorSplits(Splits[Tensor]):
    """Training and validation vectors (n, F)."""

    training: Tensor
    validation: Tensor

    def sample_figures(self, flow: Flow[Tensor], n: int, seed: int) -> Record:
        """Wasserstein-1 distance of the marginals from validation data, in standard deviations, the mean over them."""
        figures: Record = {}
        for k in evaluations_to_try(flow):

            def distance(k: int | None = k) -> tuple[Tensor]:
                return (marginal_distance(self.sample(flow, n, seed, k).cpu(), self.validation),)

            figures |= attempt([f"w1{suffix(k)}"], distance)
        return figures


def marginal_distance(x: Tensor, reference: Tensor) -> Tensor:
    """Mean over F of W1(x_k, r_k) / std(r_k), from 101 quantiles of each marginal; (n, F) and (m, F) -> ()."""
    levels = torch.linspace(0, 1, 101, dtype=torch.float64)
    quantiles = [torch.quantile(values.double(), levels, dim=0) for values in (x, reference)]
    return ((quantiles[0] - quantiles[1]).abs().mean(0) / reference.double().std(0)).mean()
