"""What the commands do for molecules: prepare QM9, sample, and score."""

import sys
import time
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import typer
from tqdm import tqdm

import molflow
from molflow import evaluation
from molflow.batch import MoleculeBatch
from molflow.chem import Structure, StructureWriter, iter_records, stability
from molflow.cli.options import Draw
from molflow.cli.output import console, show, show_scores
from molflow.data import MoleculeSet, prepare_qm9
from molflow.errors import MolflowError
from molflow.evaluation.throughput import sampling_record
from molflow.files import check_writable
from molflow.interrupts import held_interrupts
from molflow.report import example, molecules_page

if TYPE_CHECKING:
    from molflow.evaluation import TrainingReference

_GIVE_UP = 20_000  # molecules drawn without a stable one
_STABLE_SHOWN, _FAILED_SHOWN = 24, 12  # molecules of each status on a page
_NAMED = 3  # unreadable records of a source that a warning tells about


def prepare(source: Literal["wheel", "pyg"], force: bool, json: Path | None) -> None:
    """Read QM9 and show how much of it there is."""
    path = prepare_qm9(source, force=force)
    molecules = MoleculeSet.load(path)
    sizes = molecules.n_atoms
    record = {
        "name": "qm9",
        "file": str(path),
        "n_molecules": len(molecules),
        "n_atoms": int(sizes.sum()),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
    }
    show([record], json)


def sample(flow: molflow.Flow, draw: Draw, out: Path, only: str | None, novelty: bool, json: Path | None) -> None:
    """Write molecules to a file as they are made, then score them."""
    training = training_reference(novelty)
    kept: list[MoleculeBatch] = []
    n_drawn = n_stable = 0
    elapsed, before = 0.0, time.perf_counter()
    asked = sys.maxsize if only else draw.n
    batches = flow.iter_samples(asked, draw.seed, draw.temperature, draw.evaluations, draw.batch_size)
    with (
        StructureWriter(out) as writer,
        tqdm(total=draw.n, desc="sampling", unit="molecule", dynamic_ncols=True) as bar,
    ):
        try:
            for batch in batches:
                made = batch.to("cpu")
                elapsed += time.perf_counter() - before
                stable = stability(made.positions, made.atomic_numbers, made.mask)[1]
                n_drawn, n_stable = n_drawn + len(made), n_stable + int(stable.sum())
                kept.append((made[stable] if only else made)[: draw.n - writer.count])
                for structure in kept[-1].structures():
                    with held_interrupts() as interrupted:  # else the file could hold one more than is counted
                        writer.write(structure)
                    if interrupted():
                        raise KeyboardInterrupt
                    bar.update()
                if writer.count == draw.n or (not writer.count and n_drawn >= _GIVE_UP):
                    break
                before = time.perf_counter()
        except KeyboardInterrupt as error:
            raise MolflowError(f"interrupted; {out} keeps the {writer.count} molecules that were finished") from error
    molecules = MoleculeBatch.concatenate(kept)
    if not len(molecules):
        out.unlink()
        raise MolflowError(f"none of {n_drawn:,} molecules is stable: this model needs more training")
    scores = molflow.evaluate(molecules, reference="qm9", training=training, progress=True).to_dict()
    speed = sampling_record(draw.model, n_drawn, n_stable, elapsed, draw.device, draw.batch_size)
    settings = {
        "seed": draw.seed,
        "temperature": draw.temperature,
        "evaluations": draw.evaluations_of(flow),
    }
    show_scores({draw.model: scores | speed | settings | {"only": only, "file": str(out)}}, json)
    if only:
        share = f"{100 * n_stable / n_drawn:.1f} %"
        console.print(f"{n_drawn:,} molecules were drawn, {share} of them stable; times count them all.")
    console.print(f"{draw.n:,} molecules are in {out}")


def evaluate(
    files: Sequence[Path], reference: str | None, novelty: bool | None, report: Path | None, json: Path | None
) -> None:
    """Score the molecules in files, folders and standard input."""
    if report is not None:
        check_writable(report)
    inputs = {str(file): _readable(file) for file in files}
    training = training_reference(novelty, wanted=reference == "qm9")
    records, shown = {}, _Shown()
    for file, (structures, n_unreadable) in inputs.items():
        each = None if report is None else shown.add
        try:
            scores = molflow.evaluate(structures, reference=reference, training=training, progress=True, each=each)
        except MolflowError as error:
            raise MolflowError(f"{file}: {error}") from error
        records[file] = replace(scores, n_unreadable=n_unreadable).to_dict()
    show_scores(records, json)
    if report is not None:
        ((file, (structures, _)),) = inputs.items()
        examples = [example(f"molecule {place + 1}", structures[place], found) for place, found in shown.chosen]
        molecules_page(
            records[file], report, statuses=evaluation.STATUSES, examples=examples, title=f"Molecules of {file}"
        )
        console.print(f"The report is in {report}")


class _Shown:
    """The first few molecules of each status, for the gallery of a page."""

    def __init__(self) -> None:
        self.chosen: list[tuple[int, evaluation.MoleculeReport]] = []
        self._place = 0
        self._counts: Counter[str] = Counter()

    def add(self, report: "evaluation.MoleculeReport") -> None:
        limit = _STABLE_SHOWN if report.status == "stable" else _FAILED_SHOWN
        if report.n_atoms and self._counts[report.status] < limit:
            self._counts[report.status] += 1
            self.chosen.append((self._place, report))
        self._place += 1


def _readable(file: Path) -> tuple[list[Structure], int]:
    """The molecules of a source, and the number of those that could not be read; a warning tells about these.

    Raises:
        MolflowError: nothing can be read.
    """
    structures: list[Structure] = []
    complaints: list[str] = []
    n_unreadable = 0
    for record in iter_records(file):
        if record.structure is not None:
            structures.append(record.structure)
            continue
        n_unreadable += 1
        if n_unreadable <= _NAMED:
            complaints.append(record.complaint)
    if not structures:
        more = f" (and {n_unreadable - 1:,} more; nothing can be read)" if n_unreadable > 1 else ""
        raise MolflowError(f"{complaints[0]}{more}")
    if n_unreadable:
        total = len(structures) + n_unreadable
        lines = [f"{file}: {n_unreadable:,} of {total:,} records cannot be read and are left out:", *complaints]
        if n_unreadable > _NAMED:
            lines.append(f"and {n_unreadable - _NAMED:,} more")
        typer.echo("molflow: warning: " + "\n  ".join(lines), err=True)
    return structures, n_unreadable


def training_reference(novelty: bool | None, wanted: bool = False) -> "TrainingReference | None":
    """What novelty is measured against; where it was wanted but not asked for, a line says why it cannot be had."""
    if not (wanted if novelty is None else novelty):
        return None
    try:
        return evaluation.qm9_training_reference(progress=True)
    except MolflowError as error:
        if novelty:
            raise
        typer.echo(f"molflow: novelty is not computed: {' '.join(str(error).split())}", err=True)
        return None
