"""The command line as a user meets it: files, figures, exit codes, and one clear line for whatever is wrong."""

import csv
import gzip
import json
import os
import pickle
import re
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from experiments import TINY, TYPES, save_experiment, save_small_molecules
from molflow import evaluation, pretrained
from molflow.chem import lookup, read_structures
from molflow.cli import main
from molflow.cli.output import epochs
from molflow.evaluation import TrainingReference
from molflow.flows.storage import CONFIG, WEIGHTS
from molflow.report.tables import number
from molflow.training.config import load_experiment

QM9 = Path(__file__).parent / "fixtures" / "qm9_200.npz"
COMMANDS = ("data", "train", "sample", "evaluate", "models", "templates", "benchmark sampling", "benchmark training")
SCORES = {
    "n_molecules", "atom_stability", "molecule_stability", "validity", "connected_validity", "uniqueness", "novelty",
    "protocol", "reference_scores", "validity_x_uniqueness", "nearest_training_similarity",
    "nearest_training_similarity_median", "novel_compositions",
}  # fmt: skip
SPEEDS = {
    "model", "n", "ms_per_molecule", "ms_per_stable_molecule", "molecules_per_s", "stable_molecules_per_s",
    "peak_memory_mb", "device", "threads", "batch_size",
}  # fmt: skip


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_molecules(tmp_path_factory.mktemp("model"))


@pytest.fixture(scope="module")
def single_atoms(tmp_path_factory):
    """Model folders of united atoms alone: methane, always stable, beside bare carbon, or bare carbon only."""

    def save(*counts):
        domain = "{kind='composed_molecules', representation='united-atom', types=['C', 'CH4'], n_compositions=2}"
        network = "{kind='transformer', hidden=8, n_vectors=2, pair_hidden=4, n_heads=2, n_blocks=1}"
        settings = [f"model.domain={domain}", f"model.decoder={network}", "model.average_velocity=true"]
        config = load_experiment(TINY, settings)
        flow = config.model.build()
        flow.domain.compositions.fit(torch.eye(2, dtype=torch.uint8), torch.tensor(counts))
        folder = tmp_path_factory.mktemp("single_atoms")
        save_experiment(folder, config, flow)
        return folder

    return {"half": save(1, 1), "none": save(1, 0)}


@pytest.fixture
def trained_on_100(monkeypatch):
    """Novelty is measured against the first 100 molecules of the file that is scored."""
    training = TrainingReference.from_structures(read_structures(QM9)[:100], name="the first 100")
    monkeypatch.setattr(evaluation, "qm9_training_reference", lambda progress: training)


@pytest.fixture
def no_qm9(monkeypatch, tmp_path):
    """A machine without QM9 and without the wheel it comes from."""

    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(metadata, "distribution", missing)


# ---- what works ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("command", COMMANDS)
def test_help(molflow, command):
    code, out, err = molflow(*command.split(), "--help")
    assert (code, err) == (0, "")
    assert f"molflow {command}" in out
    assert "--json" in out
    assert ("--quiet" in out) == ("--threads" in out) == (command not in ("models", "templates"))


def test_help_without_a_command_lists_the_commands(molflow, monkeypatch):
    monkeypatch.setattr(sys, "argv", ["molflow"])
    with pytest.raises(SystemExit) as stop:
        main()
    assert stop.value.code == 0
    code, out, _ = molflow("--help")
    assert code == 0
    assert all(re.search(rf"^  {command.split()[0]} ", out, re.MULTILINE) for command in COMMANDS)


@pytest.mark.parametrize(
    "program", [[Path(sys.executable).with_name("molflow")], [sys.executable, "-m", "molflow.cli"]]
)
def test_it_is_installed_as_a_program(program):
    result = subprocess.run([*program, "models", "--nonsense"], capture_output=True, text=True, check=False)
    assert (result.returncode, result.stdout) == (2, "")
    assert re.fullmatch(r"molflow: error: No such option:? '?--nonsense'?\.?\n", result.stderr)


def test_help_does_not_wait_for_torch():
    script = "import sys, molflow.cli; print(sorted({'torch', 'numpy', 'rdkit'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize("suffix", ["sdf", "xyz", "npz"])
def test_sample(molflow, model, tmp_path, suffix):
    out, figures = tmp_path / "new" / f"a.{suffix}", tmp_path / "new" / "a.json"
    code, text, _ = molflow("sample", "-m", model, "-n", 30, "--batch-size", 8, "--out", out, "--json", figures)
    assert code == 0
    assert "30 molecules are in" in text
    structures = read_structures(out)
    assert len(structures) == 30
    assert {len(s.atomic_numbers) for s in structures} <= {2, 3, 5, 6}
    record = json.loads(figures.read_text())
    assert record.keys() >= SCORES | SPEEDS
    assert (record["n"], record["n_molecules"], record["batch_size"]) == (30, 30, 8)
    assert record["model"] == str(model)
    assert record["reference_scores"]["molecule_stability"] == pytest.approx(0.9528, abs=1e-4)
    assert sorted(os.listdir(out.parent)) == sorted([out.name, figures.name])
    assert record["novelty"] is None


