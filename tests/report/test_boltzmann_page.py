"""The Boltzmann page: its text, that it is self-contained, and that a browser draws it without errors."""

import re
import subprocess
import sys

import numpy as np
import pytest
import torch
from browser import Tags, needs_chromium, open_in_browser
from hypothesis import given
from hypothesis import strategies as st

from molflow.energies import get_system
from molflow.errors import MolflowError
from molflow.evaluation import evaluate_boltzmann, histograms, particle_figures
from molflow.report import boltzmann_page
from molflow.report.page import page
from molflow.report.tables import Row, number, percent, table


@pytest.fixture(scope="module")
def evaluated():
    """The record and the figures of DW4 squares of several sizes."""
    generator = np.random.default_rng(0)
    square = np.array([[-2, -2], [-2, 2], [2, -2], [2, 2]])
    x, y = (square + 0.5 * generator.normal(size=(200, 4, 2)) for _ in range(2))
    system = get_system("dw4")
    log_q = -system.energy(torch.from_numpy(x)).numpy() - 29 + 0.5 * generator.normal(size=200)
    nll = 7.5 + generator.normal(size=50)
    scores = evaluate_boltzmann(
        x, system.energy, log_prob=log_q, reference=y, system=system, nll_decoder=nll, nll_encoder=nll,
        reconstruction_error=np.abs(nll) / 100,
    )  # fmt: skip
    return scores.to_dict(), particle_figures(x, system.energy, log_prob=log_q, reference=y)


@pytest.fixture(scope="module")
def written(evaluated, tmp_path_factory):
    path = tmp_path_factory.mktemp("report") / "new" / "page.html"
    boltzmann_page(*evaluated, path)
    return path


def test_the_page_is_complete_accessible_and_makes_no_requests(written):
    html = written.read_text(encoding="utf-8")
    parser = Tags()
    parser.feed(html)
    assert parser.open == []
    tags = parser.tags
    assert ("html", {"lang": "en"}) in tags
    assert ("meta", {"name": "viewport", "content": "width=device-width, initial-scale=1"}) in tags
    assert not [a for _, a in tags if "src" in a or (a.get("href", "#")[0] != "#" and a["href"] != "data:,")]
    assert any("default-src 'none'" in a.get("content", "") for _, a in tags)
    assert "<title>Boltzmann evaluation: dw4</title>" in html
    assert [t for t, _ in tags].count("h1") == 1
    assert all(a.get("scope") for t, a in tags if t == "th")
    plots = [a for _, a in tags if a.get("class") == "plot"]
    assert [a["role"] for a in plots] == ["img"] * 6
    assert all("reference, samples, reweighted samples" in a["aria-label"] for a in plots[:2])
    links = [a["href"][1:] for t, a in tags if t == "a"]
    assert links == [a["id"] for t, a in tags if t == "h2"]
    assert links == [
        "scores",
        "energies",
        "distances-of-particles",
        "free-energy",
        "weights",
        "chains",
        "configurations",
    ]
    assert html.count("plotly.js v") == 1
    assert "prefers-color-scheme: dark" in html


def test_each_figure_has_its_error_and_its_reference(evaluated, written):
    record, _ = evaluated
    text = re.sub(r"\s+", " ", re.sub("<[^>]*>", " ", written.read_text(encoding="utf-8").split("<script")[0]))
    for key in ("nll_decoder", "reweighted_log_z", "reweighted_mean_energy", "mean_energy", "reverse_kl"):
        assert number(record[key], record[f"{key}_error"]) in text
    assert percent(record["ess_fraction"], record["ess_fraction_error"]) in text
    for shown in ("29.66", "-22.54", "7.12", "without 5.51", "entropy 1.606", "200 samples of 4 particles"):
        assert shown in text
    assert "Not computed" not in text
    assert "None" not in text
    assert "nan" not in text


def test_the_page_names_scores_that_were_not_computed(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 4, 2))
    x[3] = np.nan
    energy = get_system("dw4").energy
    boltzmann_page(
        evaluate_boltzmann(x, energy).to_dict(), histograms(x, energy), tmp_path / "a.html", title="<mine> & you"
    )
    html = (tmp_path / "a.html").read_text(encoding="utf-8")
    assert "<title>&lt;mine&gt; &amp; you</title>" in html
    assert "Not computed: importance weights" in html
    assert "1 of 20 samples have no finite energy" in html
    assert "Effective sample size" not in html
    assert "None" not in html.split("<script")[0]


