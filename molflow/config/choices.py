"""The base of all configuration classes, and choices among registered ones.

A `KindConfig` is in the file of the class that it builds, and a `Registry` gives it its name. In a file the key `kind`
chooses among them:

    [model.encoder]
    kind = "egnn"
    hidden = 64
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, ClassVar

from pydantic import (
    BaseModel,
    ConfigDict,
    GetCoreSchemaHandler,
    SerializerFunctionWrapHandler,
    model_serializer,
    model_validator,
)
from pydantic_core import CoreSchema, PydanticCustomError, core_schema

from molflow.registry import Registry


class Config(BaseModel):
    """Base of all configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


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
