"""Families of flows on vectors, each trained for the same time: what zoo.py and sbi.py share."""

import json
import tempfile
import time
from collections.abc import Callable, Iterable, Sequence
from itertools import count
from pathlib import Path
from statistics import median
from typing import Any, NamedTuple, cast

import torch
from torch import Tensor
from tqdm import tqdm

from molflow.config import parse
from molflow.data import DATASETS
from molflow.data.densities import split_generator
from molflow.data.simulators import BenchmarkTask
from molflow.data.vectors import save_vectors
from molflow.errors import MolflowError
from molflow.evaluation import c2st
from molflow.files import write_json
from molflow.flows import FLOWS, ContinuousFlow, Flow, unroll
from molflow.flows.solvers import IntegrationError
from molflow.flows.zoo import BijectiveConfig
from molflow.sbi import Posterior
from molflow.sbi.posterior import quadratic_times
from molflow.sbi.preparation import Bounds, Observations
from molflow.training.config import ExperimentConfig
from molflow.training.loop import step_seed
from molflow.training.objectives import accumulate_gradients
from molflow.training.run import new_run
from molflow.training.tasks import load_splits

Row = dict[str, Any]

MLP = {"kind": "mlp"}  # learns faster than the network that free-form flows were published with, which is "resnet"
CONTINUOUS = {"kind": "continuous", "network": MLP}
FAMILIES: dict[str, tuple[Row, Row]] = {
    **{
        kind: ({"kind": kind}, {"kind": "likelihood"})
        for kind, config in FLOWS.items()
        if issubclass(config, BijectiveConfig)
    },
    "ffjord": (CONTINUOUS, {"kind": "likelihood"}),
    "diffusion": ({"kind": "diffusion", "network": MLP, "n_steps": 100}, {"kind": "diffusion"}),
    "flow_matching": (CONTINUOUS, {"kind": "flow_matching", "pairing": "none", "log_uniform_fraction": 0.5}),
    "free_form": (
        {"kind": "free_form", "encoder": MLP, "decoder": MLP},
        {"kind": "free_form", "surrogate": "decoder_jvp"},
    ),
}
"""Name -> the tables [model], without its domain, and [objective]."""

FAMILIES["unrolled"] = FAMILIES["flow_matching"]
"""Flow matching, whose steps of Euler's method then become the decoder, and backward the encoder, of one evaluation."""

BETA = {"density": {"first_beta": 5.0, "beta": 200.0}, "posterior": {"first_beta": 10.0, "beta": 1000.0}}
"""First and last weight of the reconstruction error of free-form flows; posteriors may be narrow."""

SHARES = 1000
"""Length of the learning-rate schedule, in equal parts of a training."""


class Scale(NamedTuple):
    """Numbers of samples that figures rest on.

    Attributes:
        c2st: samples of the posterior and of the reference.
        test: held-out vectors for the likelihood.
        timed: samples, and densities, in a timed call.
        grid: points along a side of a picture.
    """

    c2st: int = 10_000
    test: int = 5_000
    timed: int = 1_000
    grid: int = 128


QUICK = Scale(c2st=100, test=300, timed=100, grid=48)


class Trained(NamedTuple):
    """The averaged flow of a training, with the figures of a row about it."""

    flow: Flow[Tensor]
    figures: Row


