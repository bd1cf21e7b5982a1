"""Experiment files: their values, overrides and defaults, and errors that name the key."""

import json
import re
import shutil
from pathlib import Path

import pytest
from pydantic import ValidationError

from molflow.config import parse
from molflow.data import DATASETS
from molflow.errors import MolflowError
from molflow.flows import DOMAINS, FLOWS
from molflow.flows.storage import CONFIG
from molflow.nn import NETWORKS
from molflow.pretrained import folder_of, model_names
from molflow.templates import template_names
from molflow.training.config import ExperimentConfig, OptimizerConfig, TrainingConfig, load_experiment
from molflow.training.objectives import OBJECTIVES

TINY = Path(__file__).with_name("tiny.toml")
EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").rglob("*.toml"))
CONFIGS = [str(folder_of(name) / CONFIG) for name in model_names()]


def _last_parts(path):
    return "/".join(Path(path).parts[-2:])


@pytest.mark.parametrize("path", [TINY, *EXPERIMENTS, *template_names(), *CONFIGS], ids=_last_parts)
def test_experiments_load_and_survive_json(path):
    config = load_experiment(path)
    again = parse(ExperimentConfig, json.loads(json.dumps(config.model_dump(mode="json"))), "config.json")
    assert again == config
    assert load_experiment(path, ["seed=987"]) != config


def test_what_is_a_template_and_what_a_file(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "dw4").mkdir()
    shutil.copy(TINY, tmp_path / "dw4" / "mine")
    assert load_experiment("dw4").name == "dw4"
    for file in ("dw4.toml", "./dw4", "dw4.json"):
        with pytest.raises(MolflowError, match=f"^{file.removeprefix('./')}: cannot be read"):
            load_experiment(file)
    assert load_experiment("dw4/mine") == load_experiment(TINY)
    with pytest.raises(MolflowError, match=r"^unknown template 'dw5'; did you mean dw4\? Known are: dw4, dw4-cnf,"):
        load_experiment("dw5")


@pytest.mark.parametrize(
    ("override", "found"),
    [
        ("optimizer.learning_rate=3e-4", lambda c: c.optimizer.learning_rate == 3e-4),
        ("training.epochs=7", lambda c: c.training.epochs == 7),
        ("model.encoder.hidden = 24", lambda c: c.model.encoder.hidden == 24 and c.model.encoder.n_blocks == 1),
        ("name=run_2", lambda c: c.name == "run_2"),
        ('name="a=b.c"', lambda c: c.name == "a=b.c"),
        ("name=3 steps", lambda c: c.name == "3 steps"),
        ('objective={kind = "mean_flow"}', lambda c: c.objective.kind == "mean_flow"),  # no such table in TINY
        ('model.domain.types=["H", "C"]', lambda c: c.model.domain.types == ("H", "C")),
        ("model.domain.kind=composed_molecules", lambda c: c.model.domain.kind == "composed_molecules"),
        ("model.domain.representation=united-atom", lambda c: c.model.domain.representation == "united-atom"),
        ('model.decoder={kind = "transformer"}', lambda c: c.model.decoder.kind == "transformer"),
        ('model.decoder={kind="tensor_product", irreps="8x0e+1o"}', lambda c: c.model.decoder.kind == "tensor_product"),
        ("model.average_velocity=true", lambda c: c.model.average_velocity),
        ("training.batches=mixed_size", lambda c: c.training.batches == "mixed_size"),
    ],
)
def test_overrides(override, found):
    assert not found(load_experiment(TINY))
    assert found(load_experiment(TINY, [override]))


CONTINUOUS = ("model={kind = 'continuous', domain = {kind = 'molecules'}}", "objective={kind = 'likelihood'}")


def test_a_model_is_free_form_unless_it_says_otherwise():
    assert load_experiment(TINY).model.kind == "free_form"
    config = load_experiment(TINY, [*CONTINUOUS, "model.solver={method = 'rk4', n_steps = 3}"])
    assert (config.model.kind, config.model.network.kind, config.model.solver.n_steps) == ("continuous", "egnn", 3)
    assert load_experiment(TINY, CONTINUOUS).model.solver.method == "dopri5"
    assert parse(ExperimentConfig, config.model_dump(mode="json"), "config.json") == config


