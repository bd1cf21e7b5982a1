"""README.md: its Python blocks run, one after another and with fewer samples and steps, and it is short."""

import re
from pathlib import Path

import pytest

from molflow.chem import StructureWriter, read_structures
from molflow.templates.own_data import experiment_for

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
PROSE = re.sub(r"^```.*?^```$", "", TEXT, flags=re.MULTILINE | re.DOTALL)
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
(PRINTED,) = re.findall(r"^```text\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
SMALLER = {
    "sample_and_log_prob(1000,": "sample_and_log_prob(20,",
    '"training.batch_size=32"': '"training.batch_size=4", "training.max_steps=2", "training.validation_molecules=1", '
    '"training.validation_samples=4", "model.network.n_blocks=1"',
    '"runs/mine").sample(100,': '"runs/mine").sample(4,',
    ".data.split(256)": ".data[:64].split(32)",
    "flow.sample(1000,": "flow.sample(20,",
    "prior, 10_000,": "prior, 100,",
    "prior=prior)": "prior=prior, epochs=1)",
}


@pytest.mark.slow
def test_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path / "cache"))
    with StructureWriter("mine.sdf") as writer:
        for structure in list(read_structures(ROOT / "tests" / "fixtures" / "qm9_200.npz"))[::3]:
            writer.write(structure)
    Path("mine.toml").write_text(experiment_for(Path("mine.sdf")))
    names, printed = {}, []
    for block in BLOCKS:
        for full, small in SMALLER.items():
            block = block.replace(full, small)
        exec(compile(block, "README.md", "exec"), names)
        printed.append(capsys.readouterr().out)
    assert all(printed)
    assert without_figures(printed[0]) == without_figures(PRINTED)


def without_figures(text):
    return re.sub(r"[\d.,]+", "0", text).replace(" ", "")


def test_every_number_is_made_smaller_somewhere():
    assert [full for full in SMALLER if not any(full in block for block in BLOCKS)] == []


def test_it_is_one_screen_for_each_question():
    assert len(PROSE.split()) <= 900
    assert sum(line.startswith("|") for line in TEXT.splitlines()) <= 20
    sections = re.split(r"^## ", TEXT, flags=re.MULTILINE)
    assert {section.splitlines()[0] for section in sections[1:]} >= {
        "Install", "Sample", "Evaluate anyone's molecules", "Train on your own data", "Cite",
    }  # fmt: skip
    assert all(len(section.splitlines()) <= 45 for section in sections)


DOCUMENTS = [ROOT / "CONTRIBUTING.md", ROOT / "README.md", *sorted(ROOT.glob("[!.]*/**/README.md"))]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_inside_the_repository(document):
    text = re.sub(r"^(```.*?^```|    .*?)$", "", document.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for target in re.findall(r"\]\(([^)\s]+)\)", text):
        if "://" not in target:
            name, _, anchor = target.partition("#")
            path = (document.parent / name) if name else document
            assert path.exists(), target
            if anchor:
                assert anchor in anchors(path), target


def anchors(path):
    """The anchors that GitHub gives to the headings of a document."""
    headings = re.findall(r"^#+ (.+)$", path.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}
