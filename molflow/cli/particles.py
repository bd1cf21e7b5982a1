"""What the commands do for systems of particles: prepare data, sample, correct, and score."""

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np
import torch
import typer
from torch import Tensor
from tqdm import tqdm

from molflow.cli.configurations import Configurations, read_samples, write_configurations
from molflow.cli.options import Draw, UsageError, system_of
from molflow.cli.output import Record, console, show, show_boltzmann, show_lines, write_json
from molflow.data import load_particles, particle_diagnostics, prepare_particles
from molflow.data.qm9 import cache_path
from molflow.energies import System, get_system, independent_metropolis, log_weights, resample
from molflow.energies.reweighting import effective_sample_size
from molflow.errors import MolflowError
from molflow.evaluation import evaluate_boltzmann, histograms
from molflow.evaluation.measured import energies_of
from molflow.evaluation.throughput import conditions
from molflow.files import check_writable
from molflow.flows import Flow, ParticleDomain
from molflow.flows.base import Likelihood, Which
from molflow.pretrained import load_named
from molflow.report import boltzmann_page
from molflow.report.page import number, percent

_CHAIN_LENGTH = 100  # configurations that a Metropolis chain gives; its burn-in takes half as many more
_TICKS = 40  # of the progress bar of likelihoods
_MINUTE = 6_000_000  # degrees of freedom times pairs: exact densities that two CPU cores manage in about a minute
_FEW = 10  # configurations
_SPLITS: tuple[Literal["train", "validation", "test"], ...] = ("train", "validation", "test")


def prepare(name: str, force: bool, json: Path | None) -> None:
    """Draw the data of a system, unless they are there, and show how well that went."""
    path = prepare_particles(name, force=force, progress=True)
    record = particle_diagnostics(name)
    system = get_system(name)
    energy, counts = system.energy, {split: len(load_particles(name, split)) for split in _SPLITS}
    known = number(system.mean_energy, system.mean_energy_error)
    console.print(f"{name}: {energy.n_particles} particles in {energy.dim} dimensions")
    show_lines(
        [
            *((f"{split} configurations", f"{n:,}") for split, n in counts.items()),
            ("moves accepted", ", ".join(map(percent, record["acceptance"]))),
            ("swaps accepted", ", ".join(map(percent, record["swap_acceptance"])) or "-"),
            ("split R-hat of the energy", f"{record['r_hat']:.4f}", "1 when mixed"),
            (
                "mean energy, kT",
                number(record["mean_energy"], record["mean_energy_error"]),
                known and f"known: {known}",
            ),
            ("virial", number(record["virial"], record["virial_error"]), f"exact: {energy.dof}"),
        ]
    )
    console.print("Accepted at each temperature and between neighbours; ± is one standard error, from means of chains.")
    console.print(f"They are in {path}")
    about = {"name": name, "file": str(path), "n_particles": energy.n_particles, "dim": energy.dim}
    about |= {f"n_{split}": n for split, n in counts.items()}
    known_record = {"known_mean_energy": system.mean_energy, "known_mean_energy_error": system.mean_energy_error}
    write_json(json, about | record | known_record)


@dataclass(frozen=True)
class Drawn:
    """Samples of a flow, with the seconds that they took; fewer than were asked for after Ctrl-C."""

    samples: Configurations
    seconds: float
    interrupted: bool


def sample(flow: Flow, draw: Draw, out: Path, correct: str | None, json: Path | None) -> None:
    """Write configurations with their density to a file, then score them."""
    if out.suffix.lower() != ".npz":
        raise MolflowError(f"{out}: configurations of particles go to an .npz file, not to {out.suffix!r}")
    system = system_of(draw.model)
    correction: Record | None = None
    if correct is None:
        drawn = _drawn(flow, draw)
        samples = drawn.samples
    else:
        drawn, samples, correction = _corrected(flow, draw, system, correct)
    write_configurations(out, samples, system.name if system else "")
    if drawn.interrupted:
        raise MolflowError(f"interrupted; {out} keeps the {len(samples.positions)} configurations that were finished")
    console.print(f"{draw.n:,} configurations are in {out}")
    record = _speed(draw, drawn) | {
        "sampling_seed": draw.seed,
        "temperature": draw.temperature,
        "evaluations": draw.evaluations_of(flow),
        "correction": correction,
        "file": str(out),
    }
    if system is None:
        counts = dict(zip(("n_samples", "n_particles", "dim"), samples.positions.shape, strict=True))
        show([counts | {key: value for key, value in record.items() if key.startswith("ms_")}])
        write_json(json, counts | record)
    else:
        show_boltzmann({draw.model: _scores(samples, system, _test_split(system.name)) | record}, json)
    if correction:
        console.print(_explain(correction, draw.n))


