"""Public names are documented: every argument or field, shapes of arrays, errors, and an example that the tests run."""

import inspect
import pydoc
import re
from importlib import import_module

import pytest
from pydantic import BaseModel

import molflow

ROOMS = [
    "chem", "data", "energies", "evaluation", "flows", "geometry", "nn", "plot", "pretrained", "report", "sbi",
    "testing", "training",
]  # fmt: skip
SHAPE = re.compile(r"\((?:\d|[A-Za-z]\w*)?(?:, ?[A-Za-z\d. +]+)*,?\)")


def public():
    """Dotted name -> function or class that molflow or one of its rooms exports, each once."""
    found = {getattr(molflow, name): f"molflow.{name}" for name in dir(molflow) if callable(getattr(molflow, name))}
    for room in ROOMS:
        module = import_module(f"molflow.{room}")
        own = [name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__]
        for name in getattr(module, "__all__", [name for name in own if not name.startswith("_")]):
            thing = getattr(module, name)
            if (inspect.isfunction(thing) or inspect.isclass(thing)) and thing.__module__.startswith("molflow"):
                found.setdefault(thing, f"{thing.__module__}.{thing.__qualname__}")
    return {name: thing for thing, name in found.items()}


PUBLIC = public()


def fields(thing):
    """Names of the fields of a record or of a configuration; none for other things."""
    if not inspect.isclass(thing):
        return ()
    if issubclass(thing, BaseModel):
        return tuple(name for name, field in thing.model_fields.items() if not field.description)
    return tuple(getattr(thing, "__dataclass_fields__", ())) or getattr(thing, "_fields", ())


def needs_example(thing):
    """Records and configurations are explained by their fields, abstract classes by CONTRIBUTING.md."""
    record = inspect.isclass(thing) and (fields(thing) or issubclass(thing, BaseModel | Exception))
    return not record and not inspect.isabstract(thing) and not getattr(thing, "_is_protocol", False)


@pytest.mark.parametrize("name", PUBLIC)
def test_public_names_are_documented(name):
    thing = PUBLIC[name]
    assert thing.__doc__, "no docstring"
    doc = inspect.getdoc(thing)
    assert doc.splitlines()[0].endswith((".", ":")) or "\n\n" not in doc, "the first line is a sentence"
    given = inspect.signature(thing).parameters if inspect.isfunction(thing) else fields(thing)
    words = set(re.findall(r"\w+", doc))
    assert [word for word in given if not {word, word.removesuffix("_error")} & words] == [], "not described"
    if inspect.isfunction(thing):
        if re.search(r"^\s+raise ", inspect.getsource(thing), re.MULTILINE):
            assert re.search(r"\b[Rr]aises\b", doc)
        if re.search("Tensor|ndarray|ArrayLike", str(inspect.signature(thing))):
            assert SHAPE.search(doc), "no shape"
    assert ">>> " in doc or not needs_example(thing), "no example"


def test_the_help_of_molflow_is_short_and_names_everything():
    assert len(pydoc.render_doc(molflow)) < 5000
    assert [name for name in dir(molflow) if not re.search(rf"\b{name}\b", molflow.__doc__)] == []
