"""An interrupted evaluation continues behind what is finished, and gives what one without interruption gives."""

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from molflow.chem import iter_records
from molflow.errors import MolflowError
from molflow.evaluation import DetailWriter, EvaluationOptions, evaluate
from molflow.evaluation.journal import Journal

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
OPTIONS = EvaluationOptions(workers=0)


def evaluated(path, files=QM9, resume=False, stop_after=None, options=OPTIONS):
    """Scores with a journal, unless the evaluation is interrupted; beside it a table with a row for each molecule."""

    def each(report, structure):
        details.write(report, structure)
        if report.record == stop_after:
            raise KeyboardInterrupt

    with Journal(path, [files], options, resume) as journal, DetailWriter(path.with_suffix(".csv")) as details:
        return evaluate(iter_records(files), options=options, each=each, journal=journal).to_dict()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """Scores and table without an interruption."""
    path = tmp_path_factory.mktemp("whole") / "journal"
    return evaluated(path), path.with_suffix(".csv").read_bytes()


@pytest.fixture
def path(tmp_path):
    """The journal of an evaluation that was interrupted after 150 of 200 molecules."""
    with pytest.raises(KeyboardInterrupt):
        evaluated(tmp_path / "journal", stop_after=150)
    return tmp_path / "journal"


@pytest.mark.parametrize("half_a_line", [False, True])
def test_an_evaluation_continues(whole, path, half_a_line):
    if half_a_line:  # which a killed program leaves
        path.write_bytes(path.read_bytes()[:-20])
    assert (evaluated(path, resume=True), path.with_suffix(".csv").read_bytes()) == whole
    assert len(path.read_text().splitlines()) == 201


def test_finished_molecules_are_not_inspected_again(whole, path):
    head, first, *others = path.read_text().splitlines(keepends=True)
    path.write_text("".join([head, first.replace('"status":"stable"', '"status":"invalid"'), *others]))
    found, expected = evaluated(path, resume=True)["statuses"], whole[0]["statuses"]
    assert found["stable"] == expected["stable"] - 1
    assert found["invalid"] == expected["invalid"] + 1


def test_without_resume_it_begins_anew(whole, path):
    assert evaluated(path)["statuses"] == whole[0]["statuses"]


def test_another_evaluation_does_not_continue(path, tmp_path):
    other = tmp_path / "other.npz"
    other.write_bytes(QM9.read_bytes() + b"x")
    for files, options in [(other, OPTIONS), (QM9, replace(OPTIONS, bonds="perceived"))]:
        with pytest.raises(MolflowError, match="is of other files or other options; leave out --resume"):
            evaluated(path, files, resume=True, options=options)
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], "[]", *lines[2:], ""]))
    with pytest.raises(MolflowError, match="damaged; leave out --resume to begin anew"):
        evaluated(path, resume=True)


def test_a_terminated_evaluation_keeps_a_readable_table_and_continues(whole, tmp_path, molflow):
    parquet = pytest.importorskip("pyarrow.parquet")
    figures, table = tmp_path / "a.json", tmp_path / "a.parquet"
    journal = tmp_path / "a.json.partial.jsonl"
    words = ["evaluate", QM9, "--json", figures, "--details", table, "--no-novelty", "--workers", "1"]
    command = [sys.executable, "-m", "molflow.cli", *map(str, words)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True, start_new_session=True) as process:
        while process.poll() is None and not (journal.exists() and journal.stat().st_size > 20_000):
            time.sleep(0.02)
        os.killpg(process.pid, signal.SIGTERM)  # as a cluster does; the worker must not be the first to end
        _, error = process.communicate(timeout=60)
    assert process.returncode == 1
    kept = f"interrupted; what was finished is in {table}; continue with --resume"
    assert error.splitlines()[-1] == f"molflow: error: {kept}"
    assert 10 < parquet.read_table(table).num_rows < 200
    assert molflow(*words, "--resume")[0] == 0
    assert parquet.read_table(table).num_rows == 200
    assert json.loads(figures.read_text())["statuses"] == whole[0]["statuses"]
    assert sorted(os.listdir(tmp_path)) == ["a.json", "a.parquet"]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        ([QM9], "--resume needs input that can be read again, and --json"),
        (["-", "--json", "../a.json"], "--resume needs input that can be read again, and --json"),
        ([QM9, "--json", "-"], "--resume needs input that can be read again, and --json"),
        ([QM9, "--json", "../a.json", "--scope", "stability"], "--resume needs more than --scope stability"),
    ],
)
def test_what_cannot_be_resumed(fails, words, message):
    code, error = fails("evaluate", *words, "--resume")
    assert code == 2
    assert error.startswith(message)
