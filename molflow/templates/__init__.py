"""Experiments to start from, one TOML file each: `molflow train NAME`, `molflow templates`.

Nothing heavy is imported here, as `molflow train --help` lists the names.
"""

import os
from pathlib import Path

from molflow.errors import MolflowError
from molflow.registry import known_names

_HERE = Path(__file__).parent
FILE_SUFFIXES = (".toml", ".json")
"""What the files of experiments end in: experiments, and the config.json of models."""


def template_names() -> tuple[str, ...]:
    """The names of all templates."""
    return tuple(sorted(path.stem for path in _HERE.glob("*.toml")))


def template_text(name: str) -> str:
    """The text of a template.

    Raises:
        MolflowError: no such template; the nearest one is named.

    Example:
        >>> print(template_text("two-moons").splitlines()[0])
        # A density in the plane by a free-form flow of two residual networks. Two minutes.
    """
    if is_file(name):
        raise MolflowError(f"{name}: is a file; expected a template: {', '.join(template_names())}")
    return experiment_file(name).read_text(encoding="utf-8")


def summary(name: str) -> str:
    """The first line of a template, which says what it trains."""
    return template_text(name).splitlines()[0].removeprefix("# ")


def is_file(name_or_file: str | Path) -> bool:
    """Whether words name a file of an experiment: they end in .toml or .json, or hold a slash."""
    text = str(name_or_file)
    return text.endswith(FILE_SUFFIXES) or "/" in text or os.sep in text


def experiment_file(name_or_file: str | Path) -> Path:
    """The file of an experiment: that of a template by its name, or the file itself.

    Raises:
        MolflowError: no such template; the nearest one is named. Whether a file exists is not checked.
    """
    if is_file(name_or_file):
        return Path(name_or_file)
    name = str(name_or_file)
    if name not in (known := template_names()):
        hint = "; a file ends in .toml or .json or holds a slash" if Path(name).exists() else ""
        if Path(name).exists() and Path(name).suffix:
            hint += f"; for a file of molecules: molflow train --init {name} > mine.toml"
        raise MolflowError(f"unknown template {name!r}{known_names(name, known)}{hint}")
    return _HERE / f"{name}.toml"
