"""Sampling times of families of flows by dimension, at the width they have in zoo.py, beside the free-form flow.

    OMP_NUM_THREADS=1 python experiments/vector_speed.py [--dimensions 2 10 30 100] [-n 2000]

Weights are random: times of free-form and autoregressive flows do not depend on them. A trained continuous flow takes
more evaluations than the one here, so its ratio is a lower bound. Milliseconds of processor time a sample.
"""

import argparse

import torch
from families import FAMILIES, milliseconds

from molflow.config import parse
from molflow.flows import Flow
from molflow.flows.base import FlowConfig
from molflow.flows.registry import FLOWS

NAMES = ("free_form", "maf", "iaf", "realnvp", "nsf", "ffjord")


def flow_of(family: str, features: int) -> Flow[torch.Tensor]:
    """A flow with random weights on vectors."""
    table = FAMILIES[family][0] | {"domain": {"kind": "vectors", "n_features": features}}
    torch.manual_seed(0)
    config: FlowConfig = parse(FLOWS[table["kind"]], table, family)
    return config.build().eval()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dimensions", type=int, nargs="+", default=[2, 10, 30, 100])
    parser.add_argument("-n", type=int, default=2000, help="samples in a timed call")
    arguments = parser.parse_args()

    print("dimension  " + "".join(f"{name:>18}" for name in NAMES))  # noqa: T201
    for features in arguments.dimensions:
        flows = [flow_of(name, features) for name in NAMES]
        times = [milliseconds(lambda flow=flow: flow.sample(arguments.n, seed=0), arguments.n) for flow in flows]
        cells = [f"{t:.4f} ({t / times[0]:.1f}x)" for t in times]
        print(f"{features:9}  " + "".join(f"{cell:>18}" for cell in cells))  # noqa: T201


if __name__ == "__main__":
    main()
