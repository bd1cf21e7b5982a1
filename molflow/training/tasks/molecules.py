"""Molecules: types and compositions from the data, stability in validation, and files of structures."""

import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
import torch
from torch import Tensor

from molflow.batch import MoleculeBatch
from molflow.chem.io import Structure, StructureWriter, check_writable
from molflow.chem.writing import FORMATS
from molflow.data.base import Loaded
from molflow.data.loaders import Batches, EqualCostBatches, EqualSizeBatches, MixedSizeBatches
from molflow.data.structures import MoleculeSet
from molflow.distributions import COMPOSITIONS
from molflow.distributions.compositions import Given
from molflow.errors import MolflowError
from molflow.evaluation import METRICS, EvaluationOptions, MoleculeMetric, MoleculeReport, evaluate
from molflow.evaluation.background import BackgroundEvaluation
from molflow.evaluation.molecules import stability_of
from molflow.evaluation.throughput import sampling_record, sampling_throughput
from molflow.flows.base import Flow
from molflow.flows.domains import (
    ComposedMoleculeDomain,
    ComposedMoleculesConfig,
    Domain,
    MoleculeDomain,
    Representation,
    code_name,
    parse_type,
    type_codes,
)
from molflow.interrupts import held_interrupts
from molflow.training.metrics import attempt
from molflow.training.tasks.base import Novelty, Splits, Task, evaluations_to_try, suffix, with_model
from molflow.training.tasks.registry import TASKS
from molflow.training.tasks.sampling import Record, Sampler, Samples, SampleWriter, Sampling, SamplingOptions, Scoring
from molflow.workers import default_workers

if TYPE_CHECKING:
    from molflow.training.config import ExperimentConfig

_GIVE_UP = 20_000  # molecules drawn without a stable one
_N_ATOMS = 18  # the mean of QM9
_PROPERTIES = {"smiles": str, "status": str, "stable": bool, "stable_atoms": int, "valid": bool, "connected": bool}
"""Fields of `MoleculeReport` beside each molecule of a scored shard, and their types."""


