"""Make the continuous flow of an average velocity: where both of its times are equal, it is a velocity.

    python experiments/continuous.py runs/qm9-teacher runs/qm9-cnf

The weights are only rewritten; train the result further with `molflow train ... --start-from`.
"""

import argparse
import shutil
from pathlib import Path

import molflow
from molflow.files import read_json
from molflow.flows.continuous import ContinuousConfig
from molflow.flows.storage import CARD, save_model
from molflow.training.config import read_experiment
from molflow.training.objectives.flow_matching import FlowMatchingObjectiveConfig

TIMES = "embed_times.0.weight"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path)
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    if arguments.target.exists():
        raise SystemExit(f"{arguments.target} exists already")
    config = read_experiment(arguments.source)
    if not getattr(config.model, "average_velocity", False):
        raise SystemExit(f"{arguments.source} has no average velocity")
    kept = {key: w for key, w in molflow.load(arguments.source).state_dict().items() if not key.startswith("encoder.")}
    weights = {key.replace("decoder.", "network.", 1): w for key, w in kept.items()}
    weights[f"network.{TIMES}"] = weights[f"network.{TIMES}"].sum(1, keepdim=True)

    model = ContinuousConfig(domain=config.model.domain, network=config.model.decoder)
    flow = model.build()
    flow.load_state_dict(weights)
    pairing = {key: getattr(config.objective, key) for key in ("pairing", "loss_exponent")}
    experiment = config.model_copy(update={"objective": FlowMatchingObjectiveConfig(**pairing)})
    card = read_json(arguments.source / CARD) | {"validation": {}}
    save_model(arguments.target, model, flow, card, experiment.without_model())
    shutil.copyfile(arguments.source / "metrics.jsonl", arguments.target / "metrics.jsonl")


if __name__ == "__main__":
    main()
