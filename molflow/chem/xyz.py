"""Reading XYZ with any number of frames, and extended XYZ, whose comments name the columns."""

import re
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from molflow.chem.elements import symbol
from molflow.chem.lines import Atom, BadRecord, Found, Lines, Parsed, coordinates, element, number, read_atoms, shown
from molflow.chem.structure import Stated
from molflow.errors import MolflowError

_PROPERTIES = re.compile(r"""(?:^|\s)Properties=["']?([^\s"']*)""", re.IGNORECASE)
_COLUMNS = re.compile(r"(\w+):[SRIL]:([1-9]\d?)(?::|$)")
_FIELD = re.compile(r"""([A-Za-z_][\w.-]*)=("[^"]*"|'[^']*'|\{[^}]*\}|\S+)""")
_LABEL = re.compile(r"[A-Z][a-z]?[0-9]{1,4}")
_SEEN_AHEAD = 4  # lines below a number that show whether it is the count of a frame


def read_xyz(lines: Lines) -> Iterator[Found]:
    """Read the frames of a stream. A bad frame ends where the next one starts.

    Blank lines between frames are allowed, and so is text behind the atoms of a good frame, as the published files of
    QM9 have it, unless atoms are in it.

    Raises:
        BrokenStream: the stream ended by an error.
    """
    found: Parsed | BadRecord | None = None
    while line := lines.take():
        if not line.strip():
            continue
        start = lines.number
        if isinstance(found, Parsed) and _count(line) is None:
            bad = lines.bad(f"expected the number of atoms, got {shown(line)}")
            lines.back()
            if _skip_to_frame(lines):
                yield start, bad
            continue
        try:
            found = _frame(lines, line)
        except BadRecord as error:
            found = error
        yield start, found
        if isinstance(found, BadRecord):
            if lines.number > start:
                lines.back()  # the wrong line may be the first of the next frame
            _skip_to_frame(lines)


def _frame(lines: Lines, first: str) -> Parsed:
    """Read the molecule below the line with its count. After an error, the wrong line was taken last."""
    count = _count(first)
    if count is None:
        raise lines.bad(f"expected the number of atoms, got {shown(first)}")
    comment = lines.take()
    if count and _count(comment) is not None and not any(map(_is_plausible, lines.peek(1))):
        raise lines.bad(f"expected a comment and {count} atoms, got {shown(comment)}")  # the count of the next frame
    try:
        columns = _columns(comment)
    except MolflowError as error:
        raise lines.bad(str(error)) from None
    structure = read_atoms(lines, count, columns.layout, columns.atom)
    if any(columns.fit(line) for line in lines.peek(1)):
        raise lines.bad(f"expected {count} atoms, but {shown(lines.take())} follows them")
    fields = _fields(comment)
    charge = next((int(value) for key, value in fields.items() if key.lower() == "charge" and _is_whole(value)), None)
    return Parsed(structure, None if charge is None else Stated(charge=charge), fields)


def _fields(comment: str) -> dict[str, str]:
    """The key=value pairs of a comment but for the names of columns; quotes around a value are removed."""
    pairs = ((key, value.strip("\"'{}")) for key, value in _FIELD.findall(comment))
    return {key: value for key, value in pairs if key.lower() != "properties"}


def _is_whole(text: str) -> bool:
    return re.fullmatch(r"[-+]?\d{1,4}", text) is not None


def _count(line: str) -> int | None:
    text = line.strip()
    return int(text) if text.isdecimal() and len(text) < 20 else None


class _Columns(NamedTuple):
    """The columns of the element and of the first of three coordinates, and the layout for error messages."""

    element: int
    first: int
    layout: str

    def atom(self, line: str) -> Atom:
        fields = line.split()
        name, xyz = fields[self.element : self.element + 1], fields[self.first : self.first + 3]
        if not name or len(xyz) < 3:
            raise ValueError
        position = coordinates(*xyz)
        return _element(name[0]), position

    def fit(self, line: str) -> bool:
        """Whether the line can be read as an atom."""
        try:
            self.atom(line)
        except ValueError:
            return False
        return True


def _element(name: str) -> int:
    """The atomic number of a symbol, a number or a label such as C1."""
    if name.isdecimal():
        return element(symbol(int(name)))
    return element(name.rstrip("0123456789") if _LABEL.fullmatch(name) else name)


_PLAIN = _Columns(0, 1, "'symbol x y z'")


def _columns(comment: str) -> _Columns:
    """The columns that the comment of an extended XYZ names, or those of a plain XYZ."""
    named = _PROPERTIES.search(comment)
    if named is None:
        return _PLAIN
    places: dict[str, tuple[int, int]] = {}
    first = 0
    for name, width in _COLUMNS.findall(named[1]):
        places[name.lower()] = first, int(width)
        first += int(width)
    try:
        (species, _), (position, width) = places.get("species") or places["z"], places["pos"]
    except KeyError:
        width = 0
    if width != 3:
        raise MolflowError(f"expected Properties with species:S:1 and pos:R:3, got {shown(named[1])}")
    return _Columns(species, position, f"the columns {named[1][:200]}")


def _skip_to_frame(lines: Lines) -> bool:
    """Skip lines up to the count of the next frame. Return whether atoms are among them."""
    atoms = False
    while line := lines.take():
        if _count(line) is not None and _starts_frame(line, lines.peek(_SEEN_AHEAD)):
            lines.back()
            break
        atoms = atoms or _PLAIN.fit(line) or _PROPERTIES.search(line) is not None
    return atoms


def _starts_frame(line: str, following: Sequence[str]) -> bool:
    """Whether a line with one number is the count of a frame: one of the lines that follow must look like an atom."""
    count = _count(line)
    if count == 0:
        return len(following) < 2 or not following[1].strip() or _count(following[1]) is not None
    comment, *atoms = following or [""]
    return _PROPERTIES.search(comment) is not None or any(map(_is_plausible, atoms[:count]))


def _is_plausible(line: str) -> bool:
    """Whether a line could be an atom, perhaps a damaged one: two of its coordinates are numbers."""
    return sum(map(_is_number, line.split()[1:4])) >= 2 and not _PROPERTIES.search(line)


def _is_number(text: str) -> bool:
    try:
        number(text)
    except ValueError:
        return False
    return True
