"""The lines of a text stream with their numbers, and functions that the readers of text formats share.

Memory does not grow with the stream: few lines are held at a time, and an endless line is cut.
"""

import zlib
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import NamedTuple, TextIO

import numpy as np

from molflow.chem.elements import atomic_number
from molflow.chem.structure import LARGEST, Stated, Structure, coordinate_error
from molflow.errors import MolflowError

_LONGEST = 1 << 16  # characters of a line that are kept; no valid line is longer
_MOST_ATOMS = 100_000  # of a record, so that a wrong or hostile count does not fill the memory


class BadRecord(Exception):
    """A record that cannot be read. The message names the line and the cause."""


class BrokenStream(Exception):
    """A stream that ended by an error. The message names the line and the cause."""


class Parsed(NamedTuple):
    """A molecule as a file has it.

    Attributes:
        structure: the atoms.
        stated: bonds and charges that the file states, if it states any.
        fields: named texts that belong to the molecule: data fields of SDF, key=value pairs of XYZ.
        name: the title line of SDF.
    """

    structure: Structure
    stated: Stated | None
    fields: dict[str, str]
    name: str = ""


Found = tuple[int, Parsed | BadRecord]
"""The line where a record starts, and the molecule or the error."""

Atom = tuple[int, tuple[float, float, float]]
"""Atomic number and position, Å."""


class Lines:
    """The lines of a stream, each with its line end; "" marks the end of the stream.

    Attributes:
        number: number of the line that was taken last, from 1.
    """

    def __init__(self, stream: TextIO) -> None:
        self.number = 0
        self._stream = stream
        self._ahead: deque[str] = deque()
        self._last = ""
        self._broken = ""
        self._over = False

    def take(self) -> str:
        """Take the next line. Raises BrokenStream if an error prevents reading it."""
        line = self._ahead.popleft() if self._ahead else self._read()
        if not line and self._broken:
            raise BrokenStream(f"line {self.number + 1}: {self._broken}")
        self.number += 1
        self._last = line
        return line

    def back(self) -> None:
        """Undo the last `take`."""
        self.number -= 1
        if self._last:
            self._ahead.appendleft(self._last)

    def peek(self, n: int) -> list[str]:
        """The next n lines, or as many as there are, without taking them."""
        while len(self._ahead) < n and (line := self._read()):
            self._ahead.append(line)
        return list(islice(self._ahead, n))

    def bad(self, problem: str) -> BadRecord:
        """The error for the line that was taken last; the caller raises it."""
        return BadRecord(f"line {self.number}: {problem}")

    def _read(self) -> str:
        if self._over:
            return ""
        try:
            line = piece = self._stream.readline(_LONGEST)
            while len(piece) == _LONGEST and not piece.endswith("\n"):
                piece = self._stream.readline(_LONGEST)
        except (OSError, EOFError, zlib.error) as error:
            self._broken = f"cannot be read further ({reason(error)})"
            line = ""
        self._over = not line
        return line


def read_atoms(
    lines: Lines, count: int, layout: str, parse: Callable[[str], Atom], take: Callable[[], str] | None = None
) -> Structure:
    """Read the next `count` lines as atoms.

    Args:
        lines: the stream; after an error, the wrong line was taken last.
        count: the number of atoms that the record states.
        layout: the expected form of a line, for error messages.
        parse: reads an atom from a line. Raises MolflowError for a specific cause, or any other ValueError.
        take: returns the next line; by default `lines.take`.

    Raises:
        BadRecord: a line that is not an atom, or too many atoms.
    """
    if count > _MOST_ATOMS:
        raise lines.bad(f"{count:,} atoms; a molecule may have {_MOST_ATOMS:,} at most")
    take = take or lines.take
    numbers, positions = [], []
    for k in range(count):
        line = take()
        try:
            number, position = parse(line)
        except MolflowError as error:
            raise lines.bad(f"{error} (atom {k + 1} of {count})") from None
        except ValueError:
            if not line.strip() or is_separator(line):
                raise lines.bad(f"truncated after {k} of {count} atoms; expected {layout} for each") from None
            raise lines.bad(f"expected {layout}, got {shown(line)} (atom {k + 1} of {count})") from None
        numbers.append(number)
        positions.append(position)
    return Structure(np.array(positions, dtype=np.float64).reshape(-1, 3), np.array(numbers, dtype=np.int64))


def coordinates(x: str, y: str, z: str) -> tuple[float, float, float]:
    """Read three numbers, Å. Raises ValueError for other text, MolflowError for a coordinate that is not accepted."""
    position = a, b, c = number(x), number(y), number(z)
    if not (abs(a) <= LARGEST and abs(b) <= LARGEST and abs(c) <= LARGEST):  # also for NaN
        raise MolflowError(coordinate_error(list(position)))
    if "_" in x or "_" in y or "_" in z:  # Python reads 1_5 as 15
        raise ValueError
    return position


def number(text: str) -> float:
    """Read a number; 1.5D-3 (Fortran) and 1.5*^-3 (the published files of QM9) are 0.0015 too. Raises ValueError."""
    try:
        return float(text)
    except ValueError:
        return float(text.upper().replace("*^", "E").replace("D", "E"))


def element(name: str) -> int:
    """The atomic number of an element symbol; D and T are hydrogen. Raises MolflowError for an unknown symbol."""
    return 1 if name in ("D", "T") else atomic_number(name)


def is_separator(line: str) -> bool:
    """Whether a line ends a record of an SDF file."""
    return line.startswith("$$$$")


def shown(line: str) -> str:
    """The beginning of a line, for an error message."""
    return repr(line.strip()[:40])


def reason(error: Exception) -> str:
    """The cause of a failed read, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
