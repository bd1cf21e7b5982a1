"""Read TOML files into validated configuration."""

import tomllib
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from pydantic import ValidationError

from molflow.config.choices import Config
from molflow.config.messages import explain
from molflow.errors import MolflowError
from molflow.files import read_text

LARGEST_TOML = 1 << 20
"""Bytes of a TOML file, above which it is not read."""

_DEEPEST = 100  # tables within tables

Parsed = TypeVar("Parsed", bound=Config)


def read_toml(path: str | Path, overrides: Sequence[str] = ()) -> dict[str, Any]:
    """The table of a TOML file, with overrides as in `override`.

    Raises:
        MolflowError: no such file, not TOML, or an override without a key and a value.
    """
    path = Path(path)
    text = read_text(path, LARGEST_TOML, "a TOML file")
    try:
        table = tomllib.loads(text)
    except (ValueError, RecursionError) as error:
        raise MolflowError(f"{path}: not a TOML file: {error}") from error
    override(table, overrides)
    return table


def override(table: dict[str, Any], overrides: Sequence[str]) -> None:
    """Apply `a.b=value` overrides to a table (value as in TOML; a bare word is a string).

    Raises:
        MolflowError: an override without a key and a value.
    """
    for each in overrides:
        _apply(table, each)


def parse(model: type[Parsed], table: Mapping[str, Any], source: str) -> Parsed:
    """Validate a table against a configuration class.

    Raises:
        MolflowError: one line that names `source` and every key at fault; for an unknown key the nearest known one.
    """
    _check_depth(table, source)
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise MolflowError(f"{source}: {explain(model, table, error)}") from error


def _check_depth(table: Mapping[str, Any], source: str) -> None:
    level: list[Any] = [table]
    for _ in range(_DEEPEST):
        level = [
            inner
            for outer in level
            if isinstance(outer, Mapping | list)
            for inner in (outer.values() if isinstance(outer, Mapping) else outer)
        ]
    if level:
        raise MolflowError(f"{source}: nested too deeply; at most {_DEEPEST} levels are read")


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise MolflowError(f"--set {override}: expected a.b=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except (ValueError, RecursionError):
        value = text
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise MolflowError(f"--set {override}: {name} is a value, not a table")
    table[last] = value
