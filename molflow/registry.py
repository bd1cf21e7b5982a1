"""Registries: named objects of one kind, such as networks or data sets, that other packages can add to.

A registry knows the names of its built-in objects from a table and those of installed packages from entry points, so
that names can be listed without importing anything. An object is imported when it is first used.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from importlib import import_module
from typing import TYPE_CHECKING, Any, Generic, TypeVar

from molflow.errors import MolflowError

if TYPE_CHECKING:
    from importlib.metadata import EntryPoint

T = TypeVar("T")
Registered = TypeVar("Registered")


class Registry(Generic[T]):
    """Objects of one kind by name.

    Args:
        kind: what the objects are, in the singular, for error messages.
        modules: name -> module that registers the object when it is imported. A function is called at every look-up,
            for tables that depend on another registry.
        group: entry-point group in which installed packages name further modules or objects.

    Example:
        >>> shapes = Registry("shape")
        >>> @shapes.register("square")
        ... def area(side):
        ...     return side * side
        >>> shapes["square"](3), shapes.names()
        (9, ('square',))
        >>> shapes["sqare"]
        Traceback (most recent call last):
            ...
        molflow.errors.MolflowError: unknown shape 'sqare'; did you mean square? Known are: square
    """

    def __init__(
        self,
        kind: str,
        *,
        modules: Mapping[str, str] | Callable[[], Mapping[str, str]] | None = None,
        group: str | None = None,
    ):
        self.kind, self.group = kind, group
        self._modules = modules or {}
        self._objects: dict[str, T] = {}

    def register(self, *names: str) -> Callable[[Registered], Registered]:
        """Decorator that makes an object known under one or more names.

        A class with an attribute `kind`, as configuration classes have, gets its first name there unless it has a
        `kind` of its own: one that it inherits is the name of its base.

        Raises:
            ValueError: a name is taken by another object.
        """

        def add(thing: Any) -> Any:
            for name in names:
                known = self._objects.get(name)
                if known is not None and not _same(known, thing):
                    raise ValueError(f"the {self.kind} {name!r} is registered already, by {'.'.join(_place(known))}")
                self._objects[name] = thing
            if isinstance(getattr(thing, "kind", ...), str | None) and "kind" not in vars(thing):
                thing.kind = names[0]
            return thing

        return add

    def names(self) -> tuple[str, ...]:
        """All names, built-in ones first; nothing is imported."""
        return tuple(dict.fromkeys((*self._table(), *self._entry_points(), *self._objects)))

    def __contains__(self, name: object) -> bool:
        return name in self.names()

    def __iter__(self) -> Iterator[str]:
        return iter(self.names())

    def __len__(self) -> int:
        return len(self.names())

    def __getitem__(self, name: str) -> T:
        """The object of a name, imported if need be.

        Raises:
            MolflowError: an unknown name; the nearest known one is given. Or a package that announces the name but
                cannot be imported, or does not register it.
        """
        if name not in self._objects:
            self._import(name)
        return self._objects[name]

    def items(self) -> Iterator[tuple[str, T]]:
        """All names with their objects, all of which are imported."""
        return ((name, self[name]) for name in self.names())

    def unknown(self, name: object) -> str:
        """The error message for an unknown name, with the nearest known one."""
        return f"unknown {self.kind} {name!r}{known_names(name, self.names())}"

    def _table(self) -> Mapping[str, str]:
        return self._modules() if callable(self._modules) else self._modules

    def _entry_points(self) -> "dict[str, EntryPoint]":
        if self.group is None:
            return {}
        from importlib.metadata import entry_points

        return {point.name: point for point in entry_points(group=self.group)}

    def _import(self, name: str) -> None:
        if module := self._table().get(name):
            import_module(module)
        elif point := self._entry_points().get(name):
            try:
                point.load()
            except Exception as error:  # anything can go wrong while another package is imported
                raise MolflowError(
                    f"the {self.kind} {name!r} of the package {point.dist.name if point.dist else point.value} cannot "
                    f"be loaded: {type(error).__name__}: {error}"
                ) from error
            if name not in self._objects:
                raise MolflowError(
                    f"{point.value} is the entry point of the {self.kind} {name!r} but does not register that name"
                )
        if name not in self._objects:
            raise MolflowError(self.unknown(name))


def _same(known: Any, thing: Any) -> bool:
    """Whether two objects are one: a class or function also after its module was loaded anew, others if equal."""
    return bool(known == thing) or (hasattr(thing, "__qualname__") and _place(known) == _place(thing))


def _place(thing: Any) -> tuple[str, str]:
    """The module and the name under which an object, or its class, was defined."""
    owner = thing if hasattr(thing, "__qualname__") else type(thing)
    return owner.__module__, owner.__qualname__


def known_names(name: object, known: Sequence[str], what: str = "known") -> str:
    """The end of an error message about an unknown name: the nearest known one, and all.

    Example:
        >>> known_names("dw3", ["qm9", "dw4"], "shipped"), known_names("crystals", ["qm9", "dw4"])
        ('; did you mean dw4? Shipped are: qm9, dw4', '; known are: qm9, dw4')
    """
    import difflib  # not needed until a name is wrong

    near = difflib.get_close_matches(str(name), known, n=1)
    hint = f"did you mean {near[0]}? {what.capitalize()}" if near else what
    return f"; {hint} are: {', '.join(known)}"


def lazy_names(
    package: str, homes: Mapping[str, Sequence[str]], modules: Sequence[str] = ()
) -> tuple[Callable[[str], Any], Callable[[], list[str]]]:
    """`__getattr__` and `__dir__` of a package whose public names are imported when they are first used.

    Args:
        package: its name.
        homes: module of the package -> public names that it has.
        modules: public modules of the package themselves.
    """
    home_of = {name: f"{package}.{home}" for home, names in homes.items() for name in names}

    def __getattr__(name: str) -> Any:
        if name in home_of:
            return getattr(import_module(home_of[name]), name)
        if name in modules:
            return import_module(f"{package}.{name}")
        raise AttributeError(f"module {package!r} has no attribute {name!r}")

    return __getattr__, lambda: sorted((*home_of, *modules))
