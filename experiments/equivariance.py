"""Errors of rotation, reflection, translation, permutation and padding, in float64 and float32.

    python experiments/equivariance.py [--model qm9]

For FFF's published network with fresh weights, and for the networks, the exact log-density and the whole flow
(decoder after encoder) of a model, on real QM9 molecules of mixed size. Errors are relative to the largest entry, or
to 1 where that is larger; those of the log-density are also given in nats.
"""

import argparse

import torch
from torch import Tensor

from molflow.batch import MoleculeBatch
from molflow.data import load_qm9
from molflow.flows import Flow
from molflow.geometry import Context, Points
from molflow.nn import EGNN
from molflow.pretrained import load_named
from molflow.testing import assert_equivariant, assert_invariant


def measure(flow: Flow, molecules: MoleculeBatch, dtype: torch.dtype) -> dict[str, dict[str, float]]:
    """Name of what is tested -> law -> error."""
    points, context, _ = flow.to_points(molecules, flow.generator(0))
    mask, n_features = context.mask, points.h.shape[-1]
    # Labels follow the features, so that they are permuted and padded with them.
    joined = Points(points.x, torch.cat([points.h, context.labels], -1))

    def split(x: Tensor, h: Tensor, mask: Tensor) -> tuple[Points, Context]:
        return Points(x, h[..., :n_features]), Context(mask, h[..., n_features:])

    def decoder(x: Tensor, h: Tensor, mask: Tensor) -> Points:
        start, context = split(x, h, mask)
        return flow.decode(start, context) - start

    def whole(x: Tensor, h: Tensor, mask: Tensor) -> Points:
        start, context = split(x, h, mask)
        return flow.decode(flow.encode(start, context), context) - start

    results = {
        "published network": assert_equivariant(EGNN(joined.h.shape[-1]).to(dtype), *joined, mask),
        "encoder network": assert_equivariant(flow.encoder, *joined, mask),
        "decoder network": assert_equivariant(decoder, *joined, mask),
        "whole flow": assert_equivariant(whole, *joined, mask),
    }
    for which in ("encoder", "decoder"):

        def log_prob(p: Points, mask: Tensor, which: str = which) -> Tensor:
            return flow.points_log_prob(*split(*p, mask), which)[0]

        size = max(1.0, float(log_prob(joined, mask).abs().max()))
        errors = results[f"log_prob, {which}"] = assert_invariant(log_prob, joined, mask)
        results[f"{which}, nats"] = {law: error * size for law, error in errors.items()}
    return results


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qm9")
    arguments = parser.parse_args()
    molecules = load_qm9("test").batch(range(3))
    for dtype in (torch.float64, torch.float32):
        torch.manual_seed(0)
        with torch.no_grad():
            results = measure(load_named(arguments.model).to(dtype), molecules, dtype)
        for name, errors in results.items():
            figures = "  ".join(f"{law} {error:.1e}" for law, error in errors.items())
            print(f"{str(dtype).removeprefix('torch.')}  {name:18} {figures}")  # noqa: T201


if __name__ == "__main__":
    main()
