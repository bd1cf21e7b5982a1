"""The page of molecules: every score with its count, the statuses, and molecules that a browser shows."""

import json
import re
from functools import partial
from html import unescape
from pathlib import Path

import numpy as np
import pytest
from browser import Tags, needs_chromium, open_in_browser

from molflow.chem import Structure, read_structures
from molflow.errors import MolflowError
from molflow.evaluation import STATUSES, evaluate
from molflow.evaluation.distributions import QUANTITIES
from molflow.evaluation.metrics import label
from molflow.report import example, molecules_page
from molflow.report.tables import percent

QM9 = Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"
CROWDED = Structure(np.array([[0, 0, 0], [0.74, 0, 0], [1.48, 0, 0]]), np.array([1, 1, 1]))


def _keep(reports, report, structure):
    reports.append(report)


@pytest.fixture(scope="module")
def evaluated():
    """The record of some real molecules and one impossible one, and all of them as examples."""
    structures, reports = [*read_structures(QM9)[:20], CROWDED], []
    scores = evaluate(structures, reference="qm9", workers=0, each=partial(_keep, reports))
    pairs = enumerate(zip(structures, reports, strict=True), start=1)
    return scores.to_dict(), [example(f"molecule {k}", *pair) for k, pair in pairs]


@pytest.fixture(scope="module")
def written(evaluated, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    molecules_page({"mine": evaluated[0]}, path, statuses=STATUSES, examples=evaluated[1], title="Mine & yours")
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
        assert label(name) in text
        counted = f"{metric['of']:,} {metric['what']}."
        assert (counted if metric["count"] is None else f"{metric['count']:,} of {counted}") in text
    assert "Mine &amp; yours" in text
    assert "molecule 21: invalid" in text
    assert f"{record['statuses']['invalid']} " in text
    assert "None" not in text
    assert "nan" not in text


def test_a_page_of_stability_alone(tmp_path):
    record = evaluate([CROWDED], scope="stability").to_dict()
    molecules_page({"crowded": record}, tmp_path / "a.html", statuses=STATUSES)
    text = words_of(tmp_path / "a.html")
    assert "0 of 1 molecules." in text
    assert "Distributions" not in text
    assert "Screening" not in text
    assert "None" not in text


def test_molecules_outside_the_look_up_tables_are_pointed_out(evaluated, tmp_path):
    sulphide = Structure(np.array([[0, 0, 0], [1.34, 0, 0], [-0.05, 1.34, 0]]), np.array([16, 1, 1]))
    record = evaluate([CROWDED, sulphide], workers=0).to_dict()
    assert record["metrics"]["valence_molecule_stability"]["count"] == 1
    molecules_page({"mine": record, "real": evaluated[0]}, tmp_path / "a.html", statuses=STATUSES)
    text = words_of(tmp_path / "a.html")
    assert "mine: Of 2 molecules, 1 with other elements than QM9, whose look-up bonds are poor: read the scores" in text
    assert text.count("whose look-up bonds are poor") == 1


@pytest.fixture(scope="module")
def sets(evaluated):
    """Records of three sets, of which the last has no metrics of RDKit, and one example of each status in each set."""
    generator, records, examples = np.random.default_rng(0), {}, []
    for name, noise, scope in (
        ("real", 0.0, "all"),
        ("generated/<b>noisy</b> & long.sdf", 0.05, "all"),
        ("c", 0.1, "stability"),
    ):
        structures = [
            Structure(x + noise * generator.normal(size=x.shape), numbers)
            for x, numbers, _ in read_structures(QM9)[:30]
        ]
        reports = []
        keep = partial(_keep, reports)
        scores = evaluate(structures, reference="qm9", workers=0, scope=scope, each=keep if scope == "all" else None)
        records[name] = scores.to_dict()
        chosen = {report.status: place for place, report in reversed(list(enumerate(reports)))}
        examples += [example(f"record {k + 1}", structures[k], reports[k], source=name) for k in chosen.values()]
    return records, examples


@pytest.fixture(scope="module")
def compared(sets, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "page.html"
    molecules_page(sets[0], path, statuses=STATUSES, examples=sets[1])
    return path


def rows_of(path):
    """The cells of each row by column, by the label of the row, in each table."""
    tables = []
    for table in re.findall("<table.*?</table>", path.read_text(encoding="utf-8"), re.DOTALL):
        columns = [unescape(column) for column in re.findall('<th scope="col">(.*?)</th>', table)]
        rows = {}
        for name, inner in re.findall('<tr><th scope="row">(.*?)</th>(.*?)</tr>', table):
            cells = [unescape(re.sub("<[^>]*>", " ", cell)).strip() for cell in re.findall("<td.*?>(.*?)</td>", inner)]
            told = [unescape(column) for column in re.findall('data-column="(.*?)"', inner)]
            assert told in ([], columns[1:])  # what a phone shows in place of the header
            rows[re.split("<(?:sup|small)>", name)[0]] = dict(zip(columns[1:], cells, strict=True))
        tables.append(rows)
    return tables


def plots_of(path):
    specs = re.findall('class="plot".*?json">(.*?)</script>', path.read_text(encoding="utf-8"), re.DOTALL)
    return {spec["layout"]["xaxis"]["title"]["text"]: spec for spec in map(json.loads, specs)}


def test_every_metric_of_every_set_has_a_cell_with_its_count(sets, compared):
    parser = Tags()
    parser.feed(compared.read_text(encoding="utf-8"))
    assert parser.open == []
    scores = rows_of(compared)[0]
    names = {name for record in sets[0].values() for name in record["metrics"]}
    assert len(names) == len(scores)
    for name in names:
        cells = scores[label(name)]
        assert list(cells) == [*sets[0], "qm9"]
        for each, record in sets[0].items():
            metric = record["metrics"].get(name)
            if metric is None:
                assert cells[each] == "–"
                continue
            counted, value = metric["count"] is not None, metric["value"]
            assert cells[each].split()[0] == (
                "–" if value is None else percent(value).split()[0] if counted else f"{value:.4g}"
            )
            assert cells[each].endswith(
                f" {metric['count']:,} of {metric['of']:,}" if counted else f" {metric['of']:,}"
            )
    assert scores["perceived validity"]["c"] == "–"
    assert not re.search("None|nan", words_of(compared))


def test_a_metric_without_a_group_is_shown(evaluated, tmp_path):
    extra = {"brand_new": evaluated[0]["metrics"]["atom_stability"]}
    molecules_page({"a": evaluated[0] | {"metrics": extra}}, tmp_path / "a.html", statuses=STATUSES)
    assert list(rows_of(tmp_path / "a.html")[0]) == ["brand new"]
    assert "Further" in words_of(tmp_path / "a.html")


def test_each_set_has_a_sentence_and_its_statuses(sets, compared):
    text, statuses = unescape(words_of(compared)), rows_of(compared)[1]
    for name, record in sets[0].items():
        assert f"{name}: {percent(record['molecule_stability'])} of 30 molecules are stable, " in text
        assert f"{record['n_atoms']:,} atoms; bonds: EDM look-up bonds" in text
        shown = {status: cells[name].split() for status, cells in statuses.items()}
        assert {status: int(words[2]) for status, words in shown.items() if words[0] != "0"} == record["statuses"]
    assert text.count("qm9 itself") == 3


def test_a_plot_holds_a_line_of_each_set_that_has_the_quantity(sets, compared):
    plots = plots_of(compared)
    assert len(plots) == 8
    colours = {}
    for name, spec in plots.items():
        quantity = name.partition(" (")[0]
        have = [each for each, record in sets[0].items() if record["distributions"].get(quantity, {}).get("histogram")]
        assert [unescape(trace["name"]) for trace in spec["data"]] == ["qm9", *have]
        for trace in spec["data"]:
            assert sum(trace["y"]) == pytest.approx(1, abs=1e-4)
            assert colours.setdefault(trace["name"], trace["line"]["color"]) == trace["line"]["color"]
    assert len(set(colours.values())) == 3  # two sets and the reference


def test_bins_of_different_widths_are_drawn_as_densities(sets, tmp_path):
    def record(samples):
        edges = [k / len(samples) for k in range(len(samples) + 1)]
        histogram = {"edges": edges, "samples": samples, "reference": [1 / len(samples)] * len(samples)}
        return sets[0]["c"] | {"distributions": {"QED": {"unit": "", "histogram": histogram}}}

    records = {"fine": record([0.1, 0.2, 0.3, 0.4]), "coarse": record([0.3, 0.7])}
    molecules_page(records, tmp_path / "a.html", statuses=STATUSES)
    spec = plots_of(tmp_path / "a.html")["QED"]
    assert spec["layout"]["yaxis"]["title"]["text"] == "density"
    reference, fine, coarse = (trace["y"] for trace in spec["data"])
    assert reference == [0, 1, 1, 1, 1, 0]
    assert fine == pytest.approx([0, 0.4, 0.8, 1.2, 1.6, 0])
    assert coarse == pytest.approx([0, 0.6, 1.4, 0])


def test_a_single_value_is_drawn_as_a_bar_with_room_beside_it(sets, tmp_path):
    histogram = {"edges": [1.5, 2.5], "samples": [1.0], "reference": None}
    record = sets[0]["c"] | {"distributions": {"atoms": {"unit": "atoms", "histogram": histogram}}}
    molecules_page({"mine": record}, tmp_path / "a.html", statuses=STATUSES)
    spec = plots_of(tmp_path / "a.html")["atoms"]
    assert (spec["data"][0]["x"], spec["data"][0]["y"]) == ([1.5, 1.5, 2.5], [0, 1, 0])
    assert spec["layout"]["xaxis"]["range"] == [0.5, 3.5]


def test_screening_shows_the_quantiles_of_every_descriptor_and_of_strain(sets, tmp_path):
    quantities = [q.name for q in QUANTITIES.values() if q.group in ("descriptor", "strain")]
    found = {name: {"unit": "", "count": 5, "quantiles": [0.25, 1.5, 3.75]} for name in quantities}
    plain = sets[0]["c"] | {"reference_scores": sets[0]["c"]["reference_scores"] | {"distributions": {}}}
    record = plain | {"distributions": found}
    molecules_page({"a": record, "b": plain}, tmp_path / "a.html", statuses=STATUSES)
    assert rows_of(tmp_path / "a.html")[2] == {
        name: {"a": "1.5  [0.25, 3.75]  5 values", "b": "–"} for name in quantities
    }
    real = {"QED": {"unit": "", "quantiles": [0.3, 0.5, 0.6]}}
    record = record | {"reference_scores": record["reference_scores"] | {"distributions": real}}
    molecules_page({"a": record}, tmp_path / "b.html", statuses=STATUSES)
    shown = rows_of(tmp_path / "b.html")[2]
    assert shown["QED"]["qm9"].split() == ["0.5", "[0.3,", "0.6]"]
    assert shown["logP"]["qm9"] == "–"


def test_records_that_cannot_be_compared_are_refused(sets, tmp_path):
    a, b = sets[0]["real"], sets[0]["c"]
    other = b | {"reference_scores": b["reference_scores"] | {"name": "drugs"}}
    with pytest.raises(MolflowError, match="not with qm9 and drugs"):
        molecules_page({"a": a, "b": other}, tmp_path / "a.html", statuses=STATUSES)
    with pytest.raises(MolflowError, match="at least one record"):
        molecules_page({}, tmp_path / "a.html", statuses=STATUSES)
    molecules_page({"a": a, "b": b | {"reference_scores": None}}, tmp_path / "a.html", statuses=STATUSES)
    assert list(rows_of(tmp_path / "a.html")[0]["validity"]) == ["a", "b", "qm9"]


@needs_chromium
def test_a_browser_draws_the_page(evaluated, written, tmp_path):
    wide = "document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth"
    probe = f"<script>document.querySelector('.card').click(); {wide}</script></body>"
    copy = tmp_path / "page.html"
    copy.write_text(written.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    dom, console = open_in_browser(copy, tmp_path)
    assert console == []
    assert 'data-molecule="0"' in dom
    assert 'data-wide="false"' in dom
    drawn = [name for name, found in evaluated[0]["distributions"].items() if found.get("histogram")]
    assert len(drawn) == 8
    assert dom.count('class="plot js-plotly-plot"') == 8


CHOOSE = """
const shown = () => [...document.querySelectorAll(".cards li:not([hidden]) .source")].map((e) => e.textContent);
const click = (selector) => document.querySelector(selector).click();
const say = (key, value) => { document.body.dataset[key] = String(value); };
const choose = (value) => {
  const menu = document.querySelector("[name=source]");
  menu.value = value;
  menu.dispatchEvent(new Event("change"));
};
choose("real");
say("sources", new Set(shown()).size === 1 && shown().every((name) => name === "real"));
say("some", shown().length);
click("[data-status=invalid]");
say("none", shown().length === 0 && getComputedStyle(document.querySelector(".cards"), "::after").content);
choose("");
say("invalid", shown().length);
say("plots", document.querySelectorAll(".js-plotly-plot").length);
say("wide", document.documentElement.scrollWidth > document.documentElement.clientWidth);
parent.postMessage({...document.body.dataset}, "*");
"""
# A window has a least width, a frame has none.
FRAME = """<!DOCTYPE html><title>frame</title><body>
<iframe src="page.html" style="width: WIDTHpx; height: 900px; border: 0"></iframe>
<script>addEventListener("message", (event) => Object.assign(document.body.dataset, event.data));</script>"""


@needs_chromium
@pytest.mark.parametrize("width", [400, 1200])
def test_a_browser_draws_several_sets_and_filters_them(sets, compared, tmp_path, width):
    html = compared.read_text(encoding="utf-8").replace("</body>", f"<script>{CHOOSE}</script></body>")
    (tmp_path / "page.html").write_text(html, encoding="utf-8")
    (tmp_path / "frame.html").write_text(FRAME.replace("WIDTH", str(width)), encoding="utf-8")
    dom, console = open_in_browser(tmp_path / "frame.html", tmp_path)
    assert console == []
    real = sum(each.source == "real" for each in sets[1])
    invalid = sum(each.status == "invalid" for each in sets[1])
    assert dict(re.findall(r'data-(\w+)="([^"]*)"', re.search("<body[^>]*>", dom).group())) == {
        "sources": "true", "some": str(real), "none": "&quot;none&quot;", "invalid": str(invalid), "plots": "8",
        "wide": "false",
    }  # fmt: skip
