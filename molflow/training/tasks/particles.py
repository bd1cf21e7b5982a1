"""Identical particles: energies and weights in validation, exact densities, and corrected samples."""

import logging
import math
from collections.abc import Iterator, Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from torch import Tensor

from molflow.data.base import DataSetConfig, Loaded
from molflow.data.files import cache_path
from molflow.data.particles import load_particles, prepare_particles
from molflow.energies import System, anneal, check_energy, independent_metropolis, log_weights, resample, softened
from molflow.energies.base import Potential
from molflow.energies.checks import distinguishable
from molflow.energies.reweighting import effective_sample_size, weigh
from molflow.errors import MolflowError
from molflow.evaluation import EvaluationOptions, evaluate_boltzmann
from molflow.evaluation.measured import energies_of
from molflow.evaluation.throughput import ParticleSampler, particle_throughput
from molflow.flows.base import Flow
from molflow.progress import progress_bar
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
    join,
    mean_condition,
)

if TYPE_CHECKING:
    from molflow.training.config import ExperimentConfig

log = logging.getLogger("molflow")

_CHAIN_LENGTH = 100  # configurations that a Metropolis chain gives, after half as many of burn-in
_TICKS = 40  # steps of the progress bar of likelihoods
_MINUTE = 6_000_000  # degrees of freedom times pairs: exact densities that two CPU cores manage in about a minute
_FEW = 10  # configurations


@TASKS.register("particles")
class ParticlesTask(Task[Tensor]):
    """Configurations of particles (n, N, D).

    Args:
        data: as in `Task`.
        system: the energy that a user gave, in place of that of the data set.
    """

    name = "particles"
    noun = "configurations"
    default_output = "particles.npz"

    def __init__(self, data: type[DataSetConfig] | None = None, system: System | None = None):
        super().__init__(data)
        self.known = None if data is None else data.system()
        self.system = system or self.known

    @property
    def energy(self) -> Potential | None:
        return None if self.system is None else self.system.energy

    def splits(self, config: "ExperimentConfig") -> "ParticleSplits":
        self.check_data(config)
        self.system = config.data.own_system()
        if self.system is not None:
            self._check_shape(config, (self.system.energy.n_particles, self.system.energy.dim))
        loaded: list[Loaded[Tensor]] = [config.data.load(split) for split in ("train", "validation")]
        self._check_shape(config, tuple(loaded[0].data.shape[1:]))
        config = _with_species(config)
        domain: Any = config.model.domain.build()
        _check_particles(loaded[0].data, torch.tensor(domain.species), None if self.known else self.system)
        return ParticleSplits(self, config, *loaded)

    def _check_shape(self, config: "ExperimentConfig", shape: tuple[int, ...]) -> None:
        domain: Any = config.model.domain
        if shape != (domain.n_particles, domain.dim):
            raise MolflowError(
                f"model.domain: {config.data.name} has {shape[0]} particles in {shape[1]} dimensions, "
                f"got {domain.n_particles} and {domain.dim}"
            )

    def sampling(self, flow: Flow[Tensor], options: SamplingOptions) -> "ParticleSampling":
        return ParticleSampling(flow, options, self.noun, self.system)

    def check_output(self, path: Path, format: str | None = None) -> None:
        check_npz(path, "configurations of particles")

    def writer(self, path: Path, format: str | None = None) -> ArrayWriter:
        name = "" if self.known is None or self.system is not self.known or self.data is None else self.data.kind
        return ArrayWriter(path, "positions", {"system": np.array(name)})

    def score(
        self,
        samples: Samples[Tensor],
        options: EvaluationOptions,
        reference: Tensor | None = None,
        **likelihoods: Any,
    ) -> Record:
        """Scores against the energy and its test split; without a known energy, the shape of the samples.

        Args:
            samples: at least one.
            options: not used.
            reference: configurations of the target, in place of the test split.
            likelihoods: further arguments of `evaluate_boltzmann`.
        """
        if self.system is None:
            return dict(zip(("n_samples", "n_particles", "dim"), samples.data.shape, strict=True))
        scores = evaluate_boltzmann(
            samples.data,
            self.system.energy,
            log_prob=samples.log_prob,
            reference=self.test_split() if reference is None else reference,
            system=self.system,
            **likelihoods,
        )
        return scores.to_dict()

    def test_split(self) -> Tensor | None:
        """Exact samples of the energy, drawn first if they are not cached; None for a user's own energy."""
        if self.system is not self.known:
            return None
        assert self.data is not None
        assert self.data.kind is not None
        if not cache_path(self.data.kind).exists():
            log.warning("the reference, exact samples of %s, is drawn now and kept", self.data.kind)
            prepare_particles(self.data.kind, progress=True)
        return load_particles(self.data.kind, "test")

    def check_flow(self, flow: Flow[Any], model: str) -> None:
        """Raise MolflowError unless a flow is a model of particles of the shape of the energy."""
        domain: Any = flow.domain
        if domain.task != self.name:
            raise MolflowError(f"{model}: makes {domain.task}; expected a model of particles")
        assert self.system is not None
        energy = self.system.energy
        if (domain.n_particles, domain.dim) != (energy.n_particles, energy.dim):
            raise MolflowError(
                f"{model}: a model of {domain.n_particles} particles in {domain.dim} dimensions; "
                f"{self.system.name} has {energy.n_particles} in {energy.dim}"
            )

    def random_data(self, flow: Flow[Tensor], n: int, n_atoms: int | None = None) -> tuple[Tensor, Record]:
        domain: Any = flow.domain
        mask = torch.ones(n, domain.n_particles, dtype=torch.bool, device=flow.device)
        x = domain.space(mask).randn(flow.generator(0)).x * domain.scale
        return x.to("cpu"), {"n_particles": domain.n_particles, "dim": domain.dim}

    def throughput(
        self, samplers: Mapping[str, Sampler[Tensor]], n: int, novelty: Novelty, **settings: Any
    ) -> list[Record]:
        timed = {name: _particle_sampler(sampler, n) for name, sampler in samplers.items()}
        return particle_throughput(timed, n, **settings)


