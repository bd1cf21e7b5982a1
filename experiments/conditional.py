"""Conditional generation on QM9 by EDM's protocol (arXiv 2203.17003), for six properties and one model.

    python experiments/conditional.py start runs/qm9-cond-start           # weights to begin the template qm9-cond with
    python experiments/conditional.py regressor runs/regressor --minutes 15
    python experiments/conditional.py evaluate runs/qm9-cond runs/regressor [--samples 2000] [--guidance 1] [-k 21]

The generator learns from the first half of the training split, the regressor from the second. `evaluate` draws the
conditions of test molecules, one property at a time, samples a molecule for each, and prints the mean absolute error of
what the regressor finds. Beside it stand the regressor's own error on the test molecules, the error of a prediction
from the counts of atoms alone, and that of a shuffled property.
"""

import argparse
import json
import time
from pathlib import Path

import numpy as np
import torch
from safetensors.torch import load_model
from safetensors.torch import save_model as save_network
from torch import Tensor, nn
from torch_geometric.nn import SchNet
from tqdm import tqdm

import molflow
from molflow.data import EqualCostBatches, MoleculeSet, load_qm9
from molflow.flows.storage import read_card, save_model
from molflow.pretrained import folder_of
from molflow.training.config import load_experiment
from molflow.training.tasks import load_splits

EXPERIMENT = "qm9-cond"
TIMES = "network.embed_times.0.weight"
ELEMENTS = torch.tensor([1, 6, 7, 8, 9])
UNITS = dict.fromkeys(("gap", "homo", "lumo"), ("meV", 27211.386))  # and the size of a hartree in it


class Regressor(nn.Module):
    """Properties of molecules with all their atoms.

    A linear function of the counts of the elements, fitted first, plus a SchNet (arXiv 1706.08566) over all pairs.
    """

    def __init__(self, n_properties: int):
        super().__init__()
        self.network = SchNet(
            hidden_channels=128, num_filters=128, num_interactions=4, cutoff=12.0, interaction_graph=all_pairs
        )
        self.network.lin2 = nn.Linear(self.network.lin2.in_features, n_properties)
        self.register_buffer("of_counts", torch.zeros(len(ELEMENTS) + 1, n_properties))
        self.register_buffer("std", torch.ones(n_properties))

    def forward(self, batch: molflow.MoleculeBatch) -> Tensor:
        elements = (batch.atomic_numbers.unsqueeze(-1) == ELEMENTS).float().sum(1)
        table = torch.cat([elements, elements.new_ones(len(elements), 1)], -1)
        owner = torch.arange(len(batch)).unsqueeze(1).expand_as(batch.mask)[batch.mask]
        found = self.network(batch.atomic_numbers[batch.mask], batch.positions[batch.mask], owner)
        return table @ self.of_counts + self.std * found


def all_pairs(positions: Tensor, owner: Tensor) -> tuple[Tensor, Tensor]:
    """The edges between all atoms of each molecule, (2, E), and their lengths."""
    pairs = owner.unsqueeze(0) == owner.unsqueeze(1)
    edges = pairs.fill_diagonal_(False).nonzero().T
    return edges, (positions[edges[0]] - positions[edges[1]]).norm(dim=-1)


def properties() -> tuple[str, ...]:
    return load_experiment(EXPERIMENT).data.condition


def values(molecules: MoleculeSet) -> Tensor:
    return torch.from_numpy(np.stack([molecules.properties[name] for name in properties()], 1)).float()


def start(arguments: argparse.Namespace) -> None:
    """The conditional model with the weights of `qm9-environment`; the velocity's weights of the conditions are zero.

    The model of compositions, which depends on the conditions, is fitted.
    """
    splits = load_splits(load_experiment(EXPERIMENT))
    torch.manual_seed(0)
    flow = splits.config.model.build()
    own, old = flow.state_dict(), molflow.load_pretrained("qm9-environment").state_dict()
    of_time = old[TIMES]
    old[TIMES] = torch.cat([of_time, of_time.new_zeros(len(of_time), own[TIMES].shape[1] - of_time.shape[1])], 1)
    splits.fit(flow.domain)
    fitted = {name: value for name, value in flow.state_dict().items() if name.startswith("domain.")}
    flow.load_state_dict(own | old | fitted)
    save_model(arguments.target, splits.config.model, flow, read_card(folder_of("qm9-environment")))


