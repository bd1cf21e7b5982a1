"""The page of molecules: every score with its count, what went wrong, and molecules that a browser shows."""

import re
from pathlib import Path

import numpy as np
import pytest
from browser import Tags, needs_chromium, open_in_browser

from molflow.chem import Structure, read_structures
from molflow.evaluation import STATUSES, evaluate
from molflow.report import example, molecules_page

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
CROWDED = Structure(np.array([[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]]), np.array([1, 1, 1]))


@pytest.fixture(scope="module")
def evaluated():
    """The record of some real molecules and one impossible one, and all of them as examples."""
    structures, reports = [*read_structures(QM9)[:20], CROWDED], []
    scores = evaluate(structures, reference="qm9", workers=0, each=reports.append)
    pairs = enumerate(zip(structures, reports, strict=True), start=1)
    return scores.to_dict(), [example(f"molecule {k}", *pair) for k, pair in pairs]


@pytest.fixture(scope="module")
def written(evaluated, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    molecules_page(evaluated[0], path, statuses=STATUSES, examples=evaluated[1], title="Mine & yours")
    return path


def words_of(path):
    main = path.read_text(encoding="utf-8").split("<main>")[1].split("</main>")[0]
    html = re.sub("<(script|svg).*?</(script|svg)>", "", main, flags=re.S)
    return re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", html))


def test_every_score_stands_on_the_page_with_its_count(evaluated, written):
    record, _ = evaluated
    parser = Tags()
    parser.feed(written.read_text(encoding="utf-8"))
    assert parser.open == []
    text = words_of(written)
    assert len(record["metrics"]) > 15
    for name, metric in record["metrics"].items():
        assert name.replace("w1_", "").replace("_x_", " x ").replace("_", " ") in text
        counted = f"{metric['of']:,} {metric['what']}."
        assert counted if metric["count"] is None else f"{metric['count']:,} of {counted}" in text
    assert "Mine &amp; yours" in text
    assert "molecule 21: invalid" in text
    assert f"{record['statuses']['invalid']} " in text
    assert "None" not in text
    assert "nan" not in text


def test_a_page_of_stability_alone(tmp_path):
    record = evaluate([CROWDED], rdkit=False).to_dict()
    molecules_page(record, tmp_path / "a.html", statuses=STATUSES)
    text = words_of(tmp_path / "a.html")
    assert "0 of 1 molecules." in text
    assert "Distributions" not in text
    assert "None" not in text


@needs_chromium
def test_a_browser_draws_the_page(evaluated, written, tmp_path):
    probe = "<script>document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth</script></body>"
    copy = tmp_path / "page.html"
    copy.write_text(written.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    dom, console = open_in_browser(copy, tmp_path)
    assert console == []
    assert 'data-molecule="0"' in dom
    assert 'data-wide="false"' in dom
    drawn = [name for name, found in evaluated[0]["distributions"].items() if found.get("histogram")]
    assert len(drawn) == 7
    assert dom.count('class="plot js-plotly-plot"') == 7
