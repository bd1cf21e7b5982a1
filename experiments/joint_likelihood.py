"""Negative log-likelihood of QM9 test molecules whose types are generated, as papers print it: nats a molecule.

    python experiments/joint_likelihood.py [--model qm9-joint] [--molecules 256] [--tolerance 1e-4]

All atoms; the number of atoms, their types, and positions in angstrom on 3(N-1) dimensions are included. It is the
variational bound at one draw of the dequantisation noise. The divergence is estimated with one Rademacher probe a
molecule, which leaves the mean over molecules unbiased. Look at the median too: where the velocity is rough near the
data, a few molecules decide the mean.
"""

import argparse
import time

import torch
from tqdm import tqdm

from molflow.data import load_qm9
from molflow.flows import AdaptiveSolver, MoleculeDomain, ODEFlow
from molflow.memory import keep_freed_memory
from molflow.pretrained import load_named

BATCH = 32


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", default="qm9-joint", help="a continuous flow on all atoms that generates types")
    parser.add_argument("--molecules", type=int, default=256, help="the first of the test split")
    parser.add_argument("--tolerance", type=float, default=1e-4, help="rtol and atol of dopri5")
    arguments = parser.parse_args()

    keep_freed_memory()
    flow = load_named(arguments.model)
    if not isinstance(flow, ODEFlow) or not isinstance(flow.domain, MoleculeDomain):
        raise SystemExit(f"{arguments.model} is not a continuous flow that generates types")
    flow.solver = AdaptiveSolver(rtol=arguments.tolerance, atol=arguments.tolerance)
    test, generator = load_qm9("test"), torch.Generator().manual_seed(0)
    parts, started = [], time.process_time()
    for start in tqdm(range(0, arguments.molecules, BATCH), unit="batch"):
        molecules = test.batch(slice(start, min(start + BATCH, arguments.molecules)))
        with torch.no_grad():
            terms = flow.terms(molecules, generator=generator)
        parts.append(torch.stack([terms.nll(), torch.full_like(terms.latent, terms.n_evaluations)]))
    nll, evaluations = torch.cat(parts, 1).double()
    mean, error = nll.mean(), nll.std() / len(nll) ** 0.5
    seconds = (time.process_time() - started) / len(nll)
    figures = f"NLL {mean:.1f} +- {error:.1f} nats, median {nll.median():.1f}, {len(nll)} test molecules"
    print(f"{figures}; {evaluations.mean():.0f} evaluations, {seconds:.2f} CPU s a molecule")  # noqa: T201


if __name__ == "__main__":
    main()
