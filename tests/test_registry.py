"""The registry: names without imports, objects when they are asked for, and other packages through entry points."""

import os
import subprocess
import sys

import pytest

from molflow.config import Config, KindConfig
from molflow.errors import MolflowError
from molflow.nn import NETWORKS
from molflow.registry import Registry, lazy_names

BUILT_IN = tuple(NETWORKS._table())


@pytest.fixture
def shapes():
    registry = Registry("shape")
    for name in ("square", "circle", "triangle"):
        registry.register(name)(name.upper())
    return registry


def test_objects_by_name(shapes):
    assert shapes["circle"] == "CIRCLE"
    assert shapes.names() == tuple(shapes) == ("square", "circle", "triangle")
    assert len(shapes) == 3
    assert "square" in shapes
    assert "sphere" not in shapes
    assert dict(shapes.items()) == {name: name.upper() for name in shapes}


def test_an_unknown_name_gives_the_nearest_known_one(shapes):
    with pytest.raises(MolflowError) as caught:
        shapes["sqare"]
    assert str(caught.value) == "unknown shape 'sqare'; did you mean square? Known are: square, circle, triangle"
    with pytest.raises(MolflowError) as caught:
        shapes["ellipsoid"]
    assert str(caught.value) == "unknown shape 'ellipsoid'; known are: square, circle, triangle"


def test_the_decorator_returns_the_object_and_takes_several_names():
    registry = Registry("solver")

    @registry.register("euler", "heun")
    def solve():
        return 1

    assert solve() == 1
    assert registry["euler"] is registry["heun"] is solve


def test_a_name_that_is_taken_is_refused(shapes):
    with pytest.raises(ValueError, match=r"the shape 'square' is registered already, by builtins\.str"):
        shapes.register("square")("another")
    assert shapes["square"] == "SQUARE"

    def first():
        """A function of this place."""

    def second():
        """Another one."""

    registry = Registry("function")
    registry.register("name")(first)
    with pytest.raises(ValueError, match=r"the function 'name' is registered already, by .*first"):
        registry.register("name")(second)
    assert registry["name"] is first


def test_two_objects_of_one_class_are_different():
    class Metric:
        """Compared by identity."""

    registry, metric = Registry("metric"), Metric()
    registry.register("validity")(metric)
    registry.register("validity")(metric)
    with pytest.raises(ValueError, match="'validity' is registered already"):
        registry.register("validity")(Metric())


def test_a_module_may_be_loaded_anew():
    registry = Registry("class")
    for _ in range(2):

        @registry.register("made")
        class Made:
            """Another object each time, from the same place."""

    assert registry["made"] is Made


def test_the_first_name_becomes_the_kind_of_a_configuration():
    registry = Registry("thing")

    @registry.register("a", "b")
    class First(KindConfig):
        size: int = 1

    @registry.register("c")
    class Second(First):
        """One that builds on another registered one."""

    class Unregistered(First):
        pass

    class Plain(Config):
        size: int = 1

    registry.register("plain")(Plain)
    assert (First.kind, Second.kind, Unregistered.kind) == ("a", "c", "a")
    assert not hasattr(Plain, "kind")
    assert Second().model_dump() == {"kind": "c", "size": 1}


def test_a_kind_of_its_own_stays():
    registry = Registry("thing")

    @registry.register("name")
    class Thing:
        kind = "its own"

    class Measured:
        @property
        def kind(self):
            return "computed"

    registry.register("measured")(Measured)
    assert Thing.kind == "its own"
    assert Measured().kind == "computed"


# ---- modules of a table ----------------------------------------------------------------------------------------------


@pytest.fixture
def package(tmp_path, monkeypatch):
    """A place for modules; gives a function that writes one."""
    monkeypatch.syspath_prepend(tmp_path)

    def write(name, text):
        (tmp_path / f"{name}.py").write_text(text)
        monkeypatch.delitem(sys.modules, name, raising=False)

    return write


def test_a_module_is_imported_when_its_name_is_used(package, monkeypatch):
    registry = Registry("lamp", modules={"bright": "lamps_of_the_test"})
    package("lamps_of_the_test", "from lamps_registry import LAMPS\nLAMPS.register('bright')('on')\n")
    package("lamps_registry", "LAMPS = None")
    import lamps_registry

    monkeypatch.setattr(lamps_registry, "LAMPS", registry)
    assert registry.names() == ("bright",)
    assert "bright" in registry
    assert "lamps_of_the_test" not in sys.modules
    assert registry["bright"] == "on"
    assert "lamps_of_the_test" in sys.modules


def test_a_table_may_be_computed():
    more = {"early": "a"}
    registry = Registry("lamp", modules=lambda: more)
    assert registry.names() == ("early",)
    more["late"] = "b"
    assert registry.names() == ("early", "late")


