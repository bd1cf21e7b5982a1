"""Annealing: exact averages of a Gaussian whose everything is known, and log Z at other temperatures."""

import math

import pytest
import torch

from molflow.energies import Energy, anneal, at_temperature, effective_sample_size, get_system, log_weights
from molflow.energies.systems import System
from molflow.errors import MolflowError
from molflow.geometry import MeanFreeSpace


class Springs(Energy):
    def _energy(self, x):
        return (x - x.mean(1, keepdim=True)).square().sum((1, 2)) / 2


ENERGY = Springs(4, 2)


@pytest.fixture
def samples():
    """1,000 configurations of width 1.3 and their density; the target has width 1."""
    space = MeanFreeSpace(torch.ones(1000, 4, dtype=torch.bool), 2)
    z = space.randn(torch.Generator().manual_seed(0), torch.float64)
    return z.x * 1.3, space.log_normal(z) - ENERGY.dof * math.log(1.3)


@pytest.mark.parametrize("temperature", [1.0, 0.5, 2.0])
def test_the_average_and_log_z_of_a_gaussian(samples, temperature):
    """<U / T> = dof / 2 and log Z = dof / 2 log(2 pi T)."""
    energy = at_temperature(System("springs", ENERGY), temperature).energy
    annealed = anneal(energy, *samples, seed=0)
    u = energy(annealed.x)
    assert abs(float(u.mean()) - ENERGY.dof / 2) < 5 * float(u.std()) / 1000**0.5
    assert annealed.log_z == pytest.approx(ENERGY.dof / 2 * math.log(2 * math.pi * temperature), abs=0.1)
    assert annealed.inverse_temperatures[-1] == 1
    assert annealed.inverse_temperatures[0] == pytest.approx(temperature / 1.3**2, rel=0.06)
    assert min(annealed.ess_fractions) > 0.89
    assert annealed.n_gradients == 1 + 100 * len(annealed.inverse_temperatures)
    assert len(annealed.x.unique(dim=0)) > 950
    assert annealed.x.mean(1).abs().max() < 1e-12


def test_the_same_seed_gives_the_same(samples):
    first, again, other = (anneal(ENERGY, *samples, seed=seed, n_moves=1).x for seed in (1, 1, 2))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_annealing_keeps_more_of_the_samples_than_weights(samples):
    cold = at_temperature(System("springs", ENERGY), 0.4).energy
    assert effective_sample_size(log_weights(cold, *samples)) < 0.3
    assert min(anneal(cold, *samples, seed=0).ess_fractions) > 0.89


def test_energies_that_are_not_numbers_are_named(samples):
    with pytest.raises(MolflowError, match="sample 0: energy is nan"):
        anneal(lambda x: x.sum((1, 2)) * math.nan, *samples, seed=0)


def test_another_temperature_has_no_known_figures():
    warm = at_temperature(get_system("dw4"), 1.5)
    assert (warm.name, warm.log_z, warm.mean_energy) == ("dw4 at kT = 1.5", None, None)