def _with_species(config: "ExperimentConfig") -> "ExperimentConfig":
    """The experiment with the species of the data in its model."""
    species, domain = config.data.species_numbers(), config.model.domain
    given = getattr(domain, "species", ())
    if species and given not in ((), species):
        raise MolflowError(f"model.domain.species: {list(given)} are not those of the data, {list(species)}")
    return with_model(config, domain=domain.model_copy(update={"species": species})) if species else config


def _check_particles(x: Tensor, species: Tensor, system: System | None) -> None:
    """Check a user's energy, one line each; without one, warn of particles that do not look interchangeable."""
    if system is not None:
        log.info("energy %s: %s", system.name, getattr(system.energy, "way", type(system.energy).__name__))
        for line in check_energy(system.energy, x, species, system.name):
            log.info("energy %s: %s", system.name, line)
    elif pair := distinguishable(x, species):
        log.warning(
            "particles %d and %d differ in their mean distance to the others; the model takes them as interchangeable. "
            "Where they are not, as in a chain, say so by data.species or data.bonds",
            *pair,
        )


class ParticleSplits(Splits[Tensor]):
    """Training and validation configurations (n, N, D).

    Attributes:
        energy: the energy that they are samples of, where it is known.
    """

    training: Tensor
    validation: Tensor

    def __init__(
        self,
        task: ParticlesTask,
        config: "ExperimentConfig",
        training: Loaded[Tensor],
        validation: Loaded[Tensor],
    ):
        super().__init__(task, config, training, validation)
        self.energy = task.energy

    @cached_property
    def target(self) -> Potential | None:
        """The energy, softened above the mean plus ten standard deviations over validation data.

        A lower limit fails: in most configurations some particles nearly touch, and an energy that is not high there
        attracts samples.
        """
        if self.energy is None:
            return None
        u = self.energy(self.validation[:1000])
        return softened(self.energy, float(u.mean() + 10 * u.std()))

    def sample_figures(self, flow: Flow[Tensor], n: int, seed: int) -> Record:
        """Median energies; where the flow has its density, also the effective sample size."""
        if self.energy is None:
            return {}
        energy = self.energy
        if evaluations_to_try(flow) == (None,):

            def weighed() -> tuple[Any, Tensor]:
                x, log_q = flow.sample_and_log_prob(n, seed=seed, condition=self.condition(n))
                u = energy(x)
                log_w = weigh(u, log_q)
                return effective_sample_size(log_w) if log_w.isfinite().any() else math.nan, u.median()

            return attempt(["ess_fraction", "median_energy"], weighed)
        return {
            f"median_energy{suffix(k)}": energy(self.sample(flow, n, seed, k)).median()
            for k in evaluations_to_try(flow)
        }


