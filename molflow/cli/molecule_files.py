"""Files of molecules: read, scored as they are read, and collected for a page and for tables of each molecule."""

import sys
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

from tqdm import tqdm

from molflow import evaluation
from molflow.chem import Record, Structure, iter_records
from molflow.chem.reading import STANDARD_INPUT
from molflow.cli.options import check_page, refuse, training_file_reference, training_reference, usage
from molflow.cli.output import console, show_scores, write_json
from molflow.errors import MolflowError
from molflow.evaluation import DetailWriter, EvaluationOptions, Tally
from molflow.evaluation.details import check_details, check_suffix
from molflow.evaluation.journal import Journal
from molflow.evaluation.molecules import Each
from molflow.evaluation.parallel import bar
from molflow.files import is_stream
from molflow.report import Draw, molecules_page
from molflow.training.tasks.shards import MANIFEST, has_shards, is_intact, read_manifest

_NAMED = 3  # unreadable records of a source that a warning names


def evaluate_molecules(
    files: Sequence[Path],
    options: EvaluationOptions,
    novelty: bool | None,
    training: Path | None,
    details: Sequence[Path],
    report: Path | None,
    json: Path | None,
    resume: bool,
) -> None:
    """Score the molecules in files, folders and standard input, each as it is read."""
    if report is not None:
        check_page(report)
    for path in details:
        with usage():
            check_suffix(path)
        check_details(path)
    for file in files:
        _check_input(file)
    journal = _journal(files, options, [json, *details, report], resume)
    known = training_reference(novelty, options.reference) if training is None else training_file_reference(training)
    options = replace(options, training=known)
    records: dict[str, dict[str, Any]] = {}
    failures: list[str] = []
    draw = Draw(n_sources=len(files))
    with ExitStack() as stack:
        if journal is not None:
            stack.enter_context(journal)
        writers: list[Each] = [stack.enter_context(DetailWriter(path)).write for path in details]
        for file in files:
            page: list[Each] = [] if report is None else [partial(_show, draw, str(file))]
            try:
                records[str(file)] = _scores(file, options, writers + page, journal)
            except MolflowError as error:
                failures.append(str(error) if str(error).startswith(_name_of(file)) else f"{file}: {error}")
            except KeyboardInterrupt as error:
                kept = f"; what was finished is in {', '.join(map(str, details))}" if details else ""
                further = "; continue with --resume" if journal is not None else ""
                raise MolflowError(f"interrupted{kept}{further}") from error
    if records:
        write_json(json, records if len(files) > 1 else next(iter(records.values())))
    try:
        if report is not None and records:
            title = f"Molecules of {', '.join(records)}"
            molecules_page(records, report, statuses=evaluation.STATUSES, examples=draw.examples(), title=title)
        if journal is not None:
            journal.remove()
    finally:  # after the page, as the reader of the table may close the pipe, but also if the page fails
        if records:
            show_scores(records)
    for path in (*details, *([report] if report and records else [])):
        console.print(f"{path} is written")
    if failures:
        raise MolflowError("; ".join(failures))


def _journal(
    files: Sequence[Path], options: EvaluationOptions, outputs: Sequence[Path | None], resume: bool
) -> Journal | None:
    """The journal beside the first output; None where there is no file for output or the input is read only once."""
    beside = next((path for path in outputs if path is not None and not is_stream(path)), None)
    if beside is None or any(map(is_stream, files)) or options.scope == "stability":
        refuse("needs input that can be read again, and --json, --details or --report beside which finished molecules "
               "are kept", resume=resume)  # fmt: skip
        return None
    return Journal(beside.with_name(f"{beside.name}.partial.jsonl"), files, options, resume)


def _check_input(file: Path) -> None:
    """Raise MolflowError if a file has no readable molecule, before hours of work on others."""
    if not is_stream(file):  # which can be read only once
        unreadable: list[Record] = []
        for record in iter_records(file):
            if record.structure is not None:
                return
            unreadable.append(record)
        raise _nothing_readable(unreadable[0], len(unreadable))


def _nothing_readable(first: Record, number: int) -> MolflowError:
    more = f" (and {number - 1:,} more; nothing can be read)" if number > 1 else ""
    return MolflowError(f"{first.complaint}{more}")


def _scores(file: Path, options: EvaluationOptions, tell: list[Each], journal: Journal | None) -> dict[str, Any]:
    """Scores of the molecules in a file; each function is called with the report on each molecule."""

    def each(report: "evaluation.MoleculeReport", structure: Structure | None) -> None:
        for function in tell:
            function(report, structure)

    if has_shards(file):
        return _tally_of_shards(file, options, each if tell else None, journal).scores().to_dict()
    return evaluation.evaluate(_watched(file), options=options, each=each if tell else None, journal=journal).to_dict()


def _tally_of_shards(folder: Path, options: EvaluationOptions, each: Each | None, journal: Journal | None) -> Tally:
    """Counts over the finished shards of a folder, read one after the other; damaged ones count as unreadable."""
    manifest, total = read_manifest(folder), Tally(options)
    if left := manifest["n_shards"] - len(manifest["shards"]):
        _warn(f"{folder}: {left:,} of {manifest['n_shards']:,} shards are not finished and are left out")
    with bar(range(manifest["n_samples"]), "evaluating", options) as progress:
        for entry in manifest["shards"]:
            if is_intact(folder, entry):
                source = _watched(folder / entry["file"])
                total.merge(evaluation.tally_of(source, replace(options, progress=False), each, journal))
            else:
                _warn(f"{folder / entry['file']}: not as {MANIFEST} says; its {entry['n']:,} records are not read")
                total.add_unreadable(entry["n"])
            progress.update(entry["n"])
    return total


def _name_of(file: Path) -> str:
    """The name of a source in the errors of its reader."""
    return "standard input" if str(file) == STANDARD_INPUT else str(file)


def _show(draw: Draw, source: str, report: "evaluation.MoleculeReport", structure: Structure | None) -> None:
    """Let a molecule take part in the draw for the gallery of a page."""
    if structure is not None and report.n_atoms:
        within = "" if report.source == _name_of(Path(source)) else f"{Path(report.source).name}, "
        draw.add(source, f"{within}record {report.record}", structure, report)


def _watched(file: Path) -> Iterator[Record]:
    """The records of a source; at its end a warning counts those that could not be read.

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
        _warn("\n  ".join([first, *complaints, *more]))


def _warn(text: str) -> None:
    tqdm.write(f"molflow: warning: {text}", file=sys.stderr)