@pytest.mark.parametrize(
    ("override", "message"),
    [
        (
            "model.kind=flow",
            "model.kind: unknown flow 'flow'; did you mean flowpp? Known are: free_form, continuous, diffusion,",
        ),
        ("model.encoder={kind = 'egnn'}", "unknown key model.encoder"),
        ("model.solver={n_steps = 3}", "model.solver: has no method"),
        ("model.solver={method = 'rk5'}", "model.solver.method: unknown solver 'rk5'; did you mean rk4?"),
        ("model.solver={method = 'dopri5', n_steps = 3}", "unknown key model.solver.n_steps"),
        ("model.solver={method = 'euler', rtol = 1e-3}", "unknown key model.solver.rtol"),
        (
            "model.solver={method = 'euler', n_steps = 0}",
            "model.solver.n_steps: expected more than 0, got 0",
        ),
        (
            "objective.divergence=approximate",
            "objective.divergence: unknown divergence 'approximate'; known are: exact, rademacher, gaussian",
        ),
        (
            "objective.kinetic_energie=1",
            "unknown key objective.kinetic_energie; did you mean objective.kinetic_energy?",
        ),
    ],
)
def test_wrong_values_of_a_continuous_flow(override, message):
    with pytest.raises(MolflowError) as caught:
        load_experiment(TINY, [*CONTINUOUS, override])
    assert message in str(caught.value)


def test_an_objective_is_free_form_by_default():
    config = load_experiment(TINY, ["objective.beta=7"])
    assert (config.objective.kind, config.objective.beta) == ("free_form", 7)


def test_the_last_override_wins():
    assert load_experiment(TINY, ["seed=1", "seed=2"]).seed == 2


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("sed=1", "unknown key sed; did you mean seed?"),
        ("training.batchsize=1", "unknown key training.batchsize; did you mean training.batch_size?"),
        ("model.encoder.n_block=1", "unknown key model.encoder.n_block; did you mean model.encoder.n_blocks?"),
        ("model.domain.type=[]", "unknown key model.domain.type; did you mean model.domain.types?"),
        ("model.decoder.n_vectors=3", "unknown key model.decoder.n_vectors"),  # EGNN has none
        (
            "model.encoder={kind = 'tensor_product', irreps = '8x0e', lmax = 0}",
            "irreps: irreps must have vectors (1o), got '8x0e'; model.encoder.lmax: expected at least 1, got 0",
        ),
        ('objective={kind = "mean_flow", average_fractions = 1}', "did you mean objective.average_fraction?"),
        ('objective={kind = "inversion", beta = 1}', "unknown key objective.beta"),
        ('objective={kind = "flow_matching", pairs = 1}', "unknown key objective.pairs; did you mean objective.pair"),
        (
            'objective={kind = "mean_flow", pairing = true}',
            "objective.pairing: expected a string, got True",
        ),
        ("training.workers=-1", "training.workers: expected at least 0, got -1"),
        (
            'objective={kind = "mean_flow", pairing = "aligned"}',
            "objective.pairing: unknown pairing 'aligned'; did you mean alignment? Known are: none, alignment,",
        ),
        (
            'objective={kind = "mean_flow", loss_exponent = 2}',
            "objective.loss_exponent: expected at most 1, got 2",
        ),
        (
            'objective={kind = "flow"}',
            "objective.kind: unknown objective 'flow'; did you mean mean_flow? Known are: free_form, flow_matching,",
        ),
        ("model.encoder={hidden = 3}", "model.encoder: has no kind; accepted are: egnn,"),
        (
            "model.domain.representation=coarse",
            "model.domain.representation: expected 'all-atom', 'united-atom' or 'environment'",
        ),
        ("optimiser.learning_rate=1", "unknown key optimiser; did you mean optimizer?"),
        ("qqq=1", "unknown key qqq"),
        ("training.beta=3", "unknown key training.beta; did you mean objective.beta?"),
        ("training.epochs=many", "training.epochs: expected an integer"),
        ("training.epochs=0", "training.epochs: expected more than 0, got 0"),
        ("optimizer.learning_rate=-1e-3", "optimizer.learning_rate: expected more than 0, got -0.001"),
        ("training.ema_decay=1", "training.ema_decay: expected less than 1"),
        ("name=true", "name: expected a string, got True"),
        ("name=", "name: expected at least 1 character"),
        (
            "data.name=qm8",
            "data.name: unknown data set 'qm8'; did you mean qm9? Known are: qm9, dw4, lj13, lj13-unordered,",
        ),
        ("model.domain.kind=crystals", "model.domain.kind: unknown domain 'crystals'; known are: molecules,"),
        ("training=5", "training: expected a table"),
        ("seed", "--set seed: expected a.b=value"),
        ("=5", "--set =5: expected a.b=value"),
        ("name.first=1", "--set name.first=1: name is a value, not a table"),
    ],
)
def test_wrong_values_are_named_in_one_line(override, message):
    with pytest.raises(MolflowError) as caught:
        load_experiment(TINY, [override])
    assert message in str(caught.value)
    assert "\n" not in str(caught.value)


