"""What `molflow sample` is asked for, from words to values: conditions, a composition, a scaffold."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molflow.cli.options import UsageError
from molflow.errors import MolflowError

if TYPE_CHECKING:
    from molflow.batch import MoleculeBatch


def conditions(words: Sequence[str]) -> dict[str, str]:
    """Names and values of conditions."""
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, value) in zip(words, pairs, strict=True):
        if not (name.strip() and equals and value.strip()):
            raise UsageError(f"--cond {word}: expected NAME=VALUE, such as gap=5.2eV")
    return {name.strip(): value.strip() for name, _, value in pairs}


def requested(
    formula: str | None, n_atoms: int | None, composition: str | None, elements: str | None, scaffold: Path | None
) -> dict[str, Any]:
    """The keywords of `Flow.request`, those alone that were given."""
    keywords = {
        "formula": formula,
        "n_atoms": n_atoms,
        "composition": composition and _composition(composition),
        "elements": elements and [element.strip() for element in elements.split(",")],
        "scaffold": scaffold and _scaffold(scaffold),
    }
    return {name: value for name, value in keywords.items() if value is not None}


def _composition(text: str) -> dict[str, int]:
    """The number of points of each type."""
    counts = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if not number.strip().isdecimal():
            raise UsageError(f"--composition {part}: expected TYPE=NUMBER, such as CH3=2")
        counts[name.strip()] = int(number)
    return counts


def _scaffold(path: Path) -> "MoleculeBatch":
    """The one molecule of a file."""
    from molflow.batch import MoleculeBatch
    from molflow.chem import read_structures

    structures = read_structures(path)
    if len(structures) != 1:
        raise MolflowError(f"{path}: expected one scaffold, got {len(structures)} molecules")
    return MoleculeBatch.from_structures(structures)