def experiment(family: str, kind: str, data: Row) -> ExperimentConfig:
    """The experiment that trains a family on a density or a posterior; all have the same optimiser and batches."""
    model, objective = FAMILIES[family]
    if objective["kind"] == "free_form":
        objective = objective | BETA[kind]
    tables = {
        "name": family,
        "data": data,
        "model": model | {"domain": {"kind": "vectors"}},
        "objective": objective,
        "optimizer": {"warmup_steps": SHARES // 50},
        "training": {"batch_size": 256, "device": "cpu"},
    }
    return parse(ExperimentConfig, tables, family)


def train(config: ExperimentConfig, seconds: float) -> Trained:
    """Train for a time; the learning rate follows the share of it that has passed.

    Steps whose gradient is not finite are left out and counted.

    Raises:
        MolflowError: no step within the time has a finite gradient.
    """
    splits = load_splits(config)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        run = new_run(splits, torch.device("cpu"), SHARES, None)
    batches, prepare, flow = splits.batches(), run.objective.preparation(), run.objective.flow
    indices = (chosen for epoch in count() for chosen in batches.epoch(epoch))
    skipped, began = 0, time.process_time()
    with tqdm(
        total=SHARES, desc="training", bar_format="{desc} {percentage:3.0f}%|{bar}| {postfix}", leave=False
    ) as bar:
        while (share := (time.process_time() - began) / seconds) < 1:
            generator = torch.Generator().manual_seed(step_seed(config.seed, run.step + skipped))
            batch = prepare(splits.batch(next(indices)), generator)
            run.optimizer.zero_grad(set_to_none=True)
            run.objective.share = share
            try:
                loss, _ = accumulate_gradients(run.objective, batch, generator)
                finite = all(bool(p.grad.isfinite().all()) for p in run.parameters if p.grad is not None)
            except IntegrationError:
                finite = False
            if not finite:
                skipped += 1
                continue
            run.clip(run.parameters)
            run.scheduler.last_epoch = int(SHARES * share) - 1
            run.update({})
            bar.set_postfix_str(f"step {run.step}, loss {loss:.3f}", refresh=False)
            bar.update(int(SHARES * share) - bar.n)
    elapsed = time.process_time() - began
    if not run.step:
        raise MolflowError(f"none of {skipped} steps has a finite gradient")
    return Trained(
        cast(Flow[Tensor], run.ema.module.eval()),
        {
            "parameters": sum(p.numel() for p in flow.parameters()),
            "training_seconds": elapsed,
            "steps": run.step,
            "skipped_steps": skipped,
            "threads": torch.get_num_threads(),
        },
    )


def train_family(family: str, kind: str, data: Row, seconds: float) -> Trained:
    """Train a family on a density or a posterior for a time, and unroll it if that is what it is named for."""
    flow, figures = train(experiment(family, kind, data), seconds)
    if family == "unrolled":
        flow = unroll(cast(ContinuousFlow[Tensor], flow), quadratic_times())
    return Trained(flow, figures)


def train_posterior(task: BenchmarkTask, family: str, seconds: float) -> tuple[Posterior, Row]:
    """A posterior trained on the simulations of a task, as `molflow.sbi.train` makes it but for the time."""
    theta, x = task.simulations(task.n, split_generator(task.seed, "train"))
    bounds, observations = Bounds.of(task.prior, theta.shape[1]), Observations.of(x)
    features = observations.features(x).float()
    names = [f"x{k + 1}" for k in range(features.shape[1])]
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "simulations.npz"
        save_vectors(path, bounds.free(theta)[0].float(), features)
        data = {"name": "simulations", "file": path, "condition": names}
        flow, figures = train_family(family, "posterior", data, seconds)
    return Posterior(flow, bounds, observations, task.parameters), figures


def posterior_row(
    name: str, family: str, n_simulations: int, seconds: float, observations: Sequence[int], scale: Scale
) -> Row:
    """Train a posterior and compare it with the reference posterior of each observation."""
    task = cast(type[BenchmarkTask], DATASETS[name])(n=n_simulations)
    posterior, row = train_posterior(task, family, seconds)
    scores = []
    for number in tqdm(observations, desc="C2ST", leave=False):
        reference = task.reference_posterior(number)[: scale.c2st]
        scores.append(c2st(reference, posterior.sample((len(reference),), task.observation(number), seed=0)))
    x = task.observation(observations[0])
    theta = task.reference_posterior(observations[0])[: scale.timed]
    speed = speeds(lambda: posterior.sample((len(theta),), x, seed=0), lambda: posterior.log_prob(theta, x), len(theta))
    return row | {"c2st": scores, "mean_c2st": sum(scores) / len(scores)} | speed


def speeds(sample: Callable[[], Any], density: Callable[[], Any], n: int) -> Row:
    """Milliseconds of processor time for each of n samples and densities."""
    return {"ms_per_sample": milliseconds(sample, n), "ms_per_density": milliseconds(density, n)}


def milliseconds(work: Callable[[], Any], n: int) -> float:
    """Processor time for each of n things that a call makes, the median of three calls after one to warm up."""
    work()
    return 1e3 * median(_processor_seconds(work) for _ in range(3)) / n


def _processor_seconds(work: Callable[[], Any]) -> float:
    began = time.process_time()
    work()
    return time.process_time() - began


def fill(path: Path, keys: Iterable[Row], make: Callable[..., Row]) -> list[Row]:
    """The rows of a table; those that a file does not have are made and written to it one by one.

    A row that fails has `error` in place of its figures, and is made again the next time.

    Args:
        path: a JSON file.
        keys: what tells the rows apart.
        make: key -> the figures of the row.
    """
    keys = list(keys)
    rows: list[Row] = json.loads(path.read_text()) if path.exists() else []
    path.parent.mkdir(parents=True, exist_ok=True)
    with tqdm(keys) as bar:
        for key in bar:
            bar.set_description(" ".join(str(value) for value in key.values()))
            if "error" not in _find(rows, key):
                continue
            try:
                row = key | make(**key)
            except (MolflowError, ValueError) as error:
                row = key | {"error": str(error)}
            rows = [*(other for other in rows if not key.items() <= other.items()), row]
            write_json(path, rows)
    return [_find(rows, key) for key in keys]


def _find(rows: Sequence[Row], key: Row) -> Row:
    return next((row for row in rows if key.items() <= row.items()), {"error": "not made yet"})


def print_table(rows: Sequence[Row], columns: dict[str, str]) -> None:
    """Print rows in Markdown.

    Args:
        rows: of a table.
        columns: heading -> key of a row.
    """
    lines = [list(columns), ["---"] * len(columns)]
    for row in rows:
        cells = [_cell(row.get(key, "")) for key in columns.values()]
        lines.append([*cells[:-1], row["error"]] if "error" in row else cells)
    for line in lines:
        print("|", " | ".join(line), "|")  # noqa: T201


def _cell(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.3f}" if 0.01 <= abs(value) < 1000 else f"{value:.2g}"
    return f"{value:,}" if isinstance(value, int) else str(value)


SPEED_COLUMNS = {
    "parameters": "parameters",
    "steps": "steps",
    "training s": "training_seconds",
    "ms a sample": "ms_per_sample",
    "ms a density": "ms_per_density",
}
