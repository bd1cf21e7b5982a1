"""The format of config.json, older and newer ones, and the weights that a model accepts."""

import json
import pickle
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch
from laws import ALL_FLOWS, asked, build_flow, random_data
from safetensors.torch import load_file, save_file

import molflow
from molflow.batch import MoleculeBatch
from molflow.errors import MolflowError
from molflow.flows.storage import CARD, CONFIG, FORMAT, WEIGHTS, load, read_config, read_model_config, save_model

FIXTURES = Path(__file__).parents[1] / "fixtures"
SHIPPED = Path(molflow.__file__).parent / "pretrained"
NAME = "molecules-united-transformer"


@pytest.fixture
def folder(tmp_path):
    torch.manual_seed(0)
    save_model(tmp_path, ALL_FLOWS[NAME], build_flow(NAME), {"name": "tiny"}, {"seed": 3, "training": {"epochs": 2}})
    return tmp_path


def edit(folder, change):
    content = json.loads((folder / CONFIG).read_text())
    change(content)
    (folder / CONFIG).write_text(json.dumps(content))


def refused(folder):
    with pytest.raises(MolflowError) as caught:
        load(folder)
    assert "\n" not in str(caught.value)
    return str(caught.value)


def as_tensors(data):
    return (data.positions, data.atomic_numbers, data.mask) if isinstance(data, MoleculeBatch) else (data,)


def same_samples(one, other, n=4):
    pairs = zip(*(as_tensors(flow.sample(n, seed=1, **asked(flow, n))) for flow in (one, other)), strict=True)
    return all(torch.equal(a, b) for a, b in pairs)


# ---- config.json -----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", ALL_FLOWS)
def test_every_flow_comes_back(name, tmp_path):
    torch.manual_seed(0)
    flow = build_flow(name)
    save_model(tmp_path, ALL_FLOWS[name], flow, {})
    loaded = molflow.load(tmp_path)
    assert type(loaded) is type(flow)
    assert same_samples(flow, loaded, 2)
    given = asked(flow)
    data = random_data(flow, torch.float32)
    assert torch.equal(loaded.log_prob(data, **given), flow.log_prob(data, **given))


def test_the_file_has_format_model_and_experiment(folder):
    content = json.loads((folder / CONFIG).read_text())
    assert list(content) == ["format", "model", "experiment"]
    assert content["format"] == FORMAT == 1
    assert content["model"] == ALL_FLOWS[NAME].model_dump(mode="json")
    assert content["experiment"] == {"seed": 3, "training": {"epochs": 2}}
    assert read_config(folder) == content
    assert json.loads((folder / CARD).read_text()) == {"name": "tiny"}


def test_a_model_needs_no_experiment(tmp_path):
    save_model(tmp_path, ALL_FLOWS["vectors"], build_flow("vectors"), {})
    assert json.loads((tmp_path / CONFIG).read_text())["experiment"] is None
    edit(tmp_path, lambda content: content.pop("experiment"))
    assert read_config(tmp_path)["experiment"] is None
    assert load(tmp_path).sample(2, seed=0).shape == (2, 3)


@pytest.mark.parametrize(
    "experiment",
    [None, 3, "garbage", [], {}, {"training": {"key of another version": [1, {}]}}, {"model": {"kind": "none"}}],
    ids=str,
)
def test_an_experiment_does_not_matter_to_a_model(folder, experiment):
    expected = load(folder)
    edit(folder, lambda content: content.update(experiment=experiment, remark="a key that nothing reads"))
    assert same_samples(expected, load(folder))


@pytest.mark.parametrize("version", [2, 99, "1", None, -1, 1.5, [1]], ids=str)
def test_a_newer_format_is_refused(folder, version):
    edit(folder, lambda content: content.update(format=version))
    expected = f"{folder / CONFIG}: has format {version!r}, this version of molflow reads up to 1; update molflow"
    assert refused(folder) == expected


