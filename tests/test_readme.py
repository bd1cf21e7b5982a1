"""The Python blocks of README.md run, one after another, with fewer samples and steps."""

import re
from pathlib import Path

import pytest

import molflow

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "README.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"^```python\n(.*?)^```", TEXT, re.MULTILINE | re.DOTALL)
SMALLER = {
    "sample(1000,": "sample(20,",
    "sample_and_log_prob(1000,": "sample_and_log_prob(20,",
    "sample_and_log_prob, 1000, 10,": "sample_and_log_prob, 20, 4,",
    '"training.batch_size=32"': '"training.batch_size=4", "training.max_steps=2", "training.validation_molecules=1", '
    '"training.validation_samples=4", "model.encoder.n_blocks=1", "model.decoder.n_blocks=1"',
    "range(100)": "range(2)",
    ".data.split(256)": ".data[:64].split(32)",
    "prior, 10_000,": "prior, 100,",
    "prior=prior)": "prior=prior, epochs=1)",
}


@pytest.mark.slow
def test_blocks_run(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    Path("experiments").symlink_to(ROOT / "experiments")
    molflow.load_pretrained("qm9").sample(20, seed=0).write("mine.sdf")
    names = {}
    for block in BLOCKS:
        for full, small in SMALLER.items():
            block = block.replace(full, small)
        exec(compile(block, "README.md", "exec"), names)
    assert capsys.readouterr().out


def test_every_number_is_made_smaller_somewhere():
    assert [full for full in SMALLER if not any(full in block for block in BLOCKS)] == []
