"""Make a one-evaluation model of an average velocity, or of a continuous flow, that was trained for several.

    python experiments/recipe/unroll.py runs/qm9-steps runs/qm9-unrolled --times 1 0.4 0.2 0.1 0

The weights are only rewritten; train the result further with `molflow train ... --start-from`.
"""

import argparse
from pathlib import Path

import molflow
from molflow.files import read_json
from molflow.flows import ContinuousConfig, ContinuousFlow, FreeFormConfig, FreeFormFlow, unroll
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
    source = molflow.load(arguments.source)
    backward = molflow.load(arguments.backward) if arguments.backward else None
    if not isinstance(source, ContinuousFlow | FreeFormFlow):
        raise SystemExit(f"{arguments.source} is neither a free-form nor a continuous flow")
    flow = unroll(source, arguments.times, backward)
    config = read_experiment(arguments.source)
    n_stages = {"n_stages": len(arguments.times) - 1}
    if isinstance(config.model, ContinuousConfig):
        network = config.model.network.model_copy(update=n_stages)
        model = FreeFormConfig(
            domain=config.model.domain, conditions=config.model.conditions, encoder=network, decoder=network
        )
    else:
        decoder = config.model.decoder.model_copy(update=n_stages)
        model = config.model.model_copy(update={"average_velocity": False, "decoder": decoder})
    if backward:
        made_of = read_model_config(arguments.backward)
        network = made_of.network if isinstance(backward, ContinuousFlow) else made_of.decoder
        model = model.model_copy(update={"encoder": network.model_copy(update=n_stages)})
    unrolled = config.model_copy(update={"model": model, "objective": InversionObjectiveConfig()})
    card = read_json(arguments.source / CARD) | {"unrolled_at": arguments.times, "validation": {}}
    save_model(arguments.target, model, flow, card, unrolled.without_model())


if __name__ == "__main__":
    main()