@pytest.mark.parametrize("model", [None, 3, "x", []], ids=str)
def test_a_file_without_a_model_is_refused(folder, model):
    edit(folder, lambda content: content.update(model=model))
    assert refused(folder) == f"{folder / CONFIG}: has no model; expected format, model and experiment"


@pytest.mark.parametrize("version", [0, 1])
@pytest.mark.parametrize("domain", [3, None, []], ids=str)
def test_a_damaged_model_is_refused_in_every_format(folder, version, domain):
    edit(folder, lambda content: content.update(format=version, model=content["model"] | {"domain": domain}))
    assert refused(folder).startswith(f"{folder / CONFIG}: model.domain: ")


# ---- format 0 --------------------------------------------------------------------------------------------------------


def test_a_model_of_version_0_1_gives_the_samples_of_today(tmp_path):
    for file in (WEIGHTS, CARD):
        shutil.copy(SHIPPED / "dw4" / file, tmp_path)
    shutil.copy(FIXTURES / "dw4_format_0.json", tmp_path / CONFIG)
    old, new = read_config(tmp_path), read_config(SHIPPED / "dw4")
    assert old["format"] == new["format"] == FORMAT
    assert old["model"] == new["model"]
    assert old["experiment"]["optimizer"] == new["experiment"]["optimizer"]
    assert same_samples(load(tmp_path), load(SHIPPED / "dw4"))


def test_molecules_of_version_0_1_can_be_built(tmp_path):
    """The model that was shipped as `qm9` then; its weights are those of another model now."""
    shutil.copy(FIXTURES / "qm9_format_0.json", tmp_path / CONFIG)
    flow = read_model_config(tmp_path).build()
    assert flow.domain.representation == "united-atom"
    assert len(flow.domain.types) == 13
    save_model(tmp_path / "new", read_model_config(tmp_path), flow, {})
    assert load(tmp_path / "new").state_dict().keys() == flow.state_dict().keys()


def test_values_of_version_0_1_get_their_names_of_today(tmp_path):
    content = json.loads((FIXTURES / "qm9_format_0.json").read_text())
    assert content["model"]["domain"]["representation"] == "united"
    content["objective"] = {"kind": "flow_matching", "power": 0.5, "n_probes": 1}
    (tmp_path / CONFIG).write_text(json.dumps(content))
    read = read_config(tmp_path)
    assert read["model"]["domain"]["representation"] == "united-atom"
    assert list(read["experiment"]["objective"].items()) == [
        ("kind", "flow_matching"), ("loss_exponent", 0.5), ("n_probes", 1),
    ]  # fmt: skip
    assert json.loads((tmp_path / CONFIG).read_text()) == content  # the file stays as it is


def test_environments_of_format_0_keep_their_names(tmp_path):
    """A run of flow matching near the data, made before format 1."""
    name = "composed-environment-continuous"
    model = ALL_FLOWS[name].model_dump(mode="json")
    torch.manual_seed(0)
    flow = build_flow(name)
    save_model(tmp_path, ALL_FLOWS[name], flow, {})
    objective = {"kind": "flow_matching", "power": 0.5, "near_fraction": 0.4}
    (tmp_path / CONFIG).write_text(json.dumps({"name": "old", "model": model, "objective": objective}))
    assert read_config(tmp_path)["experiment"]["objective"] == {
        "kind": "flow_matching", "loss_exponent": 0.5, "near_fraction": 0.4,
    }  # fmt: skip
    assert same_samples(load(tmp_path), flow)


def test_todays_format_does_not_take_values_of_version_0_1(folder):
    edit(folder, lambda content: content["model"]["domain"].update(representation="united"))
    error = refused(folder)
    assert "model.domain.representation" in error
    assert "'united-atom'" in error


# ---- weights ---------------------------------------------------------------------------------------------------------


def change(folder, name, value):
    weights = load_file(folder / WEIGHTS)
    weights[name] = value(weights[name])
    save_file(weights, folder / WEIGHTS)


