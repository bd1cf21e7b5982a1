"""A training step on random data, which takes as long as one on real data."""

from collections.abc import Callable
from typing import Any

import torch

from molflow.batch import MoleculeBatch
from molflow.cli.options import refuse, system_of
from molflow.errors import MolflowError
from molflow.evaluation.throughput import training_throughput
from molflow.flows import ComposedMoleculeDomain, Flow, MoleculeDomain, ParticleDomain
from molflow.pretrained import folder_of
from molflow.training.checkpoint import read_config
from molflow.training.objectives import accumulate_gradients, build_objective

_N_ATOMS = 18  # the mean of QM9


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
