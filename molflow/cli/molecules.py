"""What the commands do for molecules: prepare QM9, sample, and score."""

import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

import typer
from tqdm import tqdm

import molflow
from molflow import evaluation
from molflow.batch import MoleculeBatch
from molflow.chem import Record, Structure, StructureWriter, iter_records
from molflow.chem.reading import STANDARD_INPUT
from molflow.cli.options import Draw
from molflow.cli.output import console, show, show_scores
from molflow.data import MoleculeSet, prepare_qm9
from molflow.errors import MolflowError
from molflow.evaluation import DetailWriter
from molflow.evaluation.details import check_details
from molflow.evaluation.molecules import Each
from molflow.evaluation.options import Scope
from molflow.evaluation.throughput import sampling_record
from molflow.files import check_writable
from molflow.interrupts import held_interrupts
from molflow.report import Example, example, molecules_page

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
                stable = made.stability()[1]
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
    scores = molflow.evaluate(molecules, reference="qm9", training=training, scope="lookup", progress=True).to_dict()
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


@dataclass(frozen=True)
class Evaluation:
    """What is asked of an evaluation."""

    reference: str | None
    novelty: bool | None
    scope: Scope
    strain: str | None
    posebusters: bool
    workers: int | None
    seconds: float


def evaluate(
    files: Sequence[Path], asked: Evaluation, details: Sequence[Path], report: Path | None, json: Path | None
) -> None:
    """Score the molecules in files, folders and standard input, each as it is read."""
    if report is not None:
        check_writable(report)
    for path in details:
        check_details(path)
    for file in files:
        _check_input(file)
    training = training_reference(asked.novelty, wanted=asked.reference == "qm9")
    records: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    shown = _Shown(several=len(files) > 1)
    with ExitStack() as stack:
        writers: list[Each] = [stack.enter_context(DetailWriter(path)).write for path in details]
        for file in files:
            page: list[Each] = [] if report is None else [partial(shown.add, str(file))]
            try:
                records[str(file)] = _evaluated(file, asked, training, writers + page)
            except MolflowError as error:
                failures.append(str(error) if str(error).startswith(_name_of(file)) else f"{file}: {error}")
            except KeyboardInterrupt as error:
                kept = f"; what was finished is in {', '.join(map(str, details))}" if details else ""
                raise MolflowError(f"interrupted{kept}") from error
    if records:
        show_scores(records, json, several=len(files) > 1)
    if report is not None and records:
        title = f"Molecules of {', '.join(records)}"
        molecules_page(records, report, statuses=evaluation.STATUSES, examples=shown.examples, title=title)
    for path in (*details, *([report] if report and records else [])):
        console.print(f"{path} is written")
    if failures:
        raise MolflowError("; ".join(failures))


def _check_input(file: Path) -> None:
    """Look for a first molecule: a bad file is told before hours of work on others."""
    is_pipe = str(file) == STANDARD_INPUT or (file.exists() and not file.is_file() and not file.is_dir())
    if not is_pipe:  # which can be read but once
        unreadable: list[Record] = []
        for record in iter_records(file):
            if record.structure is not None:
                return
            unreadable.append(record)
        raise _nothing_readable(unreadable[0], len(unreadable))


def _nothing_readable(first: Record, number: int) -> MolflowError:
    more = f" (and {number - 1:,} more; nothing can be read)" if number > 1 else ""
    return MolflowError(f"{first.complaint}{more}")


def _evaluated(file: Path, asked: Evaluation, training: "TrainingReference | None", tell: list[Each]) -> dict[str, Any]:
    def each(report: "evaluation.MoleculeReport", structure: Structure | None) -> None:
        for function in tell:
            function(report, structure)

    scores = molflow.evaluate(
        _watched(file),
        reference=asked.reference,
        training=training,
        scope=asked.scope,
        strain=asked.strain,
        posebusters=asked.posebusters,
        workers=asked.workers,
        seconds=asked.seconds,
        each=each if tell else None,
        progress=True,
    )
    return scores.to_dict()


def _name_of(file: Path) -> str:
    """As readers call it in their errors."""
    return "standard input" if str(file) == STANDARD_INPUT else str(file)


class _Shown:
    """The first few molecules of each file and status, for the gallery of a page."""

    def __init__(self, several: bool) -> None:
        self.examples: list[Example] = []
        self._counts: Counter[tuple[str, str]] = Counter()
        self._several = several

    def add(self, source: str, report: "evaluation.MoleculeReport", structure: Structure | None) -> None:
        kind = source, report.status
        limit = _STABLE_SHOWN if report.status == "stable" else _FAILED_SHOWN
        if structure is None or not report.n_atoms or self._counts[kind] >= limit:
            return
        self._counts[kind] += 1
        within = "" if report.source == _name_of(Path(source)) else f"{Path(report.source).name}, "
        name = f"{within}record {report.record}"
        self.examples.append(example(name, structure, report, source=source if self._several else ""))


def _watched(file: Path) -> Iterator[Record]:
    """The records of a source; at its end a warning tells about those that could not be read.

    Raises:
        MolflowError: nothing can be read.
    """
    unreadable: list[Record] = []
    n_read = n_unreadable = 0
    for record in iter_records(file):
        n_read += record.structure is not None
        n_unreadable += record.structure is None
        if record.structure is None and len(unreadable) < _NAMED:
            unreadable.append(record)
        yield record
    if not n_read:
        raise _nothing_readable(unreadable[0], n_unreadable)
    if n_unreadable:
        first = f"{file}: {n_unreadable:,} of {n_read + n_unreadable:,} records cannot be read and are left out:"
        more = [f"and {n_unreadable - _NAMED:,} more"] if n_unreadable > _NAMED else []
        complaints = [record.complaint for record in unreadable]
        tqdm.write("molflow: warning: " + "\n  ".join([first, *complaints, *more]), file=sys.stderr)


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
