"""Compare distributions of compositions on QM9: the table of the training data and the model learned from it.

    python experiments/compositions.py [--representation environment] [--samples 10000] [--save FOLDER --run FOLDER]

For each it prints the mean -log p of the validation molecules whose composition training has, and of all; the share of
sampled compositions that training does not have; and the share of samples, and of those, that can be a molecule: the
number of bond ends of each kind is even and there are enough bonds to connect the atoms. With --save the model takes
the place of the table in a copy of a trained run.
"""

import argparse
import time
from pathlib import Path

import torch
from torch import Tensor
from torch.nn.functional import one_hot

import molflow
from molflow.data import load_qm9
from molflow.distributions import COMPOSITIONS
from molflow.flows.domains import ComposedMoleculeDomain, ComposedMoleculesConfig, bond_ends
from molflow.flows.storage import read_model_config, save_model
from molflow.training.config import ExperimentConfig
from molflow.training.tasks import load_splits

NETWORK = {"kind": "egnn"}  # only the domain is used


def splits_of(kind: str, representation: str):
    domain = {"kind": "composed_molecules", "representation": representation, "compositions": kind}
    model = {"kind": "continuous", "domain": domain, "network": NETWORK}
    return load_splits(
        ExperimentConfig.model_validate({"name": "compositions", "data": {"name": "qm9"}, "model": model})
    )


def compositions_of(domain: ComposedMoleculeDomain, molecules: molflow.MoleculeBatch) -> Tensor:
    """Numbers of points of each type, (B, T)."""
    types = domain.types_of(domain.represented(molecules))
    return one_hot(types + 1, len(domain.types) + 1)[..., 1:].sum(1)


def can_be_a_molecule(composition: Tensor, ends: Tensor) -> Tensor:
    """Whether bond ends pair up and can connect all points, (B,)."""
    n_ends = composition @ ends
    return (n_ends % 2 == 0).all(1) & (n_ends.sum(1) // 2 >= composition.sum(1) - 1)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--representation", default="environment")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--run", type=Path, help="a trained run with a table")
    parser.add_argument("--save", type=Path, help="where its copy with a model goes")
    arguments = parser.parse_args()

    validation = load_qm9("validation")
    heads = ("nats, known", "nats, all", "-inf", "new", "possible", "of new", "fit, s")
    print(" " * 8, *(f"{head:>11}" for head in heads))  # noqa: T201
    for kind in COMPOSITIONS:
        splits = splits_of(kind, arguments.representation)
        torch.manual_seed(0)
        domain = splits.config.model.domain.build()
        start = time.process_time()
        splits.fit(domain)
        seconds = time.process_time() - start
        table, _ = splits.compositions
        make, ends = COMPOSITIONS["table"], bond_ends(domain.types)

        parts = [validation.batch(slice(i, i + 2048)) for i in range(0, len(validation), 2048)]
        held_out = torch.cat([compositions_of(domain, part) for part in parts])
        log_p, known = domain.compositions.log_prob(held_out), make.possible(held_out, table)
        types, mask = domain.compositions.sample(arguments.samples, torch.Generator().manual_seed(0))
        drawn = (one_hot(types, len(domain.types)) * mask.unsqueeze(-1)).sum(1)
        new, possible = ~make.possible(drawn, table), can_be_a_molecule(drawn, ends)
        shares = (log_p == -torch.inf, new, possible, possible[new])
        figures = (-log_p[known].mean(), -log_p.mean(), *(share.double().mean() for share in shares), seconds)
        print(f"{kind:8}", *(f"{float(figure):11.4f}" for figure in figures))  # noqa: T201
        if kind == "model" and arguments.save:
            with_model(arguments.run, arguments.save, domain)


def with_model(run: Path, folder: Path, domain: ComposedMoleculeDomain) -> None:
    """A copy of a trained run whose compositions come from a model in place of a table."""
    config, flow = read_model_config(run), molflow.load(run)
    assert isinstance(config.domain, ComposedMoleculesConfig)
    assert config.domain.types == domain.types
    sizes = {"compositions": "model", "n_compositions": 0, "max_points": domain.compositions.max_points}
    flow.domain.compositions = domain.compositions
    config = config.model_copy(update={"domain": config.domain.model_copy(update=sizes)})
    save_model(folder, config, flow, {"name": folder.name})


if __name__ == "__main__":
    main()
