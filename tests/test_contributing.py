"""The examples of CONTRIBUTING.md, installed as another package, do all that built-in objects do."""

import json
import re
import subprocess
import sys
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch
from laws import random_case, randomize
from rdkit import Chem
from rdkit.Chem.AllChem import EmbedMolecule

import molflow
from molflow.data import DATASETS
from molflow.energies import ENERGIES
from molflow.evaluation import METRICS
from molflow.flows import FLOWS
from molflow.nn import NETWORKS
from molflow.testing import assert_equivariant
from molflow.training.objectives import OBJECTIVES

TEXT = (Path(__file__).parents[1] / "CONTRIBUTING.md").read_text(encoding="utf-8")
EXAMPLES = dict(re.findall(r"^### Implementing an? ([\w ]+)\n.*?^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL))
ADDED = {  # kind of object -> group of entry points, registry, names, command whose --help lists them
    "network": ("networks", NETWORKS, ["pairwise"], "train"),
    "flow": ("flows", FLOWS, ["scaling"], "train"),
    "objective": ("objectives", OBJECTIVES, ["autoencoder"], "train"),
    "data set": ("datasets", DATASETS, ["spiral"], "data"),
    "metric": ("metrics", METRICS, ["small_molecules", "distinct_formulas"], "evaluate"),
    "energy": ("energies", ENERGIES, ["springs"], "data"),
}
LONGEST = 40  # lines of an example

PARTICLES = """
[model]
kind = "{flow}"
domain = {{kind = "particles", n_particles = 3, dim = 2}}
"""
VECTORS = """
[data]
name = "spiral"
n = 64
[model]
kind = "{flow}"
domain = {{kind = "vectors"}}
"""
TRAINING = """
[training]
batch_size = 16
max_steps = 3
validation_samples = 8
validation_molecules = 2
device = "cpu"
"""
MLP = 'encoder = {kind = "mlp", hidden = 8, n_blocks = 1}\ndecoder = {kind = "mlp", hidden = 8, n_blocks = 1}\n'
PAIRWISE = 'encoder = {kind = "pairwise"}\ndecoder = {kind = "pairwise", hidden = 8}\n'
EXPERIMENTS = {
    "network": '[data]\nname = "particles"\nfile = "x.npy"\n' + PARTICLES.format(flow="free_form") + PAIRWISE,
    "flow": VECTORS.format(flow="scaling") + '[objective]\nkind = "likelihood"\n',
    "objective": VECTORS.format(flow="free_form") + MLP + '[objective]\nkind = "autoencoder"\nlatent_weight = 0.5\n',
    "data set": VECTORS.format(flow="free_form") + MLP,
    "energy": '[data]\nname = "springs"\n' + PARTICLES.format(flow="scaling") + '[objective]\nkind = "likelihood"\n',
}


@pytest.fixture(scope="module")
def package(tmp_path_factory):
    """A folder with the examples and the metadata that an installation of them would leave."""
    folder = tmp_path_factory.mktemp("site")
    metadata = folder / "ext-0.1.dist-info"
    metadata.mkdir()
    (metadata / "METADATA").write_text("Metadata-Version: 2.1\nName: ext\nVersion: 0.1\n")
    lines = []
    for kind, (group, _, names, _) in ADDED.items():
        module = f"ext_{kind.replace(' ', '_')}"
        (folder / f"{module}.py").write_text(EXAMPLES[kind])
        lines += [f"[molflow.{group}]", *(f"{name} = {module}" for name in names)]
    (metadata / "entry_points.txt").write_text("\n".join(lines))
    return folder


@pytest.fixture
def installed(package, monkeypatch, tmp_path, forget_additions):
    """The examples can be imported, in a working folder with data and a cache of its own."""
    monkeypatch.syspath_prepend(str(package))
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path))
    np.save("x.npy", torch.randn(64, 3, 2, generator=torch.Generator().manual_seed(0)).numpy())
    yield
    for name in [name for name in sys.modules if name.startswith("ext_")]:
        del sys.modules[name]


def test_there_is_an_example_of_every_kind_and_it_is_short():
    assert set(EXAMPLES) == set(ADDED)
    assert {kind: len(code.splitlines()) for kind, code in EXAMPLES.items() if len(code.splitlines()) > LONGEST} == {}


@pytest.mark.parametrize("kind", ADDED)
def test_names_are_listed_without_an_import_and_suggested(kind, installed):
    _, registry, names, _ = ADDED[kind]
    assert set(names) <= set(registry.names())
    assert not any(name.startswith("ext_") for name in sys.modules)
    with pytest.raises(molflow.MolflowError, match=f"did you mean {names[0]}"):
        registry[names[0][:-1]]


@pytest.mark.parametrize("kind", EXPERIMENTS)
def test_training_saving_loading_and_sampling(kind, installed, few_particles):
    Path("experiment.toml").write_text(f'name = "mine"\n{EXPERIMENTS[kind]}{TRAINING}')
    config = molflow.load_experiment("experiment.toml")
    molflow.train(config, "run")
    flow = molflow.load("run")
    assert json.loads(Path("run/config.json").read_text())["model"]["kind"] == config.model.kind
    samples = flow.sample(5, seed=0)
    torch.testing.assert_close(samples, molflow.load("run").sample(5, seed=0), rtol=0, atol=0)
    assert samples.shape == ((5, 3, 2) if kind in ("network", "energy") else (5, 2))
    x, log_q = flow.sample_and_log_prob(5, seed=0)
    torch.testing.assert_close(flow.log_prob(x, which="decoder").isfinite(), log_q.isfinite())