@TASKS.register("molecules")
class MoleculesTask(Task[MoleculeBatch]):
    """Molecules, generated atom by atom, as united atoms or as united atoms in their environments."""

    name = noun = "molecules"
    default_output = "molecules.sdf"
    formats = FORMATS
    exact_likelihood = False
    rate_key = "molecules_per_s"
    price_key = "ms_per_molecule"

    def splits(self, config: "ExperimentConfig") -> "MoleculeSplits":
        self.check_data(config)
        domain: Any = config.model.domain
        loaded = {split: config.data.load(split) for split in config.data.splits}
        if domain.representation != "all-atom":
            loaded = {split: each._replace(data=each.data.united_atom()) for split, each in loaded.items()}
        codes = {split: _codes(each.data, domain.representation) for split, each in loaded.items()}
        known = np.unique(np.concatenate(list(codes.values())))
        training, validation = loaded["train"], loaded["validation"]
        if domain.types:
            known = _codes_with(known, domain.types)
        found: Record = {"types": tuple(code_name(code) for code in known.tolist())}
        compositions = rows_of = None
        if isinstance(domain, ComposedMoleculesConfig):
            distribution = COMPOSITIONS[domain.compositions]
            rows, held_out = (
                _compositions(loaded[split].data, codes[split], known) for split in ("train", "validation")
            )
            table, inverse, counts = map(
                torch.from_numpy, np.unique(rows, axis=0, return_inverse=True, return_counts=True)
            )
            possible = distribution.possible(torch.from_numpy(held_out), table)
            condition = None if validation.condition is None else validation.condition[possible]
            validation = Loaded(validation.data.subset(possible.numpy()), condition)
            compositions, rows_of = (table, counts), inverse.reshape(-1)
            found |= distribution.sizes(table)
        else:
            found["atom_counts"] = domain.atom_counts or tuple(np.bincount(training.data.n_atoms).tolist())
        config = with_model(config, domain=domain.model_copy(update=found))
        return MoleculeSplits(self, config, training, validation, compositions, rows_of)

    @property
    def bonds(self) -> Literal["lookup", "perceived"]:
        """How bonds of samples are found: as RDKit perceives them for models of a user's own molecules.

        Look-up bonds are those of QM9, and of models whose data are not known.
        """
        return "lookup" if self.data is None or self.data.reference else "perceived"

    def sampling(self, flow: Flow[MoleculeBatch], options: SamplingOptions) -> "MoleculeSampling":
        return MoleculeSampling(flow, options, self)

    def check_output(self, path: Path, format: str | None = None) -> None:
        check_writable(path, format)

    def writer(self, path: Path, format: str | None = None) -> "MoleculeWriter":
        return MoleculeWriter(path, format, self.bonds)

    def write_shard(self, path: Path, format: str, batches: Iterable[Samples[MoleculeBatch]], scored: bool) -> Record:
        structures = (structure for samples in batches for structure in samples.data.structures())
        columns = _PROPERTIES if scored else None
        with StructureWriter(path, format, columns, in_place=True, bonds=self.bonds) as writer:
            if not scored:
                for structure in structures:
                    writer.write(structure)
                return {"n": writer.count}

            def write(report: MoleculeReport, structure: Structure | None) -> None:
                assert structure is not None
                writer.write(structure, {name: getattr(report, name) for name in _PROPERTIES})

            options = self._for_samples(EvaluationOptions(scope="lookup", workers=0))
            scores = evaluate(structures, options=options, each=write).metrics
        additive = [name for name in scores if issubclass(METRICS[name], MoleculeMetric)]
        return {"n": writer.count, "scores": {name: [scores[name].count, scores[name].of] for name in additive}}

    def score(self, samples: Samples[MoleculeBatch], options: EvaluationOptions) -> Record:
        return evaluate(samples.data, options=self._for_samples(options)).to_dict()

    def scoring(self, flow: Flow[MoleculeBatch], options: EvaluationOptions) -> "MoleculeScoring":
        return MoleculeScoring(self._for_samples(options))

    def _for_samples(self, options: EvaluationOptions) -> EvaluationOptions:
        """Options with the reference of the data, and where bonds are perceived, with a worker that does it."""
        options = replace(options, reference=None if self.data is None else self.data.reference)
        if self.bonds == "lookup":
            return options
        return replace(options, scope="all", bonds=self.bonds, workers=options.workers or min(1, default_workers()))

    def random_data(
        self, flow: Flow[MoleculeBatch], n: int, n_atoms: int | None = None
    ) -> tuple[MoleculeBatch, Record]:
        domain: Any = flow.domain
        assert isinstance(domain, MoleculeDomain | ComposedMoleculeDomain)
        generator = flow.generator(0)
        mask = torch.ones(n, n_atoms or _N_ATOMS, dtype=torch.bool, device=flow.device)
        positions = domain.space(mask).randn(generator).x * domain.scale
        types = torch.randint(len(domain.types), mask.shape, generator=generator, device=flow.device)
        batch = domain.points_as_molecules(positions, types, mask)
        return batch.to("cpu"), {"n_atoms": mask.shape[1]}

    def throughput(
        self, samplers: Mapping[str, Sampler[MoleculeBatch]], n: int, novelty: Novelty, **settings: Any
    ) -> list[Record]:
        bonds = {name: MoleculesTask(sampler.data).bonds for name, sampler in samplers.items()}
        return sampling_throughput(samplers, n, training=novelty(), bonds=bonds, **settings)


