"""Read SDF, that is mol blocks in V2000 or V3000, line by line.

RDKit is not used: on a damaged block it can hang, and it names neither the line nor the cause. Elements, positions,
bonds, formal charges, radicals and data fields are kept.
"""

import re
from collections.abc import Iterable, Iterator

import numpy as np

from molflow.chem.lines import (
    Atom,
    BadRecord,
    Found,
    Lines,
    Parsed,
    coordinates,
    element,
    is_separator,
    read_atoms,
    shown,
)
from molflow.chem.structure import AROMATIC, Stated, Structure

_HEADER = 4  # lines; the last one has the counts
_COUNTS = re.compile(r"[ \d]{6}.*V[23]000\s*$")
_V30 = "M  V30 "
_LONGEST_V30 = 1 << 16  # characters of a V3000 line with its continuations
_LONGEST_FIELD = 1 << 16  # characters of a data field that are kept
_FIELD_NAME = re.compile(r"<([^>]*)>")
_OLD_CHARGES = {1: 3, 2: 2, 3: 1, 5: -1, 6: -2, 7: -3}  # of atom lines; "M  CHG" lines replace all of them
_UNPAIRED = {1: 2, 2: 1, 3: 2}  # electrons of a singlet, doublet and triplet radical


def read_sdf(lines: Lines) -> Iterator[Found]:
    """Read the records of a stream. A bad record ends at its "$$$$", or at the counts line of the next one.

    Raises:
        BrokenStream: the stream ended by an error.
    """
    while _at_record(lines):
        start = lines.number + 1
        name = lines.peek(1)[0].strip()
        try:
            structure, stated = _mol_block(lines)
        except BadRecord as error:
            yield start, error
            _data_fields(lines)
        else:
            yield start, Parsed(structure, stated, _data_fields(lines), name)


def _at_record(lines: Lines) -> bool:
    """Skip more blank lines than a header can have. Return whether a record follows."""
    while not any(line.strip() for line in lines.peek(_HEADER)):
        if not lines.take():
            return False
    return True


def _data_fields(lines: Lines) -> dict[str, str]:
    """The data fields up to the next record, which starts behind "$$$$", or at a counts line outside of a field."""
    fields: dict[str, str] = {}
    name: str | None = None  # of the field that the line is in
    while (line := lines.take()) and not is_separator(line):
        if line.startswith(">"):
            found = _FIELD_NAME.search(line)
            name = found[1] if found else ""
            fields[name] = ""
        elif not line.strip():
            name = None
        elif name is not None:
            fields[name] = (fields[name] + line)[:_LONGEST_FIELD]
        elif _COUNTS.match(line):
            lines.back()
            break
    return {name: text.strip() for name, text in fields.items() if name}


def _mol_block(lines: Lines) -> tuple[Structure, Stated]:
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


def _v2000(lines: Lines, counts: str) -> tuple[Structure, Stated]:
    n_atoms, n_bonds = counts[:3].strip(), counts[3:6].strip()
    if not n_bonds.isdecimal():  # loosely spaced
        n_atoms, n_bonds = [*counts.split(), "", ""][:2]
    if not (n_atoms.isdecimal() and n_bonds.isdecimal()):
        raise lines.bad(f"expected the counts line of a V2000 or V3000 mol block, got {shown(counts)}")
    charges: list[int] = []

    def atom(line: str) -> Atom:
        number, position, code = _v2000_atom(line)
        charges.append(_OLD_CHARGES.get(_whole(code), 0))
        return number, position

    structure = read_atoms(lines, int(n_atoms), "an atom line in the columns of V2000", atom)
    bonds = []
    for k in range(int(n_bonds)):
        bond = _v2000_bond(line := lines.take(), int(n_atoms))
        if bond is None:
            raise _bad_bond(lines, line, f"{k + 1} of {n_bonds} between atoms 1 to {n_atoms}")
        bonds.append(bond)
    listed: dict[str, dict[int, int]] = {}
    while not (line := lines.take()).startswith("M  END"):
        _check_not_over(lines, line)
        if line.startswith(("M  CHG", "M  RAD")):
            listed.setdefault(line[3:6], {}).update(_listed(lines, line, int(n_atoms)))
            continue
        if (line[0] in " 0123456789" and line.strip()) or line.startswith(_V30):
            raise lines.bad(
                f"expected properties and 'M  END' after {n_atoms} atoms and {n_bonds} bonds, got {shown(line)}"
            )
        if line.startswith(("A  ", "G  ")) and is_separator(lines.take()):  # a line of free text follows
            lines.back()
    of_atoms = listed.get("CHG", {}) if listed else dict(enumerate(charges))
    unpaired = {i: _UNPAIRED.get(code, 0) for i, code in listed.get("RAD", {}).items()}
    return structure, _stated(int(n_atoms), bonds, of_atoms, unpaired)


