"""Samples around fragments of test molecules of QM9: how many are stable, against the resamplings of each step.

    python experiments/scaffolds.py [--samples 200] [--resamplings 1 4] [--model qm9-environment]

A fragment has heavy atoms alone, so each can carry more hydrogens and bonds than it shows. `stable` counts molecules
that are stable with the fragment exactly where it was.
"""

import argparse
import time

import numpy as np
from rdkit import Chem

import molflow
from molflow.chem import perceive
from molflow.data import load_qm9
from molflow.flows import scaffold

FRAGMENTS = {"amide": "NC=O", "cyclopropane": "C1CC1", "oxetane": "C1COC1", "cyclopentane": "C1CCCC1"}


def fragment(smarts: str) -> molflow.MoleculeBatch:
    """The atoms of the first test molecule that has a substructure."""
    pattern = Chem.MolFromSmarts(smarts)
    test = load_qm9("test")
    for i in range(len(test)):
        molecule = test.batch(np.array([i]))
        found = perceive(molecule.positions[0].numpy(), molecule.atomic_numbers[0].numpy())
        atoms = () if found.mol is None else found.mol.GetSubstructMatch(pattern)
        if atoms:
            index = list(atoms)
            return molflow.MoleculeBatch(
                molecule.positions[:, index], molecule.atomic_numbers[:, index], molecule.mask[:, index]
            )
    raise SystemExit(f"no test molecule has {smarts}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--samples", type=int, default=200)
    parser.add_argument("--resamplings", type=int, nargs="+", default=[1, 4])
    parser.add_argument("--model", default="qm9-environment")
    arguments = parser.parse_args()
    flow = molflow.load_pretrained(arguments.model)
    print(f"{'fragment':14}{'resamplings':>12}{'stable, %':>11}{'ms/sample':>11}")  # noqa: T201
    for name, smarts in FRAGMENTS.items():
        kept = fragment(smarts)
        for scaffold.RESAMPLINGS in arguments.resamplings:
            began = time.perf_counter()
            samples = flow.sample(arguments.samples, seed=0, scaffold=kept)
            ms = 1e3 * (time.perf_counter() - began) / len(samples)
            stable = 100 * float(samples.stability()[1].float().mean())
            print(f"{name:14}{scaffold.RESAMPLINGS:12}{stable:11.1f}{ms:11.1f}")  # noqa: T201


if __name__ == "__main__":
    main()
