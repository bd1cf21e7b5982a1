"""Configuration as validated data: the base of all configuration classes, choices among registered ones, and errors.

A `KindConfig` is in the file of the class that it builds, and a `Registry` gives it its name. In a file the key `kind`
chooses among them:

    [model.encoder]
    kind = "egnn"
    hidden = 64
"""

import copy
import difflib
import tomllib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, TypeVar, get_args

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    ValidationError,
    model_serializer,
    model_validator,
)
from pydantic.fields import FieldInfo
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from molflow.errors import MolflowError
from molflow.files import read_text
from molflow.registry import Registry

LARGEST_TOML = 1 << 20
"""Bytes of a TOML file, above which it is not read."""

_DEEPEST = 100  # tables within tables
_EXPLAINED = 10  # errors that a message names
_LONGEST_INPUT = 200  # characters of a value in a message


class Config(BaseModel):
    """Base of all configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


Parsed = TypeVar("Parsed", bound=Config)

_EXPECTED = {
    **dict.fromkeys(("int_type", "int_parsing", "int_parsing_size", "int_from_float"), "an integer"),
    **dict.fromkeys(("float_type", "float_parsing"), "a number"),
    **dict.fromkeys(("bool_type", "bool_parsing"), "true or false"),
    **dict.fromkeys(("list_type", "tuple_type"), "a list"),
    **dict.fromkeys(("dict_type", "model_type", "model_attributes_type"), "a table"),
    "string_type": "a string",
    "string_too_short": "at least {min_length} character",
    "too_short": "at least {min_length} item",
    "path_type": "the path of a file",
    "literal_error": "{expected}",
    "greater_than": "more than {gt:g}",
    "greater_than_equal": "at least {ge:g}",
    "less_than": "less than {lt:g}",
    "less_than_equal": "at most {le:g}",
}
"""What is expected instead of a wrong value, by pydantic's type of the error and with the names of its context."""