class MoleculeSplits(Splits[MoleculeBatch]):
    """Training and validation molecules.

    Attributes:
        compositions: the distinct compositions of the training data (K, T) and how often each occurs (K,), where types
            are given; else None. The validation set then lacks the molecules whose composition has probability zero:
            with a table of united atoms 1.2 % of QM9's, with a model those larger than all training molecules.
        rows: of the compositions, that of each training molecule (M,); None as for `compositions`.
    """

    task: MoleculesTask
    training: MoleculeSet
    validation: MoleculeSet

    def __init__(
        self,
        task: MoleculesTask,
        config: "ExperimentConfig",
        training: Loaded[MoleculeSet],
        validation: Loaded[MoleculeSet],
        compositions: tuple[Tensor, Tensor] | None,
        rows: Tensor | None,
    ):
        super().__init__(task, config, training, validation)
        self.compositions, self.rows = compositions, rows
        domain: Any = self.config.model.domain
        if compositions is not None and COMPOSITIONS[domain.compositions].takes_conditions:
            conditions = self.config.model.conditions
            n = 0 if conditions is None else conditions.build().n_inputs
            self.config = with_model(self.config, domain=domain.model_copy(update={"n_conditions": n}))

    def fit(self, domain: Domain[Any]) -> None:
        if self.compositions is not None:
            assert isinstance(domain, ComposedMoleculeDomain)
            given = None
            if domain.compositions.n_conditions:
                assert self.conditions is not None
                assert self.rows is not None
                assert self.config.model.conditions is not None
                conditions = self.config.model.conditions.build()
                values = conditions(self.conditions[0], len(self.training), torch.float32)
                given = Given(values, self.rows, conditions.optional)
            domain.compositions.fit(*self.compositions, seed=self.config.seed, progress=True, given=given)

    @property
    def _mixed(self) -> bool:
        return self.config.training.batches == "mixed_size"

    @property
    def one_shape(self) -> bool:
        return self._mixed

    def batches(self) -> Batches:
        size, seed = self.config.training.batch_size, self.config.seed
        if self._mixed:
            return MixedSizeBatches(len(self.training), size, seed)
        kind = EqualCostBatches if self.config.training.batches == "equal_cost" else EqualSizeBatches
        return kind(self.training.n_atoms, size, seed)

    def _training_batch(self, indices: np.ndarray) -> MoleculeBatch:
        """Batches of mixed sizes are all padded to the largest molecule."""
        return self.training.batch(indices, int(self.training.n_atoms.max()) if self._mixed else None)

    def _validation_batch(self, n: int) -> MoleculeBatch:
        return self.validation.batch(slice(n))

    def sample_figures(self, flow: Flow[MoleculeBatch], n: int, seed: int) -> Record:
        """Stability, and for environment types `realised`, see `MoleculeSampling`; average velocities have more."""
        domain: Any = flow.domain
        bonds = self.task.bonds
        names = ["atom_stability", "molecule_stability"]
        if domain.representation == "environment" and bonds == "lookup":
            names.append("realised")
        figures: Record = {}
        for k in evaluations_to_try(flow):

            def scores(k: int | None = k) -> tuple[Tensor, ...]:
                samples = self.sample(flow, n, seed, k)
                atoms, molecules = stability_of(samples, bonds)
                realised = (samples.realised().float().mean(),) if "realised" in names else ()
                return atoms.sum() / samples.mask.sum(), molecules.float().mean(), *realised

            figures |= attempt([name + suffix(k) for name in names], scores)
        return figures


class MoleculeSampling(Sampling[MoleculeBatch]):
    """Draws molecules; with `only` until n of them are stable, or 20,000 without a stable one.

    Attributes:
        n_stable: stable molecules among those drawn.
        n_realised: those whose look-up bonds are those of their environment types; None for models of other types, and
            where bonds are perceived, which may be those of another mesomeric form.
    """

    n_stable = 0
    n_realised: int | None = None

    def __init__(self, flow: Flow[MoleculeBatch], options: SamplingOptions, task: MoleculesTask):
        super().__init__(flow, options, task.noun)
        self._bonds = task.bonds

    def __iter__(self) -> Iterator[Samples[MoleculeBatch]]:
        ask = self.options
        left = ask.n
        with self._bar(ask.n) as bar:
            for samples in self._batches(sys.maxsize if ask.only else ask.n, ask.seed):
                stable = stability_of(samples.data, self._bonds)[1]
                self.n_stable += int(stable.sum())
                if samples.data.environments is not None and self._bonds == "lookup":
                    self.n_realised = (self.n_realised or 0) + int(samples.data.realised().sum())
                kept = (samples.data[stable] if ask.only else samples.data)[:left]
                left -= len(kept)
                bar.update(len(kept))
                yield Samples(kept)
                if not left or (left == ask.n and self.n_drawn >= _GIVE_UP):
                    return

    def figures(self) -> Record:
        ask = self.options
        speed = sampling_record(ask.model, self.n_drawn, self.n_stable, self.seconds, ask.device, ask.batch_size)
        settings = {
            "seed": ask.seed,
            "temperature": ask.temperature,
            "evaluations": ask.evaluations_of(self.flow),
            "precision": ask.precision,
        }
        realised = {} if self.n_realised is None else {"realised": self.n_realised / self.n_drawn}
        return speed | settings | {"only": ask.only} | realised

    def notes(self) -> Sequence[str]:
        notes = []
        if self.options.only:
            share = f"{100 * self.n_stable / self.n_drawn:.1f} %"
            notes.append(f"{self.n_drawn:,} molecules were drawn, {share} of them stable; times count them all.")
        if self.n_realised is not None:
            share = f"{100 * self.n_realised / self.n_drawn:.1f} %"
            notes.append(f"{share} of the molecules drawn have the bonds between heavy atoms that their types say.")
        return notes

    def none_left(self) -> str:
        return f"none of {self.n_drawn:,} molecules is stable: this model needs more training"


