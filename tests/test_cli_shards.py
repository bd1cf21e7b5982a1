"""`molflow sample` into shards and files: the same bytes however they are made, and nothing is overwritten unasked."""

import gzip
import hashlib
import json
import os
import subprocess
import sys
import time

import numpy as np
import pytest

from experiments import save_small_molecules
from molflow.chem import read_structures
from molflow.data.files import read_array
from molflow.evaluation import EvaluationOptions
from molflow.evaluation.background import BackgroundEvaluation
from molflow.flows.storage import load
from molflow.training.tasks.shards import ShardPlan, read_manifest, shard_seed

N = ("-n", 25, "--batch-size", 4, "--shard-size", 10)
SCORED = ("molecule_stability", "atom_stability", "connected_validity", "validity")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return save_small_molecules(tmp_path_factory.mktemp("model"))


@pytest.fixture
def sample(molflow, model, tmp_path, monkeypatch):
    """Sample in a folder of the test's own; gives (exit code, stdout, last line of stderr)."""
    monkeypatch.chdir(tmp_path)

    def run(*words):
        code, out, err = molflow("sample", "-m", model, *words)
        return code, out, err.splitlines()[-1] if err else ""

    return run


def contents(folder):
    return {name: (folder / name).read_bytes() for name in sorted(os.listdir(folder))}


def figures(folder):
    """Files, scores and numbers of a manifest."""
    manifest = read_manifest(folder)
    return manifest["settings"], manifest["shards"]


# ---- shards ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("format", ["sdf.gz", "xyz.gz", "npz", "parquet"])
def test_a_shard_made_alone_equals_the_one_made_in_sequence(sample, tmp_path, format):
    all_of_them, alone = tmp_path / "all", tmp_path / "alone"
    assert sample(*N, "--format", format, "-o", all_of_them)[0] == 0
    assert sample(*N, "--format", format, "-o", alone, "--shard", "2/3")[0] == 0
    names = [f"shard-00000{number}.{format}" for number in range(3)]
    assert list(contents(all_of_them)) == ["manifest.json", *names]
    assert list(contents(alone)) == ["manifest.json", names[1]]
    assert contents(alone)[names[1]] == contents(all_of_them)[names[1]] != contents(all_of_them)[names[0]]
    settings, shards = figures(all_of_them)
    assert (settings["seed"], settings["threads"], settings["file_format"]) == (0, 1, format)
    assert [(shard["file"], shard["n"]) for shard in shards] == list(zip(names, (10, 10, 5), strict=True))
    for shard in shards:
        assert shard["sha256"] == hashlib.sha256((all_of_them / shard["file"]).read_bytes()).hexdigest()
        assert shard["bytes"] == (all_of_them / shard["file"]).stat().st_size
        assert len(read_structures(all_of_them / shard["file"])) == shard["n"]
    assert sample(*N, "--format", format, "-o", alone, "--shard", "1/3")[0] == 0  # into the folder of another process
    assert sample(*N, "--format", format, "-o", alone, "--resume")[0] == 0
    assert contents(alone) == contents(all_of_them)


def test_shards_are_samples_of_the_flow_and_carry_their_scores(sample, model, tmp_path):
    pyarrow = pytest.importorskip("pyarrow.parquet")
    assert sample(*N, "--format", "parquet", "-o", "shards", "--seed", 3)[0] == 0
    expected = load(model).sample(10, seed=shard_seed(3, 1), batch_size=4)
    table = pyarrow.read_table(tmp_path / "shards" / "shard-000001.parquet").to_pylist()
    for row, structure, stable in zip(table, expected.structures(), expected.stability()[1], strict=True):
        np.testing.assert_array_equal(np.float32(row["positions"]), structure.positions)
        assert row["atomic_numbers"] == structure.atomic_numbers.tolist()
        assert (row["stable"], row["status"] == "stable") == (bool(stable), bool(stable))
        assert (row["smiles"] is None) != row["valid"]
    assert sample(*N, "-o", "texts", "--seed", 3)[0] == 0
    text = gzip.decompress((tmp_path / "texts" / "shard-000001.sdf.gz").read_bytes()).decode()
    assert text.count(">  <status>\n") == 10