def evaluate(files: Sequence[Path], name: str, model: str | None, report: Path | None, json: Path | None) -> None:
    """Score files of configurations against a system, and a model by the likelihood of the system's test split."""
    system = get_system(name)
    if report is not None:
        check_writable(report)
    samples = {str(file): read_samples(file, system) for file in files}
    flow = None if model is None else _load_flow_of(system, model)
    reference = _test_split(name)
    likelihoods = {} if flow is None else _likelihoods(flow, reference)
    records = {
        file: _scores(some, system, reference, **likelihoods) | {"model": model} for file, some in samples.items()
    }
    show_boltzmann(records, json)
    if report is not None:
        (file,) = samples
        positions, log_prob = samples[file]
        drawn = histograms(positions, system.energy, log_prob=log_prob, reference=reference)
        boltzmann_page(records[file], drawn, report)
        console.print(f"The report is in {report}")


def _load_flow_of(system: System, model: str) -> Flow:
    domain = (flow := load_named(model)).domain
    if not isinstance(domain, ParticleDomain):
        raise MolflowError(f"{model}: makes molecules; expected a model of particles")
    energy = system.energy
    if (domain.n_particles, domain.dim) != (energy.n_particles, energy.dim):
        raise MolflowError(
            f"{model}: a model of {domain.n_particles} particles in {domain.dim} dimensions; "
            f"{system.name} has {energy.n_particles} in {energy.dim}"
        )
    return flow


def _test_split(name: str) -> Tensor:
    if not cache_path().with_name(f"{name}.npz").exists():
        typer.echo(f"molflow: the reference, exact samples of {name}, is drawn now and kept", err=True)
        prepare_particles(name, progress=True)
    return load_particles(name, "test")


def _scores(samples: Configurations, system: System, reference: Tensor, **likelihoods: Any) -> Record:
    return evaluate_boltzmann(
        samples.positions,
        system.energy,
        log_prob=samples.log_prob,
        reference=reference,
        system=system,
        **likelihoods,
    ).to_dict()


def _drawn(flow: Flow, draw: Draw) -> Drawn:
    """Samples of a flow with their density, if it was asked for; without it where other evaluations make them."""
    batches: Iterator[tuple[Tensor, Tensor | None]]
    if draw.density and flow.has_density(draw.evaluations):
        batches = flow.iter_samples_and_log_prob(draw.n, draw.seed, draw.temperature, draw.batch_size)
    else:
        plain = flow.iter_samples(draw.n, draw.seed, draw.temperature, draw.evaluations, draw.batch_size)
        batches = ((x, None) for x in plain)
    parts: list[tuple[Tensor, Tensor | None]] = []
    start, interrupted = time.perf_counter(), False
    with tqdm(total=draw.n, desc="sampling", unit="sample", dynamic_ncols=True) as bar:
        try:
            for x, log_prob in batches:
                parts.append((x.cpu(), None if log_prob is None else log_prob.cpu()))
                bar.update(len(x))
        except KeyboardInterrupt:
            interrupted = True
    if not parts:
        raise KeyboardInterrupt
    known = [log_prob for _, log_prob in parts if log_prob is not None]
    samples = Configurations(torch.cat([x for x, _ in parts]), torch.cat(known) if known else None)
    return Drawn(samples, time.perf_counter() - start, interrupted)


