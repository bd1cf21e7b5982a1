"""Let the velocity of a continuous flow on the same domain remove the errors of the samples of a free-form flow.

    python experiments/recipe/denoiser.py runs/qm9-fff qm9-environment runs/qm9-fff-denoised --times 0.3 0.15 0.05 0
    python experiments/recipe/denoiser.py qm9-allatom runs/allatom-velocity runs/allatom --times 0.5 0.2 0 0.2 0

Nothing is trained; the weights of both are joined. Behind a flow that was trained with noise the velocity becomes its
denoiser, and the density stays that with noise. Otherwise its Euler steps become further stages of the decoder, so a
sample costs one evaluation of a deeper network. Times were chosen on samples of a seed that no card uses.
"""

import argparse
from pathlib import Path
from typing import cast

import molflow
from molflow.files import read_json
from molflow.flows import ContinuousFlow, FreeFormConfig, refined
from molflow.flows.free_form import DenoiserConfig
from molflow.flows.networks import passes
from molflow.flows.storage import CARD, read_model_config, save_model
from molflow.nn import ChainConfig
from molflow.pretrained import folder_of
from molflow.training.config import read_experiment


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=folder_of, help="a free-form flow, shipped or of a folder")
    parser.add_argument("velocity", type=folder_of, help="a continuous flow, shipped or of a folder")
    parser.add_argument("target", type=Path)
    parser.add_argument(
        "--times", type=float, nargs="+", required=True, help="from below 1 down to 0, once or several times"
    )
    arguments = parser.parse_args()

    if arguments.target.exists():
        raise SystemExit(f"{arguments.target} exists already")
    experiment, other = read_experiment(arguments.source), read_model_config(arguments.velocity)
    flow, velocity = molflow.load(arguments.source), molflow.load(arguments.velocity)
    if not isinstance(velocity, ContinuousFlow):
        raise SystemExit(f"{arguments.velocity} is no continuous flow")
    model = cast(FreeFormConfig, experiment.model)
    if model.noise:
        flow.denoiser = velocity.network
        changed: dict[str, object] = {"denoiser": DenoiserConfig(network=other.network, times=arguments.times)}
    else:
        flow = refined(flow, velocity, arguments.times)
        parts = passes(arguments.times, start_from_noise=False)
        steps = [other.network.model_copy(update={"n_stages": len(part) - 1}) for part in parts]
        factors = [1, *(1 - part[0] for part in parts)]
        changed = {"decoder": ChainConfig(stages=[model.decoder, *steps], factors=factors)}
    card = read_json(arguments.source / CARD) | {"denoiser": str(arguments.velocity), "denoiser_times": arguments.times}
    save_model(arguments.target, model.model_copy(update=changed), flow, card, experiment.without_model())


if __name__ == "__main__":
    main()
