"""Free-form flows, spline flows and flow matching, also unrolled, on the benchmark of simulation-based inference.

    OMP_NUM_THREADS=1 python experiments/sbi.py [--seconds 600] [--only TASK_OR_FAMILY ...] [--quick] [--out FOLDER]

C2ST (arXiv 2101.04653; 0.5 is best), the mean of all ten observations, after the same processor time of training on
10,000 and on 100,000 simulations. The column NPE has the benchmark's own neural posterior estimation. Rows go to
experiments/results/sbi.json, and a finished row is not made again. --quick trains for 3 seconds on 10,000 simulations
of one task and scores one observation, into runs/sbi-quick.
"""

import argparse
from functools import partial
from pathlib import Path

from families import FAMILIES, QUICK, SPEED_COLUMNS, Row, Scale, fill, posterior_row, print_table

from molflow.data.simulators import N_OBSERVATIONS

N_SIMULATIONS = (10_000, 100_000)
COMPARED = [name for name in FAMILIES if name in ("free_form", "nsf", "flow_matching", "unrolled")]
NPE = {
    "sbi-two-moons": (0.606, 0.542),
    "sbi-gaussian-mixture": (0.661, 0.555),
    "sbi-gaussian-linear": (0.552, 0.506),
    "sbi-gaussian-linear-uniform": (0.553, 0.509),
    "sbi-slcp": (0.901, 0.831),
    "sbi-bernoulli-glm": (0.678, 0.559),
    "sbi-sir": (0.680, 0.585),
    "sbi-lotka-volterra": (0.997, 0.981),
}
"""Task -> mean C2ST of NPE at 10,000 and 100,000 simulations, from the published results of the benchmark."""


def row(scale: Scale, observations: range, task: str, family: str, n_simulations: int, seconds: float) -> Row:
    """Train one family on simulations of one task."""
    figures = posterior_row(task, family, n_simulations, seconds, observations, scale)
    return figures | {"npe": NPE[task][N_SIMULATIONS.index(n_simulations)]}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, help="of training for each, by default 600")
    parser.add_argument("--only", nargs="+", metavar="NAME", default=[], help="tasks, families or both; by default all")
    parser.add_argument("--quick", action="store_true", help="a look at everything within a minute")
    parser.add_argument("--out", type=Path, help="by default experiments/results")
    arguments = parser.parse_args()
    if unknown := set(arguments.only) - {*NPE, *COMPARED}:
        parser.error(f"no such task or family: {', '.join(sorted(unknown))}; there are: {', '.join([*NPE, *COMPARED])}")

    quick = arguments.quick
    tasks = [name for name in NPE if name in arguments.only] or (["sbi-two-moons"] if quick else list(NPE))
    families = [name for name in COMPARED if name in arguments.only] or COMPARED
    out = arguments.out or Path("runs/sbi-quick" if quick else "experiments/results")
    seconds = arguments.seconds or (3.0 if quick else 600.0)

    keys = [
        {"task": task, "family": family, "n_simulations": n, "seconds": seconds}
        for task in tasks
        for n in (N_SIMULATIONS[:1] if quick else N_SIMULATIONS)
        for family in families
    ]
    observations = range(1, 2 if quick else 1 + N_OBSERVATIONS)
    rows = fill(out / "sbi.json", keys, partial(row, QUICK if quick else Scale(), observations))
    columns = {"task": "task", "simulations": "n_simulations", "family": "family", "C2ST": "mean_c2st", "NPE": "npe"}
    print_table(rows, columns | SPEED_COLUMNS)


if __name__ == "__main__":
    main()
