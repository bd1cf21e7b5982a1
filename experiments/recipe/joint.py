"""Weights for a velocity that generates elements from those of one whose elements are given.

    cd experiments/recipe
    python joint.py runs/allatom-velocity qm9-joint runs/joint-start
    molflow train qm9-joint --start-from runs/joint-start

Near the data both have the same task, as features then say the elements. What the network reads as labels it reads from
the features, which are scaled for it; its layer that changes features begins at random.
"""

import argparse
from pathlib import Path

import torch
from untrained import untrained

import molflow
from molflow.flows import ContinuousFlow, MoleculeDomain
from molflow.flows.storage import save_model
from molflow.nn import EquivariantTransformer
from molflow.pretrained import folder_of


def take_weights(
    network: EquivariantTransformer, source: EquivariantTransformer, features: torch.Tensor, labels: torch.Tensor
) -> None:
    """Give a network the weights of one that reads labels (K, T) where it reads features (K, F), for K cases of a type.

    The first layer reads labels = features A + b, the least-squares fit; T = F.
    """
    network.load_state_dict(source.state_dict(), strict=False)
    ones = torch.ones(len(features), 1)
    fit = torch.linalg.lstsq(torch.cat([features, ones], 1), labels, driver="gelsd").solution
    n_types = labels.shape[1]
    with torch.no_grad():
        of_labels = source.embed.weight[:, :n_types]
        network.embed.weight[:, :n_types] = of_labels @ fit[:-1].T
        network.embed.bias.add_(of_labels @ fit[-1])


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("source", type=folder_of, help="a continuous flow on all atoms, types given")
    parser.add_argument("experiment", help="that will train the velocity of all atoms, types generated")
    parser.add_argument("target", type=Path)
    arguments = parser.parse_args()

    if arguments.target.exists():
        raise SystemExit(f"{arguments.target} exists already")
    config, flow = untrained(arguments.experiment)
    source = molflow.load(arguments.source)
    domain = flow.domain
    if not isinstance(flow, ContinuousFlow) or not isinstance(source, ContinuousFlow):
        raise SystemExit("needs two continuous flows")
    if not isinstance(domain, MoleculeDomain) or domain.types != source.domain.types:
        raise SystemExit("needs the same types of atoms in both flows, given in one and generated in the other")
    if flow.conditions or source.conditions:
        raise SystemExit("needs velocities without conditions")
    network, other = flow.network, source.network
    if not isinstance(network, EquivariantTransformer) or not isinstance(other, EquivariantTransformer):
        raise SystemExit("needs transformers as velocities")
    types = torch.arange(len(domain.types)).repeat(1000, 1)
    features, _ = domain.dequantizer(types, torch.ones_like(types, dtype=torch.bool), flow.generator(0))
    labels = torch.nn.functional.one_hot(types, len(domain.types)).to(features.dtype)
    take_weights(network, other, features.detach().flatten(0, 1), labels.flatten(0, 1))
    save_model(arguments.target, config, flow, {"how": f"from the weights of {arguments.source.name}"})


if __name__ == "__main__":
    main()