def _corrected(flow: Flow, draw: Draw, system: System | None, kind: str) -> tuple[Drawn, Configurations, Record]:
    """The samples of a flow, n configurations of the target made of them, and how that went."""
    if system is None:
        raise MolflowError(f"{draw.model}: was not trained on a system whose energy is known, which --correct needs")
    if not (draw.density and flow.has_density(draw.evaluations)):
        raise UsageError("--correct needs the density of samples: leave out --no-density and --evaluations")
    drawn: list[Drawn] = []

    def propose(n: int, seed: int) -> tuple[Tensor, Tensor]:
        drawn.append(_drawn(flow, replace(draw, n=n, seed=seed)))
        if drawn[0].interrupted:
            raise KeyboardInterrupt
        return _with_density(drawn[0].samples)

    def energy(x: Tensor) -> Tensor:
        return torch.from_numpy(energies_of(system.energy, x.numpy()))

    details: Record
    if kind == "importance":
        x, log_prob = propose(draw.n, draw.seed)
        x = resample(x, log_weights(energy, x, log_prob), draw.n, draw.seed ^ 1)  # not the numbers of the noise again
        details = {}
    else:
        n_chains = -(-draw.n // _CHAIN_LENGTH)
        x, acceptance = independent_metropolis(energy, propose, draw.n, n_chains, draw.seed)
        details = {"n_chains": n_chains, "acceptance": acceptance}
    proposals, log_prob = _with_density(drawn[0].samples)
    record = {
        "kind": kind,
        "n_proposals": len(proposals),
        **details,
        "ess_fraction": effective_sample_size(log_weights(energy, proposals, log_prob)),
        "n_distinct": len(np.unique(x.flatten(1).numpy(), axis=0)),
    }
    return drawn[0], Configurations(x, None), record


def _with_density(samples: Configurations) -> tuple[Tensor, Tensor]:
    assert samples.log_prob is not None
    return samples.positions, samples.log_prob


def _explain(correction: Record, n: int) -> str:
    ess = percent(correction["ess_fraction"])
    text = f"{correction['n_proposals']:,} samples were drawn, with an effective sample size of {ess}"
    if correction["kind"] == "importance":
        text += "; each was taken as often as its weight asks"
    else:
        text += f"; {correction['n_chains']:,} chains accepted {percent(correction['acceptance'])} of them"
    text += f". {correction['n_distinct']:,} of the {n:,} configurations are distinct."
    return f"{text} Errors take them for independent, and are too small."


def _speed(draw: Draw, drawn: Drawn) -> Record:
    n = len(drawn.samples.positions)
    key = "ms_per_sample" if drawn.samples.log_prob is None else "ms_per_sample_with_density"
    speed = {"model": draw.model, "n": n, key: 1e3 * drawn.seconds / n}
    return speed | conditions(draw.device, draw.batch_size)


def _likelihoods(flow: Flow, reference: Tensor) -> dict[str, Tensor]:
    """-log density of the first test configurations by both maps, and the reconstruction error."""
    n = min(len(reference), n_densities(flow))
    parts = reference[:n].split(max(1, n // _TICKS))
    found: dict[Which, list[Likelihood]] = {"encoder": [], "decoder": []}
    with tqdm(total=2 * n, desc="likelihood", unit="map", dynamic_ncols=True) as bar:
        for which, some in found.items():
            for part in parts:
                some.append(flow.likelihood(part, which=which))
                bar.update(len(part))
    errors = torch.cat([part.reconstruction_error for part in found["decoder"]])
    nll = {f"nll_{which}": -torch.cat([part.log_prob for part in some]) for which, some in found.items()}
    return nll | {"reconstruction_error": errors * flow.domain.scale}


def n_densities(flow: Flow) -> int:
    """Of how many configurations the exact density takes about a minute, 10 to 10,000."""
    domain = flow.domain
    assert isinstance(domain, ParticleDomain)
    with flow.counted() as used:  # a solver decides as it goes
        flow.sample(_FEW, seed=0)
    derivatives = (domain.n_particles - 1) * domain.dim * used.configurations // _FEW
    return min(10_000, max(_FEW, _MINUTE // (derivatives * domain.n_particles**2)))
