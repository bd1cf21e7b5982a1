"""Steps a second of two processes with one thread each, against one process with two threads.

    python experiments/ranks.py [--steps 40] [--json FILE]

Three models: a free-form flow of molecules, a continuous flow of molecules by flow matching, and a free-form flow of
vectors. Each run makes the same batches; the first quarter of its steps is left out. It needs two idle cores.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from diffusion import processor

from molflow.files import write_json

EXPERIMENTS = {
    "qm9, free-form, EGNN": """
        data.name = "qm9"
        [model]
        domain.kind = "molecules"
        encoder = {kind = "egnn", hidden = 64, n_blocks = 4}
        decoder = {kind = "egnn", hidden = 64, n_blocks = 4}
    """,
    "qm9, flow matching, transformer": """
        data.name = "qm9"
        [model]
        kind = "continuous"
        domain = {kind = "composed_molecules", representation = "united-atom"}
        network = {kind = "transformer", n_blocks = 4}
    """,
    "two moons, free-form, ResNet": """
        data.name = "two-moons"
        training.batch_size = 1024
        [model]
        domain.kind = "vectors"
        encoder = {kind = "resnet"}
        decoder = {kind = "resnet"}
    """,
}
WAYS = {"1 process, 2 threads": (1, 2), "2 processes, 1 thread": (2, 1)}


def rate(experiment: str, processes: int, threads: int, steps: int) -> float:
    """Steps a second of a run, without its first quarter."""
    with tempfile.TemporaryDirectory() as scratch:
        config, run = Path(scratch) / "experiment.toml", Path(scratch) / "run"
        config.write_text('name = "rate"\n' + experiment)
        first = steps // 4
        settings = {
            "max_steps": steps, "log_every": first, "checkpoint_every": 10**6, "device": "cpu",
            "validation_molecules": 1, "validation_samples": 1,
        }  # fmt: skip
        command = [sys.executable, "-m"]
        if processes > 1:
            command += ["torch.distributed.run", "--standalone", "--nproc-per-node", str(processes), "-m"]
        command += ["molflow", "train", str(config), "--out", str(run)]
        command += [f"--set=training.{name}={value}" for name, value in settings.items()]
        environment = os.environ | {"OMP_NUM_THREADS": str(threads)}
        subprocess.run(command, check=True, env=environment, stdout=subprocess.DEVNULL)
        lines = [json.loads(line) for line in (run / "metrics.jsonl").read_text().splitlines()]
    seconds = [line["step"] / line["steps_per_s"] for line in lines if "steps_per_s" in line]
    return (len(seconds) - 1) * first / (seconds[-1] - seconds[0])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--steps", type=int, default=40)
    parser.add_argument("--json", type=Path, help="file for the record")
    arguments = parser.parse_args()

    rows: list[dict[str, Any]] = []
    print(processor())  # noqa: T201
    for name, experiment in EXPERIMENTS.items():
        row = {way: rate(experiment, *numbers, arguments.steps) for way, numbers in WAYS.items()}
        one, two = row.values()
        rows.append({"model": name, **row, "ratio": two / one})
        print(f"{name:34} " + ", ".join(f"{way} {row[way]:.2f}/s" for way in WAYS) + f": {two / one:.2f} times")  # noqa: T201
    if arguments.json:
        write_json(arguments.json, rows)


if __name__ == "__main__":
    main()
