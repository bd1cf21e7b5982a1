"""Reports on finished molecules in a file, so that an interrupted evaluation continues behind them."""

import json
import os
from collections.abc import Callable, Generator, Iterable, Sequence
from contextlib import closing
from itertools import islice
from pathlib import Path

from molflow.checksums import fingerprint
from molflow.chem.io import Record, Structure
from molflow.errors import MolflowError
from molflow.evaluation.options import EvaluationOptions
from molflow.evaluation.parallel import Inspected, prepared
from molflow.evaluation.reports import MoleculeReport
from molflow.files import Closing, whole_lines

_VERSION = 2  # change it whenever reports change

Inspect = Callable[[Iterable[Structure | Record], EvaluationOptions], Generator[Inspected]]


class Journal(Closing):
    """A line of JSON for the report on each molecule, in order, added as soon as it is known.

    Args:
        path: of the journal.
        files: files and folders of molecules, in the order in which they are evaluated.
        options: evaluation options.
        resume: continue behind the lines that an interrupted evaluation left, if it left any.

    Raises:
        MolflowError: the interrupted evaluation was of other files or had other options.
    """

    def __init__(self, path: Path, files: Sequence[Path], options: EvaluationOptions, resume: bool) -> None:
        self.path = path
        content = fingerprint({str(place): file for place, file in enumerate(files)})
        head = json.dumps({"version": _VERSION, "content": content, "options": options.inspection}) + "\n"
        lines = whole_lines(path) if resume and path.exists() else 0
        self._left = max(0, lines - 1)
        self._file = path.open("r+" if lines else "w+", encoding="utf-8")
        if not lines:
            self._file.write(head)
        elif self._file.readline() != head:
            self._file.close()
            raise MolflowError(f"{path}: is of other files or other options; leave out --resume to begin anew")

    def continued(
        self, items: Iterable[Structure | Record], options: EvaluationOptions, inspect: Inspect
    ) -> Generator[Inspected]:
        """Each molecule with its look-up bonds and its report, in order; only those without a line are inspected."""
        items = iter(items)
        for record, _ in prepared(islice(items, self._left)):
            self._left -= 1
            yield record.structure, self._read()
        if not self._left:
            self._file.seek(0, os.SEEK_END)
        with closing(inspect(items, options)) as found:
            for structure, report in found:
                self._file.write(json.dumps(report.to_message(), separators=(",", ":")) + "\n")
                yield structure, report

    def _read(self) -> MoleculeReport:
        try:
            return MoleculeReport.from_message(json.loads(self._file.readline()))
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise MolflowError(f"{self.path}: damaged; leave out --resume to begin anew") from error

    def close(self) -> None:
        self._file.close()

    def remove(self) -> None:
        """Remove the file, once the evaluation is finished."""
        self.path.unlink(missing_ok=True)
