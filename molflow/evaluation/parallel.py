"""Inspection of many molecules in worker processes, in order, with one report for each."""

from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from typing import Any

from tqdm import tqdm

from molflow.chem.io import Record, Structure
from molflow.evaluation.chunks import look_up
from molflow.evaluation.inspection import failed_report, inspect_bonded, reject_invalid, reject_unscored
from molflow.evaluation.options import EvaluationOptions
from molflow.evaluation.remote import answer, to_message, warm_up, without_extras
from molflow.evaluation.reports import MoleculeReport
from molflow.progress import progress_bar
from molflow.workers import Failure, default_workers, name_of, outcomes

_BLOCK = 1024  # molecules whose bonds are looked up together

Inspected = tuple[Structure | None, MoleculeReport]


def inspect_all(
    structures: Iterable[Structure | Record],
    *,
    options: EvaluationOptions | None = None,
    inspector: Callable[..., MoleculeReport] = inspect_bonded,
    **settings: Any,
) -> Generator[MoleculeReport]:
    """Inspect molecules in worker processes and yield one report for each, in order.

    A molecule that RDKit hangs on has the status "timed out", one that ends the process "crashed". Both keep their
    look-up stability, and all others are as if they had not been there. One that fails with strain or PoseBusters is
    inspected again without them. The reports do not depend on the number of
    workers, and the memory does not grow with the number of molecules.

    Args:
        structures: positions (n, 3) in Å and atomic_numbers (n,) of each, or records; may be endless. A record that
            could not be read has a report that says so.
        options: evaluation options; `workers`, `seconds`, `progress` and those of the inspection matter here.
        inspector: the function that the workers run; they import it by its name.
        settings: fields of `EvaluationOptions`, which replace those of `options`.

    Raises:
        MolflowError: options that do not fit, or worker processes that cannot be started.

    Example:
        >>> import numpy as np
        >>> water = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
        >>> [report.status for report in inspect_all([water, water], workers=0)]
        ['stable', 'stable']
    """
    with closing(inspected(structures, replace(options or EvaluationOptions(), **settings), inspector)) as found:
        for _, report in found:
            yield report


def inspected(
    items: Iterable[Structure | Record],
    options: EvaluationOptions,
    inspector: Callable[..., MoleculeReport] = inspect_bonded,
) -> Generator[Inspected]:
    """Each molecule, with its look-up bonds, and its report, in order."""
    pending: deque[tuple[Record, MoleculeReport | None]] = deque()

    def messages() -> Iterator[list[Any] | None]:
        for record, report in prepared(items):
            pending.append((record, report))
            stated = record.stated if options.covers("all") else None
            yield None if report is not None or record.structure is None else to_message(record.structure, stated)

    results = outcomes(
        answer,
        messages(),
        workers=default_workers() if options.workers is None else options.workers,
        seconds=options.seconds,
        options={"inspector": name_of(inspector), **options.keywords},
        prepare=warm_up,
        lighter=without_extras,
    )
    with closing(results), bar(items, "inspecting", options) as progress:
        for result in results:
            record, report = pending.popleft()
            if report is None:
                assert record.structure is not None
                if isinstance(result, Failure):
                    report = failed_report(record.structure, *result)
                    if options.bonds != "lookup":
                        report = replace(report, stable_atoms=0, stable=False)
                else:
                    report = MoleculeReport.from_message(result)
            yield record.structure, replace(report, source=record.source, record=record.number, stated=record.stated)
            progress.update()


def prepared(items: Iterable[Structure | Record]) -> Iterator[tuple[Record, MoleculeReport | None]]:
    """Each molecule as a record with its look-up bonds; with a report if it cannot be inspected."""
    for block in _blocks(enumerate(items, start=1)):
        records = [item if isinstance(item, Record) else Record("", place, None, item, None) for place, item in block]
        reports = [_rejection(record) for record in records]
        valid = [place for place, report in enumerate(reports) if report is None]
        bonded = look_up([s for place in valid if (s := records[place].structure) is not None])
        for place, structure in zip(valid, bonded, strict=True):
            records[place] = records[place]._replace(structure=structure)
        yield from zip(records, reports, strict=True)


def _rejection(record: Record) -> MoleculeReport | None:
    """The report on a record that could not be read, cannot be inspected, or is not to be scored; else None."""
    if record.structure is None:
        return MoleculeReport(n_atoms=0, formula="", status="unreadable", reason=record.error or "")
    return reject_invalid(record.structure) or reject_unscored(record.structure, record.stated)


def _blocks(items: Iterable[Any]) -> Iterator[list[Any]]:
    """Lists of many items. If the source ends with an error, the items before it come first."""
    block: list[Any] = []
    try:
        for item in items:
            block.append(item)
            if len(block) == _BLOCK:
                yield block
                block = []
    except Exception:
        yield block
        raise
    yield block


def structure_in(item: Structure | Record) -> Structure | None:
    """The molecule of an item; None for a record that could not be read."""
    return item.structure if isinstance(item, Record) else item


def bar(items: Iterable[Any], verb: str, options: EvaluationOptions) -> "tqdm[Any]":
    """A progress bar over molecules, if the options ask for one."""
    total = len(items) if isinstance(items, Sequence) else None
    return progress_bar(total=total, desc=verb, unit="molecule", disable=not options.progress)