def test_the_seed_determines_the_samples(molflow, model, tmp_path):
    def sampled(*words):
        assert molflow("sample", "-m", model, "-n", 20, "--force", "-o", tmp_path / "a.sdf", *words)[0] == 0
        return (tmp_path / "a.sdf").read_bytes()

    first = sampled("--seed", 1)
    assert sampled("--seed", 1) == first
    assert sampled("--seed", 2) != first
    assert sampled("--seed", 1, "--temperature", 0.5) != first


def test_scoring_beside_sampling_changes_no_score(molflow, model, tmp_path):
    def sampled(workers):
        out, figures = tmp_path / "a.sdf", tmp_path / "a.json"
        words = ("sample", "-m", model, "-n", 60, "--batch-size", 16, "--force", "-o", out, "--json", figures)
        assert molflow(*words, "--workers", workers)[0] == 0
        return out.read_bytes(), {key: value for key, value in json.loads(figures.read_text()).items() if key in SCORES}

    expected = sampled(0)
    assert expected[1].keys() == SCORES
    assert sampled(1) == sampled(2) == expected


def test_compiling_that_cannot_be(fails, model, monkeypatch, tmp_path):
    monkeypatch.setenv("CXX", "no-such-compiler")
    code, line = fails("sample", "-m", model, "-n", 4, "-o", tmp_path / "a.sdf", "--compile")
    assert code == 1
    assert "no C++ compiler 'no-such-compiler' was found" in line
    assert "no C++ compiler" in fails("benchmark", "sampling", "-m", model, "-n", 4, "--compile")[1]
    code, line = fails("sample", "-m", "dw4", "-n", 4, "-o", tmp_path / "a.npz", "--precision", "bfloat16")
    assert (code, "add --no-density" in line) == (2, True)


def test_only_stable_draws_until_there_are_enough(molflow, single_atoms, tmp_path):
    out, figures, all_of_them = (tmp_path / name for name in ("a.npz", "a.json", "b.npz"))
    options = "sample", "-m", single_atoms["half"], "--batch-size", 8, "-o"
    code, text, _ = molflow(*options, out, "-n", 50, "--only", "stable", "--json", figures)
    assert code == 0
    kept = read_structures(out)
    assert [len(s.atomic_numbers) for s in kept] == [5] * 50
    record = json.loads(figures.read_text())
    assert (record["n_molecules"], record["molecule_stability"], record["only"]) == (50, 1.0, "stable")
    assert 60 < record["n"] < 200
    assert f"{record['n']} molecules were drawn" in text
    assert record["ms_per_stable_molecule"] > 1.2 * record["ms_per_molecule"]
    assert molflow(*options, all_of_them, "-n", record["n"])[0] == 0
    stable = [s for s in read_structures(all_of_them) if len(s.atomic_numbers) == 5]
    assert all((a.positions == b.positions).all() for a, b in zip(kept, stable, strict=False))


def test_only_stable_gives_up(molflow, single_atoms, tmp_path):
    code, out, err = molflow("sample", "-m", single_atoms["none"], "--only", "stable", "-o", tmp_path / "a.sdf")
    assert (code, out, os.listdir(tmp_path)) == (1, "", [])
    assert err.endswith("molflow: error: none of 20,480 molecules is stable: this model needs more training\n")


def test_several_evaluations(molflow, fails, model, single_atoms, tmp_path):
    figures = tmp_path / "a.json"
    several = "sample", "-m", single_atoms["half"], "-n", 4, "-k", 3, "-o", tmp_path / "a.sdf"
    assert molflow(*several, "--json", figures)[0] == 0
    assert json.loads(figures.read_text())["evaluations"] == 3
    expected = 2, f"{model}: made for one evaluation of the network, cannot use 2"
    assert fails("sample", "-m", model, "-n", 4, "-k", 2) == expected
    assert fails("benchmark", "sampling", "-m", model, "-k", 2) == expected


def test_evaluate_writes_a_page(molflow, tmp_path):
    page, figures = tmp_path / "new" / "a.html", tmp_path / "a.json"
    code, text, _ = molflow("evaluate", QM9, "--report", page, "--json", figures)
    assert code == 0
    assert f"{page} is written" in text
    record, html = json.loads(figures.read_text()), page.read_text(encoding="utf-8")
    assert sum(record["statuses"].values()) == 200
    shown = re.findall(r">record (\d+): (\w+)", html)
    assert len(shown) == len(set(shown)) == sum(min(48, n) for n in record["statuses"].values())
    assert [int(number) for number, _ in shown] != sorted(int(number) for number, _ in shown)
    assert len(html) < 8e6


def test_evaluate_compares_files_on_one_page(molflow, tmp_path):
    page, copy = tmp_path / "a.html", shutil.copy(QM9, tmp_path / "copy.npz")
    assert molflow("evaluate", QM9, copy, "--report", page, "--scope", "lookup")[0] == 0
    html = page.read_text(encoding="utf-8")
    assert html.count("190 of 200") >= 2
    assert html.count('class="card"') == 2 * (24 + 10)