class KindConfig(Config):
    """Base of configurations that are chosen by `kind`, which `Registry.register` sets on the class.

    Attributes:
        kind: the registered name.
        kind_key: the key of a table that holds it.
    """

    kind: ClassVar[str | None] = None
    kind_key: ClassVar[str] = "kind"

    @model_validator(mode="before")
    @classmethod
    def _without_kind(cls, table: Any) -> Any:
        if isinstance(table, Mapping) and cls.kind_key in table:
            if table[cls.kind_key] != cls.kind:
                raise ValueError(f"{cls.kind_key} must be {cls.kind!r} here, got {table[cls.kind_key]!r}")
            return {key: value for key, value in table.items() if key != cls.kind_key}
        return table

    @model_serializer(mode="wrap")
    def _with_kind(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return {self.kind_key: self.kind, **serialize(self)}

    def settings(self) -> dict[str, Any]:
        """All values but the kind, as keyword arguments of what the configuration builds."""
        return {name: getattr(self, name) for name in type(self).model_fields}


@dataclass(frozen=True)
class OneOf:
    """Annotation of a field whose value is the configuration of any registered kind.

    Args:
        registry: kinds -> configuration classes.
        default: the kind of a table that does not name one.
        key: the key that names the kind.

    Example:
        Network = Annotated[SerializeAsAny[NetworkConfig], OneOf(NETWORKS)]
    """

    registry: Registry[Any]
    default: str | None = None
    key: str = "kind"

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_before_validator_function(self._choose, handler(source))

    def class_of(self, table: Mapping[str, Any]) -> type[Config] | None:
        """The class that a table names; None where its kind is missing or unknown."""
        name = self.name_in(table)
        return self.registry[name] if isinstance(name, str) and name in self.registry else None

    def name_in(self, table: Mapping[str, Any]) -> Any:
        """The kind that a table names, or the default."""
        return table.get(self.key, self.default)

    def _choose(self, value: Any) -> Any:
        if not isinstance(value, Mapping):
            return value
        name = self.name_in(value)
        if name is None:
            accepted = ", ".join(self.registry.names())
            raise PydanticCustomError("no_kind", "has no {key}; accepted are: {accepted}", _context(self.key, accepted))
        chosen = self.class_of(value)
        if chosen is None:
            raise PydanticCustomError("unknown_kind", "{accepted}", _context(self.key, self.registry.unknown(name)))
        return chosen.model_validate(dict(value))


@dataclass(frozen=True)
class NameIn:
    """Annotation of a field that holds a name of a registry: `Annotated[str, NameIn(SURROGATES)]`."""

    registry: Registry[Any]

    def __get_pydantic_core_schema__(self, source: Any, handler: GetCoreSchemaHandler) -> CoreSchema:
        return core_schema.no_info_after_validator_function(self._check, handler(source))

    def _check(self, name: str) -> str:
        if name not in self.registry:
            raise ValueError(self.registry.unknown(name))
        return name


def _context(key: str, accepted: str) -> dict[str, Any]:
    return {"key": key, "accepted": accepted}


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
        found = _with_all_missing_keys(model, table, error.errors())
        errors = [each for each in found if each["type"] != "default_factory_not_called"]  # that follows
        explained = [_explain(model, table, each) for each in errors[:_EXPLAINED]]
        more = [f"and {len(errors) - _EXPLAINED:,} more"] if len(errors) > _EXPLAINED else []
        raise MolflowError(f"{source}: {'; '.join(explained + more)}") from error


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


def _with_all_missing_keys(model: type[Config], table: Mapping[str, Any], errors: Sequence[Any]) -> Sequence[Any]:
    """The errors of a table in which missing tables count as empty, so that all missing keys are found at once."""
    missing = [each["loc"] for each in errors if each["type"] == "missing" and _is_table(model, table, each["loc"])]
    if not missing:
        return errors
    filled: dict[str, Any] = copy.deepcopy(dict(table))
    for *parents, name in missing:
        inner = filled
        for parent in parents:
            inner = inner[parent]
        inner[name] = {}
    try:
        model.model_validate(filled)
    except ValidationError as error:
        return _with_all_missing_keys(model, filled, error.errors())
    return errors


def _is_table(model: type[Config], table: Any, location: Sequence[Any]) -> bool:
    """Whether a key at some depth holds a table."""
    name, *rest = location
    field = model.model_fields.get(name)
    if field is None:
        return False
    inner = table.get(name) if isinstance(table, Mapping) else None
    chosen = _class_of(field, inner)
    if rest:
        return chosen is not None and _is_table(chosen, inner, rest)
    return chosen is not None or any(isinstance(choice, OneOf) for choice in field.metadata)


def _explain(model: type[Config], table: Mapping[str, Any], error: Any) -> str:
    location = [str(part) for part in error["loc"]]
    key = ".".join(location)
    if error["type"] == "extra_forbidden":
        near = _nearest(model, table, location)
        return f"unknown key {key}" + (f"; did you mean {near}?" if near else "")
    if error["type"] == "unknown_kind":
        return f"{key}.{error['ctx']['key']}: {error['msg']}" if key else str(error["msg"])
    if error["type"] == "missing":
        return f"{key} is missing"
    return (f"{key}: " if key else "") + _wording(error)


def _wording(error: Any) -> str:
    """What is wrong with a value: what is expected, and what was found."""
    if expected := _EXPECTED.get(error["type"]):
        message = f"expected {expected.format(**error.get('ctx', {}))}"
    else:
        message = str(error["msg"]).removeprefix("Value error, ").replace("Input should be", "expected")
    says_input = message.startswith("unknown ") or ", got " in message
    complete = error["type"] == "no_kind" or isinstance(error["input"], dict) or says_input
    return message if complete else f"{message}, got {_shortened(repr(error['input']))}"


def _shortened(text: str) -> str:
    return text if len(text) <= _LONGEST_INPUT else f"{text[:_LONGEST_INPUT]}..."


def _nearest(model: type[Config], table: Mapping[str, Any], location: Sequence[str]) -> str | None:
    """The known key that was probably meant: of the same table by likeness, or of another under the same name."""
    *parents, name = location
    known = list(_known_keys(model, table))
    beside = {key[-1]: key for key in known if list(key[:-1]) == parents}
    if near := difflib.get_close_matches(name, beside, n=1):
        return ".".join(beside[near[0]])
    elsewhere = {key[-1]: key for key in known}
    near = difflib.get_close_matches(name, elsewhere, n=1, cutoff=0.85)
    return ".".join(elsewhere[near[0]]) if near else None


def _known_keys(model: type[Config], table: Any, prefix: tuple[str, ...] = ()) -> Iterator[tuple[str, ...]]:
    """All keys of a configuration, tables included; where a table chooses a kind, those of that kind."""
    for name, field in model.model_fields.items():
        yield (*prefix, name)
        inner = table.get(name) if isinstance(table, Mapping) else None
        chosen = _class_of(field, inner)
        if chosen is not None:
            yield from _known_keys(chosen, inner, (*prefix, name))


def _class_of(field: FieldInfo, table: Any) -> type[Config] | None:
    """The configuration class of a field's value, if it is one."""
    for choice in field.metadata:
        if isinstance(choice, OneOf):
            return choice.class_of(table if isinstance(table, Mapping) else {})
    annotations = (field.annotation, *get_args(field.annotation))  # a configuration, or one that may be left out
    return next((each for each in annotations if isinstance(each, type) and issubclass(each, Config)), None)
