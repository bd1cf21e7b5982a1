"""Make an average velocity of a continuous flow: u(x, r, t) begins as the velocity f(x, t), whatever r is.

    python experiments/recipe/average.py qm9-environment runs/qm9-average

The weights are only rewritten; train the result further with `molflow train ... --start-from`. Its encoder is new.
"""

import argparse
from pathlib import Path

import torch

import molflow
from molflow.flows.free_form import FreeFormConfig
from molflow.flows.storage import save_model
from molflow.pretrained import folder_of
from molflow.training.config import read_experiment

TIMES = "embed_times.0.weight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=folder_of, help="a continuous flow, shipped or of a folder")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    if arguments.target.exists():
        raise SystemExit(f"{arguments.target} exists already")
    source = read_experiment(arguments.source).model
    network = source.network
    model = FreeFormConfig(domain=source.domain, encoder=network, decoder=network, average_velocity=True)
    torch.manual_seed(0)
    flow = model.build()
    weights = molflow.load(arguments.source).state_dict()
    kept = {
        f"decoder.{key.removeprefix('network.')}" if key.startswith("network.") else key: weights[key]
        for key in weights
    }
    of_time = kept[f"decoder.{TIMES}"]
    kept[f"decoder.{TIMES}"] = torch.cat([torch.zeros_like(of_time), of_time], 1)
    flow.load_state_dict(flow.state_dict() | kept)
    save_model(arguments.target, model, flow, {"averaged_from": str(arguments.source)})


if __name__ == "__main__":
    main()
