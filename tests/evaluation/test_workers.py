"""A molecule that hangs or kills its worker fails alone, and no process outlives the run."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import inspectors
import numpy as np
import pytest

from molflow.chem import Record, Structure, read_structures
from molflow.errors import MolflowError
from molflow.evaluation import Tally, inspect_all
from molflow.workers import AHEAD, CHUNK, MEMORY, Failure, outcomes

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
WATER = np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]])
NUMBERS = np.array([8, 1, 1])


def water(x=0.0):
    return Structure(WATER + np.array([x, 0, 0]), NUMBERS)


def reports(structures, **options):
    options = {"inspector": inspectors.treacherous, "workers": 2, "seconds": 0.5} | options
    return list(inspect_all(structures, **options))


def test_an_item_that_hangs_and_one_that_kills_its_worker_fail_alone():
    structures = [water()] * 1000
    structures[300], structures[700] = water(inspectors.HANG), water(inspectors.EXIT)
    found = reports(structures)
    assert len(found) == 1000
    bad = {place: (r.status, r.reason) for place, r in enumerate(found) if r.status != "stable"}
    assert bad == {
        300: ("timed out", "not finished within 0.5 s"),
        700: ("crashed", "its worker process ended with exit code 3"),
    }
    assert found[300].stable  # by the look-up, which does not run there
    assert (found[300].stable_atoms, found[300].valid, found[300].measured) == (3, False, None)
    tally = Tally()
    for report in found:
        tally.add(report)
    scores = tally.scores()
    assert (scores.validity, scores.molecule_stability) == (0.998, 1)
    assert scores.statuses == {"crashed": 1, "stable": 998, "timed out": 1}


def test_other_ways_to_fail_are_named():
    found = reports([water(x) for x in (inspectors.FAULT, 0, inspectors.ERROR, inspectors.MEMORY, 0)], workers=1)
    assert [r.status for r in found] == ["crashed", "stable", "crashed", "crashed", "stable"]
    assert found[0].reason == "its worker process was ended by signal 11"
    assert found[2].reason == "RuntimeError: something broke"
    assert found[3].reason.startswith("MemoryError")


def test_a_sleeping_item_is_stopped_by_the_clock(monkeypatch):
    monkeypatch.setattr("molflow.workers.PATIENCE", 4)
    found = reports([water(inspectors.SLEEP), water()], workers=1)
    assert [r.status for r in found] == ["timed out", "stable"]
    assert found[0].reason == "not finished within 2 s on the clock"


def test_processor_time_is_limited_and_not_only_the_clock(monkeypatch):
    monkeypatch.setattr("molflow.workers.PATIENCE", 60)
    found = list(outcomes(inspectors.burn, [0.0, 60.0, 0.0], workers=1, seconds=0.5))
    assert found == [0.0, Failure("timed out", "not finished within 0.5 s"), 0.0]


def test_an_item_that_fails_is_tried_with_less_work():
    for workers in (0, 1):
        items = ["x", "1", "y", "2"]
        found = list(outcomes(int, items, workers=workers, seconds=5.0, lighter={"x": "7"}.get))
        assert found[0::2][0] == 7
        assert found[1::2] == [1, 2]
        assert isinstance(found[2], Failure)
    assert list(outcomes(inspectors.burn, [60.0, 0.0], workers=1, seconds=0.5, lighter={60.0: 0.1}.get)) == [0.1, 0.0]


def test_a_molecule_on_which_an_extra_fails_keeps_all_other_results(monkeypatch):
    def fail(*_):
        raise RuntimeError("no strain")

    plain = list(inspect_all([water()], workers=0))
    monkeypatch.setattr("molflow.evaluation.inspection.strain_of", fail)
    assert list(inspect_all([water()], workers=0, strain="mmff94")) == plain


def test_memory_is_limited():
    sizes = [1 << 20, MEMORY + (1 << 28), 1 << 20]
    first, second, third = outcomes(inspectors.allocate, sizes, workers=1, seconds=60.0)
    assert (first, third) == (1 << 20, 1 << 20)
    assert isinstance(second, Failure)
    assert (second.status, second.reason.partition(":")[0]) == ("crashed", "MemoryError")


def test_many_items_kill_their_worker_one_after_another():
    found = reports([water(inspectors.EXIT), water()] * 3, workers=1)
    assert [r.status for r in found] == ["crashed", "stable"] * 3


def test_the_number_of_workers_changes_nothing():
    structures = read_structures(QM9)[:60]
    alone, two = (list(inspect_all(structures, workers=n)) for n in (0, 2))
    assert alone == two
    for a, b in zip(alone, two, strict=True):
        np.testing.assert_array_equal(a.measured, b.measured)


def test_workers_load_no_torch():
    found = reports([water()], inspector=inspectors.loaded, seconds=60.0)
    assert found[0].reason == "molflow.evaluation rdkit scipy"


def test_invalid_and_unreadable_molecules_are_named_in_order():
    selenium, nothing = Structure(WATER, np.array([34, 1, 1])), Structure(np.zeros((0, 3)), np.zeros(0, dtype=int))
    far = Structure(WATER * 1e30, NUMBERS)
    unreadable = Record("mine.sdf", 7, 191, None, "line 191: unknown element 'Xx'")
    found = reports([water(), unreadable, selenium, far, nothing, water()])
    assert [r.status for r in found] == ["stable", "unreadable", "unsupported", "invalid", "invalid", "stable"]
    assert [r.record for r in found] == [1, 7, 3, 4, 5, 6]
    assert (found[1].source, found[1].reason) == ("mine.sdf", "line 191: unknown element 'Xx'")
    assert (
        found[2].reason
        == "element Se (atom 1) is outside the look-up tables, which cover H C N O F B Al Si P S Cl As Br I Hg Bi"
    )
    assert found[3].reason == "atom 2 has no finite place within 1,000,000 Å"
    assert (found[4].reason, found[4].formula) == ("no atoms", "")


def test_an_endless_stream_is_read_a_bounded_number_ahead():
    taken = 0

    def endless():
        nonlocal taken
        while True:
            taken += 1
            yield taken

    results = outcomes(str, endless(), workers=2, seconds=10.0)
    assert [next(results) for _ in range(5)] == ["1", "2", "3", "4", "5"]
    assert taken <= AHEAD + CHUNK
    results.close()


def test_no_more_is_taken_while_the_oldest_is_not_finished(monkeypatch):
    monkeypatch.setattr("molflow.workers.AHEAD", 64)
    taken = 0

    def endless():
        nonlocal taken
        for taken in range(1, sys.maxsize):
            yield taken - 1

    results = outcomes(inspectors.slow_first, endless(), workers=2, seconds=10.0)
    assert next(results) == 0
    assert CHUNK < taken <= 64
    assert [next(results) for _ in range(200)] == list(range(1, 201))
    results.close()


@pytest.mark.parametrize("workers", [0, 1])
def test_a_source_that_breaks_off_loses_nothing_before(workers):
    def broken():
        yield from [water()] * 1500
        raise RuntimeError("broken")

    found = []
    with pytest.raises(RuntimeError, match="broken"):
        found.extend(inspect_all(broken(), inspector=inspectors.treacherous, workers=workers))
    assert [report.record for report in found] == list(range(1, 1501))


@pytest.mark.parametrize("options", [{"workers": -1}, {"seconds": 0}, {"seconds": float("nan")}, {"seconds": 1e9}])
def test_impossible_limits_are_refused(options):
    with pytest.raises(MolflowError, match="expected 0 or more workers and a limit of up to 1,000,000 seconds"):
        reports([water()], **options)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_result_that_json_cannot_hold_is_a_crash(workers):
    found = reports([water(inspectors.NOT_JSON), water()], workers=workers)
    assert [r.status for r in found] == ["crashed", "stable"]
    assert found[0].reason == "TypeError: Object of type int64 is not JSON serializable"


def test_workers_that_cannot_be_spawned_are_an_error(monkeypatch):
    monkeypatch.setattr(sys, "executable", "/nonexistent/python")
    with pytest.raises(MolflowError, match=r"a worker process did not start .*No such file"):
        reports([water()])


def test_workers_that_cannot_start_are_an_error(monkeypatch):
    monkeypatch.setattr("molflow.workers._MAIN", "raise SystemExit({})")
    with pytest.raises(MolflowError, match="a worker process did not start"):
        reports([water()])


SCRIPT = """
import signal
signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job has it ignored
import inspectors
from molflow.workers import outcomes

