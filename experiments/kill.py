"""Training that is killed with signal 9 at random moments and resumed, against training that is not.

    python experiments/kill.py [--runs 100] [--seed 0]

Half of the runs are killed at a random moment, the other half while the files of a checkpoint are written: before or
after a random one of the calls that rename, remove or flush them. Each run is resumed until it is finished. It prints
how many of them gave the same weights, the same metrics (but for the rates), the same card and the same state.
"""

import argparse
import json
import os
import signal
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch._dynamo  # noqa: F401 (here, so that not each process loads it)
from torch.utils import tensorboard  # noqa: F401

from molflow import train
from molflow.checksums import digest
from molflow.flows.storage import CARD, WEIGHTS
from molflow.training.config import ExperimentConfig
from molflow.training.state import STATE, load_state

POINTS = np.random.default_rng(0).normal(size=(256, 2)).astype(np.float32)
NETWORK = {"kind": "resnet", "hidden": 16, "n_blocks": 1}
EXPERIMENT = ExperimentConfig.model_validate({
    "name": "points",
    "data": {"name": "vectors", "file": "vectors.npz"},
    "model": {"kind": "free_form", "domain": {"kind": "vectors"}, "encoder": NETWORK, "decoder": NETWORK},
    "training": {
        "max_steps": 40, "batch_size": 16, "checkpoint_every": 3, "log_every": 2, "validate_every": 10,
        "validation_samples": 20, "device": "cpu",
    },
})  # fmt: skip
CALLS = ("replace", "unlink", "fsync")


def run(folder: Path, calls_to_live: int | None = None) -> int:
    """Start a process that trains in a folder, or continues there; it kills itself at a call of `CALLS`."""
    if child := os.fork():
        return child
    os.dup2(os.open(os.devnull, os.O_WRONLY), 2)
    if calls_to_live is not None:
        left = [calls_to_live]
        for name in CALLS:
            setattr(os, name, deadly(getattr(os, name), left))
    try:
        train(EXPERIMENT, folder, data=POINTS, resume=(folder / STATE).exists())
    except BaseException:
        os._exit(1)
    os._exit(0)


def deadly(call: Callable[..., Any], left: list[int]) -> Callable[..., Any]:
    """A function that kills its process before or after the call that is the last one left."""

    def last(*arguments: Any, **settings: Any) -> Any:
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        result = call(*arguments, **settings)
        left[0] -= 1
        if left[0] == 0:
            os.kill(os.getpid(), signal.SIGKILL)
        return result

    return last


def ending(child: int) -> int:
    """The exit code of a process, or minus the signal that ended it."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def results(folder: Path) -> dict[str, Any]:
    """What two runs should have in common."""
    lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return {
        "weights": (folder / WEIGHTS).read_bytes(),
        "metrics": [{key: value for key, value in line.items() if key != "steps_per_s"} for line in lines],
        "card": (folder / CARD).read_bytes(),
        "state": digest(load_state(folder)),
        "nothing left behind": not list(folder.glob(".*.tmp")),
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--runs", type=int, default=100)
    parser.add_argument("--seed", type=int, default=0)
    options = parser.parse_args()
    generator = np.random.default_rng(options.seed)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch) / "run"
        start = time.monotonic()
        assert ending(run(folder)) == 0
        duration = time.monotonic() - start
        whole = results(folder)
        same: Counter[str] = Counter()
        killed: Counter[str] = Counter()
        for k in range(options.runs):
            folder.rename(Path(scratch) / f"run{k}")
            if k % 2:
                child = run(folder, int(generator.integers(1, 300)))
            else:
                child = run(folder)
                time.sleep(generator.uniform(0, duration))
                os.kill(child, signal.SIGKILL)
            code = ending(child)
            killed["in a checkpoint" if k % 2 else "at any moment"] += code == -signal.SIGKILL
            assert ending(run(folder)) == 0
            same.update(name for name, value in results(folder).items() if value == whole[name])
    print(f"{options.runs} runs, of which were killed: {dict(killed)}")  # noqa: T201
    print(f"the same as without a kill: {dict(same)}")  # noqa: T201


if __name__ == "__main__":
    main()
