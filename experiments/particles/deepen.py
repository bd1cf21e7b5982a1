"""Make the EGNNs of a trained flow deeper by blocks that change nothing until they are trained.

python experiments/particles/deepen.py runs/dw4-energy runs/dw4-deepened --blocks 7
"""

import argparse
from pathlib import Path

import torch
from torch import nn

import molflow
from molflow.files import read_json
from molflow.flows.storage import CARD, save_model
from molflow.nn import EGNN
from molflow.training.config import read_experiment


def deepen(network: EGNN, deeper: EGNN) -> None:
    """Copy the weights of the blocks that exist; the outputs of the added blocks are zero."""
    weights = network.state_dict()
    deeper.load_state_dict(deeper.state_dict() | weights)
    for block in deeper.blocks[len(network.blocks) :]:
        last = [layer.node[-1] for layer in block.messages] + [block.coordinates.last]
        for parameter in nn.ModuleList(last).parameters():
            nn.init.zeros_(parameter)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--blocks", type=int, required=True, help="of each network afterwards")
    arguments = parser.parse_args()

    if arguments.target.exists():
        raise SystemExit(f"{arguments.target} exists already")
    config, flow = read_experiment(arguments.source), molflow.load(arguments.source)
    maps = {name: getattr(config.model, name) for name in ("encoder", "decoder")}
    if any(network.kind != "egnn" or network.n_blocks >= arguments.blocks for network in maps.values()):
        raise SystemExit(f"{arguments.source}: expected EGNNs of less than {arguments.blocks} blocks")
    deeper = {name: network.model_copy(update={"n_blocks": arguments.blocks}) for name, network in maps.items()}
    config = config.model_copy(update={"model": config.model.model_copy(update=deeper)})
    torch.manual_seed(config.seed)
    built = config.model.build()
    for name in maps:
        deepen(getattr(flow, name), getattr(built, name))
    card = read_json(arguments.source / CARD) | {"validation": {}}
    save_model(arguments.target, config.model, built, card, config.without_model())


if __name__ == "__main__":
    main()
