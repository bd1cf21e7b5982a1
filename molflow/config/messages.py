"""Errors of configuration in plain words: every key at fault, what is expected there, and what was found."""

import copy
import difflib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

from pydantic import ValidationError
from pydantic.fields import FieldInfo

from molflow.config.choices import Config, OneOf

_EXPLAINED = 10  # errors that a message names
_LONGEST_INPUT = 200  # characters of a value in a message

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


def explain(model: type[Config], table: Mapping[str, Any], error: ValidationError) -> str:
    """One line about a table that is not a configuration of a class."""
    found = _with_all_missing_keys(model, table, error.errors())
    errors = [each for each in found if each["type"] != "default_factory_not_called"]  # that follows
    explained = [_complaint(model, table, each) for each in errors[:_EXPLAINED]]
    more = [f"and {len(errors) - _EXPLAINED:,} more"] if len(errors) > _EXPLAINED else []
    return "; ".join(explained + more)


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


def _complaint(model: type[Config], table: Mapping[str, Any], error: Any) -> str:
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
