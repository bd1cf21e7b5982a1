"""Training on several processes: the run is that of one process, for every objective, also after kill -9."""

import json
import math
import os
import re
import socket
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from ranks import CASES, STEPS

from molflow.data import load_qm9
from molflow.errors import MolflowError
from molflow.training.distributed import Ranks
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.accumulation import accumulate_gradients
from molflow.training.state import load_state

DRIVER = Path(__file__).with_name("ranks.py")
pytestmark = pytest.mark.timeout(900)  # the runs of all objectives, some 55 processes


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """The folder of runs that the driver leaves, and what it wrote to stderr."""
    folder = tmp_path_factory.mktemp("ranks")
    load_qm9("test").batch(np.arange(0, 13_000, 200)).write(folder / "molecules.sdf")
    environment = os.environ | {"OMP_NUM_THREADS": "1", "MOLFLOW_CACHE": str(folder / "cache")}
    command = [sys.executable, str(DRIVER), str(folder), str(folder / "molecules.sdf")]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=600)
    assert done.returncode == 0, done.stderr
    return folder, done.stderr


def lines(folder):
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def without_rate(line):
    """Figures but the rate; those that are null, for molecules of which the model has no size, are so in both logs."""
    return {name: math.nan if value is None else value for name, value in line.items() if name != "steps_per_s"}


def test_every_objective_has_a_case():
    assert {case.partition("-")[0] for case in CASES} == set(OBJECTIVES)


@pytest.mark.parametrize("case", CASES)
def test_two_processes_make_the_run_of_one(runs, case):
    """Weights, their average, moments of the optimiser and every figure of every step, to 1e-10."""
    one, two = (load_state(runs[0] / case / size) for size in "12")
    assert one["step"] == two["step"] == STEPS
    close = {"rtol": 1e-10, "atol": 1e-10}
    for part in ("objective", "ema", "optimizer", "norms"):
        torch.testing.assert_close(two[part], one[part], **close)
    assert all(tensor.dtype == torch.float64 for tensor in one["objective"].values() if tensor.is_floating_point())
    logs = [[without_rate(line) for line in lines(runs[0] / case / size)] for size in "12"]
    assert len(logs[0]) >= STEPS
    torch.testing.assert_close(*logs, rtol=1e-9, atol=1e-10, equal_nan=True)


def test_the_cases_have_batches_that_two_cannot_share_evenly(runs):
    sizes = {line["molecules"] for line in lines(runs[0] / "flow_matching" / "2") if "molecules" in line}
    assert any(size % 2 for size in sizes)
    assert {line["molecules"] for line in lines(runs[0] / "free_form-one" / "2") if "molecules" in line} == {1}


def test_a_path_that_one_rank_cannot_follow_is_rolled_back_by_all(runs):
    steps = [line["step"] for line in lines(runs[0] / "likelihood" / "2") if "loss" in line]
    assert 6 not in steps


def test_a_rank_whose_partner_dies_ends_with_one_line(runs):
    assert "rank 0 of 2: MolflowError('rank 0: another process of this run ended; continue with --resume')" in runs[1]
    assert load_state(runs[0] / "widow")["step"] == 7
    assert "Traceback" not in runs[1]


@pytest.mark.parametrize("size", [1, 2, 3, 5])
@pytest.mark.parametrize("at_once", [None, 1, 2, 7])
def test_ranks_share_a_batch(size, at_once):
    """Each configuration has one rank, costs are shared evenly, and weights are those of the mean."""
    for total in range(1, 12):
        parts = [Ranks(rank, size).parts(total, at_once) for rank in range(size)]
        chosen = [[i for part, weight in of_rank if weight for i in range(total)[part]] for of_rank in parts]
        assert sorted(i for of_rank in chosen for i in of_rank) == list(range(total))
        assert max(map(len, chosen)) - min(map(len, chosen)) <= 1
        for part, weight in (each for of_rank in parts for each in of_rank):
            n = len(range(total)[part])
            assert 1 <= n <= (at_once or total)
            assert weight in (0, n / total)


@pytest.mark.parametrize("draw", [torch.randint, torch.normal, torch.randn])
def test_draws_that_cannot_be_shared_are_refused(draw):
    arguments = {torch.randint: (9, (2,)), torch.normal: (0.0, 1.0, (2,)), torch.randn: (5, 2)}[draw]

    class Strange(torch.nn.Module):
        def sizes(self, batch):
            return torch.full((len(batch),), 3)

        def forward(self, batch, generator):
            return draw(*arguments, generator=generator).sum(), {}

    with pytest.raises(MolflowError, match="cannot be shared between processes or parts"):
        accumulate_gradients(Strange(), torch.zeros(4, 3), torch.Generator(), micro_batch=2)


def test_torchrun(tmp_path):
    """Both processes of the command line: rank 0 alone prints and writes, and the card goes to --json."""
    config = tmp_path / "moons.toml"
    config.write_text(
        'name = "moons"\ndata = {name = "two-moons"}\nmodel = {kind = "planar", domain.kind = "vectors"}\n'
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torchrun = f"torch.distributed.run --nproc-per-node 2 --master-port {port} -m"
    train = f"molflow train {config} --out {tmp_path}/run --json {tmp_path}/card.json"
    settings = [f"--set=training.{setting}" for setting in ("max_steps=3", "device=cpu", "micro_batch=9")]
    command = [sys.executable, "-m", *torchrun.split(), *train.split(), *settings]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, env=environment, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    assert len(re.findall("The model is in", done.stdout)) == 1
    assert json.loads((tmp_path / "card.json").read_text())["steps"] == 3
    assert not [path for path in tmp_path.rglob("*") if path.suffix == ".tmp"]
