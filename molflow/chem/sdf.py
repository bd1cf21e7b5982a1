"""Read SDF, that is mol blocks in V2000 or V3000, line by line.

RDKit is not used: on a damaged block it can hang, and it names neither the line nor the cause. Only elements and
positions are kept. Bond lines are parsed because they reveal wrong counts.
"""

import re
from collections.abc import Iterator

from molflow.chem.lines import (
    Atom,
    BadRecord,
    Found,
    Lines,
    coordinates,
    element,
    is_separator,
    read_atoms,
    shown,
)
from molflow.chem.structure import Structure

_HEADER = 4  # lines; the last one has the counts
_COUNTS = re.compile(r"[ \d]{6}.*V[23]000\s*$")
_V30 = "M  V30 "
_LONGEST_V30 = 1 << 16  # characters of a V3000 line with its continuations


def read_sdf(lines: Lines) -> Iterator[Found]:
    """Read the records of a stream. A bad record ends at its "$$$$", or at the counts line of the next one.

    Raises:
        BrokenStream: the stream ended by an error.
    """
    while _at_record(lines):
        start = lines.number + 1
        try:
            found: Structure | BadRecord = _mol_block(lines)
        except BadRecord as error:
            found = error
        yield start, found
        _skip_rest(lines)


def _at_record(lines: Lines) -> bool:
    """Skip more blank lines than a header can have. Return whether a record follows."""
    while not any(line.strip() for line in lines.peek(_HEADER)):
        if not lines.take():
            return False
    return True


def _skip_rest(lines: Lines) -> None:
    """Go to the next record: past "$$$$", or to a counts line that is not in a data field."""
    in_field = False
    while (line := lines.take()) and not is_separator(line):
        if line.startswith(">"):
            in_field = True
        elif not line.strip():
            in_field = False
        elif not in_field and _COUNTS.match(line):
            lines.back()
            return


def _mol_block(lines: Lines) -> Structure:
    """Read one molecule. After an error, `lines` are at the wrong line or past the counts line."""
    counts = _counts_line(lines)
    start = lines.number
    try:
        return _v3000(lines) if "V3000" in counts else _v2000(lines, counts)
    except BadRecord:
        if lines.number > start:
            lines.back()
        raise


def _counts_line(lines: Lines) -> str:
    """The fourth line, or an earlier one that is clearly the counts line, if lines of the header are missing."""
    for _ in range(_HEADER):
        line = lines.take()
        if not line or is_separator(line):
            error = lines.bad("truncated, the counts line is missing; expected a V2000 or V3000 mol block")
            lines.back()
            raise error
        if _COUNTS.match(line):
            break
    return line


def _v2000(lines: Lines, counts: str) -> Structure:
    n_atoms, n_bonds = counts[:3].strip(), counts[3:6].strip()
    if not (n_atoms.isdecimal() and n_bonds.isdecimal()):
        raise lines.bad(f"expected the counts line of a V2000 or V3000 mol block, got {shown(counts)}")
    structure = read_atoms(lines, int(n_atoms), "an atom line in the columns of V2000", _v2000_atom)
    for k in range(int(n_bonds)):
        if not _is_v2000_bond(line := lines.take(), int(n_atoms)):
            raise _bad_bond(lines, line, f"{k + 1} of {n_bonds} between atoms 1 to {n_atoms}")
    while not (line := lines.take()).startswith("M  END"):
        _check_not_over(lines, line)
        if (line[0] in " 0123456789" and line.strip()) or line.startswith(_V30):
            raise lines.bad(
                f"expected properties and 'M  END' after {n_atoms} atoms and {n_bonds} bonds, got {shown(line)}"
            )
        if line.startswith(("A  ", "G  ")) and is_separator(lines.take()):  # a line of free text follows
            lines.back()
    return structure


def _v2000_atom(line: str) -> Atom:
    position = coordinates(line[:10], line[10:20], line[20:30])
    return element(line[31:34].strip()), position


def _is_v2000_bond(line: str, n_atoms: int) -> bool:
    try:
        first, second = int(line[:3]), int(line[3:6])
    except ValueError:
        return False
    return 1 <= first <= n_atoms and 1 <= second <= n_atoms


def _v3000(lines: Lines) -> Structure:
    _expect(lines, "BEGIN CTAB")
    word, n_atoms, n_bonds = (_v30(lines).split() + [""] * 3)[:3]
    if word != "COUNTS" or not (n_atoms.isdecimal() and n_bonds.isdecimal()) or len(n_atoms + n_bonds) > 20:
        raise lines.bad(f"expected 'COUNTS atoms bonds', got {shown(' '.join((word, n_atoms, n_bonds)))}")
    indices = set()

    def atom(line: str) -> Atom:
        index, symbol, x, y, z = line.split()[:5]
        position = coordinates(x, y, z)
        indices.add(index)
        return element(symbol), position

    _expect(lines, "BEGIN ATOM")
    structure = read_atoms(lines, int(n_atoms), "'index symbol x y z'", atom, lambda: _v30(lines))
    _expect(lines, "END ATOM")
    if int(n_bonds):
        _expect(lines, "BEGIN BOND")
        for k in range(int(n_bonds)):
            line = _v30(lines)
            ends = line.split()[2:4]
            if len(ends) < 2 or not indices.issuperset(ends):
                raise _bad_bond(lines, line, f"{k + 1} of {n_bonds} between the {n_atoms} atoms")
        _expect(lines, "END BOND")
    while not (line := lines.take()).startswith("M  END"):
        _check_not_over(lines, line)
        if line.strip() and not line.startswith("M  "):
            raise lines.bad(f"expected 'M  END', got {shown(line)}")
    return structure


def _expect(lines: Lines, words: str) -> None:
    line = _v30(lines)
    if line.split() != words.split():
        raise lines.bad(f"expected {words!r}, got {shown(line)}")


def _v30(lines: Lines) -> str:
    """The next line of a V3000 table without its prefix, joined with its continuation lines."""
    text = "-"
    while text.endswith("-"):
        line = lines.take()
        _check_not_over(lines, line)
        if not line.startswith(_V30) or len(text) > _LONGEST_V30:
            raise lines.bad(f"expected a line of V3000, got {shown(line)}")
        text = text[:-1] + line[len(_V30) :].rstrip()
    return text


def _check_not_over(lines: Lines, line: str) -> None:
    if not line or is_separator(line):
        raise lines.bad("truncated, 'M  END' is missing; expected a V2000 or V3000 mol block")


def _bad_bond(lines: Lines, line: str, expected: str) -> BadRecord:
    if not line or is_separator(line):
        return lines.bad(f"truncated; expected bond {expected}")
    return lines.bad(f"expected bond {expected}, got {shown(line)}")
