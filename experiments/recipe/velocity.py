"""Weights for a velocity from a decoder of unrolled stages, so that its training need not begin at random ones.

    cd experiments/recipe
    python velocity.py qm9-allatom allatom-velocity.toml runs/start --times 1 0.4 0.2 0.08 0
    molflow train allatom-velocity.toml --start-from runs/start

The stages of a decoder that was unrolled differ in what the times add to their first layer and in the lengths of their
steps alone. The velocity takes the other weights from the first stage, and its embedding of time is fitted to give each
stage's bias in the middle of its interval.
"""

import argparse
from itertools import pairwise
from pathlib import Path

import numpy as np
import torch
from untrained import untrained

import molflow
from molflow.flows import ContinuousFlow
from molflow.flows.storage import save_model
from molflow.nn import Chain, EquivariantTransformer
from molflow.pretrained import folder_of

FITTING_STEPS = 3000


def velocity_of_stages(network: EquivariantTransformer, decoder: Chain, times: list[float]) -> None:
    """Give a network of one time the weights of the first stages of a decoder, which lie between the times."""
    stages = list(decoder.stages)[: len(times) - 1]
    network.load_state_dict(stages[0].state_dict(), strict=False)
    biases = np.stack([stage.get_parameter("embed.bias").detach().numpy() for stage in stages])
    middles = [(t + r) / 2 for t, r in pairwise(times)]
    at = np.linspace(0, 1, 101)
    wanted = np.stack([np.interp(at, middles[::-1], column[::-1]) for column in biases.T], 1) - biases.mean(0)
    with torch.no_grad():
        network.embed.bias.copy_(torch.from_numpy(biases.mean(0)))
        network.move.weight /= times[1] - times[0]
        if network.readout is not None:
            network.readout.weight /= times[1] - times[0]
            network.readout.bias /= times[1] - times[0]
    assert network.embed_times is not None
    optimizer = torch.optim.Adam(network.embed_times.parameters(), 1e-3)
    inputs, targets = torch.from_numpy(at).float().unsqueeze(1), torch.from_numpy(wanted).float()
    for _ in range(FITTING_STEPS):
        optimizer.zero_grad()
        (network.embed_times(inputs) - targets).square().mean().backward()
        optimizer.step()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=folder_of, help="a flow with a decoder of unrolled stages")
    parser.add_argument("experiment", help="that will train the velocity")
    parser.add_argument("target", type=Path)
    parser.add_argument("--times", type=float, nargs="+", required=True, help="of the stages, from 1 down to 0")
    arguments = parser.parse_args()

    if arguments.target.exists():
        raise SystemExit(f"{arguments.target} exists already")
    config, flow = untrained(arguments.experiment)
    source = molflow.load(arguments.source)
    if not isinstance(flow, ContinuousFlow) or not isinstance(decoder := getattr(source, "decoder", None), Chain):
        raise SystemExit("needs a decoder of several stages, and an experiment of a continuous flow")
    velocity_of_stages(flow.network, decoder, arguments.times)
    save_model(arguments.target, config, flow, {"how": f"from the stages of {arguments.source.name}"})


if __name__ == "__main__":
    main()
