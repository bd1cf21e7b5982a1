"""Milliseconds a sample of free-form flows, FFJORD and MAF of equal width, and their ratios.

    OMP_NUM_THREADS=1 python experiments/sampling_speed.py [--features 10 20] [--seconds 20] [--json FILE]

Each family is first trained for the same time on a mixture of eight Gaussians, as the solver of FFJORD takes more steps
for a trained velocity than for a fresh one.
"""

import argparse
import tempfile
from pathlib import Path

import torch
from diffusion import processor
from families import Row, experiment, milliseconds, print_table, train

from molflow.data.vectors import save_vectors
from molflow.files import write_json

WIDTH = 256
COMPARED = ("free_form", "maf", "ffjord")


def mixture(n: int, n_features: int) -> torch.Tensor:
    """n draws of a mixture of eight Gaussians with standard deviation 0.3 around standard normal means."""
    generator = torch.Generator().manual_seed(0)
    means = torch.randn(8, n_features, generator=generator)
    noise = torch.randn(n, n_features, generator=generator)
    return means[torch.randint(8, (n,), generator=generator)] + 0.3 * noise


def row(family: str, n_features: int, seconds: float, n: int) -> Row:
    """Train one family and time it."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "mixture.npz"
        save_vectors(path, mixture(10_000, n_features))
        config = experiment(family, "density", {"name": "vectors", "file": path})
        if family == "maf":
            config = config.model_copy(update={"model": config.model.model_copy(update={"hidden": WIDTH})})
        flow, figures = train(config, seconds)
    ms = milliseconds(lambda: flow.sample(n, seed=0), n)
    return {"features": n_features, "family": family, **figures, "ms_per_sample": ms}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--features", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--seconds", type=float, default=20.0, help="of training for each")
    parser.add_argument("-n", type=int, default=1000, help="samples in a timed call")
    parser.add_argument("--json", type=Path, help="file for the record")
    arguments = parser.parse_args()

    rows = []
    for n_features in arguments.features:
        group = [row(family, n_features, arguments.seconds, arguments.n) for family in COMPARED]
        least = group[0]["ms_per_sample"]
        rows += [each | {"times_free_form": each["ms_per_sample"] / least} for each in group]
    if arguments.json:
        write_json(arguments.json, rows)
    print(f"{processor()}, {torch.get_num_threads()} threads, width {WIDTH}")  # noqa: T201
    columns = {"features": "features", "family": "family", "steps": "steps", "ms a sample": "ms_per_sample"}
    print_table(rows, columns | {"times free-form": "times_free_form"})


if __name__ == "__main__":
    main()
