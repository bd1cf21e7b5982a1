"""An ordered chain of five beads with an energy of its own, in units of the bond length and of kT.

    python chain.py            # draws chain.npz by MCMC, a minute
    molflow train chain.toml   # six minutes on one core
    molflow sample --model runs/chain --energy chain:energy --correct importance -n 1000
    molflow evaluate particles.npz --energy chain:energy --reference chain.npz

The energy is that of numpy arrays with forces; `argon.py` beside it is a calculator of ASE.
"""

import numpy as np
import torch

from molflow.energies import OwnEnergy, Tempering, parallel_tempering


def energy(x: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Energies (n,) and forces (n, N, 3): bonds of length 1, stiffness 100; others repel each other below 1.1."""
    n = x.shape[1]
    difference = x[:, :, None] - x[:, None]
    distance = np.sqrt((difference**2).sum(-1)) + np.eye(n)
    apart = np.abs(np.subtract.outer(np.arange(n), np.arange(n)))
    stretch = np.where(apart == 1, distance - 1, 0)
    overlap = np.where(apart > 1, np.clip(1.1 - distance, 0, None), 0)
    energies = 0.5 * (50 * stretch**2 + 20 * overlap**2).sum((1, 2))
    slope = 100 * stretch - 40 * overlap
    return energies, -(slope[..., None] * difference / distance[..., None]).sum(2)


def main() -> None:
    generator = torch.Generator().manual_seed(0)
    start = 0.6 * torch.randn(500, 5, 3, generator=generator).cumsum(1)
    start = start - start.mean(1, keepdim=True)
    settings = Tempering((1.0,), n_burn_in=200, n_samples=20, thinning=10, n_leapfrog=15)
    chains = parallel_tempering(OwnEnergy(energy, start), start, settings, generator, progress=True)
    np.savez("chain.npz", positions=chains.positions.flatten(0, 1).numpy())


if __name__ == "__main__":
    main()
