"""The lines of a text stream with their numbers, and what the readers of text formats share.

Memory does not depend on the stream: few lines are held at a time, and one that never ends is cut.
"""

import zlib
from collections import deque
from collections.abc import Callable
from itertools import islice
from typing import TextIO

import numpy as np

from molflow.chem.elements import atomic_number
from molflow.chem.structure import LARGEST, Structure, coordinate_error
from molflow.errors import MolflowError

_LONGEST = 1 << 16  # characters of a line that are kept; no line that matters is longer


class BadRecord(Exception):
    """A record that cannot be read, in words that name the line and the cause."""


class BrokenStream(Exception):
    """A stream that ended by an error, in words."""


Found = tuple[int, Structure | BadRecord]
"""The line where a record starts, and the molecule or what is wrong with it."""

Atom = tuple[int, tuple[float, float, float]]
"""Atomic number and position, Å."""


class Lines:
    """The lines of a stream, each with its line end; "" stands for the end.

    Attributes:
        number: of the line that was taken last, from 1.
    """

    def __init__(self, stream: TextIO) -> None:
        self.number = 0
        self._stream = stream
        self._ahead: deque[str] = deque()
        self._last = ""
        self._broken = ""
        self._over = False

    def take(self) -> str:
        """The next line. Raises BrokenStream where an error kept it from being read."""
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
        """The next n lines, or as many as there are; they are still to be taken."""
        while len(self._ahead) < n and (line := self._read()):
            self._ahead.append(line)
        return list(islice(self._ahead, n))

    def bad(self, problem: str) -> BadRecord:
        """The error to raise for the line that was taken last."""
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
    """The next `count` lines as atoms.

    Args:
        lines: where they stand; after an error, the line at fault was taken last.
        count: what the record says; no memory is set aside for it.
        layout: what a line is expected to look like, in words.
        parse: an atom from a line. Raises MolflowError with a cause of its own, or any other ValueError.
        take: gives the next line; by default `lines.take`.

    Raises:
        BadRecord: a line that is none of an atom.
    """
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
    """Three numbers, Å. Raises ValueError for other text, MolflowError for what is no place of an atom."""
    position = a, b, c = float(x), float(y), float(z)
    if not (abs(a) <= LARGEST and abs(b) <= LARGEST and abs(c) <= LARGEST):  # NaN is not
        raise MolflowError(coordinate_error(list(position)))
    if "_" in x or "_" in y or "_" in z:  # Python takes 1_5 for 15
        raise ValueError
    return position


def element(name: str) -> int:
    """The atomic number of an element, or of deuterium or tritium under their own symbols. Raises MolflowError."""
    return 1 if name in ("D", "T") else atomic_number(name)


def is_separator(line: str) -> bool:
    """Whether a line ends a record of an SDF."""
    return line.startswith("$$$$")


def shown(line: str) -> str:
    """The beginning of a line, for a message."""
    return repr(line.strip()[:40])


def reason(error: Exception) -> str:
    """What a failed read says of itself, in one line."""
    text = getattr(error, "strerror", None) or str(error) or type(error).__name__
    return " ".join(text.split())
