"""Free-form flows beside continuous flows, in one process for each data set: the comparison of the README.

    python experiments/compare.py [qm9] [dw4] [lj13]

Records go to experiments/results/comparison.json; a table for the README is printed. The effective sample size and the
likelihoods are those of the cards, which rest on more samples than can be drawn here.
"""

import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from molflow.files import write_json
from molflow.pretrained import model_cards

RESULTS = Path("experiments/results/comparison.json")
# The others of a row are measured against its first; the number is that of samples in a repeat.
COMPARISONS: dict[str, tuple[tuple[str, ...], int]] = {
    "qm9": (("qm9", "qm9-steps@1", "qm9-steps@8", "qm9-cnf@20", "qm9-cnf"), 1024),
    "dw4": (("dw4", "dw4-cnf@20", "dw4-cnf"), 8192),
    "lj13": (("lj13", "lj13-cnf@20", "lj13-cnf"), 1024),
}


def measure(models: tuple[str, ...], n: int) -> list[dict[str, Any]]:
    with tempfile.NamedTemporaryFile(suffix=".json") as file:
        words = ["--models", ",".join(models), "-n", str(n), "--json", file.name]
        subprocess.run([sys.executable, "-m", "molflow.cli", "benchmark", "sampling", *words], check=True)
        records: list[dict[str, Any]] = json.loads(Path(file.name).read_text())
    return records


def row(record: dict[str, Any], cards: dict[str, Any]) -> list[str]:
    scores = cards[record["model"].partition("@")[0]]["scores"]
    molecules = "ms_per_molecule" in record
    cost = record["ms_per_molecule" if molecules else "ms_per_sample"]
    of_use = record["molecule_stability"] if molecules else scores["ess_fraction"]
    relative = record[f"relative_ms_per_{'molecule' if molecules else 'sample'}"]
    has_density = "@" not in record["model"]
    maps = [record[f"test_nll_{which}"] for which in ("encoder", "decoder")]
    return [
        f"`{record['model']}`",
        f"{record['evaluations_per_sample']:.3g}",
        f"{cost:.3g}",
        f"{relative:.3g}",
        f"{100 * of_use:.1f}" if molecules or has_density else "",
        f"{cost / of_use:.3g}" if molecules else "",
        f"{record['ms_per_sample_with_density'] / of_use:.3g}" if not molecules and has_density else "",
        " / ".join(f"{nll:.2f}" for nll in maps) if None not in maps and has_density else "",
        f"{record['peak_memory_mb']:,.0f}",
    ]


def main() -> None:
    names = sys.argv[1:] or list(COMPARISONS)
    if unknown := set(names) - set(COMPARISONS):
        raise SystemExit(f"no such comparison: {', '.join(sorted(unknown))}; there are: {', '.join(COMPARISONS)}")
    results = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
    cards = model_cards()
    for name in names:
        results[name] = measure(*COMPARISONS[name])
        write_json(RESULTS, results)
    for name in names:
        for record in results[name]:
            print("|", " | ".join(row(record, cards)), "|")  # noqa: T201


if __name__ == "__main__":
    main()
