"""Comparison of the two mirrored surrogates: noise of their gradients and time, on a trained model and real molecules.

    python experiments/surrogates.py [--model qm9] [--probes 16] [--json FILE]

Variance is E|g - mean g|^2 over single-probe gradients of the whole encoder for one batch of molecules, of the
surrogate in nats a molecule. Where it is far above |mean g|^2 times the number of probes, the mean is not resolved.
"""

import argparse
import json
import statistics
from pathlib import Path
from typing import Any

import torch

from molflow.data import load_qm9
from molflow.evaluation.throughput import seconds
from molflow.flows import SURROGATES, FreeFormFlow
from molflow.pretrained import load_named


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qm9")
    parser.add_argument("--probes", type=int, default=16)
    parser.add_argument("--molecules", type=int, default=64)
    parser.add_argument("--json", type=Path)
    arguments = parser.parse_args()

    flow = load_named(arguments.model)
    assert isinstance(flow, FreeFormFlow)
    validation = load_qm9("validation")
    indices = (validation.n_atoms == 18).nonzero()[0][: arguments.molecules]
    points, context, _ = flow.to_points(validation.batch(indices), flow.generator(0))
    points, space = points.detach(), flow.domain.space(context.mask)
    parameters = list(flow.encoder.parameters())
    records = []
    for name, surrogate in SURROGATES.items():
        gradients: list[torch.Tensor] = []

        def draw(seed: int, surrogate: Any = surrogate, gradients: list[torch.Tensor] = gradients) -> None:
            probes = space.probes(1, flow.generator(seed))
            _, _, value = surrogate(
                lambda p: flow.encode(p, context), lambda z: flow.decode(z, context), points, probes
            )
            gradient = torch.autograd.grad(value.mean(), parameters, allow_unused=True, materialize_grads=True)
            gradients.append(torch.cat([g.flatten() for g in gradient]))

        times = [seconds(lambda seed=seed: draw(seed)) for seed in range(arguments.probes)]
        stacked = torch.stack(gradients)
        mean = stacked.mean(0)
        variance = (stacked - mean).square().sum(1).sum() / (len(stacked) - 1)
        records.append(
            {
                "surrogate": name,
                "variance": float(variance),
                "squared_mean": float(mean.square().sum()),
                "ms_per_molecule": 1e3 * statistics.median(times) / len(indices),
                "probes": arguments.probes,
                "molecules": len(indices),
            }
        )
    for record in records:
        print(record)  # noqa: T201
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