@pytest.mark.parametrize("suffix", [".csv", ".sdf"])
def test_evaluate_tells_of_every_molecule(molflow, tmp_path, suffix):
    source, details = tmp_path / "a.xyz", tmp_path / f"b{suffix}"
    source.write_text(XYZ + "1\n\njunk\n" + XYZ.replace("O ", "Se ") + XYZ)
    code, text, err = molflow("evaluate", source, "--details", details, "--strain", "mmff94")
    assert code == 0
    assert "1 of 4 records cannot be read" in err
    assert f"{details} is written" in text
    if suffix == ".csv":
        with details.open(newline="") as file:
            rows = list(csv.DictReader(file))
        assert [row["record"] for row in rows] == ["1", "2", "3", "4"]
        assert [row["status"] for row in rows] == ["stable", "unreadable", "unsupported", "stable"]
        assert rows[1]["reason"] == "line 8: expected 'symbol x y z', got 'junk' (atom 1 of 1)"
        assert float(rows[0]["strain_energy"]) > 0
    else:
        assert details.read_text().count(">  <record>\n") == 3


@pytest.mark.parametrize(
    ("words", "code", "message"),
    [
        (["--details", "a.txt"], 2, "a.txt: unknown suffix '.txt'; accepted are .csv .parquet .sdf"),
        (["--details", "a.csv", "--scope", "stability"], 2, "--details needs more than --scope stability"),
        (["--report", "a.html", "--scope", "stability"], 2, "--report needs more than --scope stability"),
        (["--strain", "mmff94", "--scope", "lookup"], 2, "--strain needs --scope all"),
        (["--posebusters", "--scope", "lookup"], 2, "--posebusters needs --scope all"),
    ],
)
def test_evaluate_refuses_options_that_do_not_fit(fails, words, code, message):
    assert fails("evaluate", QM9, *words) == (code, message)


@pytest.mark.parametrize(
    ("source", "words", "message"),
    [
        ("a.sdf", ["--details", "a.sdf"], "a.sdf: would be written over what is read from a.sdf"),
        ("a.sdf", ["--json", "../folder/a.sdf"], "a.sdf: would be written over what is read from a.sdf"),
        ("a.sdf", ["--report", "a.sdf"], "a.sdf: would be written over what is read from a.sdf"),
        (".", ["--details", "a.sdf"], "a.sdf: would be written over what is read from ."),
        (".", ["--details", "new.sdf"], "new.sdf: would be written over what is read from ."),
        ("a.sdf", ["--details", "b.csv", "--json", "./b.csv"], "b.csv: is to be written twice"),
    ],
)
def test_evaluate_writes_over_nothing_that_it_reads_or_writes(molflow, tmp_path, monkeypatch, source, words, message):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "a.sdf").write_text("x")
    monkeypatch.chdir(folder)
    code, _, err = molflow("evaluate", source, *words)
    assert code == 2
    assert message in err
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"a.sdf": "x"}


