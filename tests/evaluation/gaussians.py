"""A target and samples whose scores are known in closed form: mean-free normals of 4 particles in the plane."""

import math

import numpy as np

from molflow.energies import System

N, D = 4, 2
DOF = (N - 1) * D
SIGMA = 1.2
N_SAMPLES = 20_000


def harmonic(x):
    """The energy whose target is the standard normal on the mean-free space."""
    return 0.5 * (x - x.mean(1, keepdim=True)).square().sum((1, 2))


GAUSSIAN = System(
    "gaussian",
    energy=None,
    mean_energy=DOF / 2,
    log_z=DOF / 2 * math.log(2 * math.pi),
    entropy=DOF / 2 * math.log(2 * math.pi * math.e),
)


def gaussian(sigma, n=N_SAMPLES, seed=0):
    """Draws of a mean-free normal and their log density, (n, N, D) and (n,)."""
    x = np.random.default_rng(seed).normal(size=(n, N, D)) * sigma
    x -= x.mean(1, keepdims=True)
    return x, -0.5 * (x**2).sum((1, 2)) / sigma**2 - DOF / 2 * math.log(2 * math.pi * sigma**2)


def nll_of_gaussian(x, sigma):
    return 0.5 * (x**2).sum((1, 2)) / sigma**2 + DOF / 2 * math.log(2 * math.pi * sigma**2)
