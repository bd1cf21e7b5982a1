"""The scripts of experiments/ that compare families of flows: rows, resuming, and the picture."""

import json
import sys
from importlib import import_module
from pathlib import Path

import pytest
import torch

from molflow import load, load_pretrained
from molflow.errors import MolflowError
from molflow.nn import EquivariantTransformer
from molflow.training.config import load_experiment

EXPERIMENTS = Path(__file__).parents[1] / "experiments"


@pytest.fixture
def script(monkeypatch, capsys, tmp_path):
    """Run a script with --quick into a folder; gives its rows and what it prints."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))

    def run(name, *words):
        monkeypatch.setattr(sys, "argv", [name, "--quick", "--seconds", "0.5", "--out", str(tmp_path), *words])
        import_module(name).main()
        return json.loads((tmp_path / f"{name}.json").read_text()), capsys.readouterr().out

    return run


def test_zoo(script, tmp_path):
    first, _ = script("zoo", "--only", "two-moons", "radial")
    rows, printed = script("zoo", "--only", "two-moons", "radial", "free_form")
    assert rows[:1] == first  # with its times, so it was not made again
    assert [row["family"] for row in rows] == ["radial", "free_form"]
    for row in rows:
        assert row["steps"] > 0
        assert row["nll"] > row["nll_of_truth"] - 5 * row["nll_error"]
        assert row["ms_per_sample"] > 0
        assert f"| two-moons | {row['family']} | {row['nll']:.3f} |" in printed
    assert (tmp_path / "densities.png").read_bytes().startswith(b"\x89PNG")
    assert {path.stem for path in (tmp_path / "grids").iterdir()} == {
        "two-moons-truth", "two-moons-radial", "two-moons-free_form",
    }  # fmt: skip


def test_particles(script, few_particles, tmp_path):
    rows, _ = script("zoo", "--only", "dw4-vectors", "radial")
    assert [row["nll_of_truth"] for row in rows] == [7.12]
    assert not (tmp_path / "densities.png").exists()


def test_sbi(script):
    rows, printed = script("sbi", "--only", "sbi-two-moons", "nsf")
    assert [(row["task"], row["n_simulations"], row["npe"]) for row in rows] == [("sbi-two-moons", 10_000, 0.606)]
    assert len(rows[0]["c2st"]) == 1
    assert all(0.3 < score <= 1 for score in rows[0]["c2st"])
    assert f"| sbi-two-moons | 10,000 | nsf | {rows[0]['mean_c2st']:.3f} | 0.606 |" in printed


def test_unknown_names(script, capsys):
    with pytest.raises(SystemExit):
        script("zoo", "--only", "three-moons")
    assert "no such task or family: three-moons; there are: two-moons, " in capsys.readouterr().err


def test_rows_that_failed_are_made_again(script, tmp_path):
    fill = import_module("families").fill
    keys, made, broken = [{"name": "a"}, {"name": "b"}], [], {"a"}

    def make(name):
        made.append(name)
        if name in broken:
            raise MolflowError("broken")
        return {"value": 1.0}

    path = tmp_path / "folder" / "rows.json"
    assert fill(path, keys, make) == [{"name": "a", "error": "broken"}, {"name": "b", "value": 1.0}]
    broken.clear()
    assert fill(path, keys, make) == [{"name": "a", "value": 1.0}, {"name": "b", "value": 1.0}]
    assert made == ["a", "b", "a"]
    assert fill(path, keys[:1], make) == [{"name": "a", "value": 1.0}]
    assert made == ["a", "b", "a"]


def test_steps_without_finite_gradients_are_left_out(script):
    """The first step throws the weights off; the later ones change nothing."""
    families = import_module("families")
    config = families.experiment("realnvp", "density", {"name": "two-moons", "n": 600})
    config = config.model_copy(update={"optimizer": config.optimizer.model_copy(update={"learning_rate": 1e30})})
    flow, figures = families.train(config, 1.0)
    assert figures["steps"] == 1
    assert figures["skipped_steps"] > 0
    assert all(parameter.isfinite().all() for parameter in flow.parameters())


def test_sampling_speed(script, tmp_path, monkeypatch, capsys):
    record = tmp_path / "speed.json"
    words = ["--features", "3", "--seconds", "0.3", "-n", "20", "--json", str(record)]
    monkeypatch.setattr(sys, "argv", ["sampling_speed", *words])
    import_module("sampling_speed").main()
    rows = json.loads(record.read_text())
    assert [(row["features"], row["family"]) for row in rows] == [(3, "free_form"), (3, "maf"), (3, "ffjord")]
    assert rows[0]["times_free_form"] == 1
    assert "| 3 | maf |" in capsys.readouterr().out


def test_every_trial_is_an_experiment(monkeypatch):
    """Its base exists, and takes what the trial changes; paths are those of a checkout."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS))
    monkeypatch.chdir(EXPERIMENTS.parent)
    trials = import_module("trials")
    for base, changes in trials.SETS.values():
        for changed in changes.values():
            config = load_experiment(base, [*changed, *trials.COMMON])
            assert config.training.compile is False


def test_a_denoiser_of_several_passes_is_saved_as_it_is_loaded(monkeypatch, tmp_path):
    """Inside a decoder without noise: each pass scales its input, and each step is a stage."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "recipe"))
    times = ["0.5", "0.2", "0", "0.3", "0"]
    monkeypatch.setattr(sys, "argv", ["denoiser", "qm9", "qm9-environment", str(tmp_path / "run"), "--times", *times])
    import_module("denoiser").main()
    before, flow = load_pretrained("qm9"), load(tmp_path / "run")
    n = len(before.decoder.stages)
    assert flow.decoder.factors == (*before.decoder.factors, 0.5, 1.0, 0.7)
    assert len(flow.decoder.stages) == n + 3
    assert flow.sample(2, seed=0).positions.isfinite().all()


def test_weights_for_generated_elements_begin_as_those_for_given_ones(monkeypatch):
    """With the features of a type in place of its label, positions move alike."""
    monkeypatch.syspath_prepend(str(EXPERIMENTS / "recipe"))
    sizes = {"hidden": 8, "n_vectors": 2, "pair_hidden": 4, "n_heads": 2, "n_blocks": 1}
    torch.manual_seed(0)
    given, generated = EquivariantTransformer(0, 3, 1, **sizes), EquivariantTransformer(3, 0, 1, **sizes)
    labels = torch.eye(3)
    features = 0.25 * labels - 0.1
    import_module("joint").take_weights(generated, given, features, labels)
    x, t, mask = torch.randn(1, 3, 3), torch.full((1, 1), 0.3), torch.ones(1, 3, dtype=torch.bool)
    moves = [network(x, h[None], mask, t)[0] for network, h in ((given, labels), (generated, features))]
    torch.testing.assert_close(*moves, atol=1e-5, rtol=0)
    assert moves[0].abs().max() > 1e-4