def test_standard_input_is_not_written_over(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text(XYZ)
    for words in (["--json", path], ["--report", path]):
        with path.open() as file:
            call = [sys.executable, "-m", "molflow.cli", "evaluate", "-", "--scope", "lookup", *words]
            done = subprocess.run(call, stdin=file, capture_output=True, text=True, check=False)
        assert done.returncode == 2
        assert "would be written over what is read from -" in done.stderr
        assert path.read_text() == XYZ


def test_an_interrupted_evaluation_keeps_finished_molecules(molflow, tmp_path, monkeypatch):
    from molflow.evaluation import DetailWriter

    write = DetailWriter.write

    def interrupt(self, report, structure):
        write(self, report, structure)
        if report.record == 5:
            raise KeyboardInterrupt

    monkeypatch.setattr(DetailWriter, "write", interrupt)
    path = tmp_path / "a.csv"
    code, _, err = molflow("evaluate", QM9, "--scope", "lookup", "--details", path)
    assert code == 1
    assert (
        err.splitlines()[-1] == f"molflow: error: interrupted; what was finished is in {path}; continue with --resume"
    )
    assert len(path.read_text().splitlines()) == 6


def test_a_page_tells_the_files_of_a_folder_apart(molflow, tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    for name in ("a.xyz", "b.xyz"):
        (folder / name).write_text(XYZ)
    assert molflow("evaluate", folder, "--scope", "lookup", "--report", tmp_path / "a.html")[0] == 0
    html = (tmp_path / "a.html").read_text()
    assert "a.xyz, record 1" in html
    assert "b.xyz, record 1" in html


def test_a_file_name_that_is_no_text(molflow, tmp_path):
    path = os.fsdecode(os.fsencode(tmp_path) + b"/bad\xff.xyz")
    with open(path, "w") as file:
        file.write(XYZ)
    outputs = ["--details", tmp_path / "a.csv", "--details", tmp_path / "a.sdf", "--report", tmp_path / "a.html"]
    assert molflow("evaluate", path, "--scope", "lookup", *outputs)[0] == 0
    assert "bad\\xff.xyz,1," in (tmp_path / "a.csv").read_text()


def test_a_closed_pipe_costs_no_file(into_closed_pipe, tmp_path):
    page, figures, details = (tmp_path / f"a.{suffix}" for suffix in ("html", "json", "csv"))
    outputs = ("--report", page, "--json", figures, "--details", details)
    code, err = into_closed_pipe("evaluate", QM9, "--scope", "lookup", *outputs)
    assert (code, "Traceback" in err, "Exception" in err) == (1, False, False)
    assert sorted(os.listdir(tmp_path)) == ["a.csv", "a.html", "a.json"]
    assert json.loads(figures.read_text())["n_molecules"] == 200
    assert len(details.read_text().splitlines()) == 201
    assert "</html>" in page.read_text(encoding="utf-8")


def test_one_bad_file_costs_no_other(molflow, tmp_path):
    figures = tmp_path / "a.json"
    read, write = os.pipe()
    os.close(write)
    with os.fdopen(read) as closed_early:
        code, text, err = molflow(
            "evaluate", QM9, f"/dev/fd/{closed_early.fileno()}", "--scope", "lookup", "--json", figures
        )
    assert code == 1
    assert "the file is empty; expected at least one molecule" in err.splitlines()[-1]
    assert {name: record["n_molecules"] for name, record in json.loads(figures.read_text()).items()} == {str(QM9): 200}
    assert "95.00 %" in text


def test_sampled_scores_are_those_of_the_file(molflow, model, tmp_path, trained_on_100):
    out, sampled, scored = (tmp_path / name for name in ("a.npz", "a.json", "b.json"))
    assert molflow("sample", "-m", model, "-n", 50, "-o", out, "--novelty", "--json", sampled)[0] == 0
    assert molflow("evaluate", out, "--reference", "qm9", "--scope", "lookup", "--json", scored)[0] == 0
    sampled, scored = (json.loads(path.read_text()) for path in (sampled, scored))
    assert 0 < scored["atom_stability"] < 1
    assert 0 < scored["novel_compositions"] <= 1
    assert {key: sampled[key] for key in scored} == scored


def test_epochs_of_the_runs_before_count():
    assert epochs({"epochs": 1.5}) == 1.5
    first = {"epochs": 2.0, "started_from": {"sha256": "", "card": None}}
    assert epochs({"epochs": 1.5, "started_from": {"sha256": "", "card": first}}) == 3.5


def test_evaluate(molflow, tmp_path):
    path = tmp_path / "a.json"
    code, text, err = molflow("evaluate", QM9, "--json", path)
    assert (code, "error" in err) == (0, False)
    record = json.loads(path.read_text())
    assert record.keys() >= SCORES
    assert (record["n_molecules"], record["reference_scores"], record["novelty"]) == (200, None, None)
    assert 0.9 < record["molecule_stability"] <= 1
    assert f"{100 * record['molecule_stability']:.2f} %" in text


def test_evaluate_several_files(molflow, tmp_path):
    path, copy = tmp_path / "a.json", shutil.copy(QM9, tmp_path / "copy.npz")
    assert molflow("evaluate", QM9, copy, "--json", path)[0] == 0
    records = json.loads(path.read_text())
    assert records.keys() == {str(QM9), str(copy)}
    assert records[str(QM9)] == records[str(copy)]


def test_evaluate_names_unreadable_records_and_scores_the_others(molflow, tmp_path):
    with np.load(QM9) as archive:
        arrays = dict(archive)
    arrays["positions"] = arrays["positions"].astype(np.float32)
    arrays["positions"][[7, 9, 11, 13], 2, 1] = np.nan
    path, figures = tmp_path / "bad.npz", tmp_path / "a.json"
    np.savez(path, **arrays)
    code, text, err = molflow("evaluate", path, QM9, "--reference", "qm9", "--no-novelty", "--json", figures)
    assert code == 0
    warning, *named, more = err[err.index("molflow: warning") :].splitlines()[:5]
    assert warning == f"molflow: warning: {path}: 4 of 200 records cannot be read and are left out:"
    assert [line.split(" (")[0] for line in named] == [
        f"  {path}, record {k}, atom 3: coordinate is not finite" for k in (8, 10, 12)
    ]
    assert more == "  and 1 more"
    assert re.search(r"^ +unreadable records +4 +0 +$", text, re.MULTILINE)
    records = json.loads(figures.read_text())
    assert [(record["n_molecules"], record["n_unreadable"]) for record in records.values()] == [(196, 4), (200, 0)]


def test_evaluate_a_folder_and_standard_input(tmp_path):
    folder, figures = tmp_path / "folder", tmp_path / "a.json"
    folder.mkdir()
    (folder / "a.xyz").write_text(XYZ * 2)
    (folder / "b.xyz.gz").write_bytes(gzip.compress(XYZ.encode()))
    (folder / "c.sdf").write_text("")
    words = [sys.executable, "-m", "molflow.cli", "evaluate", folder, "-", "--json", figures]
    done = subprocess.run(words, input=XYZ + "1\n\njunk\n" + XYZ, capture_output=True, text=True, check=True)
    assert f"warning: {folder}: 1 of 4 records cannot be read" in done.stderr
    assert f"\n  {folder / 'c.sdf'}, record 1, the file is empty; expected at least one molecule\n" in done.stderr
    assert "\n  standard input, record 2, line 8: expected 'symbol x y z', got 'junk' (atom 1 of 1)\n" in done.stderr
    records = json.loads(figures.read_text())
    counts = {name: (record["n_molecules"], record["n_unreadable"]) for name, record in records.items()}
    assert counts == {str(folder): (3, 1), "-": (2, 1)}
    assert {record["molecule_stability"] for record in records.values()} == {1.0}


def test_evaluate_computes_novelty(molflow, tmp_path, trained_on_100):
    path = tmp_path / "a.json"
    code, text, _ = molflow("evaluate", QM9, "--reference", "qm9", "--json", path)
    assert code == 0
    rows = dict(re.split("   +", line.strip(), maxsplit=1) for line in text.splitlines()[1:] if "   " in line.strip())
    record = json.loads(path.read_text())
    assert 0.4 < record["novelty"] < 0.6  # the second half of the file
    assert (record["training"], record["n_distinct"]) == ("the first 100", round(200 * record["validity_x_uniqueness"]))
    for key in ("validity_x_uniqueness", "novelty", "novel_compositions"):
        low, high = record[f"{key}_interval"]
        figure = f"{100 * record[key]:.2f} % [{100 * low:.2f}, {100 * high:.2f}]"
        assert figure in rows[key.replace("_", " ")]
    mean, median = record["nearest_training_similarity"], record["nearest_training_similarity_median"]
    assert rows["nearest training similarity"] == number(mean)
    assert rows["nearest training similarity median"] == number(median)
    assert "97.61 %" in rows["validity x uniqueness"]  # of qm9 itself
    assert "Novelty and similarity against the first 100." in text


@pytest.mark.parametrize(
    ("words", "computed"),
    [
        ([], False),
        (["--novelty"], True),
        (["--reference", "qm9"], True),
        (["--reference", "qm9", "--no-novelty"], False),
    ],
)
def test_when_evaluate_computes_novelty(molflow, tmp_path, trained_on_100, words, computed):
    assert molflow("evaluate", QM9, *words, "--json", tmp_path / "a.json")[0] == 0
    assert (json.loads((tmp_path / "a.json").read_text())["novelty"] is not None) == computed


def test_evaluate_without_qm9_says_why_there_is_no_novelty(molflow, tmp_path, no_qm9):
    path = tmp_path / "a.json"
    code, text, err = molflow("evaluate", QM9, "--reference", "qm9", "--json", path)
    assert code == 0
    assert err.startswith("molflow: novelty is not computed: the qm9pack wheel is not installed: pip install")
    assert "novelty" not in text.lower()
    record = json.loads(path.read_text())
    assert (record["novelty"], record["nearest_training_similarity"], record["novel_compositions"]) == (None,) * 3
    assert molflow("evaluate", QM9, "--reference", "qm9", "--no-novelty")[2].count("novelty") == 0


def test_data(molflow, tmp_path):
    path = tmp_path / "a.json"
    assert molflow("data", "qm9", "--json", path)[0] == 0
    record = json.loads(path.read_text())
    assert (record["n_molecules"], record["n_atoms"]) == (130_831, 2_359_210)
    assert (record["smallest"], record["largest"]) == (3, 29)
    assert Path(record["file"]).is_file()


def test_models(molflow, model, tmp_path, monkeypatch):
    shelf = tmp_path / "shelf"
    shutil.copytree(model, shelf / "tiny")
    monkeypatch.setattr(pretrained, "_HERE", shelf)
    code, text, err = molflow("models", "--json", tmp_path / "a.json")
    assert (code, err) == (0, "")
    assert "tiny" in text
    assert json.loads((tmp_path / "a.json").read_text()) == {"tiny": {"data": "nothing", "steps": 0}}


@pytest.mark.parametrize("suffix", ["sdf", "xyz", "npz"])
def test_sampling_looks_bonds_up_once(molflow, model, tmp_path, monkeypatch, suffix):
    calls = []
    look_up = lookup._orders_between
    monkeypatch.setattr(lookup, "_orders_between", lambda *rows: calls.append(1) or look_up(*rows))
    words = ("sample", "-m", model, "-n", 40, "--batch-size", 20, "-o", tmp_path / f"a.{suffix}")
    assert molflow(*words)[0] == 0
    assert len(calls) == 2  # one for each batch


def test_sampling_elements_outside_the_tables(molflow, tmp_path):
    config = load_experiment(TINY, ['model.domain.types=["H", "Au"]', "model.domain.atom_counts=[0, 0, 1, 2]"])
    save_experiment(tmp_path / "gold", config)
    for suffix in ("sdf", "xyz", "npz"):
        out, figures = tmp_path / f"a.{suffix}", tmp_path / "a.json"
        code, _, err = molflow("sample", "-m", tmp_path / "gold", "-n", 20, "-o", out, "--json", figures)
        assert code == 0, err
        assert len(read_structures(out)) == 20
        assert json.loads(figures.read_text())["n_molecules"] == 20


def test_conditions_of_a_model(molflow, fails, tmp_path):
    conditions = 'model.conditions={names = ["gap"], mean = [0.25], std = [0.05], units = ["eV"]}'
    config = load_experiment(TINY, [TYPES, "model.domain.atom_counts=[0, 0, 1, 2]", conditions])
    save_experiment(tmp_path / "model", config)
    out = tmp_path / "a.xyz"
    words = ("sample", "-m", tmp_path / "model", "-n", 4, "--force", "-o", out)

    def drawn(gap):
        assert molflow(*words, "--cond", f"gap={gap}")[0] == 0
        return out.read_text()

    assert drawn("0.3") == drawn("0.3 eV") == drawn("300meV") != drawn("0.1")
    out.unlink()
    for given, code, message in (
        ((), 2, "needs a condition: gap"),
        (("--cond", "gop=1"), 2, "no condition gop; did you mean gap?"),
        (("--cond", "gap"), 2, "--cond gap: expected NAME=VALUE"),
        (("--cond", "gap=x"), 2, "gap=x: expected a number"),
        (("--cond", "gap=1bohr"), 2, "gap=1bohr: bohr is not a unit of energy"),
        (("--cond", "gap=1", "--guidance", "2"), 2, "guidance mixes velocities"),
        (("-m", "qm9", "--cond", "gap=1"), 2, "made without conditions"),
    ):
        found, line = fails(*words, *given)
        assert (found, message in line) == (code, True), line


def test_asking_for_molecules(molflow, fails, tmp_path):
    out = tmp_path / "a.sdf"
    words = ("sample", "-m", "qm9-allatom", "-n", 6, "-o", out)
    code, text, err = molflow(*words, "--formula", "C2H6O", "--n-atoms", 9)
    assert code == 0, err
    assert {tuple(sorted(s.atomic_numbers.tolist())) for s in read_structures(out)} == {(1,) * 6 + (6, 6, 8)}
    assert "makes such samples with probability" in text
    for given, code, message in (
        (("--formula", "C2H6S"), 2, "this model has no S, only H C N O F"),
        (("--formula", "C40H2"), 2, "no composition of this model has the formula C40H2"),
        (("--formula", "c6"), 2, "'c6' is not a formula"),
        (("--composition", "C=1,H"), 2, "expected TYPE=NUMBER"),
        (("--composition", "CH3=1"), 2, "CH3 is not a type of this model"),
        (("--elements", "C,S"), 2, "this model has no S"),
        (("-m", "dw4", "--formula", "CH4"), 2, "--formula is for molecules"),
        (("--scaffold", out), 1, "expected one scaffold, got 6 molecules"),
    ):
        found, line = fails(*words, *given)
        assert (found, message in line) == (code, True), line


def test_atoms_of_a_scaffold_stay_where_they_are(molflow, fails, tmp_path):
    fragment, out = tmp_path / "fragment.xyz", tmp_path / "around.sdf"
    fragment.write_text("3\namide\nN 4.98 1.36 0.0\nC 5.12 0.0 0.0\nO 6.19 -0.57 0.0\n")
    words = ("sample", "-m", "qm9-cond", "--cond", "gap=5.2eV", "-k", 4, "-n", 3, "-o", out, "--scaffold")
    code, text, err = molflow(*words, fragment)
    assert code == 0, err
    assert "makes such samples with probability 0.2" in text
    kept = read_structures(fragment)[0]
    for structure in read_structures(out):
        assert np.abs(structure.positions[:3] - kept.positions).max() < 2e-3
        assert structure.atomic_numbers[:3].tolist() == [7, 6, 8]
    assert "cannot keep given atoms" in fails("sample", "-n", 3, "-o", out, "--scaffold", fragment)[1]


def test_benchmark_sampling(molflow, model, tmp_path, trained_on_100):
    path = tmp_path / "a.json"
    code, text, _ = molflow("benchmark", "sampling", "-m", model, "-n", 20, "--batch-size", 8, "--json", path)
    assert code == 0
    record = json.loads(path.read_text())
    assert record.keys() >= SPEEDS
    assert (record["n"], record["batch_size"], record["device"]) == (20, 8, "cpu")
    assert record["molecules_per_s"] == pytest.approx(1e3 / record["ms_per_molecule"])
    assert "ms per molecule" in text
    assert record["valid_unique_novel"] is not None


def test_benchmark_sampling_compares_models(molflow, model, single_atoms, tmp_path, trained_on_100):
    path, half = tmp_path / "a.json", single_atoms["half"]
    names = [str(half), f"{half}@3", str(model)]
    words = ("--models", ", ".join(names), "-n", 40, "--batch-size", 16, "--json", path)
    code, text, _ = molflow("benchmark", "sampling", *words)
    assert code == 0
    assert "relative ms per molecule" in text
    records = json.loads(path.read_text())
    assert [record["model"] for record in records] == names
    assert [record["evaluations_per_sample"] for record in records] == [1, 3, 1]
    assert 0.2 < records[0]["molecule_stability"] == records[1]["molecule_stability"] < 0.8
    for record in records:
        assert record.keys() >= SPEEDS | {"molecule_stability_interval", "test_nll_encoder", "test_nll_decoder"}
        expected = record["ms_per_molecule"] / records[0]["ms_per_molecule"]
        assert record["relative_ms_per_molecule"] == pytest.approx(expected)


def test_models_that_cannot_be_compared(fails, model, tmp_path):
    config = load_experiment(TINY, ['model.domain={kind="particles", n_particles=4, dim=2}', "data.name=dw4"])
    save_experiment(tmp_path / "particles", config)
    for models, expected in (
        (f"{model},{tmp_path / 'particles'}", "molecules and particles cannot be compared"),
        (f"{model},{model}", "names one of them twice"),
        (f"{model},", "has an empty name"),
    ):
        code, line = fails("benchmark", "sampling", "--models", models, "-n", 2)
        assert code == 2
        assert expected in line


def test_benchmark_training(molflow, model, tmp_path):
    path = tmp_path / "a.json"
    words = ("benchmark", "training", "-m", model, "--n-atoms", 5, "--batch-size", 8, "--json", path)
    assert molflow(*words)[0] == 0
    record = json.loads(path.read_text())
    assert (record["n_atoms"], record["batch_size"]) == (5, 8)
    assert record["molecules_per_s"] == pytest.approx(8e3 / record["ms_per_step"])
    assert record["peak_memory_mb"] > 0


@pytest.mark.parametrize(
    "objective",
    ['{kind = "free_form"}', '{kind = "mean_flow"}', '{kind = "inversion"}'],
    ids=lambda text: text.split('"')[1],
)
def test_benchmark_training_takes_the_objective_and_the_types_of_the_model(molflow, tmp_path, objective):
    words = [
        'model.domain={kind = "composed_molecules", types = ["C", "CH3"], n_compositions = 1}',
        "model.domain.representation=united-atom", "model.average_velocity=true", f"objective={objective}",
    ]  # fmt: skip
    config = load_experiment(TINY, words)
    save_experiment(tmp_path / "model", config)
    path = tmp_path / "a.json"
    words = ("benchmark", "training", "-m", tmp_path / "model", "--n-atoms", 4, "--batch-size", 4, "--json", path)
    assert molflow(*words)[0] == 0
    assert json.loads(path.read_text())["ms_per_step"] > 0


def test_an_interrupted_sample_keeps_finished_samples(interrupted, model, tmp_path):
    out, figures = tmp_path / "a.sdf", tmp_path / "a.json"

    def ready(shown):
        return out.exists() and out.stat().st_size > 50_000

    words = ("sample", "-m", model, "-n", 200_000, "-o", out, "--json", figures, "--batch-size", 64)
    line = interrupted(ready, *words)
    kept = int(
        re.fullmatch(rf"molflow: error: interrupted; {out} keeps the (\d+) molecules that were finished", line)[1]
    )
    assert len(read_structures(out)) == kept
    assert 50 < kept < 200_000
    assert os.listdir(tmp_path) == ["a.sdf"]


# ---- bad usage: exit code 2 ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("command", "message"),
    [
        ("nonsense", "No such command 'nonsense'"),
        ("sampel", "No such command 'sampel'. Did you mean 'sample'?"),
        ("benchmark", "Missing command"),
        ("benchmark nonsense", "No such command 'nonsense'"),
        ("sample -n 0", "Invalid value for '-n': .*(greater than or equal to 1|x>=1)"),
        ("sample -n many", "Invalid value for '-n'"),
        ("sample --batch-size 0", "Invalid value for '--batch-size'"),
        ("sample --seed -1", "Invalid value for '--seed'"),
        ("sample --temperature 0", "Invalid value for '--temperature'"),
        ("sample --device tpu9", "unknown device 'tpu9'; expected cpu, cuda or cuda:N"),
        ("sample --nonsense", "No such option:? '?--nonsense"),
        ("evaluate", "Missing argument"),
        ("evaluate a.sdf --reference qm8", "'qm8' is not .*qm9"),
        ("data", "Missing argument"),
        ("data qm8", "'qm8' is not .*qm9"),
        ("train", "Missing argument"),
    ],
)
def test_bad_usage(fails, command, message):
    code, line = fails(*command.split())
    assert code == 2
    assert re.search(message, line)


# ---- bad input: exit code 1 ------------------------------------------------------------------------------------------


def test_an_unknown_model_lists_the_known_ones(fails, model, tmp_path, monkeypatch):
    for name in ("small", "large"):
        shutil.copytree(model, tmp_path / "shelf" / name)
    monkeypatch.setattr(pretrained, "_HERE", tmp_path / "shelf")
    for command in (["sample", "-o", "../a.sdf"], ["benchmark", "sampling"], ["benchmark", "training"]):
        assert fails(*command, "--model", "qm99") == (
            2,
            "unknown model 'qm99', and no such folder; shipped are: large, small",
        )


@pytest.mark.parametrize("option", ["--out", "--json"])
@pytest.mark.parametrize("place", ["/dev/null/a.sdf", "/proc/none/a.sdf", "."])
def test_an_unwritable_place_is_found_before_the_model_is_loaded(fails, option, place):
    code, line = fails("sample", "--model", "no such model", option, place)
    assert code == 1
    assert line.startswith(f"{place}: ")


@pytest.mark.parametrize(
    "command", ["evaluate none.sdf", "data qm9", "models", "train none.toml", "benchmark training"]
)
def test_every_command_checks_its_json_file_first(fails, command):
    code, line = fails(*command.split(), "--json", "/dev/null/a.json")
    assert code == 1
    assert line.startswith("/dev/null/a.json: cannot be written")


def test_an_unknown_suffix(fails):
    code, line = fails("sample", "--model", "no such model", "--out", "a.pdb")
    assert code == 2
    assert line == "a.pdb: unknown suffix '.pdb'; accepted are .sdf .sd .xyz .npz"


XYZ = "3\n\nO 0 0 0\nH 0.96 0 0\nH -0.24 0.93 0\n"


@pytest.mark.parametrize(
    ("name", "content", "message"),
    [
        ("a.xyz", XYZ.replace("O ", "Xx "), "record 1, line 3: unknown element 'Xx'"),
        (
            "a.xyz",
            XYZ.replace("0.93", "nan"),
            "record 1, line 5: coordinate is not finite (-0.24, nan, 0) (atom 3 of 3)",
        ),
        ("a.xyz", XYZ.replace("0.93", "1e30") * 3, "atom 3 of 3) (and 2 more; nothing can be read)"),
        ("a.sdf", "\0" * 99, "binary, or not in UTF-8; expected the text of an SDF or XYZ file"),
        ("a.xyz.gz", "\0" * 99, "binary, or not in UTF-8"),
        ("a.xyz", XYZ.removesuffix("H -0.24 0.93 0\n"), "record 1, line 5: truncated after 2 of 3 atoms"),
        ("a.xyz", "", "the file is empty"),
        ("a.sdf", "", "the file is empty"),
        ("a.npz", "", "the file is empty"),
        ("a.npz", "nonsense", "not an NPZ file"),
        ("a.pdb", XYZ, "unknown suffix"),
    ],
)
def test_evaluate_refuses_bad_files(fails, tmp_path, name, content, message):
    path = tmp_path / name
    path.write_text(content)
    code, line = fails("evaluate", path, "--json", "../a.json")
    assert code == 1
    assert line.startswith(f"{path}")
    assert message in line
    assert not (tmp_path / "a.json").exists()


def test_evaluate_refuses_a_folder_without_molecules(fails, tmp_path):
    (tmp_path / "b").mkdir()
    code, line = fails("evaluate", tmp_path / "b")
    assert code == 1
    assert line.startswith(f"{tmp_path / 'b'}: is a directory without files of molecules; accepted are .sdf")


def test_evaluate_refuses_a_missing_file(fails):
    assert fails("evaluate", "none.sdf") == (1, "none.sdf: no such file; expected a file of molecules")


def test_requested_novelty_without_qm9_is_an_error(fails, model, no_qm9):
    for words in (["evaluate", QM9, "--novelty"], ["sample", "-m", model, "-o", "../a.sdf", "--novelty"]):
        code, line = fails(*words)
        assert code == 1
        assert line.startswith("the qm9pack wheel is not installed")


class Trap:
    """Unpickling this ends the process."""

    def __reduce__(self):
        return os.abort, ()


def unfit(folder):
    weights = load_file(folder / WEIGHTS)
    save_file({name: torch.zeros(*tensor.shape, 2) for name, tensor in weights.items()}, folder / WEIGHTS)


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: (folder / CONFIG).unlink(), "config.json: cannot be read: No such file"),
        (lambda folder: (folder / CONFIG).write_text("{"), "config.json: not JSON"),
        (
            lambda folder: (folder / CONFIG).write_text('{"nam": 1}'),
            "config.json: has no model; expected format, model",
        ),
        (
            lambda folder: (folder / CONFIG).write_text('{"format": 1, "model": {"domian": {}}}'),
            "unknown key model.domian; did you mean model.domain?",
        ),
        (lambda folder: (folder / WEIGHTS).unlink(), "model.safetensors: no such file"),
        (lambda folder: os.truncate(folder / WEIGHTS, 1000), "model.safetensors: not a safetensors file"),
        (lambda folder: (folder / WEIGHTS).write_bytes(pickle.dumps(Trap())), "not a safetensors file"),
        (unfit, "config.json asks for"),
    ],
)
@pytest.mark.parametrize("command", ["sample --out ../a.sdf", "benchmark sampling", "benchmark training"])
def test_damaged_checkpoints(fails, model, tmp_path, command, damage, message):
    folder = shutil.copytree(model, tmp_path / "copy")
    damage(folder)
    code, line = fails(*command.split(), "--model", folder)
    assert code == 1
    assert message in line
    assert not (tmp_path / "a.sdf").exists()


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["none.toml"], "none.toml: cannot be read: No such file"),
        ([TINY, "--set", 'objective={kind = "mean_flow"}'], "model.average_velocity = true"),
        ([TINY, "--set", "training.compile=true"], "training.compile needs batches = 'mixed_size'"),
        ([TINY, "--out", "/dev/null/run"], "/dev/null/run: cannot be written"),
        ([TINY, "--resume"], "there is nothing to resume in runs/tiny"),
        ([TINY, "--start-from", "none.safetensors"], "none.safetensors: no such file"),
        ([TINY, "--start-from", TINY], "tiny.toml: not a safetensors file"),
    ],
)
def test_train_refuses(fails, words, message):
    code, line = fails("train", *words)
    assert code == 1
    assert message in line


@pytest.mark.skipif(torch.cuda.is_available(), reason="asks for a missing GPU")
def test_a_missing_gpu(fails, model):
    assert fails("sample", "-m", model, "--device", "cuda") == (1, "--device cuda: torch finds 0 CUDA devices here")
    code, line = fails("train", TINY, "--set", "training.device=cuda")
    assert (code, line) == (1, "training.device is cuda, but torch finds no CUDA device here")


def test_benchmark_evaluation(molflow, tmp_path):
    path = tmp_path / "a.json"
    assert molflow("benchmark", "evaluation", "-n", 30, "--workers", 1, "--json", path)[0] == 0
    records = json.loads(path.read_text())
    assert [(r["scope"], r["n_molecules"], r["workers"]) for r in records] == [
        ("stability", 130_831, 0),
        ("lookup", 30, 0),
        ("all", 30, 1),
    ]
    assert round(100 * records[0]["molecule_stability"], 2) == 95.28
    assert records[1]["connected_validity"] == records[2]["connected_validity"] > 0.8