def some_weight(folder):
    return next(name for name, tensor in load_file(folder / WEIGHTS).items() if tensor.ndim == 2)


@pytest.mark.parametrize(
    "dtype", [torch.int64, torch.int32, torch.uint8, torch.bool, torch.float64, torch.complex64, torch.float8_e4m3fn]
)
def test_weights_of_another_type_are_refused(folder, dtype):
    name = some_weight(folder)
    change(folder, name, lambda tensor: tensor.to(dtype))
    expected = f"{folder / WEIGHTS}: {name} has type {dtype}, config.json asks for torch.float32"
    assert refused(folder) == expected


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.int32], ids=str)
def test_integers_stay_integers(tmp_path, dtype):
    flow = build_flow("composed-all-atom")
    save_model(tmp_path, ALL_FLOWS["composed-all-atom"], flow, {})
    change(tmp_path, "domain.compositions.counts", lambda tensor: tensor.to(dtype))
    assert f"domain.compositions.counts has type {dtype}, config.json asks for torch.int64" in refused(tmp_path)


@pytest.mark.parametrize("value", [float("nan"), float("inf"), -float("inf")])
def test_weights_that_are_not_finite_are_refused(folder, value):
    name = some_weight(folder)

    def spoil(tensor):
        tensor = tensor.clone()
        tensor[-1, -1] = value
        return tensor

    change(folder, name, spoil)
    assert refused(folder) == f"{folder / WEIGHTS}: {name} has values that are not finite"


def test_weights_of_another_shape_are_refused(folder):
    name = some_weight(folder)
    change(folder, name, lambda tensor: tensor[:, :-1].contiguous())
    assert f"{folder / WEIGHTS}: {name} has shape (" in refused(folder)


def test_missing_and_unknown_weights_are_refused(folder):
    weights = load_file(folder / WEIGHTS)
    first = min(weights)
    save_file({name: tensor for name, tensor in weights.items() if name != first}, folder / WEIGHTS)
    assert refused(folder) == f"{folder / WEIGHTS}: does not fit its config.json: lacks {first}"
    save_file(weights | {"stranger": torch.zeros(1)}, folder / WEIGHTS)
    assert refused(folder) == f"{folder / WEIGHTS}: does not fit its config.json: has an unknown stranger"


def test_a_pickle_is_refused(folder):
    weights = load_file(folder / WEIGHTS)
    torch.save(weights, folder / WEIGHTS)
    assert refused(folder).startswith(f"{folder / WEIGHTS}: not a safetensors file")
    (folder / WEIGHTS).write_bytes(pickle.dumps({"a": 1}))
    assert refused(folder).startswith(f"{folder / WEIGHTS}: not a safetensors file")


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_half_precision_is_accepted_and_becomes_single(folder, dtype):
    weights = load_file(folder / WEIGHTS)
    halves = {name: tensor.to(dtype) for name, tensor in weights.items()}
    save_file(halves, folder / WEIGHTS)
    flow = load(folder)
    assert flow.dtype == torch.float32
    for name, tensor in flow.state_dict().items():
        assert torch.equal(tensor, halves[name].float())
    assert flow.sample(2, seed=0).positions.isfinite().all()


# ---- what loading imports --------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_loading_and_sampling_import_no_training(folder):
    script = f"""
import sys
import molflow

molflow.load({str(folder)!r}).sample(2, seed=0)
rooms = ("training", "data", "evaluation", "report", "cli", "energies")
print(sorted(name for name in rooms if f"molflow.{{name}}" in sys.modules))
print(sorted({{"rdkit", "e3nn", "torch_geometric", "torchdiffeq"}} & set(sys.modules)))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.split() == ["[]", "[]"]


def test_loading_leaves_the_global_generator_alone(folder):
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    load(folder)
    assert torch.equal(torch.rand(3), expected)
