"""Errors of rotation, reflection, translation, permutation and padding, in float64 and float32.

    python experiments/equivariance.py [--model qm9]

For FFF's published network with fresh weights, and for the networks, the exact log-density and the whole flow
(decoder after encoder) of a model, on real QM9 molecules of mixed size. Errors are relative to the largest entry, or
to 1 where that is larger; those of the log-density are also given in nats.
"""

import argparse

import torch

from molflow.data import load_qm9
from molflow.geometry import Points
from molflow.nn import EGNN
from molflow.pretrained import load_named
from molflow.testing import assert_equivariant, assert_invariant


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qm9")
    arguments = parser.parse_args()
    molecules = load_qm9("test").batch(range(3))
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        flow = load_named(arguments.model).to(dtype)
        points, mask, _ = flow.domain.to_points(molecules, flow.generator(0))

        def whole(x: torch.Tensor, h: torch.Tensor, mask: torch.Tensor, flow=flow) -> Points:
            start = Points(x, h)
            return flow.decode(flow.encode(start, mask), mask) - start

        with torch.no_grad():
            results = {
                "published network": assert_equivariant(EGNN(5).to(dtype), *points, mask),
                "encoder network": assert_equivariant(flow.encoder, *points, mask),
                "decoder network": assert_equivariant(flow.decoder, *points, mask),
                "whole flow": assert_equivariant(whole, *points, mask),
            }
            for which in ("encoder", "decoder"):
                size = max(1.0, float(flow.points_log_prob(points, mask, which)[0].abs().max()))
                results[f"log_prob, {which}"] = assert_invariant(
                    lambda p, m, flow=flow, which=which: flow.points_log_prob(p, m, which)[0], points, mask
                )
                results[f"{which}, nats"] = {k: v * size for k, v in results[f"log_prob, {which}"].items()}
        for name, errors in results.items():
            figures = "  ".join(f"{law} {error:.1e}" for law, error in errors.items())
            print(f"{str(dtype).removeprefix('torch.')}  {name:18} {figures}")  # noqa: T201


if __name__ == "__main__":
    main()
