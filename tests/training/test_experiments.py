"""Experiment files: their values, overrides and defaults, and errors that name the key."""

import json
from pathlib import Path

import pytest
from pydantic import ValidationError

from molflow.config import parse
from molflow.errors import MolflowError
from molflow.flows import FLOWS
from molflow.training.config import ExperimentConfig, load_experiment

TINY = Path(__file__).with_name("tiny.toml")
EXPERIMENTS = sorted((Path(__file__).parents[2] / "experiments").rglob("*.toml"))


@pytest.mark.parametrize("path", [TINY, *EXPERIMENTS], ids=lambda path: path.stem)
def test_experiments_load_and_survive_json(path):
    config = load_experiment(path)
    again = parse(ExperimentConfig, json.loads(json.dumps(config.model_dump(mode="json"))), "config.json")
    assert again == config
    assert load_experiment(path, ["seed=987"]) != config


def test_there_is_an_experiment_for_qm9():
    assert "qm9" in [path.stem for path in EXPERIMENTS]


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
            "model.solver.n_steps: Input should be greater than 0 (got 0)",
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
            "irreps: irreps must have vectors (1o), got '8x0e'; model.encoder.lmax: Input should be greater",
        ),
        ('objective={kind = "mean_flow", average_fractions = 1}', "did you mean objective.average_fraction?"),
        ('objective={kind = "inversion", beta = 1}', "unknown key objective.beta"),
        ('objective={kind = "flow_matching", pairs = 1}', "unknown key objective.pairs; did you mean objective.pair"),
        (
            'objective={kind = "mean_flow", pairing = true}',
            "objective.pairing: Input should be a valid string (got True)",
        ),
        ("training.workers=-1", "training.workers: Input should be greater than or equal to 0 (got -1)"),
        (
            'objective={kind = "mean_flow", pairing = "aligned"}',
            "objective.pairing: unknown pairing 'aligned'; did you mean alignment? Known are: none, alignment,",
        ),
        (
            'objective={kind = "mean_flow", loss_exponent = 2}',
            "objective.loss_exponent: Input should be less than or equal to 1 (got 2)",
        ),
        (
            'objective={kind = "flow"}',
            "objective.kind: unknown objective 'flow'; did you mean mean_flow? Known are: free_form, flow_matching,",
        ),
        ("model.encoder={hidden = 3}", "model.encoder: has no kind; accepted are: egnn,"),
        (
            "model.domain.representation=coarse",
            "model.domain.representation: Input should be 'all-atom', 'united-atom' or 'environment'",
        ),
        ("optimiser.learning_rate=1", "unknown key optimiser; did you mean optimizer?"),
        ("qqq=1", "unknown key qqq"),
        ("training.beta=3", "unknown key training.beta; did you mean objective.beta?"),
        ("training.epochs=many", "training.epochs: Input should be a valid integer"),
        ("training.epochs=0", "training.epochs: Input should be greater than 0 (got 0)"),
        ("optimizer.learning_rate=-1e-3", "optimizer.learning_rate: Input should be greater than 0 (got -0.001)"),
        ("training.ema_decay=1", "training.ema_decay: Input should be less than 1"),
        ("name=true", "name: Input should be a valid string (got True)"),
        ("name=", "name: String should have at least 1 character"),
        (
            "data.name=qm8",
            "data.name: unknown data set 'qm8'; did you mean qm9? Known are: qm9, dw4, lj13, lj13-unordered,",
        ),
        ("model.domain.kind=crystals", "model.domain.kind: unknown domain 'crystals'; known are: molecules,"),
        ("training=5", "training: Input should be a valid dictionary"),
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
        (b"", "name: Field required; model: Field required"),
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