def test_evaluate_merges_the_counts_of_all_shards(sample, molflow, tmp_path):
    assert sample(*N, "--format", "xyz.gz", "-o", "shards", "--json", "sampled.json")[0] == 0
    shards = [content for name, content in contents(tmp_path / "shards").items() if name.endswith(".gz")]
    (tmp_path / "joined.xyz").write_bytes(b"".join(map(gzip.decompress, shards)))
    for scope in ("stability", "lookup"):
        for source in ("shards", "joined.xyz"):
            assert molflow("evaluate", source, "--scope", scope, "--json", f"{source}.json")[0] == 0
        of_shards, of_one = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("shards", "joined.xyz"))
        assert of_shards == of_one
    sampled, evaluated = (json.loads((tmp_path / f"{name}.json").read_text()) for name in ("sampled", "shards"))
    assert {name: sampled[name] for name in SCORED} == {name: evaluated[name] for name in SCORED}
    assert (sampled["n_samples"], evaluated["n_molecules"]) == (25, 25)
    with (tmp_path / "shards" / "shard-000001.xyz.gz").open("r+b") as file:
        file.write(b"damage")
    (tmp_path / "shards" / "shard-000002.xyz.gz").unlink()
    code, _, err = molflow("evaluate", "shards", "--scope", "stability", "--json", "shards.json")
    assert (code, err.count("not as manifest.json says")) == (0, 2)
    evaluated = json.loads((tmp_path / "shards.json").read_text())
    assert (evaluated["n_molecules"], evaluated["n_unreadable"]) == (10, 15)


def test_killed_runs_are_resumed_to_the_same_bytes(sample, model, tmp_path):
    many = ["-n", "4000", "--shard-size", "100", "--batch-size", "50", "--no-score", "--format", "npz"]
    killed, undisturbed = tmp_path / "killed", tmp_path / "undisturbed"
    command = [sys.executable, "-m", "molflow.cli", "sample", "-m", str(model), "-o", str(killed), "--resume", *many]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while process.poll() is None and len(list(killed.glob("shard-*"))) < 3:
        time.sleep(0.002)
    process.kill()
    process.wait()
    assert 3 <= len(list(killed.glob("shard-*"))) < 40
    assert sample(*many, "-o", killed, "--resume")[0] == 0
    assert sample(*many, "-o", undisturbed)[0] == 0
    assert contents(killed) == contents(undisturbed)


def test_ray_makes_the_same_bytes(sample, tmp_path):
    pytest.importorskip("ray")
    assert sample(*N, "-o", "here")[0] == 0
    assert sample(*N, "-o", "ray", "--ray")[0] == 0
    assert contents(tmp_path / "ray") == contents(tmp_path / "here")


def test_ray_is_an_extra(fails, model, monkeypatch):
    monkeypatch.setitem(sys.modules, "ray", None)
    code, line = fails("sample", "-m", model, "-o", "shards", "--ray")
    assert (code, line) == (1, "--ray needs ray: pip install 'molflow[cluster]'")


def test_a_failure_keeps_the_shards_before_it(sample, tmp_path):
    (tmp_path / "shards").mkdir()
    os.symlink("/dev/full", tmp_path / "shards" / "shard-000001.npz")
    code, _, line = sample(*N, "-o", "shards", "--format", "npz", "--resume")
    assert (code, sorted(os.listdir(tmp_path / "shards"))[:2]) == (1, ["manifest.json", "shard-000000.npz"])
    expected = "shards/shard-000001.npz: cannot be written (No space left on device); shards keeps the 1 shards"
    assert expected in line, line


def test_a_damaged_shard_is_made_anew(sample, tmp_path):
    assert sample(*N, "-o", "shards")[0] == 0
    before = contents(tmp_path / "shards")
    (tmp_path / "shards" / "shard-000000.sdf.gz").write_bytes(b"damage")
    (tmp_path / "shards" / "shard-000002.sdf.gz").unlink()
    code, out, _ = sample(*N, "-o", "shards", "--resume", "--json", "a.json")
    assert (code, contents(tmp_path / "shards")) == (0, before)
    assert json.loads((tmp_path / "a.json").read_text())["n"] == 15
    assert "25 samples are in 3 shards in shards" in out


def test_shards_that_are_there_are_kept(sample, tmp_path):
    assert sample(*N, "-o", "shards")[0] == 0
    before = contents(tmp_path / "shards")
    expected = "molflow: error: shards holds shards: --resume goes on with them, --force deletes them"
    assert sample(*N, "-o", "shards", "--seed", 1)[::2] == (2, expected)
    assert sample(*N, "-o", "shards", "--shard", "1/2")[::2] == (2, expected)
    code, _, line = sample(*N, "-o", "shards", "--resume", "--seed", 1)
    assert (code, "manifest.json: these shards have seed = 0, not 1" in line) == (1, True)
    assert contents(tmp_path / "shards") == before
    assert sample(*N, "-o", "shards", "--force", "--format", "npz")[0] == 0
    assert len(contents(tmp_path / "shards")) == 4
    assert not before.keys() & {name for name in contents(tmp_path / "shards") if name.startswith("shard")}
    (tmp_path / "shards" / "manifest.json").unlink()
    assert sample(*N, "-o", "shards")[0] == 2
    (tmp_path / "shards" / "manifest.json").write_text('{"name": "another program"}')
    code, _, line = sample(*N, "-o", "shards", "--force")
    assert (code, "manifest.json: not a manifest of shards" in line) == (1, True)


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (("-o", "shards", "--shard", "0/2"), "--shard 0/2: expected I/K with I from 1 to K"),
        (("-o", "shards", "--shard", "3/2"), "--shard 3/2: expected I/K"),
        (("-o", "shards", "--shard", "1/2", "--force"), "--force would delete the shards of other processes"),
        (("-o", "a.sdf", "--resume"), "--out a.sdf: shards go into a folder, not into a file"),
        (("--shard-size", 10), "shards need a folder; name it with --out"),
        (("-o", "shards", "--format", "pdb"), "--format pdb: molecules have sdf.gz, xyz.gz, npz, parquet"),
        (("-o", "shards", "--shard-size", 10, "--novelty"), "--novelty is not for shards"),
    ],
)
def test_shards_that_cannot_be(fails, model, words, message):
    code, line = fails("sample", "-m", model, *words)
    assert (code, message in line) == (2, True), line


