"""Molecules of a formula: what is asked for against what a model makes by itself.

    python experiments/formulas.py [--model qm9] [--samples 500] [--unasked 20000]

For the ten most frequent formulas of the training data it prints the probability that the model gives to each and its
share among samples that were not asked for anything, the share of asked samples that have the formula, and molecule
stability of both kinds of samples with its standard error.
"""

import argparse
from collections import Counter

import torch

import molflow
from molflow.chem.elements import symbol
from molflow.data import load_qm9

HYDROGEN, CARBON = 1, 6


def formulas(batch: molflow.MoleculeBatch) -> list[str]:
    """The formula of each molecule, C and H first."""
    order = [CARBON, HYDROGEN]
    found = []
    for numbers in batch.atomic_numbers:
        counts = Counter(numbers[numbers > 0].tolist())
        elements = sorted(counts, key=lambda z: (order.index(z) if z in order else 2, symbol(z)))
        found.append("".join(symbol(z) + (str(counts[z]) if counts[z] > 1 else "") for z in elements))
    return found


def stability(batch: molflow.MoleculeBatch) -> str:
    stable = batch.stability()[1].double()
    if not len(stable):
        return "-"
    return f"{100 * stable.mean():.1f} +- {100 * (stable.mean() * (1 - stable.mean()) / len(stable)).sqrt():.1f}"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qm9")
    parser.add_argument("--samples", type=int, default=500)
    parser.add_argument("--unasked", type=int, default=20_000)
    arguments = parser.parse_args()

    flow = molflow.load_pretrained(arguments.model)
    training = load_qm9("train")
    common = Counter(formulas(training.batch(slice(20_000)))).most_common(10)
    unasked = flow.sample(arguments.unasked, seed=1)
    of_unasked = formulas(unasked)
    heads = ("formula", "probability", "share", "has it, %", "stable, %", "unasked, %")
    print(*(f"{head:>13}" for head in heads))  # noqa: T201
    for formula, _ in common:
        asked = flow.sample(arguments.samples, seed=0, formula=formula)
        has = sum(found == formula for found in formulas(asked)) / len(asked)
        same = torch.tensor([i for i, found in enumerate(of_unasked) if found == formula], dtype=torch.int64)
        probability = float(flow.domain.log_prob_of(formula=formula).exp())
        figures = (f"{probability:.4f}", f"{len(same) / len(unasked):.4f}", f"{100 * has:.1f}")
        row = (formula, *figures, stability(asked), stability(unasked[same]))
        print(*(f"{cell:>13}" for cell in row), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
