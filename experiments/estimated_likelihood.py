"""Negative log-likelihood of test data by a continuous flow, with an estimate of the divergence: nats a configuration.

    python experiments/estimated_likelihood.py qm9-joint [-n 256] [--tolerance 1e-4]
    python experiments/estimated_likelihood.py lj55-cnf

The divergence is estimated with one Rademacher probe a configuration, which leaves the mean over configurations
unbiased, and costs a small part of the exact one where there are many coordinates. Look at the median too: where the
velocity is rough near the data, a few configurations decide the mean.

Molecules: all atoms of QM9, their number, types, and positions in angstrom on 3(N-1) dimensions; types are by the
variational bound at one draw of the dequantisation noise. Particles: exact samples of the system.
"""

import argparse
import time

import torch
from tqdm import tqdm

from molflow.data import DATASETS, MoleculeSet
from molflow.files import read_json
from molflow.flows import AdaptiveSolver, ODEFlow
from molflow.flows.storage import CARD
from molflow.memory import keep_freed_memory
from molflow.pretrained import folder_of, load_named

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a continuous flow, shipped or a folder")
    parser.add_argument("-n", type=int, default=256, help="the first of the test split")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="rtol and atol of dopri5")
    arguments = parser.parse_args()

    keep_freed_memory()
    flow = load_named(arguments.model)
    if not isinstance(flow, ODEFlow):
        raise SystemExit(f"{arguments.model} is not a continuous flow")
    flow.solver = AdaptiveSolver(rtol=arguments.tolerance, atol=arguments.tolerance)
    name = read_json(folder_of(arguments.model) / CARD)["data"]
    test, generator = DATASETS[name]().load("test").data, torch.Generator().manual_seed(0)
    parts, started = [], time.process_time()
    for start in tqdm(range(0, arguments.n, BATCH), unit="batch"):
        chosen = slice(start, min(start + BATCH, arguments.n))
        data = test.batch(chosen) if isinstance(test, MoleculeSet) else test[chosen]
        with torch.no_grad():
            terms = flow.terms(data, generator=generator)
        parts.append(torch.stack([terms.nll(), torch.full_like(terms.latent, terms.n_evaluations)]))
    nll, evaluations = torch.cat(parts, 1).double()
    mean, error = nll.mean(), nll.std() / len(nll) ** 0.5
    seconds = (time.process_time() - started) / len(nll)
    figures = f"NLL {mean:.2f} +- {error:.2f} nats, median {nll.median():.2f}, {len(nll)} of the test split"
    print(f"{figures}; {evaluations.mean():.0f} evaluations, {seconds:.2f} CPU s each")  # noqa: T201


if __name__ == "__main__":
    main()
