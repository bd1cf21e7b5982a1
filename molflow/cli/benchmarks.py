"""What the commands that measure speed do: sampling, a training step, and the stability look-up."""

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch
from tqdm import tqdm

import molflow
from molflow.batch import MoleculeBatch
from molflow.chem import Structure
from molflow.cli.molecules import training_reference
from molflow.cli.options import Draw, UsageError, of_particles, refuse, system_of
from molflow.cli.output import Record, show
from molflow.cli.particles import n_densities
from molflow.data import load_qm9
from molflow.errors import MolflowError
from molflow.evaluation.options import SCOPES, Scope
from molflow.evaluation.parallel import default_workers
from molflow.evaluation.throughput import (
    ParticleSampler,
    conditions,
    particle_throughput,
    peak_memory_mb,
    reset_peak_memory,
    sampling_throughput,
    seconds,
    training_throughput,
)
from molflow.flows import ComposedMoleculeDomain, Flow, MoleculeDomain, ParticleDomain
from molflow.pretrained import folder_of
from molflow.training.checkpoint import CARD, read_config, read_json
from molflow.training.objectives import accumulate_gradients, build_objective

_N_ATOMS = 18  # the mean of QM9


def benchmark_sampling(flows: Sequence[Flow], draws: Sequence[Draw]) -> list[Record]:
    """Time the sampling of models in turns: of molecules, or of particles, then with densities as well.

    The likelihood is that of the card, of held-out data, where a model has been scored.
    """
    samplers = {draw.label: _Sampler(flow, draw) for flow, draw in zip(flows, draws, strict=True)}
    if len(samplers) < len(draws):
        raise UsageError("--models names one of them twice")
    if len({of_particles(flow) for flow in flows}) > 1:
        raise UsageError("--models: molecules and particles cannot be compared")
    first = draws[0]
    settings: dict[str, Any] = {"batch_size": first.batch_size, "device": first.device, "progress": True}
    if of_particles(flows[0]):
        of_particles_by_name = {name: sampler.of_particles() for name, sampler in samplers.items()}
        records, price = particle_throughput(of_particles_by_name, first.n, **settings), "ms_per_sample"
    else:
        training = training_reference(None, wanted=True)
        records, price = sampling_throughput(samplers, first.n, training=training, **settings), "ms_per_molecule"
    return [
        {"model": record["model"], "evaluations_per_sample": sampler.evaluations, **record}
        | {"evaluations": sampler.draw.evaluations_of(sampler.flow), **_likelihoods_of_card(sampler.draw.model)}
        | ({f"relative_{price}": record[price] / records[0][price]} if len(records) > 1 else {})
        for record, sampler in zip(records, samplers.values(), strict=True)
    ]


