"""Trials of networks, representations and objectives, each for the same CPU time on one core.

    OMP_NUM_THREADS=1 python experiments/recipe/trials.py [--minutes 4] [--only NAME ...]

Every trial is `teacher.toml` with some values changed, eager and with a constant learning rate, so that it may be
stopped anywhere. Figures are of 2,000 samples of the averaged weights; rows go to experiments/results/trials.json.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import molflow
from molflow.training.checkpoint import write_json

RESULTS = Path("experiments/results/trials.json")
BASE = "experiments/recipe/teacher.toml"
COMMON = ["training.compile=false", "optimizer.final_fraction=1.0", "training.validate_every=1000000"]
JOINT = ["model.domain.kind=molecules", "training.batches=equal_size"]
_EGNN = "{kind='egnn', hidden=128, pair_hidden=32, n_blocks=6, n_inner=1}"
EGNN = [f"model.encoder={_EGNN}", f"model.decoder={_EGNN}"]
FREE_FORM = ["objective={kind='free_form', beta=100.0}", "model.average_velocity=false"]
TRIALS: dict[str, list[str]] = {
    "flow matching": [],
    "EGNN": EGNN,
    "no pairing": ["objective.pairing=false"],
    "types generated": JOINT,
    "all atoms": ["model.domain.representation=all-atom", "model.domain.scale=1.5", "training.batches=equal_size"],
    "batch of 16": ["training.batch_size=16"],
    "MeanFlow target": ["objective.average_fraction=0.5"],
    "free-form": FREE_FORM,
    "free-form, types generated": [*FREE_FORM, *JOINT],
}


def cpu_seconds(process: int) -> float:
    """CPU time of a process, which other work on the machine disturbs less than it does the clock."""
    times = subprocess.run(["ps", "-o", "cputimes=", "-p", str(process)], capture_output=True, text=True, check=False)
    return float(times.stdout or 0)


def run(name: str, overrides: list[str], minutes: float, seed: int) -> dict[str, Any]:
    """Train for the time given, sample, score."""
    settings = [word for value in [*overrides, *COMMON, f"seed={seed}"] for word in ("--set", value)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "molflow.cli", "train", BASE, "--out", str(out), *settings]
        # A shell that runs this in the background has SIGINT ignored, also for what it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and cpu_seconds(process.pid) < 60 * minutes:
            time.sleep(1)
        process.send_signal(signal.SIGINT)  # it writes a checkpoint and ends
        if process.wait() != 1:
            raise SystemExit(f"{name}: ended with exit code {process.returncode}; run: {' '.join(command)}")
        flow = molflow.load(out)
        card = json.loads((out / "card.json").read_text())
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    batch_size = next((int(o.split("=")[1]) for o in overrides if "batch_size" in o), 64)
    row: dict[str, Any] = {
        "trial": name,
        "changed": overrides,
        "cpu_minutes": minutes,
        "seed": seed,
        "molecules_seen": card["steps"] * batch_size,
        "loss": sum(line["loss"] for line in lines[-10:]) / max(1, len(lines[-10:])),
    }
    for k in (1, 4, 20) if getattr(flow, "has_average_velocity", False) else (1,):
        scores = molflow.evaluate(flow.sample(2000, seed=0, n_evaluations=k))
        row[f"k={k}"] = {
            "atom_stability": scores.atom_stability,
            "molecule_stability": scores.molecule_stability,
            "validity_x_uniqueness": scores.validity_x_uniqueness,
        }
    return row


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=4.0, help="of CPU time for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", default=list(TRIALS), choices=list(TRIALS), metavar="NAME")
    arguments = parser.parse_args()
    rows = json.loads(RESULTS.read_text()) if RESULTS.exists() else []
    for name in arguments.only:
        row = run(name, TRIALS[name], arguments.minutes, arguments.seed)
        rows.append(row)
        write_json(RESULTS, rows)
        print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
