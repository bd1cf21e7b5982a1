"""Make a one-evaluation model of an average velocity that was trained for several: the last step of the recipe.

    python experiments/recipe/unroll.py runs/qm9-steps runs/qm9-unrolled --times 1 0.4 0.2 0.1 0

The weights are only rewritten; train the result further with `molflow train ... --start-from`.
"""

import argparse
from pathlib import Path

import molflow
from molflow.files import read_json
from molflow.flows import ContinuousFlow, unroll
from molflow.flows.storage import CARD, read_model_config, save_model
from molflow.training.config import read_experiment
from molflow.training.objectives.inversion import InversionObjectiveConfig


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    parser.add_argument("--times", type=float, nargs="+", required=True, help="from 1 down to 0")
    parser.add_argument(
        "--backward", type=Path, help="a run with objective.both_ways, or a continuous flow: makes the encoder"
    )
    arguments = parser.parse_args()

    if arguments.target.exists():
        raise SystemExit(f"{arguments.target} exists already")
    backward = molflow.load(arguments.backward) if arguments.backward else None
    flow = unroll(molflow.load(arguments.source), arguments.times, backward)
    config = read_experiment(arguments.source)
    n_stages = {"n_stages": len(arguments.times) - 1}
    changed: dict[str, object] = {"average_velocity": False}
    changed |= {"decoder": config.model.decoder.model_copy(update=n_stages)}
    if backward:
        made_of = read_model_config(arguments.backward)
        network = made_of.network if isinstance(backward, ContinuousFlow) else made_of.decoder
        changed |= {"encoder": network.model_copy(update=n_stages)}
    model = config.model.model_copy(update=changed)
    unrolled = config.model_copy(update={"model": model, "objective": InversionObjectiveConfig()})
    card = read_json(arguments.source / CARD) | {"unrolled_at": arguments.times, "validation": {}}
    save_model(arguments.target, model, flow, card, unrolled.without_model())


if __name__ == "__main__":
    main()