class MoleculeScoring(Scoring[MoleculeBatch]):
    """Scores molecules beside sampling."""

    def __init__(self, options: EvaluationOptions):
        self._evaluation = BackgroundEvaluation(options)

    def add(self, samples: Samples[MoleculeBatch]) -> None:
        self._evaluation.add(samples.data)

    def record(self) -> Record:
        return self._evaluation.scores().to_dict()

    def close(self) -> None:
        self._evaluation.close()


class MoleculeWriter(SampleWriter[MoleculeBatch]):
    """Writes molecules to a file."""

    def __init__(self, path: Path, format: str | None, bonds: Literal["lookup", "perceived"]):
        self._writer = StructureWriter(path, format, bonds=bonds)

    def write(self, samples: Samples[MoleculeBatch]) -> None:
        for structure in samples.data.structures():
            with held_interrupts() as interrupted:  # otherwise the file could hold one more than is counted
                self._writer.write(structure)
                self.count, self.whole = self._writer.count, self._writer.whole
            if interrupted():
                raise KeyboardInterrupt

    def close(self) -> None:
        self._writer.close()


def _codes(molecules: MoleculeSet, representation: Representation) -> np.ndarray:
    """The code of the type of every atom, in the order of elements, then of hydrogens, then of bonds."""
    numbers = torch.from_numpy(molecules.atomic_numbers)
    hydrogens = torch.zeros_like(numbers) if molecules.hydrogens is None else torch.from_numpy(molecules.hydrogens)
    bonds = torch.from_numpy(molecules.heavy_bonds()) if representation == "environment" else None
    return type_codes(numbers, hydrogens, bonds).numpy()


def _codes_with(known: np.ndarray, types: Sequence[str]) -> np.ndarray:
    """The codes of given types, which are those of the data and perhaps more, in ascending order of codes.

    Raises:
        MolflowError: another order, or a type of the data is missing.
    """
    numbers, hydrogens, bonds = zip(*map(parse_type, types), strict=True)
    given = None if None in bonds else torch.tensor(bonds)
    codes: np.ndarray = type_codes(torch.tensor(numbers), torch.tensor(hydrogens), given).numpy()
    if (np.diff(codes) <= 0).any() or len(np.setdiff1d(known, codes)):
        found = ", ".join(code_name(code) for code in known.tolist())
        raise MolflowError(f"model.domain.types: leave it out, or give those of the data, {found}, in that order")
    return codes


def _compositions(molecules: MoleculeSet, codes: np.ndarray, known: np.ndarray) -> np.ndarray:
    """Number of atoms of each known type in each molecule, (M, T)."""
    types = np.searchsorted(known, codes)
    owner = np.repeat(np.arange(len(molecules)), molecules.n_atoms)
    counts = np.bincount(owner * len(known) + types, minlength=len(molecules) * len(known))
    table: np.ndarray = counts.reshape(-1, len(known))
    return table
