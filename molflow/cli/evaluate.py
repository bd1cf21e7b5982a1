"""molflow evaluate: score the molecules or configurations in files."""

import re
from collections.abc import Iterable
from pathlib import Path
from typing import Annotated, Literal

import typer

from molflow.cli.options import (
    Energy,
    Json,
    ThermalEnergy,
    UsageError,
    Workers,
    data_set_or_file,
    data_sets,
    known_data_set,
    refuse,
    refuse_other_tasks,
    usage,
)
from molflow.cli.output import check_json
from molflow.evaluation.options import SECONDS, Bonds, EvaluationOptions, Scope, Unit
from molflow.files import check_apart
from molflow.pretrained import DEFAULT_REFERENCE


def references_and_metrics() -> dict[str, Iterable[str]]:
    """The data sets to compare with, and the metrics."""
    from molflow.evaluation import METRICS

    return data_sets() | {"Metrics of molecules": METRICS}


def evaluate(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Molecules: SDF, XYZ (both also .gz), NPZ or Parquet files, folders of them or of shards, or - for "
            "standard input. Particles: NPZ or NPY files."
        ),
    ],
    reference: Annotated[
        str | None,
        typer.Option(
            callback=lambda name: name and data_set_or_file(name),
            help="Molecules: a data set whose own scores are shown beside these. Particles: the system they are "
            "samples of, unless the files name it; with --energy, a file of configurations to compare with.",
        ),
    ] = None,
    novelty: Annotated[
        bool | None,
        typer.Option(
            help="Molecules: compare with the training split of QM9, prepared on first use in under a minute; by "
            f"default with --reference {DEFAULT_REFERENCE}, where QM9 is available.",
        ),
    ] = None,
    training: Annotated[
        Path | None,
        typer.Option(
            help="Molecules: compare with the molecules of this file, such as those that a model was trained on, in "
            "place of QM9."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Particles: also the likelihood of test configurations under this model, by both of its maps; of as "
            "many as take about a minute, at most 10,000.",
        ),
    ] = None,
    energy: Energy = None,
    kT: ThermalEnergy = 1.0,
    scope: Annotated[
        Scope,
        typer.Option(
            help="Molecules: how much is computed. stability alone is fastest; lookup adds validity, uniqueness and "
            "novelty by the same bonds; all adds perceived bonds, shapes and descriptors."
        ),
    ] = "all",
    bonds: Annotated[
        Bonds,
        typer.Option(
            help="Molecules: the bonds behind the main figures: by EDM's tables, perceived by RDKit, as the file gives "
            "them, or auto, which is file where a record has bonds, else perceived."
        ),
    ] = "lookup",
    charge: Annotated[
        str | None,
        typer.Option(
            help="Molecules: net charge of each one, or the name of the field that has it; by default the one that its "
            "file states, else 0."
        ),
    ] = None,
    unit: Annotated[Unit, typer.Option(help="Molecules: unit of the coordinates.")] = "angstrom",
    add_hydrogens: Annotated[
        bool, typer.Option("--add-hydrogens", help="Molecules: complete those that have no hydrogens and lack some.")
    ] = False,
    strain: Annotated[
        Literal["mmff94", "gfn2-xtb"] | None,
        typer.Option(help="Molecules: also relax each one; gfn2-xtb needs the extra xtb."),
    ] = None,
    posebusters: Annotated[
        bool, typer.Option("--posebusters", help="Molecules: also run PoseBusters' checks, an extra.")
    ] = False,
    posebusters_energy: Annotated[
        bool,
        typer.Option(
            "--posebusters-energy",
            help="Molecules: also compare the internal energy with that of conformers, as PoseBusters does, in 0.2 s "
            "each; molecules whose conformers take long are left out.",
        ),
    ] = False,
    details: Annotated[
        list[Path] | None,
        typer.Option(
            help="Molecules: also write the status of each one, why it failed, and its descriptors, to this .csv, "
            ".parquet or .sdf file; repeatable."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(
            help="Also write a page, .html: figures, histograms, and molecules or configurations that can be rotated."
        ),
    ] = None,
    distance: Annotated[
        str | None,
        typer.Option(
            help="Particles: I-J, two of them, from 0: the free-energy profile of --report is along their distance; by "
            "default along that of any two."
        ),
    ] = None,
    workers: Workers = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.01, max=1e6, help="Molecules: limit of processor time for one molecule."),
    ] = SECONDS,
    resume: Annotated[
        bool,
        typer.Option(
            "--resume",
            help="Molecules: continue an interrupted evaluation of the same files with the same options. Until the "
            "end, finished molecules lie beside the first file of --json, --details and --report, .partial.jsonl, 3 kB "
            "each.",
        ),
    ] = False,
    json: Json = None,
) -> None:
    """Score the molecules or configurations of particles in files."""
    from molflow.cli.particle_files import evaluate_own_particles, evaluate_particles, system_of_files

    check_json(json)
    files = list(dict.fromkeys(files))
    if energy is None:
        known_data_set(reference)
    with usage():
        check_apart(files, [path for path in (*(details or ()), report, json) if path is not None])
    system = energy or system_of_files(files, reference)
    if system is None:
        from molflow.cli.molecule_files import evaluate_molecules
        from molflow.evaluation.reference import check_reference

        refuse("is for particles; name their system with --reference", model=model, distance=distance)
        if scope == "stability":
            refuse("needs more than --scope stability", details=details, report=report, resume=resume)
        if scope != "all":
            refuse(
                "needs --scope all",
                strain=strain,
                posebusters=posebusters,
                charge=charge,
                posebusters_energy=posebusters_energy,
                bonds=None if bonds == "lookup" else bonds,
            )
        if reference is not None:
            with usage():
                check_reference(reference)
        options = EvaluationOptions(
            reference=reference,
            scope=scope,
            bonds=bonds,
            charge=_number_or_name(charge),
            unit=unit,
            add_hydrogens=add_hydrogens,
            strain=strain,
            posebusters=posebusters,
            posebusters_energy=posebusters_energy,
            workers=workers,
            seconds=seconds,
            progress=True,
        )
        evaluate_molecules(files, options, novelty, training, details or [], report, json, resume)
    else:
        refuse("is for molecules", resume=resume)
        if len(files) > 1:
            refuse("of particles is for one file at a time", report=report)
        refuse_other_tasks(
            "particles",
            f"{system} is a system of particles",
            novelty=novelty,
            training=training,
            bonds=None if bonds == "lookup" else bonds,
            charge=charge,
            unit=None if unit == "angstrom" else unit,
            add_hydrogens=add_hydrogens,
            strain=strain,
            posebusters=posebusters,
            posebusters_energy=posebusters_energy,
            details=details,
            workers=workers,
        )
        if report is None:
            refuse("is for the page of --report", distance=distance)
        pair = _pair(distance) if distance else None
        if energy is None:
            evaluate_particles(files, system, model, report, pair, json)
        else:
            evaluate_own_particles(files, energy, kT, Path(reference) if reference else None, model, report, pair, json)


def _pair(text: str) -> tuple[int, int]:
    """Two particles, such as 0-4."""
    numbers = re.fullmatch(r"(\d{1,6})-(\d{1,6})", text.strip())
    if numbers is None:
        raise UsageError(f"--distance {text}: expected two particles, from 0, such as 0-4")
    i, j = sorted(map(int, numbers.groups()))
    return i, j


def _number_or_name(text: str | None) -> int | str | None:
    """A whole number as such, and any other text as it is."""
    return int(text) if text is not None and re.fullmatch(r"[+-]?\d{1,9}", text.strip()) else text