def test_a_plan_with_too_many_shards(sample):
    code, _, line = sample("-n", 10**9, "-o", "shards", "--shard-size", 1000)
    assert (code, "expected a shard size of at least 50,000" in line) == (1, True)


def test_every_shard_has_one_process():
    plan = ShardPlan(n=1001, size=10, format="npz")
    for k in (1, 3, 7, 200):
        parts = [plan.part(i, k) for i in range(1, k + 1)]
        assert sorted(number for part in parts for number in part) == list(range(101))
    assert sum(map(plan.samples, range(101))) == 1001
    assert len({shard_seed(seed, number) for seed in range(10) for number in range(100)}) == 1000


def test_shards_of_particles(sample, tmp_path):
    words = ("-m", "dw4", "-n", 5, "--shard-size", 3, "--no-density", "-o", "shards")
    assert sample(*words)[0] == 0
    shapes = [read_array(tmp_path / "shards" / f"shard-00000{k}.npz", "positions").shape for k in (0, 1)]
    assert shapes == [(3, 4, 2), (2, 4, 2)]


# ---- single files ----------------------------------------------------------------------------------------------------


def test_an_existing_file_is_not_overwritten(sample, tmp_path):
    (tmp_path / "a.sdf").write_text("precious")
    assert sample("-n", 2, "-o", "a.sdf")[::2] == (
        2, "molflow: error: a.sdf exists: --force overwrites it; or give another --out",
    )  # fmt: skip
    assert (tmp_path / "a.sdf").read_text() == "precious"
    assert sample("-n", 2, "-o", "a.sdf", "--force")[0] == 0
    assert len(read_structures(tmp_path / "a.sdf")) == 2


def test_the_default_name_is_free(sample, tmp_path):
    for name in ("molecules.sdf", "molecules-2.sdf", "molecules-3.sdf"):
        code, out, _ = sample("-n", 2)
        assert (code, f"2 molecules are in {name}" in out) == (0, True)
    assert sample("-n", 3, "--force")[0] == 0
    assert [len(read_structures(tmp_path / f"molecules{k}.sdf")) for k in ("", "-2", "-3")] == [3, 2, 2]


@pytest.mark.parametrize("format", ["sdf", "xyz"])
def test_standard_output_has_the_molecules_alone(molflow, model, tmp_path, format):
    code, out, err = molflow("sample", "-m", model, "-n", 4, "-o", "-", "--format", format)
    (tmp_path / f"a.{format}").write_text(out)
    assert (code, len(read_structures(tmp_path / f"a.{format}"))) == (0, 4)
    assert "4 molecules are in standard output" in err


def test_samples_without_scores(sample, tmp_path):
    code, out, _ = sample("-n", 6, "-o", "a.parquet", "--no-score", "--json", "a.json")
    assert (code, len(read_structures(tmp_path / "a.parquet"))) == (0, 6)
    assert "validity" not in json.loads((tmp_path / "a.json").read_text())
    assert "6 molecules are in a.parquet" in out


@pytest.mark.parametrize("suffix", ["sdf", "sdf.gz", "npz"])
def test_a_full_disk_is_told_with_the_file(sample, tmp_path, suffix):
    os.symlink("/dev/full", tmp_path / f"a.{suffix}")
    code, _, line = sample("-n", 6, "-o", f"a.{suffix}")
    assert (code, line.startswith(f"molflow: error: a.{suffix}: cannot be written")) == (1, True), line
    assert "No space left on device" in line
    assert ("its first 0 molecules are whole" in line) == (suffix == "sdf")


def test_few_batches_wait_to_be_scored(model):
    batch = load(model).sample(50, seed=0)
    with BackgroundEvaluation(EvaluationOptions(scope="lookup")) as evaluation:
        for _ in range(12):
            evaluation.add(batch)
            assert evaluation._batches.qsize() <= 4
        scores = evaluation.scores()
    assert scores.n_molecules + scores.n_unscored == 600
