"""Importance weights, resampling and the Metropolis correction, on a Gaussian target with a wider Gaussian proposal."""

import math

import pytest
import torch

from molflow.energies import (
    effective_sample_size,
    independent_metropolis,
    log_weights,
    normalized_weights,
    resample,
)
from molflow.errors import MolflowError
from molflow.geometry import MeanFreeSpace

WIDTH, DOF = 1.2, 6


def energy(x):
    return 0.5 * x.square().sum((-1, -2))


def propose(n, seed):
    """Four particles in the plane, normal with standard deviation WIDTH, and their log density."""
    space = MeanFreeSpace(torch.ones(n, 4, dtype=torch.bool), 2)
    z = space.randn(torch.Generator().manual_seed(seed), torch.float64)
    return WIDTH * z.x, space.log_normal(z) - DOF * math.log(WIDTH)


def test_log_weights_by_hand():
    x = torch.tensor([[[1.0], [-1.0]], [[2.0], [-2.0]]])
    log_w = log_weights(energy, x, torch.tensor([0.5, -3.0]))
    assert log_w.dtype == torch.float64
    assert log_w.tolist() == [-1.5, -1.0]


def test_the_mean_weight_is_z_and_the_ess_is_known():
    x, log_q = propose(50_000, seed=0)
    log_w = log_weights(energy, x, log_q)
    log_z = float(log_w.logsumexp(0)) - math.log(len(x))
    assert abs(log_z - DOF / 2 * math.log(2 * math.pi)) < 0.02
    exact = (WIDTH**2 / math.sqrt(2 * WIDTH**2 - 1)) ** -DOF
    assert abs(effective_sample_size(log_w) - exact) < 0.01
    assert abs(normalized_weights(log_w).sum() - 1) < 1e-12


def test_effective_sample_size_by_hand():
    assert effective_sample_size(torch.tensor([700.0, 700.0, 700.0])) == pytest.approx(1)
    assert effective_sample_size(torch.tensor([0.0, -torch.inf, -torch.inf, -torch.inf])) == pytest.approx(0.25)
    assert effective_sample_size(torch.tensor([0.0, math.log(3)])) == pytest.approx(16 / 10 / 2)


def test_resampled_moments():
    x, log_q = propose(40_000, seed=1)
    assert energy(x).mean() > 4
    chosen = resample(x, log_weights(energy, x, log_q), 10_000, seed=0)
    assert chosen.shape == (10_000, 4, 2)
    assert abs(energy(chosen).mean() - DOF / 2) < 4 * math.sqrt(DOF / 2 / 10_000)
    assert torch.equal(chosen, resample(x, log_weights(energy, x, log_q), 10_000, seed=0))


def test_resampling_is_proportional_to_the_weights():
    x, log_w = torch.arange(4), torch.tensor([0.5, 0.0, 0.25, 0.25]).log()
    for seed in range(5):
        assert resample(x, log_w, 8, seed).bincount(minlength=4).tolist() == [4, 0, 2, 2]


def test_metropolis_moments():
    x, acceptance = independent_metropolis(energy, propose, 20_000, 200, seed=0)
    assert x.shape == (20_000, 4, 2)
    assert 0.6 < acceptance < 0.75
    assert abs(energy(x).mean() - DOF / 2) < 4 * math.sqrt(2 * DOF / 2 / 20_000)
    assert abs(energy(x).var() - DOF / 2) < 0.2
    assert torch.equal(x, independent_metropolis(energy, propose, 20_000, 200, seed=0).x)
    assert not torch.equal(x, independent_metropolis(energy, propose, 20_000, 200, seed=1).x)


def test_metropolis_with_an_exact_proposal_accepts_all():
    def exact(n, seed):
        x, _ = propose(n, seed)
        return x / WIDTH, -energy(x / WIDTH)

    x, acceptance = independent_metropolis(energy, exact, 103, 10, seed=0)
    assert acceptance == 1
    assert len(x) == 103
    assert len(x.unique(dim=0)) == 103


def test_an_infinite_energy_has_no_weight():
    def walled(x):
        return energy(x).masked_fill(x[:, 0, 0] < 0, torch.inf)

    x, log_q = propose(2000, seed=0)
    log_w = log_weights(walled, x, log_q)
    assert (log_w == -torch.inf).any()
    assert not log_w.isnan().any()
    assert (resample(x, log_w, 500, 0)[:, 0, 0] >= 0).all()
    chains = independent_metropolis(walled, propose, 1000, 50, seed=0)
    assert (chains.x[:, 0, 0] >= 0).all()
    with pytest.raises(MolflowError, match="all of the 2 weights are zero: no sample has a finite energy"):
        effective_sample_size(torch.tensor([-torch.inf, -torch.inf]))


def test_bad_input_is_named():
    x, log_q = propose(5, seed=0)
    for bad in (torch.nan, torch.inf, -torch.inf):
        with pytest.raises(MolflowError, match=f"sample 3: log_q is {bad}"):
            log_weights(energy, x, log_q.index_fill(0, torch.tensor(3), bad))
    with pytest.raises(MolflowError, match="sample 1: energy is nan"):
        log_weights(energy, x.index_fill(0, torch.tensor(1), torch.nan), log_q)
    with pytest.raises(MolflowError, match=r"one log_q for each of 5 samples, got shape \(4,\)"):
        log_weights(energy, x, log_q[:4])
    with pytest.raises(MolflowError, match="sample 1: log weight is nan"):
        effective_sample_size(torch.tensor([0.0, torch.nan]))
    with pytest.raises(MolflowError, match="expected 1 <= n_chains <= n and n_burn_in >= 1, got 20, 10 and 50"):
        independent_metropolis(energy, propose, 10, 20, seed=0)