def test_a_trained_scaling_flow_has_the_width_of_the_data(installed):
    """On vectors in units of their standard deviation the maximum of the likelihood is a width of 1."""
    settings = ["training.max_steps=200", "optimizer.learning_rate=0.05", "model.initial_width=3.0", "data.n=1000"]
    Path("experiment.toml").write_text(f'name = "mine"\n{EXPERIMENTS["flow"]}{TRAINING}')
    molflow.train(molflow.load_experiment("experiment.toml", [*settings, "training.ema_decay=0"]), "run")
    assert float(molflow.load("run").log_width.detach().exp()) == pytest.approx(1.0, abs=0.05)


def test_a_wrong_setting_of_an_addition_names_the_nearest_key(installed):
    Path("experiment.toml").write_text(f'name = "mine"\n{EXPERIMENTS["objective"]}{TRAINING}')
    with pytest.raises(molflow.MolflowError, match=r"objective.latent_wait; did you mean objective.latent_weight"):
        molflow.load_experiment("experiment.toml", ["objective.latent_wait=1"])


def test_an_objective_that_does_not_fit_the_flow_is_refused(installed):
    text = EXPERIMENTS["flow"].replace("likelihood", "autoencoder")
    Path("experiment.toml").write_text(f'name = "mine"\n{text}{TRAINING}')
    with pytest.raises((ValueError, molflow.MolflowError), match="needs a flow with encoder, decoder"):
        molflow.train(molflow.load_experiment("experiment.toml"), "run")


@pytest.mark.parametrize("sizes", [(2, 3, 0, 0), (0, 0, 1, 0), (1, 0, 0, 2)], ids=["labels", "time", "condition"])
def test_the_network_is_equivariant(sizes, installed):
    n_features, n_labels, n_times, n_conditions = sizes
    network = randomize(NETWORKS["pairwise"]().build(*sizes)).double()
    points, context = random_case(3, n_features, n_labels)
    more = torch.arange(1.0, 1 + n_times + n_conditions, dtype=torch.float64).expand(len(context.mask), -1)
    arguments = more[:, :n_times] if n_times else None, more[:, n_times:] if n_conditions else None
    h = torch.cat([points.h, context.labels], -1)
    assert_equivariant(lambda x, h, mask: network(x, h, mask, *arguments), points.x, h, context.mask)


def test_a_conditional_model_is_a_configuration(installed):
    Path("experiment.toml").write_text(f'name = "mine"\n{EXPERIMENTS["data set"]}{TRAINING}')
    molflow.train(molflow.load_experiment("experiment.toml", ['data.condition=["moon"]']), "run")
    assert molflow.load("run").sample(5, seed=0, condition={"moon": 1.0}).shape == (5, 2)


def test_metrics_are_in_scores_and_records(installed):
    water, methane = (Chem.AddHs(Chem.MolFromSmiles(smiles)) for smiles in ("O", "C"))
    for molecule in (water, methane):
        EmbedMolecule(molecule, randomSeed=0)
    scores = molflow.evaluate([water, methane, water], scope="lookup", workers=1)
    assert (scores.metrics["distinct_formulas"].count, scores.metrics["distinct_formulas"].of) == (2, 3)
    assert scores.metrics["small_molecules"].value == 1
    assert "small_molecules" in json.dumps(scores.to_dict())


def test_the_data_of_an_energy_have_its_mean(installed, few_particles):
    x = DATASETS["springs"]().load("test").data
    energies = ENERGIES["springs"]().energy(x)
    assert float(energies.mean()) == pytest.approx(2.0, abs=0.3)  # dof / 2


@pytest.mark.slow
@pytest.mark.parametrize("command", ["train", "data", "evaluate"])
def test_help_lists_additions(command, package):
    """And imports neither them nor torch."""
    script = f"""
import contextlib, io, sys
sys.path.insert(0, {str(package)!r})
from molflow.cli import main
with contextlib.redirect_stdout(io.StringIO()) as shown, contextlib.suppress(SystemExit):
    main([{command!r}, "--help"])
print(shown.getvalue())
print(sorted(name for name in sys.modules if name.startswith("ext_") or name in ("torch", "numpy", "scipy", "rdkit")))
"""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    *shown, loaded = done.stdout.splitlines()
    assert loaded == "[]"
    words = set(re.findall(r"[\w-]+", " ".join(shown)))
    assert {name for _, _, names, listed_by in ADDED.values() if listed_by == command for name in names} <= words


def test_a_damaged_package_is_named(installed, package, monkeypatch, tmp_path):
    broken = tmp_path / "broken-0.1.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken\nVersion: 0.1\n")
    (broken / "entry_points.txt").write_text("[molflow.networks]\nodd = not_there\nsilent = ext_flow\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    with pytest.raises(molflow.MolflowError, match=r"the network 'odd' of the package broken cannot be loaded"):
        NETWORKS["odd"]
    with pytest.raises(molflow.MolflowError, match=r"'silent' but does not register"):
        NETWORKS["silent"]


def test_modules_can_be_imported_in_place_of_entry_points(installed):
    import_module("ext_network")
    assert NETWORKS["pairwise"].kind == "pairwise"