class ParticleSampling(Sampling[Tensor]):
    """Draws configurations, with their density if it can be computed, and corrects them towards the target.

    Args:
        flow, options, noun: as in `Sampling`.
        system: the target, if it is known.

    Raises:
        MolflowError: a correction without a known energy.
    """

    def __init__(self, flow: Flow[Tensor], options: SamplingOptions, noun: str, system: System | None):
        super().__init__(flow, options, noun, options.density and flow.has_density(options.evaluations))
        self.system = system
        self.correction: Record | None = None
        if options.correct is not None and system is None:
            raise MolflowError(
                f"{options.model}: was not trained on a system whose energy is known, which --correct needs; name it "
                "by --energy package.module:function"
            )

    def __iter__(self) -> Iterator[Samples[Tensor]]:
        if self.options.correct is None:
            yield from super().__iter__()
        else:
            yield Samples(self._corrected())

    def _propose(self, n: int, seed: int) -> tuple[Tensor, Tensor]:
        parts = []
        with self._bar(n) as bar:
            for samples in self._batches(n, seed):
                parts.append(samples)
                bar.update(len(samples.data))
        x, log_prob = join(parts, torch.cat)
        assert log_prob is not None
        self._proposals = x, log_prob
        return x, log_prob

    def _corrected(self) -> Tensor:
        """n configurations of the target, made of samples of the flow."""
        assert self.system is not None
        potential, n, seed = self.system.energy, self.options.n, self.options.seed

        def energy(x: Tensor) -> Tensor:
            return torch.from_numpy(energies_of(potential, x.numpy()))

        details: Record = {}
        if self.options.correct == "importance":
            x, log_prob = self._propose(n, seed)
            x = resample(x, log_weights(energy, x, log_prob), n, seed ^ 1)  # other random numbers than the noise's
        elif self.options.correct == "annealing":
            x, log_prob = self._propose(n, seed)
            annealed = anneal(potential, x.double(), log_prob, seed ^ 1)
            x = annealed.x.to(x.dtype)
            details = {name: value for name, value in annealed._asdict().items() if name != "x"}
        else:
            n_chains = -(-n // _CHAIN_LENGTH)
            x, acceptance = independent_metropolis(energy, self._propose, n, n_chains, seed)
            details = {"n_chains": n_chains, "acceptance": acceptance}
        proposals, log_prob = self._proposals
        self.correction = {
            "kind": self.options.correct,
            "n_proposals": len(proposals),
            **details,
            "ess_fraction": effective_sample_size(log_weights(energy, proposals, log_prob)),
            "n_distinct": len(np.unique(x.flatten(1).numpy(), axis=0)),
        }
        return x

    def figures(self) -> Record:
        return super().figures() | {"correction": self.correction}

    def notes(self) -> Sequence[str]:
        if self.correction is None:
            return ()
        found = self.correction
        ess = f"{100 * found['ess_fraction']:.3g} %"
        text = f"{found['n_proposals']:,} samples were drawn, with an effective sample size of {ess}"
        if found["kind"] == "importance":
            text += "; each was taken in proportion to its weight"
        elif found["kind"] == "annealing":
            start, kept = found["inverse_temperatures"][0], 100 * min(found["ess_fractions"])
            text += (
                f"; {len(found['inverse_temperatures'])} stages of resampling and moves began at the inverse "
                f"temperature {start:.3g}, kept at least {kept:.3g} % each and took {found['n_gradients']:,} "
                f"evaluations of the energy and its gradient for each sample; log Z is {found['log_z']:.5g}"
            )
        else:
            text += f"; {found['n_chains']:,} chains accepted {100 * found['acceptance']:.3g} % of them"
        text += f". {found['n_distinct']:,} of the {self.options.n:,} configurations are distinct."
        return (f"{text} The errors treat them as independent and are too small.",)


def likelihoods(flow: Flow[Tensor], data: Tensor) -> dict[str, Tensor]:
    """Arguments of `evaluate_boltzmann`: -log density by both maps, and the reconstruction error in data units.

    They are computed for the first configurations, as many as take about a minute.
    """
    n = min(len(data), n_densities(flow))
    parts = data[:n].split(max(1, n // _TICKS))
    found = []
    with progress_bar(total=n, desc="likelihood", unit="configuration") as bar:
        for part in parts:
            found.append(flow.likelihood(part, compare=True))
            bar.update(len(part))
    log_prob, errors, disagreement = (
        torch.cat([getattr(part, name) for part in found])
        for name in ("log_prob", "reconstruction_error", "disagreement")
    )
    domain: Any = flow.domain
    scores = {"nll_encoder": -log_prob, "nll_decoder": disagreement - log_prob}
    return scores | {"reconstruction_error": errors * domain.scale}


def n_densities(flow: Flow[Tensor]) -> int:
    """Number of configurations whose exact densities take about a minute, 10 to 10,000."""
    domain: Any = flow.domain
    with flow.counted() as used:  # an adaptive solver makes as many evaluations as it needs
        flow.sample(_FEW, seed=0, condition=mean_condition(flow))
    n_particles: int = domain.n_particles
    derivatives: int = (n_particles - 1) * domain.dim * used.configurations // _FEW
    return min(10_000, max(_FEW, _MINUTE // (derivatives * n_particles**2)))


def _particle_sampler(sampler: Sampler[Tensor], n: int) -> ParticleSampler:
    system = None if sampler.data is None else sampler.data.system()
    return ParticleSampler(
        sample=sampler,
        sample_and_log_prob=sampler.with_density if sampler.has_density else None,
        energy=None if system is None else system.energy,
        n_densities=min(n, n_densities(sampler.flow)),
    )
