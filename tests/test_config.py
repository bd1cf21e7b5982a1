"""Configuration: choices among registered kinds, errors that name the key, and round trips to plain values."""

from typing import Annotated

import pytest
from laws import ALL_FLOWS, NETWORKS, VECTOR_NETWORKS
from pydantic import Field, SerializeAsAny

from molflow.config import Config, KindConfig, NameIn, OneOf, parse, read_toml
from molflow.errors import MolflowError
from molflow.flows import DOMAINS, FLOWS, SOLVERS, FlowChoice
from molflow.flows.domains import DomainChoice
from molflow.flows.solvers import SolverChoice
from molflow.flows.zoo import BijectiveConfig
from molflow.registry import Registry

SHAPES: Registry[type["Shape"]] = Registry("shape")
COLOURS: Registry[str] = Registry("colour")
for _colour in ("red", "green"):
    COLOURS.register(_colour)(_colour)


class Shape(KindConfig):
    """Base of the shapes of this file."""


@SHAPES.register("square")
class Square(Shape):
    side: float = Field(1.0, gt=0)


@SHAPES.register("circle")
class Circle(Shape):
    radius: float = 2.0
    representation: str = "round"
    colour: Annotated[str, NameIn(COLOURS)] = "red"


AnyShape = Annotated[SerializeAsAny[Shape], OneOf(SHAPES)]


@SHAPES.register("group")
class Group(Shape):
    inner: AnyShape = Square()


class Pen(Config):
    width: float = 1.0
    precise: bool = False


class Training(Config):
    max_steps: int = 10
    micro_batch: int | None = None


class Drawing(Config):
    name: str
    shape: AnyShape
    frame: Annotated[SerializeAsAny[Shape], OneOf(SHAPES, default="square")] = Square()
    others: tuple[AnyShape, ...] = ()
    pen: Pen | None = None
    training: Training = Training()


def drawing(**table):
    return parse(Drawing, {"name": "a", "shape": {"kind": "circle"}} | table, "here.toml")


def message(**table):
    with pytest.raises(MolflowError) as caught:
        drawing(**table)
    text = str(caught.value)
    assert text.startswith("here.toml: ")
    assert "\n" not in text
    return text.removeprefix("here.toml: ")


# ---- choices ---------------------------------------------------------------------------------------------------------


def test_the_kind_chooses_the_class():
    made = drawing(shape={"kind": "group", "inner": {"kind": "circle", "radius": 3}}, others=[{"kind": "square"}])
    assert made.shape == Group(inner=Circle(radius=3))
    assert made.others == (Square(),)
    assert made.frame == Square()
    assert type(drawing(frame={"side": 4}).frame) is Square


def test_an_instance_is_taken_as_it_is():
    assert Drawing(name="a", shape=Circle(radius=1)).shape.radius == 1


def test_plain_values_come_back():
    made = drawing(shape={"kind": "group", "inner": {"kind": "circle"}}, others=[{"kind": "square"}], pen={"width": 2})
    table = made.model_dump(mode="json")
    assert table["shape"]["inner"] == {"kind": "circle", "radius": 2.0, "representation": "round", "colour": "red"}
    assert parse(Drawing, table, "there") == made


def test_settings_are_all_values_but_the_kind():
    assert Circle().settings() == {"radius": 2.0, "representation": "round", "colour": "red"}


def test_configuration_is_frozen():
    with pytest.raises(ValueError, match="frozen"):
        drawing().name = "b"