def test_several_mistakes_are_reported_together():
    with pytest.raises(MolflowError, match=r"tiny\.toml: training\.epochs: .*; unknown key sed; did"):
        load_experiment(TINY, ["sed=1", "training.epochs=0"])


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "name is missing; model.domain: has no kind; accepted are: molecules,"),
        (b"name = 'a'\nseed = \n", r"not a TOML file: .*line 2"),
        (b"name = '\xff'", "not a TOML file"),
        (TINY.read_bytes() + b"\n[extra]\n", "unknown key extra"),
    ],
)
def test_unfit_files(tmp_path, content, message):
    path = tmp_path / "bad.toml"
    path.write_bytes(content)
    with pytest.raises(MolflowError, match=rf"bad\.toml: {message}"):
        load_experiment(path)


def test_missing_file(tmp_path):
    with pytest.raises(MolflowError, match=r"none\.toml: cannot be read: No such file"):
        load_experiment(tmp_path / "none.toml")
    with pytest.raises(MolflowError, match="cannot be read: Is a directory"):
        load_experiment(tmp_path)


def test_missing_tables_count_as_empty():
    model = {"kind": "continuous", "domain": {"kind": "particles"}}
    with pytest.raises(MolflowError) as caught:
        parse(ExperimentConfig, {"data": {"name": "particles"}, "model": model}, "a")
    missing = ("name", "data.file", "model.domain.n_particles", "model.domain.dim")
    assert str(caught.value) == "a: " + "; ".join(f"{key} is missing" for key in missing)


KINDS = [
    OptimizerConfig,
    TrainingConfig,
    *(each for r in (DATASETS, DOMAINS, NETWORKS, FLOWS, OBJECTIVES) for _, each in r.items()),
]


@pytest.mark.parametrize("value", ["x", -1, 1e30, True, {}, [], None], ids=repr)
def test_no_message_is_in_the_words_of_the_library(value):
    """Neither "Input should be a valid dictionary" nor "Field required"; every key at fault is named."""
    messages = []
    for kind in KINDS:
        try:
            parse(kind, dict.fromkeys(kind.model_fields, value), "a")
        except MolflowError as error:
            messages.append(str(error))
    assert len(messages) > len(KINDS) / 2
    words = r"Input|should|valid |dictionary|tuple|instance of|Field|parse|\n"
    assert [message for message in messages if re.search(words, message)] == []


def test_configuration_is_frozen():
    config = load_experiment(TINY)
    with pytest.raises(ValidationError, match="frozen"):
        config.seed = 1
    with pytest.raises(ValidationError, match="frozen"):
        config.model.encoder.hidden = 1


@pytest.mark.parametrize("kind", FLOWS.names())
def test_each_kind_of_flow_has_an_objective_that_can_train_it(kind):
    network = {"kind": "mlp", "hidden": 4, "n_blocks": 1}
    tables = {"encoder": network, "decoder": network, "network": network}
    model = {name: table for name, table in tables.items() if name in FLOWS[kind].model_fields}
    model |= {"kind": kind, "domain": {"kind": "vectors", "n_features": 2}}
    config = parse(ExperimentConfig, {"name": "default", "data": {"name": "rings"}, "model": model}, "test")
    flow = config.model.build()
    assert all(hasattr(flow, name) for name in config.objective.requires)


def test_an_unknown_flow_is_the_only_error():
    with pytest.raises(MolflowError, match=r"^test: model.kind: unknown flow 'nfs'; did you mean nsf\? [^;]*$"):
        parse(ExperimentConfig, {"name": "typo", "model": {"kind": "nfs"}}, "test")