seen = set()
try:
    for process in outcomes(inspectors.process, iter(int, 1), workers=2, seconds=10.0):
        if process not in seen:
            seen.add(process)
            print(process, flush=True)
except KeyboardInterrupt:
    print("interrupted", flush=True)
"""  # it has no `if __name__ == "__main__"`: workers do not run the main script


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGKILL])
def test_no_process_outlives_the_run(tmp_path, number):
    script = tmp_path / "script.py"
    script.write_text(SCRIPT)
    path = os.pathsep.join([str(Path(inspectors.__file__).parent), *sys.path])
    run = subprocess.Popen(
        [sys.executable, str(script)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
        start_new_session=True,
    )
    workers = [int(run.stdout.readline()) for _ in range(2)]
    if number == signal.SIGINT:
        os.killpg(run.pid, number)  # as a terminal does: to the workers too
    else:
        run.kill()
    out, err = run.communicate(timeout=30)
    assert (out, err) == (("interrupted\n" if number == signal.SIGINT else ""), "")
    deadline = time.monotonic() + 10
    while any(map(alive, workers)) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not any(map(alive, workers))


def alive(process):
    try:
        os.kill(process, 0)
    except ProcessLookupError:
        return False
    status = Path(f"/proc/{process}/stat")
    return not status.exists() or status.read_text().rpartition(")")[2].split()[0] != "Z"
