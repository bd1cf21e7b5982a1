"""Give a free-form flow of data with noise a denoiser: the velocity of a continuous flow on the same domain.

    python experiments/recipe/denoiser.py runs/qm9-fff qm9-environment runs/qm9-fff-denoised --times 0.3 0.15 0.05 0

Nothing is trained. The weights of both are joined; times were chosen on samples of a seed that no card uses.
"""

import argparse
from pathlib import Path

import molflow
from molflow.files import read_json
from molflow.flows import ContinuousFlow
from molflow.flows.free_form import DenoiserConfig
from molflow.flows.storage import CARD, read_model_config, save_model
from molflow.pretrained import folder_of
from molflow.training.config import read_experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=Path, help="a run of a free-form flow with noise")
    parser.add_argument("velocity", type=folder_of, help="a continuous flow, shipped or of a folder")
    parser.add_argument("target", type=Path)
    parser.add_argument("--times", type=float, nargs="+", required=True, help="from below 1 down to 0")
    arguments = parser.parse_args()

    if arguments.target.exists():
        raise SystemExit(f"{arguments.target} exists already")
    experiment, other = read_experiment(arguments.source), read_model_config(arguments.velocity)
    flow, velocity = molflow.load(arguments.source), molflow.load(arguments.velocity)
    if not isinstance(velocity, ContinuousFlow):
        raise SystemExit(f"{arguments.velocity} is no continuous flow")
    flow.denoiser = velocity.network
    denoiser = DenoiserConfig(network=other.network, times=arguments.times)
    model = experiment.model.model_copy(update={"denoiser": denoiser})
    card = read_json(arguments.source / CARD) | {"denoiser": str(arguments.velocity), "denoiser_times": arguments.times}
    save_model(arguments.target, model, flow, card, experiment.without_model())


if __name__ == "__main__":
    main()
