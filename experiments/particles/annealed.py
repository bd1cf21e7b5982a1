"""Sequential Monte Carlo from a continuous flow whose exact density is too slow, such as one of lj55.

    OMP_NUM_THREADS=1 python experiments/particles/annealed.py runs/lj55-cnf lj55 [-n 200] [--probes 8]

The log-density of a sample is estimated with some Rademacher probes, without bias, so each weight has noise of its own:
the effective sample size printed is that of the noisy weights, and log Z is biased upwards by about half the variance
of the noise. The moves need the energy alone, and remove the error of the samples if there are enough of them.
"""

import argparse
import time

import torch
from tqdm import tqdm

from molflow.data import load_particles
from molflow.energies import anneal, effective_sample_size, get_system, log_weights
from molflow.flows import ContinuousFlow
from molflow.memory import keep_freed_memory
from molflow.pretrained import load_named

BATCH = 50


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("model", help="a continuous flow, shipped or a folder")
    parser.add_argument("system", help="whose energy is annealed to")
    parser.add_argument("-n", type=int, default=200, help="samples")
    parser.add_argument("--probes", type=int, default=8, help="of the divergence")
    parser.add_argument("--moves", type=int, default=10, help="Hamiltonian moves of a stage")
    parser.add_argument("--seed", type=int, default=0)
    arguments = parser.parse_args()

    keep_freed_memory()
    flow, system = load_named(arguments.model), get_system(arguments.system)
    if not isinstance(flow, ContinuousFlow):
        raise SystemExit(f"{arguments.model} is not a continuous flow")
    began = time.process_time()
    x = flow.sample(arguments.n, seed=arguments.seed)
    generator, estimates = torch.Generator().manual_seed(arguments.seed), []
    for part in tqdm(x.split(BATCH), desc="density"):
        with torch.no_grad():  # two estimates, whose difference tells how noisy they are
            estimates.append(
                torch.stack([flow.nll(part, None, generator, n_probes=arguments.probes) for _ in range(2)])
            )
    first, second = -torch.cat(estimates, 1).double()
    noise = float((first - second).square().mean() / 4) ** 0.5
    log_q = (first + second) / 2
    seconds = (time.process_time() - began) / arguments.n

    x = x.double()
    weights = log_weights(system.energy, x, log_q)
    found = anneal(system.energy, x, log_q, arguments.seed, n_moves=arguments.moves)
    energy = system.energy(found.x).double()
    exact = system.energy(load_particles(arguments.system, "test")[:10_000].double())
    for name, figure in {
        "CPU s a sample with its density": f"{seconds:.2f}",
        "noise of the log-density, nats": f"{noise:.2f}",
        "mean energy of the samples, kT": f"{system.energy(x).mean():.2f}",
        "effective sample size, importance weights": f"{effective_sample_size(weights):.2%}",
        "standard deviation of log weights": f"{weights.std():.1f}",
        "stages, the first inverse temperature": f"{len(found.ess_fractions)}, {found.inverse_temperatures[0]:.2f}",
        "effective sample size of the stages": " ".join(f"{ess:.0%}" for ess in found.ess_fractions),
        "mean energy after annealing, kT": f"{energy.mean():.2f} (exact samples: {exact.mean():.2f})",
        "log Z": f"{found.log_z:.2f} (known: {system.log_z})",
        "acceptance; gradients of the energy for each": f"{found.acceptance:.2f}; {found.n_gradients}",
    }.items():
        print(f"{name:46}{figure}")  # noqa: T201


if __name__ == "__main__":
    main()