# ---- errors ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("table", "expected"),
    [
        (
            {"shape": {"kind": "circel"}},
            "shape.kind: unknown shape 'circel'; did you mean circle? Known are: square, circle, group",
        ),
        ({"shape": {"kind": 3}}, "shape.kind: unknown shape 3; known are: square, circle, group"),
        ({"shape": {"radius": 1}}, "shape: has no kind; accepted are: square, circle, group"),
        (
            {"shape": {"kind": "group", "inner": {"kind": "x"}}},
            "shape.inner.kind: unknown shape 'x'; known are: square, circle, group",
        ),
        ({"shape": {"kind": "circle", "radiux": 1}}, "unknown key shape.radiux; did you mean shape.radius?"),
        ({"shape": {"kind": "square", "radius": 1}}, "unknown key shape.radius"),
        ({"shape": {"kind": "square", "side": -1}}, "shape.side: expected more than 0, got -1"),
        (
            {"shape": {"kind": "group", "inner": {"kind": "square", "sid": 1}}},
            "unknown key shape.inner.sid; did you mean shape.inner.side?",
        ),
        (
            {"shape": {"kind": "circle", "colour": "gren"}},
            "shape.colour: unknown colour 'gren'; did you mean green? Known are: red, green",
        ),
        ({"frame": {"sied": 4}}, "unknown key frame.sied; did you mean frame.side?"),
        (
            {"others": [{"kind": "square"}, {"kind": "square", "side": "x"}]},
            "others.1.side: expected a number, got 'x'",
        ),
        ({"pen": {"widht": 4}}, "unknown key pen.widht; did you mean pen.width?"),
        ({"training": {"max_step": 4}}, "unknown key training.max_step; did you mean training.max_steps?"),
        ({"max_steps": 4}, "unknown key max_steps; did you mean training.max_steps?"),
        ({"nmae": 4}, "unknown key nmae; did you mean name?"),
        ({"training": 4}, "training: expected a table, got 4"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_an_error_names_the_key_and_what_is_accepted(table, expected):
    assert message(**table) == expected


@pytest.mark.parametrize("key", ["precision", "seed", "radius", "x"])
def test_a_key_that_is_like_none_gets_no_misleading_suggestion(key):
    """The key "precision" resembles "representation" of the shape and "precise" of the pen."""
    assert message(training={key: 1}) in (
        f"unknown key training.{key}",
        f"unknown key training.{key}; did you mean shape.{key}?",
    )
    assert "representation" not in message(training={key: 1})


def test_only_keys_of_the_kind_that_was_chosen_are_suggested():
    assert message(shape={"kind": "square", "representatio": 1}) == "unknown key shape.representatio"
    near = "unknown key shape.representatio; did you mean shape.representation?"
    assert message(shape={"kind": "circle", "representatio": 1}) == near


def test_all_errors_are_in_one_line():
    text = message(shape={"kind": "circle", "radiux": 1}, training={"max_steps": "many"})
    assert text.count("; ") == 2
    assert "shape.radiux" in text
    assert "training.max_steps: expected an integer, got 'many'" in text


def test_a_missing_key():
    with pytest.raises(
        MolflowError, match=r"^x: name is missing; shape: has no kind; accepted are: square, circle, group$"
    ):
        parse(Drawing, {}, "x")


def test_the_kind_of_another_class_is_refused():
    with pytest.raises(ValueError, match="kind must be 'square' here, got 'circle'"):
        Square.model_validate({"kind": "circle"})
    assert Square.model_validate({"kind": "square", "side": 2}) == Square(side=2)


# ---- files -----------------------------------------------------------------------------------------------------------


def test_a_file_with_overrides(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n[shape]\nkind = "circle"\n')
    overrides = ["shape.radius=3", "training.max_steps=4", "name=b c", "others=[{kind='square'}]", "pen.precise=true"]
    made = parse(Drawing, read_toml(path, overrides), str(path))
    assert made == drawing(
        name="b c", shape={"kind": "circle", "radius": 3}, training={"max_steps": 4}, others=[{"kind": "square"}],
        pen={"precise": True},
    )  # fmt: skip


@pytest.mark.parametrize(
    ("override", "expected"),
    [
        ("name", "--set name: expected a.b=value"),
        ("name.=3", "--set name.=3: expected a.b=value"),
        ("name.a=3", "--set name.a=3: name is a value, not a table"),
    ],
)
def test_an_override_that_is_none(tmp_path, override, expected):
    path = tmp_path / "a.toml"
    path.write_text('name = "a"\n')
    with pytest.raises(MolflowError) as caught:
        read_toml(path, [override])
    assert str(caught.value) == expected


def test_a_file_that_cannot_be_read(tmp_path):
    with pytest.raises(MolflowError, match=r"absent\.toml: cannot be read: No such file"):
        read_toml(tmp_path / "absent.toml")
    (tmp_path / "a.toml").write_text("= 3")
    with pytest.raises(MolflowError, match=r"a\.toml: not a TOML file"):
        read_toml(tmp_path / "a.toml")
    (tmp_path / "a.toml").write_bytes(b"\xff\xfe")
    with pytest.raises(MolflowError, match=r"a\.toml: not a TOML file"):
        read_toml(tmp_path / "a.toml")


# ---- the configurations of molflow -----------------------------------------------------------------------------------


class Model(Config):
    model: FlowChoice


@pytest.mark.parametrize("kind", FLOWS)
def test_a_registered_flow_has_cases_in_the_law_suite(kind):
    """Add them to tests/laws.py, without and with conditions, on every domain that it takes."""
    cases = [config for config in ALL_FLOWS.values() if config.kind == kind]
    assert {config.conditions is None for config in cases} == {True, False}
    of_vectors = issubclass(FLOWS[kind], BijectiveConfig)
    tasks = {"vectors"} if of_vectors else {"molecules", "particles", "vectors"}
    assert {config.domain.task for config in cases} == tasks


@pytest.mark.parametrize("kind", DOMAINS)
def test_a_registered_domain_has_cases_in_the_law_suite(kind):
    flows = {config.kind for config in ALL_FLOWS.values() if config.domain.kind == kind}
    assert flows >= {"free_form", "continuous"}


@pytest.mark.parametrize("name", ALL_FLOWS)
def test_the_configuration_of_a_flow_comes_back(name):
    config = ALL_FLOWS[name]
    table = Model(model=config).model_dump(mode="json")
    assert table["model"]["kind"] == config.kind
    assert table["model"]["domain"]["kind"] == config.domain.kind
    again = parse(Model, table, "here").model
    assert again == config
    assert type(again) is FLOWS[config.kind]
    assert type(again.domain) is DOMAINS[config.domain.kind]


def test_a_flow_is_free_form_by_default():
    domain = {"kind": "vectors", "n_features": 2}
    assert parse(Model, {"model": {"domain": domain}}, "here").model.kind == "free_form"


class Parts(Config):
    domain: DomainChoice | None = None
    solver: SolverChoice | None = None


@pytest.mark.parametrize("method", SOLVERS)
def test_a_solver_comes_back(method):
    parts = parse(Parts, {"solver": {"method": method, "adjoint": True}}, "here")
    assert isinstance(parts.solver, SOLVERS[method])
    assert (parts.solver.method, parts.solver.adjoint) == (method, True)
    assert parse(Parts, parts.model_dump(mode="json"), "there") == parts
    assert parts.solver.model_dump().keys() >= {"method", "adjoint"}


@pytest.mark.parametrize("kind", DOMAINS)
def test_a_domain_comes_back(kind):
    sizes = {"n_particles": 3, "dim": 2} if kind == "particles" else {}
    parts = parse(Parts, {"domain": {"kind": kind, **sizes}}, "here")
    assert type(parts.domain) is DOMAINS[kind]
    assert parse(Parts, parts.model_dump(mode="json"), "there") == parts


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        (
            {"encoder": {"kind": "egn"}},
            "model.encoder.kind: unknown network 'egn'; did you mean egnn? "
            "Known are: egnn, transformer, tensor_product, plain_transformer, mlp, resnet, chain, euler_steps",
        ),
        (
            {"kind": "free_from"},
            "model.kind: unknown flow 'free_from'; did you mean free_form? Known are: free_form, continuous, "
            "diffusion, planar, radial, nice, realnvp, glow, maf, iaf, nsf, naf, iresnet, flowpp",
        ),
        (
            {"encoder": {"kind": "egnn", "hiden": 3}},
            "unknown key model.encoder.hiden; did you mean model.encoder.hidden?",
        ),
        ({"encoder": {"kind": "egnn", "n_head": 3}}, "unknown key model.encoder.n_head"),
        (
            {"encoder": {"kind": "transformer", "n_head": 3}},
            "unknown key model.encoder.n_head; did you mean model.encoder.n_heads?",
        ),
        (
            {"domain": {"kind": "molecules", "dequantization": "argmin"}},
            "model.domain.dequantization: unknown dequantization 'argmin'; did you mean argmax? "
            "Known are: argmax, scaled_one_hot, variational",
        ),
        (
            {"kind": "continuous", "solver": {"method": "rk45"}},
            "model.solver.method: unknown solver 'rk45'; did you mean rk4? "
            "Known are: dopri5, euler, midpoint, heun3, rk4",
        ),
        (
            {"kind": "continuous", "solver": {"n_steps": 3}},
            "model.solver: has no method; accepted are: dopri5, euler, midpoint, heun3, rk4",
        ),
        ({"kind": "continuous", "solver": {"method": "rk4", "rtol": 3}}, "unknown key model.solver.rtol"),
        (
            {"conditions": {"name": ["a"]}},
            "model.conditions.names is missing; unknown key model.conditions.name; "
            "did you mean model.conditions.names?",
        ),
        (
            {"conditions": {"names": []}},
            "model.conditions.names: expected at least 1 item, got []",
        ),
        ({"precision": 3}, "unknown key model.precision"),
    ],
    ids=lambda value: str(value)[:40] if isinstance(value, dict) else "",
)
def test_errors_of_a_model_name_the_registered_kinds(change, expected):
    table = {"kind": "free_form", "domain": {"kind": "vectors", "n_features": 2}} | change
    with pytest.raises(MolflowError) as caught:
        parse(Model, {"model": table}, "a.toml")
    assert str(caught.value) == f"a.toml: {expected}"


@pytest.mark.parametrize("case", [NETWORKS["egnn-3d"], VECTOR_NETWORKS["mlp"]], ids=["points", "vectors"])
def test_a_network_for_another_domain_is_refused(case):
    domain = {"kind": "particles", "n_particles": 3, "dim": 2}
    if case.config.acts_on == "points":
        domain = {"kind": "vectors", "n_features": 2}
    config = parse(Model, {"model": {"domain": domain, "encoder": case.config, "decoder": case.config}}, "here").model
    with pytest.raises(
        ValueError, match=f"the network {case.config.kind} acts on {case.config.acts_on}, the domain is"
    ):
        config.build()
