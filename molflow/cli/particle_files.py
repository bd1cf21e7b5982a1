"""Files of configurations of particles, as `molflow sample` writes them and as others may bring them, and their scores.

An .npz file has `positions` (n, N, D); `log_prob` (n,), nats, where the density of the samples is known; and `system`,
the name of the system that they are samples of, or "". Other files need `positions` alone.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molflow.cli.options import check_page
from molflow.cli.output import console, show_boltzmann, write_json
from molflow.data import DATASETS, NoArrayError, read_array, read_configurations, read_particles
from molflow.energies import ENERGIES, System, check_convention, own_system
from molflow.errors import MolflowError
from molflow.evaluation import EvaluationOptions, particle_figures
from molflow.evaluation.particles import check_pair
from molflow.pretrained import load_named
from molflow.training.tasks.particles import ParticlesTask, likelihoods
from molflow.training.tasks.sampling import Samples

SUFFIXES = (".npz", ".npy")


def evaluate_particles(
    files: Sequence[Path],
    name: str,
    model: str | None,
    report: Path | None,
    pair: tuple[int, int] | None,
    json: Path | None,
) -> None:
    """Score files of configurations against a system, and a model by the likelihood of the system's test split."""
    task = ParticlesTask(DATASETS[name])
    assert task.system is not None
    samples = {str(file): read_samples(file, name, task.system) for file in files}
    _evaluate(task, samples, None, model, report, pair, json)


def evaluate_own_particles(
    files: Sequence[Path],
    energy: str,
    kT: float,
    reference: Path | None,
    model: str | None,
    report: Path | None,
    pair: tuple[int, int] | None,
    json: Path | None,
) -> None:
    """Score files of configurations against a user's energy and, if there are any, reference configurations.

    The model is scored by the likelihood of the reference.
    """
    x = {file: read_particles(file, key=None).positions for file in files}
    system = own_system(energy, torch.cat([next(iter(x.values()))[:1]] * 2), kT)
    shape = system.energy.n_particles, system.energy.dim
    samples = {str(file): _with_log_prob(read_particles(file, *shape, key=None).positions, file) for file in files}
    other = None if reference is None else read_particles(reference, *shape, key=None).positions
    if model is not None and other is None:
        raise MolflowError("--model is scored by the likelihood of reference configurations; give --reference FILE")
    _evaluate(ParticlesTask(None, system), samples, other, model, report, pair, json)


def _evaluate(
    task: ParticlesTask,
    samples: dict[str, Samples[torch.Tensor]],
    reference: torch.Tensor | None,
    model: str | None,
    report: Path | None,
    pair: tuple[int, int] | None,
    json: Path | None,
) -> None:
    assert task.system is not None
    if report is not None:
        check_page(report)
        check_pair(pair, task.system.energy.n_particles)
    if reference is None:
        reference = task.test_split()
    measured: dict[str, Any] = {}
    if model is not None:
        assert reference is not None
        flow = load_named(model)
        task.check_flow(flow, model)
        measured = likelihoods(flow, reference)
    records = {
        file: task.score(some, EvaluationOptions(), reference, **measured) | {"model": model}
        for file, some in samples.items()
    }
    write_json(json, records if len(records) > 1 else next(iter(records.values())))
    try:
        if report is not None:
            from molflow.report import boltzmann_page

            (file,) = samples
            x, log_prob = samples[file]
            drawn = particle_figures(x, task.system.energy, log_prob=log_prob, reference=reference, pair=pair)
            boltzmann_page(records[file], drawn, report)
    finally:  # after the page, as the reader of the table may close the pipe, but also if the page fails
        show_boltzmann(records)
    if report is not None:
        console.print(f"The report is in {report}")


def read_samples(path: Path, name: str, system: System) -> Samples[torch.Tensor]:
    """Samples of a system in a file.

    Raises:
        MolflowError: naming the file and what is wrong with it, a clear sign of the other Lennard-Jones convention
            included.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise MolflowError(
            f"{path}: {name} is a system of particles; expected their configurations in an .npz or .npy file"
        )
    positions = read_configurations(path, system.energy.n_particles, system.energy.dim)
    check_convention(positions, system.energy, str(path))
    return _with_log_prob(positions, path)


def _with_log_prob(positions: torch.Tensor, path: Path) -> Samples[torch.Tensor]:
    """Configurations with the `log_prob` of their file, if it has one."""
    if path.suffix.lower() not in SUFFIXES:
        return Samples(positions)
    try:
        log_prob = read_array(path, "log_prob")
    except NoArrayError:
        return Samples(positions)
    if log_prob.shape != positions.shape[:1] or log_prob.dtype.kind not in "fiu":
        raise MolflowError(
            f"{path}: log_prob: expected {len(positions)} numbers, got {log_prob.dtype} of shape {log_prob.shape}"
        )
    return Samples(positions, torch.from_numpy(log_prob.astype(np.float64)))


def system_of_files(files: Sequence[Path], reference: str | None) -> str | None:
    """The system to compare files with: `reference`, or else the one that the files name; None if they hold molecules.

    Raises:
        MolflowError: a file that names another system than `reference` or another file, or configurations of a system
            that neither names.
    """
    systems = {file: name for file in files if (name := _system_in(file)) is not None}
    if reference is None and systems:
        reference = next(filter(None, systems.values()), "")
        if not reference:
            raise MolflowError(f"{next(iter(systems))}: does not say which system it is of; name it with --reference")
        if reference not in ENERGIES:
            raise MolflowError(f"samples of the unknown system {reference!r}; known are {', '.join(ENERGIES)}")
    of_particles = reference is not None and DATASETS[reference].system() is not None
    for file, name in systems.items():
        if name not in ("", reference):
            raise MolflowError(f"{file}: holds samples of {name}, expected {reference}")
        if not of_particles:
            raise MolflowError(f"{file}: holds configurations of particles, expected molecules")
    return reference if of_particles else None


def _system_in(path: Path) -> str | None:
    """The system that a file names, "" if it holds configurations of an unknown one, None if it holds none."""
    if path.suffix.lower() == ".npy":
        return "" if path.exists() else None
    if path.suffix.lower() != ".npz":
        return None
    try:
        name = read_array(path, "system")
    except MolflowError:  # the reader of the file will say what is wrong with it
        return None
    return str(name) if name.dtype.kind == "U" and name.ndim == 0 else None