NAMES = """
import sys
from molflow.nn import NETWORKS
from molflow.flows import DEQUANTIZERS, DIVERGENCES, DOMAINS, FLOWS, SOLVERS, SURROGATES

everything = [r.names() for r in (NETWORKS, FLOWS, DOMAINS, SOLVERS, SURROGATES, DIVERGENCES, DEQUANTIZERS)]
assert all(everything) and "egnn" in NETWORKS and "free_form" in FLOWS and "nsf" in FLOWS, everything
print(sorted({"torch", "pydantic", "numpy", "scipy", "e3nn", "rdkit", "zuko"} & set(sys.modules)))
"""


def test_names_are_listed_without_imports():
    assert run(NAMES) == "[]"


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["NETWORKS", "FLOWS", "DOMAINS", "SOLVERS", "SURROGATES", "DIVERGENCES", "DEQUANTIZERS"]
)
def test_every_name_of_the_tables_is_registered_by_its_module(name):
    """In a process in which nothing else was imported."""
    home = "molflow.nn" if name == "NETWORKS" else "molflow.flows"
    script = f"from {home} import {name} as registry\nprint(len([registry[n] for n in reversed(registry.names())]))"
    assert int(run(script)) >= 2


# ---- packages of their own -------------------------------------------------------------------------------------------

PACKAGE = """
from molflow.nn import MLPConfig, NETWORKS
from molflow.flows import FLOWS, FreeFormConfig


@NETWORKS.register("wide")
class WideConfig(MLPConfig):
    hidden: int = 32


@FLOWS.register("mine")
class MyFlowConfig(FreeFormConfig):
    encoder_note: str = "a flow of another package"
"""
ENTRY_POINTS = """[molflow.networks]
wide = wide_networks
broken = broken_networks
empty = empty_networks
absent = networks_that_are_not_there

[molflow.flows]
mine = wide_networks
"""


@pytest.fixture
def installed(tmp_path):
    """A folder with an installed package that adds networks and a flow."""
    info = tmp_path / "wide_networks-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: wide-networks\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text(ENTRY_POINTS)
    (tmp_path / "wide_networks.py").write_text(PACKAGE)
    (tmp_path / "broken_networks.py").write_text("1 / 0\n")
    (tmp_path / "empty_networks.py").write_text("")
    return tmp_path


def run(script, folder=None):
    paths = [str(folder)] if folder else []
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([*paths, *sys.path])}
    command = [sys.executable, "-c", script]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout.strip()


def test_an_installed_package_adds_names_without_being_imported(installed):
    script = """
import sys
from molflow.nn import NETWORKS
print(*NETWORKS.names())
print({"torch", "pydantic", "wide_networks", "broken_networks"} & set(sys.modules))
"""
    names, loaded = run(script, installed).splitlines()
    assert names.split() == [*BUILT_IN, "wide", "broken", "empty", "absent"]
    assert loaded == "set()"


@pytest.mark.slow
def test_kinds_of_an_installed_package_are_used_saved_and_loaded(installed, tmp_path):
    script = f"""
import molflow
from molflow.config import parse
from molflow.flows import FLOWS, save_model
from molflow.nn import NETWORKS

table = {{
    "domain": {{"kind": "vectors", "n_features": 2}},
    "encoder": {{"kind": "wide"}},
    "decoder": {{"kind": "wide", "n_blocks": 1}},
}}
config = parse(FLOWS["mine"], table, "here")
assert config.encoder.hidden == 32 and type(config.encoder) is NETWORKS["wide"]
flow = config.build()
save_model({str(tmp_path / "model")!r}, config, flow, {{}})
again = molflow.load({str(tmp_path / "model")!r})
assert again.sample(3, seed=0).equal(flow.sample(3, seed=0))
print(config.model_dump()["kind"], config.model_dump()["encoder"]["kind"])
"""
    assert run(script, installed) == "mine wide"


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("broken", "the network 'broken' of the package wide-networks cannot be loaded: ZeroDivisionError: division"),
        ("empty", "empty_networks is the entry point of the network 'empty' but does not register that name"),
        (
            "absent",
            "the network 'absent' of the package wide-networks cannot be loaded: ModuleNotFoundError: No module",
        ),
        ("wid", f"unknown network 'wid'; did you mean wide? Known are: {', '.join(BUILT_IN)}, wide"),
    ],
)
def test_a_package_that_cannot_be_used_is_named(installed, name, message):
    script = f"""
from molflow.errors import MolflowError
from molflow.nn import NETWORKS
try:
    NETWORKS[{name!r}]
except MolflowError as error:
    print(error)
"""
    assert run(script, installed).startswith(message)


def test_lazy_names():
    get, names = lazy_names("json", {"decoder": ("JSONDecoder", "JSONDecodeError")}, ("encoder",))
    import json

    assert get("JSONDecoder") is json.JSONDecoder
    assert get("JSONDecodeError") is json.JSONDecodeError
    assert get("encoder") is json.encoder
    assert names() == ["JSONDecodeError", "JSONDecoder", "encoder"]
    with pytest.raises(AttributeError, match="module 'json' has no attribute 'loads'"):
        get("loads")
