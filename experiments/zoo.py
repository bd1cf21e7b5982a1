"""The families of flows beside each other on densities and posteriors, each trained for the same processor time.

    OMP_NUM_THREADS=1 python experiments/zoo.py [--seconds 300] [--only TASK_OR_FAMILY ...] [--quick] [--out FOLDER]

NLL (nats, 5,000 held-out vectors) of the densities in the plane and of dw4-vectors; C2ST (0.5 is best, mean of two
observations) of the posteriors from 10,000 simulations. The likelihood is that of the encoder. Samples have this
density only where |x - g(f(x))|, the mean reconstruction error in standard deviations of the data, is small.

Rows go to experiments/results/zoo.json, and a finished row is not made again; experiments/results/densities.png shows
the densities in the plane. --quick trains each family for 3 seconds on two tasks, into runs/zoo-quick.
"""

import argparse
from functools import partial
from pathlib import Path

import numpy as np
import torch
from families import (
    FAMILIES,
    QUICK,
    SPEED_COLUMNS,
    Row,
    Scale,
    fill,
    posterior_row,
    print_table,
    speeds,
    train_family,
)

from molflow.data import DATASETS
from molflow.data.densities import PlaneDensity
from molflow.data.simulators import BenchmarkTask
from molflow.energies import get_system
from molflow.flows import Flow

PLANE = [name for name in DATASETS.names() if issubclass(DATASETS[name], PlaneDensity)]
POSTERIORS = [name for name in DATASETS.names() if issubclass(DATASETS[name], BenchmarkTask)]
TASKS = [*PLANE, "dw4-vectors", *POSTERIORS]
N_SIMULATIONS, OBSERVATIONS = 10_000, (1, 2)
LIMIT = 4.5
"""Pictures show [-LIMIT, LIMIT] on both axes."""


def row(scale: Scale, grids: Path, task: str, family: str, seconds: float) -> Row:
    """Train one family on one task."""
    if task in POSTERIORS:
        return posterior_row(task, family, N_SIMULATIONS, seconds, OBSERVATIONS, scale)
    return density_row(scale, grids, task, family, seconds)


def density_row(scale: Scale, grids: Path, task: str, family: str, seconds: float) -> Row:
    """Train a family on a density; one in the plane is also kept on a grid for the picture."""
    data = DATASETS[task]()
    flow, figures = train_family(family, "density", {"name": task}, seconds)
    x = data.load("test").data[: scale.test]
    likelihood = flow.likelihood(x)
    nll = -likelihood.log_prob.double()
    if not nll.isfinite().all():
        raise ValueError(f"{int((~nll.isfinite()).sum())} of {len(nll)} log-densities are not finite")
    if isinstance(data, PlaneDensity):
        figures |= {"nll_of_truth": -float(data.log_prob(x).mean())}
        save_grid(grids, f"{task}-truth", data.log_prob(points(scale.grid)))
        save_grid(grids, f"{task}-{family}", flow.log_prob(points(scale.grid)))
    else:
        figures |= {"nll_of_truth": get_system("dw4").entropy}
    return figures | {
        "nll": float(nll.mean()),
        "nll_error": float(nll.std()) / len(nll) ** 0.5,
        "reconstruction_error": float(likelihood.reconstruction_error.mean()),
        **flow_speeds(flow, x[: scale.timed]),
    }


def flow_speeds(flow: Flow[torch.Tensor], x: torch.Tensor) -> Row:
    n = len(x)
    return speeds(lambda: flow.sample(n, seed=0), lambda: flow.log_prob(x), n)


def points(n: int) -> torch.Tensor:
    """Points of a grid on the plane, (n * n, 2), the second coordinate changing first."""
    axis = torch.linspace(-LIMIT, LIMIT, n)
    return torch.cartesian_prod(axis, axis)


def save_grid(folder: Path, name: str, log_prob: torch.Tensor) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    side = round(len(log_prob) ** 0.5)
    np.save(folder / f"{name}.npy", log_prob.exp().view(side, side).half().numpy())


def draw(path: Path, grids: Path, tasks: list[str], families: list[str]) -> None:
    """Draw densities side by side, tasks as rows, the true density first; what has no grid is left empty."""
    from matplotlib.figure import Figure

    columns = ["truth", *families]
    figure = Figure(figsize=(1.2 * len(columns), 1.2 * len(tasks) + 0.3), layout="constrained")
    axes = figure.subplots(len(tasks), len(columns), squeeze=False)
    for task, line in zip(tasks, axes, strict=True):
        brightest = np.load(grids / f"{task}-truth.npy").max()
        for column, axis in zip(columns, line, strict=True):
            axis.set(xticks=[], yticks=[])
            if (file := grids / f"{task}-{column}.npy").exists():
                axis.imshow(np.load(file).T, vmin=0, vmax=brightest, origin="lower", cmap="magma")
    for column, axis in zip(columns, axes[0], strict=True):
        axis.set_title(column.replace("_", " "), fontsize=8)
    for task, axis in zip(tasks, axes[:, 0], strict=True):
        axis.set_ylabel(task, fontsize=8)
    figure.savefig(path, dpi=160)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="of training for each, by default 300")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="tasks, families or both; by default all")
    parser.add_argument("--quick", action="store_true", help="a look at everything within minutes")
    parser.add_argument("--out", type=Path, help="by default experiments/results")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - {*TASKS, *FAMILIES}:
        parser.error(
            f"no such task or family: {', '.join(sorted(unknown))}; there are: {', '.join([*TASKS, *FAMILIES])}"
        )

    quick = arguments.quick
    some = ["two-moons", "sbi-two-moons"] if quick else TASKS
    tasks = [name for name in TASKS if name in arguments.only] or some
    families = [name for name in FAMILIES if name in arguments.only] or list(FAMILIES)
    out = arguments.out or Path("runs/zoo-quick" if quick else "experiments/results")
    seconds = arguments.seconds or (3.0 if quick else 300.0)
    scale, grids = QUICK if quick else Scale(), out / "grids"

    keys = [{"task": task, "family": family, "seconds": seconds} for task in tasks for family in families]
    rows = fill(out / "zoo.json", keys, partial(row, scale, grids))
    densities = [row for row in rows if row["task"] not in POSTERIORS]
    columns = {"task": "task", "family": "family"}
    if densities:
        likelihoods = {"NLL": "nll", "±": "nll_error", "NLL of truth": "nll_of_truth"}
        print_table(
            densities, columns | likelihoods | {"&#124;x - g(f(x))&#124;": "reconstruction_error"} | SPEED_COLUMNS
        )
        print()  # noqa: T201
    if posteriors := [row for row in rows if row["task"] in POSTERIORS]:
        print_table(posteriors, columns | {"C2ST": "mean_c2st"} | SPEED_COLUMNS)
    if drawn := [task for task in PLANE if (grids / f"{task}-truth.npy").exists() and task in tasks]:
        draw(out / "densities.png", grids, drawn, families)


if __name__ == "__main__":
    main()