def test_configurations_are_cards_with_their_energies(evaluated, written):
    _, figures = evaluated
    html = written.read_text(encoding="utf-8")
    examples = figures["configurations"]["examples"]
    assert html.count('class="card"') == len(examples) == 12 + 4 + 4 + 12
    highest = max(each["energy"] for each in examples if each["kind"] != "reference")
    assert f"U = {number(highest)} kT, weight" in html
    assert not [word for word in ("SMILES", "SDF", "olecule") if word in html.split("<script")[0]]


def test_samples_that_are_alike_are_said(tmp_path):
    system, x = get_system("dw4"), torch.randn(100, 4, 2, generator=torch.Generator().manual_seed(0))
    for name, said, samples in (("chain.html", True, x.repeat_interleave(10, 0)), ("apart.html", False, x)):
        figures = particle_figures(samples, system.energy)
        boltzmann_page(evaluate_boltzmann(samples, system.energy).to_dict(), figures, tmp_path / name)
        assert ("Samples that follow each other are alike" in (tmp_path / name).read_text(encoding="utf-8")) is said


def test_without_plotly_the_error_names_the_extra(evaluated, tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "plotly.offline", None)
    with pytest.raises(MolflowError, match=r"pip install 'molflow\[report\]'"):
        boltzmann_page(*evaluated, tmp_path / "a.html")
    assert list(tmp_path.iterdir()) == []
    assert "Plotly" not in page("No plots", plots=False)


def test_an_unwritable_path_is_named(evaluated, tmp_path):
    with pytest.raises(MolflowError, match="is a directory"):
        boltzmann_page(*evaluated, tmp_path)


def test_reports_load_no_torch():
    script = "import sys, molflow.report; print(sorted({'torch', 'numpy', 'plotly'} & set(sys.modules)))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


@pytest.mark.parametrize(
    ("value", "error", "text"),
    [
        (29.6637, 0.01234, "29.664 ± 0.012"),
        (-22.5, 3.4, "-22.5 ± 3.4"),
        (1234.5, 67.0, "1234 ± 67"),
        (29.6637, None, "29.66"),
        (0, None, "0"),
        (1.5e9, 2.5e8, "1.5e+09 ± 2.5e+08"),
        (1.0, 1e-12, "1 ± 1e-12"),
        (7.12, 0.0, "7.12"),
        (None, None, ""),
    ],
)
def test_numbers_have_the_digits_of_their_error(value, error, text):
    assert number(value, error) == text


def test_percentages():
    assert (percent(0.85321, 0.00412), percent(0.00123), percent(None)) == ("85.32 ± 0.41 %", "0.123 %", "")
    assert [percent(k / 10) for k in (0, 5, 10)] == ["0 %", "50.0 %", "100 %"]


@given(st.floats(0.9, 1, exclude_max=True))
def test_only_the_whole_is_100_percent(fraction):
    assert float(percent(fraction).removesuffix(" %")) < 100 or fraction > 1 - 1e-14


def test_a_table_escapes_and_leaves_out_empty_groups():
    html = table("a < b", ("x", "y", "z"), {"full": [Row("<i>", ("1 ± 2 %", "&"), "why?")], "empty": []})
    assert "a &lt; b" in html
    assert "<td>1 <i>± 2 %</i></td><td>&amp;</td>" in html
    assert "&lt;i&gt;<small>why?</small>" in html
    assert "empty" not in html


@needs_chromium
def test_a_browser_draws_the_page_and_logs_nothing(written, tmp_path):
    probe = (
        "<script>document.body.dataset.wide = document.documentElement.scrollWidth > innerWidth; "
        'document.querySelectorAll(".card")[3].click()</script></body>'
    )
    copy = tmp_path / "page.html"
    copy.write_text(written.read_text(encoding="utf-8").replace("</body>", probe), encoding="utf-8")
    dom, console = open_in_browser(copy, tmp_path)
    assert console == []
    drawn = dom.split("<main>")[1].split("</main>")[0]
    assert drawn.count('class="legendtext"') == 3 + 3 + 3 + 2 + 2 + 2
    assert drawn.count("js-line") >= 15
    assert "<canvas" in drawn.split('class="stage"')[1]
    assert 'data-molecule="3"' in drawn
    assert "energy U (kT)" in drawn
    assert 'data-wide="false"' in dom


@needs_chromium
def test_the_browser_test_detects_errors_and_network_requests(tmp_path):
    path = tmp_path / "page.html"
    for wrong in ("<script>missing()</script>", '<img src="http://127.0.0.1:9/a.png" alt="">'):
        path.write_text(page("Wrong", wrong, plots=False), encoding="utf-8")
        assert len(open_in_browser(path, tmp_path)[1]) == 1