def _stated(
    n_atoms: int, bonds: Iterable[tuple[int, int, int]], charges: dict[int, int], radicals: dict[int, int]
) -> Stated:
    def of_atoms(values: dict[int, int]) -> np.ndarray:
        array = np.zeros(n_atoms, dtype=np.int64)
        array[list(values)] = list(values.values())
        return array

    rows = np.array(list(bonds), dtype=np.int64).reshape(-1, 3)
    found = of_atoms(charges)
    return Stated(rows, found, of_atoms(radicals), int(found.sum()))


def _listed(lines: Lines, line: str, n_atoms: int) -> dict[int, int]:
    """The values of atoms, counted from 0, in a line such as "M  CHG  2   1   1   4  -1"."""
    try:
        count, *rest = map(int, line[6:].split())
        pairs = dict(zip(rest[::2], rest[1::2], strict=True))
        if count != len(pairs) or not all(1 <= atom <= n_atoms for atom in pairs):
            raise ValueError
    except ValueError:
        raise lines.bad(f"expected pairs of an atom 1 to {n_atoms} and a value, got {shown(line)}") from None
    return {atom - 1: value for atom, value in pairs.items()}


def _whole(text: str) -> int:
    """A whole number, 0 for other text."""
    try:
        return int(text)
    except ValueError:
        return 0


def _v2000_atom(line: str) -> tuple[int, tuple[float, float, float], str]:
    """Atomic number, position and code of the charge of an atom line, in columns or loosely spaced."""
    fields = [line[:10], line[10:20], line[20:30], line[31:34].strip(), "", line[36:39]]
    if not fields[3] or any(len(text.split()) > 1 for text in fields):
        fields = (line.split() + [""] * 6)[:6]
    x, y, z, symbol, _, code = fields
    position = coordinates(x, y, z)
    if not symbol or symbol.isdecimal():  # a line of a bond
        raise ValueError
    return element(symbol), position, code


def _v2000_bond(line: str, n_atoms: int) -> tuple[int, int, int] | None:
    """Two atoms, counted from 0, and the order of the bond; None if the line is no bond of the molecule."""
    fields = [line[:3], line[3:6], line[6:9]]
    if any(len(text.split()) > 1 for text in fields):  # loosely spaced
        fields = line.split()[:3]
    try:
        first, second = int(fields[0]), int(fields[1])
    except (ValueError, IndexError):
        return None
    within = 1 <= first <= n_atoms and 1 <= second <= n_atoms
    return (first - 1, second - 1, _order("".join(fields[2:]))) if within else None


def _order(text: str) -> int:
    """The order of a bond. Queries, and orders that are not 1 to 4, have no order of their own and become single."""
    order = _whole(text)
    return order if 1 <= order <= AROMATIC else 1


def _v3000(lines: Lines) -> tuple[Structure, Stated]:
    _expect(lines, "BEGIN CTAB")
    word, n_atoms, n_bonds = (_v30(lines).split() + [""] * 3)[:3]
    if word != "COUNTS" or not (n_atoms.isdecimal() and n_bonds.isdecimal()) or len(n_atoms + n_bonds) > 20:
        raise lines.bad(f"expected 'COUNTS atoms bonds', got {shown(' '.join((word, n_atoms, n_bonds)))}")
    places: dict[str, int] = {}
    marks: dict[str, dict[int, int]] = {"CHG": {}, "RAD": {}}

    def atom(line: str) -> Atom:
        index, symbol, x, y, z, *rest = line.split()
        position = coordinates(x, y, z)
        place = places[index] = len(places)
        for key, _, value in (word.partition("=") for word in rest):
            if key in marks:
                marks[key][place] = int(value)
        return element(symbol), position

    _expect(lines, "BEGIN ATOM")
    structure = read_atoms(lines, int(n_atoms), "'index symbol x y z'", atom, lambda: _v30(lines))
    _expect(lines, "END ATOM")
    bonds = []
    if int(n_bonds):
        _expect(lines, "BEGIN BOND")
        for k in range(int(n_bonds)):
            line = _v30(lines)
            _, order, *ends = (line.split() + [""] * 4)[:4]
            if not places.keys() >= set(ends):
                raise _bad_bond(lines, line, f"{k + 1} of {n_bonds} between the {n_atoms} atoms")
            bonds.append((places[ends[0]], places[ends[1]], _order(order)))
        _expect(lines, "END BOND")
    while not (line := lines.take()).startswith("M  END"):
        _check_not_over(lines, line)
        if line.strip() and not line.startswith("M  "):
            raise lines.bad(f"expected 'M  END', got {shown(line)}")
    unpaired = {i: _UNPAIRED.get(code, 0) for i, code in marks["RAD"].items()}
    return structure, _stated(int(n_atoms), bonds, marks["CHG"], unpaired)


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