class _Sampler:
    """Draws samples of a flow, and counts how often its network was used for each."""

    def __init__(self, flow: Flow, draw: Draw):
        self.flow, self.draw, self.evaluations = flow, draw, 0.0

    def __call__(self, n: int, seed: int) -> Any:
        draw = self.draw
        with self.flow.counted() as used:
            samples = self.flow.sample(n, seed=seed, n_evaluations=draw.evaluations, batch_size=draw.batch_size)
        self.evaluations = used.configurations / n
        return samples

    def of_particles(self) -> ParticleSampler:
        system, draw = system_of(self.draw.model), self.draw
        return ParticleSampler(
            sample=self,
            sample_and_log_prob=self._with_density if self.flow.has_density(draw.evaluations) else None,
            energy=None if system is None else system.energy,
            n_densities=min(draw.n, n_densities(self.flow)),
        )

    def _with_density(self, n: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
        batches = self.flow.iter_samples_and_log_prob(n, seed, batch_size=self.draw.batch_size)
        with tqdm(total=n, desc=f"densities of {self.draw.label}", unit="sample", dynamic_ncols=True) as bar:
            parts = []
            for part in batches:
                parts.append(part)
                bar.update(len(part[0]))
        x, log_prob = zip(*parts, strict=True)
        return torch.cat(x), torch.cat(log_prob)


def _likelihoods_of_card(model: str) -> Record:
    """Negative log-likelihoods of test data by both maps; what the card does not have is None."""
    card = folder_of(model) / CARD
    scores = (read_json(card).get("scores") if card.exists() else None) or {}
    maps = ("encoder", "decoder")
    return {f"test_nll_{which}": scores.get(f"test_nll_{which}", scores.get(f"nll_{which}")) for which in maps}


def benchmark_evaluation(n: int, workers: int | None, json: Path | None) -> None:
    """Time each scope of an evaluation: of stability alone on all of QM9, of the others on n test molecules."""
    test = list(load_qm9("test").structures())
    few = test if n >= len(test) else test[:n]
    records = []
    for scope in SCOPES:
        structures = list(load_qm9("all").structures()) if scope == "stability" else few
        records.append(_evaluation_record(structures, scope, workers))
    show(records, json)


def _evaluation_record(structures: Sequence[Structure], scope: Scope, workers: int | None) -> Record:
    scores: list[Any] = []
    reset_peak_memory()
    progress = scope == "all"
    work = partial(molflow.evaluate, structures, reference="qm9", scope=scope, workers=workers, progress=progress)
    elapsed = seconds(lambda: scores.append(work()))
    return {
        "scope": scope,
        "n_molecules": scores[0].n_molecules,
        "n_atoms": scores[0].n_atoms,
        "molecule_stability": scores[0].molecule_stability,
        "atom_stability": scores[0].atom_stability,
        "connected_validity": scores[0].connected_validity,
        "seconds": elapsed,
        "molecules_per_s": len(structures) / elapsed,
        "workers": (workers or default_workers()) if scope == "all" else 0,
        "threads": conditions("cpu", 0)["threads"],
        "peak_memory_mb": peak_memory_mb(),
    }


def benchmark_training(
    flow: Flow, model: str, n_atoms: int | None, batch_size: int, micro_batch: int | None, device: str
) -> dict[str, Any]:
    """Time a training step; n_atoms is of molecules alone."""
    particles = isinstance(flow.domain, ParticleDomain)
    if particles:
        refuse(f"is for molecules; {model} is a model of particles", n_atoms=n_atoms)
    data: Any = _particles(flow, batch_size) if particles else _molecules(flow, n_atoms or _N_ATOMS, batch_size)
    step = _training_step(flow, model, data, micro_batch)
    record = training_throughput(model, step, batch_size=batch_size, device=device, progress=True)
    if not particles:
        return record | {"n_atoms": n_atoms or _N_ATOMS}
    record["samples_per_s"] = record.pop("molecules_per_s")
    return record | {"n_particles": data.shape[1], "dim": data.shape[2]}


def _particles(flow: Flow, batch_size: int) -> torch.Tensor:
    domain = flow.domain
    assert isinstance(domain, ParticleDomain)
    mask = torch.ones(batch_size, domain.n_particles, dtype=torch.bool, device=flow.device)
    return domain.space(mask).randn(flow.generator(0)).x * domain.scale


def _molecules(flow: Flow, n_atoms: int, batch_size: int) -> MoleculeBatch:
    domain, generator = flow.domain, flow.generator(0)
    assert isinstance(domain, MoleculeDomain | ComposedMoleculeDomain)
    mask = torch.ones(batch_size, n_atoms, dtype=torch.bool, device=flow.device)
    positions = domain.space(mask).randn(generator).x * domain.scale
    types = torch.randint(len(domain.types), mask.shape, generator=generator, device=flow.device)
    hydrogens = domain.type_hydrogens[types] if domain.representation == "united" else None
    return MoleculeBatch(positions, domain.type_numbers[types], mask, hydrogens)


def _training_step(
    flow: Flow, model: str, data: torch.Tensor | MoleculeBatch, micro_batch: int | None
) -> Callable[[], None]:
    try:
        system = system_of(model)
        energy = None if system is None else system.energy
        objective = build_objective(flow, read_config(folder_of(model)).objective, energy=energy)
    except ValueError as error:
        raise MolflowError(f"{model}: {error}") from error
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-5)
    prepare, drawing, generator = objective.preparation(), torch.Generator().manual_seed(1), flow.generator(1)

    def step() -> None:
        optimizer.zero_grad()
        batch = prepare(data.to("cpu"), drawing).to(flow.device)
        accumulate_gradients(objective, batch, generator, micro_batch)
        optimizer.step()

    return step