def train_regressor(arguments: argparse.Namespace) -> None:
    """Adam on the absolute errors in standard deviations, one cycle by the processor time."""
    train = load_qm9("train")
    train = train.subset(slice(len(train) // 2, None))
    y = values(train)
    torch.manual_seed(0)
    regressor = Regressor(y.shape[1])
    regressor.of_counts.copy_(fitted_to_counts(train))
    regressor.std.copy_((y - counts(train).float() @ regressor.of_counts).std(0))
    optimizer = torch.optim.AdamW(regressor.parameters(), 1e-3, weight_decay=1e-3)
    averaged = torch.optim.swa_utils.AveragedModel(regressor, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn())
    order = EqualCostBatches(train.n_atoms, 64)
    began, epoch, seen = time.process_time(), 0, 0
    with tqdm(total=round(60 * arguments.minutes), unit="s", desc="regressor") as bar:
        while bar.n < bar.total:
            for indices in order.epoch(epoch):
                share = min(1.0, (time.process_time() - began) / bar.total)
                for group in optimizer.param_groups:
                    group["lr"] = 1e-3 * min(1.0, 20 * share + 0.01) * (1 - share) ** 0.5 + 1e-6
                loss = ((regressor(train.batch(indices)) - y[indices]) / regressor.std).abs().mean()
                optimizer.zero_grad()
                loss.backward()
                nn.utils.clip_grad_norm_(regressor.parameters(), 1.0)
                optimizer.step()
                averaged.update_parameters(regressor)
                seen += len(indices)
                bar.update(round(time.process_time() - began) - bar.n)
                bar.set_postfix(loss=f"{loss:.3f}")
                if bar.n >= bar.total:
                    break
            epoch += 1
    arguments.target.mkdir(parents=True, exist_ok=True)
    save_network(averaged.module, str(arguments.target / "regressor.safetensors"))  # SchNet shares tensors
    print(f"{seen:,} molecules, {epoch} epochs")  # noqa: T201


@torch.no_grad()
def predicted(regressor: Regressor, molecules: molflow.MoleculeBatch) -> Tensor:
    return torch.cat([regressor(molecules[part]) for part in torch.arange(len(molecules)).split(256)])


def counts(molecules: MoleculeSet) -> Tensor:
    """The counts of the elements and a one, float64 (M, 6)."""
    owner = np.repeat(np.arange(len(molecules)), molecules.n_atoms)
    table = np.zeros((len(molecules), len(ELEMENTS) + 1))
    table[:, -1] = 1
    for place, number in enumerate(ELEMENTS.tolist()):
        np.add.at(table[:, place], owner[molecules.atomic_numbers == number], 1)
    return torch.from_numpy(table)


def fitted_to_counts(train: MoleculeSet) -> Tensor:
    """The least-squares weights of the counts, (6, properties)."""
    solution: Tensor = torch.linalg.lstsq(counts(train), values(train).double()).solution
    return solution.float()


def evaluate(arguments: argparse.Namespace) -> None:
    flow = molflow.load(folder_of(arguments.model))
    if arguments.guidance != 1:
        flow = flow.guided(arguments.guidance)
    regressor = Regressor(len(properties()))
    load_model(regressor, arguments.regressor / "regressor.safetensors")
    regressor.eval()
    train, test = load_qm9("train"), load_qm9("test").subset(slice(arguments.samples))
    wanted = values(test)
    own = (predicted(regressor, test.batch(slice(None))) - wanted).abs().mean(0)
    by_counts = (counts(test).float() @ fitted_to_counts(train) - wanted).abs().mean(0)
    shuffled = (wanted[torch.randperm(len(wanted), generator=torch.Generator().manual_seed(0))] - wanted).abs().mean(0)
    record = {}
    heads = ("asked", "atom counts", "random", "regressor", "stable, %")
    print(f"{'property':14}", *(f"{head:>11}" for head in heads))  # noqa: T201
    for k, name in enumerate(properties()):
        condition = {name: wanted[:, k]}
        batch = flow.sample(
            len(wanted), condition=condition, seed=k, n_evaluations=arguments.evaluations, batch_size=512
        )
        unit, factor = UNITS.get(name, (load_experiment(EXPERIMENT).data.units[name], 1.0))
        error = (predicted(regressor, batch)[:, k] - wanted[:, k]).abs().mean()
        figures = [float(v) * factor for v in (error, by_counts[k], shuffled[k], own[k])]
        stable = 100 * float(batch.stability()[1].float().mean())
        record[name] = dict(zip(heads, [*figures, stable], strict=True), unit=unit)
        print(f"{name:14}", *(f"{v:11.4g}" for v in (*figures, stable)), unit)  # noqa: T201
    if arguments.json:
        settings = {"samples": len(wanted), "evaluations": arguments.evaluations or flow.n_evaluations}
        arguments.json.write_text(
            json.dumps(settings | {"guidance": arguments.guidance, "properties": record}, indent=1)
        )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    commands = parser.add_subparsers(required=True)
    one = commands.add_parser("start")
    one.add_argument("target", type=Path)
    one.set_defaults(run=start)
    one = commands.add_parser("regressor")
    one.add_argument("target", type=Path)
    one.add_argument("--minutes", type=float, default=15.0)
    one.set_defaults(run=train_regressor)
    one = commands.add_parser("evaluate")
    one.add_argument("model")
    one.add_argument("regressor", type=Path)
    one.add_argument("--samples", type=int, default=2000)
    one.add_argument("--guidance", type=float, default=1.0)
    one.add_argument("-k", "--evaluations", type=int)
    one.add_argument("--json", type=Path)
    one.set_defaults(run=evaluate)
    arguments = parser.parse_args()
    arguments.run(arguments)


if __name__ == "__main__":
    main()
