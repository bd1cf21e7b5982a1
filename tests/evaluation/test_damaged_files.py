"""Files with random damage: every record is scored or named, whatever RDKit thinks of what the damage made of it."""

from pathlib import Path

import numpy as np
import pytest

from molflow.chem import StructureWriter, read_structures
from molflow.evaluation import STATUSES, evaluate

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
COPIES, MOLECULES = 12, 10


def damaged(content, generator):
    """A few bytes changed, cut out or doubled; the damage is in the last nine tenths, so that something can be read."""
    content = bytearray(content)
    for _ in range(generator.integers(1, 12)):
        place = int(generator.integers(len(content) // 10, len(content)))
        kind, length = generator.integers(3), int(generator.integers(1, 40))
        if kind == 0:
            content[place] = int(generator.choice(list(b"0123456789.-+eE CHNOF\n$\xff")))
        elif kind == 1:
            del content[place : place + length]
        else:
            content[place:place] = content[place : place + length]
    return bytes(content)


@pytest.mark.parametrize("suffix", [".sdf", ".xyz"])
def test_each_record_is_scored_or_named(tmp_path, suffix):
    with StructureWriter(tmp_path / f"good{suffix}") as writer:
        for structure in read_structures(QM9)[:MOLECULES]:
            writer.write(structure)
    good, generator = (tmp_path / f"good{suffix}").read_bytes(), np.random.default_rng(0)
    for k in range(COPIES):
        (tmp_path / f"bad{k:02}{suffix}").write_bytes(damaged(good, generator))
    reports = []
    scores = evaluate(
        tmp_path, reference="qm9", strain="mmff94", workers=1, seconds=20, each=lambda report, _: reports.append(report)
    )
    assert scores.n_molecules + scores.n_unreadable == len(reports) > COPIES * MOLECULES
    assert sum(scores.statuses.values()) == len(reports)
    assert scores.statuses.keys() <= STATUSES.keys() - {"crashed"}
    assert scores.n_unreadable
    for report in reports:
        assert (report.reason == "") == (report.status == "stable")
        assert Path(report.source).parent == tmp_path
        assert report.record >= 1
    untouched = [report for report in reports if report.source.endswith(f"good{suffix}")]
    assert [report.record for report in untouched] == list(range(1, MOLECULES + 1))
    assert {report.status for report in untouched} <= {"stable", "unstable", "invalid"}
