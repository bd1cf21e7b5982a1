"""Parallel tempering against densities that can be integrated, and its diagnostics."""

import pytest
import torch

from molflow.energies import DoubleWell, LennardJones, Tempering, parallel_tempering, split_r_hat
from molflow.errors import MolflowError

QUICK = Tempering((1.0,), n_burn_in=60, n_samples=30, thinning=3, n_leapfrog=4)


def gaussian(x):
    return 0.5 * (x - x.mean(-2, keepdim=True)).square().sum((-1, -2))


def start(n_chains, n, dim, width=1.0, dtype=torch.float64):
    return width * torch.randn(n_chains, n, dim, dtype=dtype, generator=torch.Generator().manual_seed(1))


def run(energy, first, settings=QUICK, seed=0):
    return parallel_tempering(energy, first, settings, torch.Generator().manual_seed(seed))


def exact_mean(energy, function):
    """<function(distance)> of two particles, by quadrature over their distance."""
    r = torch.linspace(1e-3, 12, 200_000, dtype=torch.float64)
    x = torch.zeros(len(r), 2, energy.dim, dtype=torch.float64)
    x[:, 1, 0] = r
    u = energy(x)
    weight = ((energy.dim - 1) * r.log() - u).softmax(0)
    return (weight * function(r, u)).sum()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_gaussian(dtype):
    chains = run(gaussian, start(300, 4, 2, dtype=dtype))
    assert chains.positions.shape == (300, 30, 4, 2)
    assert chains.positions.dtype == dtype
    assert chains.positions.mean(2).abs().max() < 1e-5
    diagnostics = chains.diagnostics
    assert diagnostics.virial_expected == 6
    assert abs(diagnostics.mean_energy - 3) < 4 * diagnostics.mean_energy_error
    assert abs(diagnostics.virial - 6) < 4 * diagnostics.virial_error
    assert 0.01 < diagnostics.mean_energy_error < 0.05  # sqrt(3 / 9000) if all samples were independent
    assert abs(chains.energies.var() - 3) < 0.3
    assert diagnostics.r_hat < 1.02
    assert abs(diagnostics.acceptance[0] - 0.8) < 0.08
    covariance = torch.cov(chains.positions.flatten(0, 1).flatten(1).T.double())
    expected = torch.kron(torch.eye(4) - 0.25, torch.eye(2)).double()
    torch.testing.assert_close(covariance, expected, atol=0.08, rtol=0)


@pytest.mark.parametrize(
    ("energy", "width"),
    [(DoubleWell(2, 2), 2.0), (LennardJones(2), 1.0), (LennardJones(2, "unordered"), 1.0)],
    ids=["double-well", "ordered", "unordered"],
)
def test_two_particles_against_quadrature(energy, width):
    settings = Tempering((1.0, 2.0, 4.0), n_burn_in=60, n_samples=20, thinning=4, n_leapfrog=6)
    chains = run(energy, start(300, 2, energy.dim, width), settings)
    diagnostics = chains.diagnostics
    assert abs(diagnostics.mean_energy - exact_mean(energy, lambda r, u: u)) < 4 * diagnostics.mean_energy_error
    assert abs(diagnostics.virial - energy.dim) < 4 * diagnostics.virial_error
    distance = (chains.positions[:, :, 0] - chains.positions[:, :, 1]).norm(dim=-1)
    inner = (distance < 3.0).double().mean(1)
    error = inner.std() / len(inner) ** 0.5
    assert abs(inner.mean() - exact_mean(energy, lambda r, u: (r < 3.0).double())) < 4 * error + 1e-3
    assert all(0.2 < rate <= 1 for rate in diagnostics.swap_acceptance)


def test_several_temperatures_cross_a_barrier_that_one_cannot():
    """All chains start in the inner of two wells, with 13 kT between them."""

    def energy(x):
        return 3 * DoubleWell(2, 2)(x)

    energy.dim = 2
    first = torch.tensor([[1.25, 0], [-1.25, 0]], dtype=torch.float64).expand(200, 2, 2)
    exact = exact_mean(energy, lambda r, u: (r < 4).double())

    def inner(temperatures):
        settings = Tempering(temperatures, n_burn_in=100, n_samples=10, thinning=4, n_leapfrog=6)
        positions = run(energy, first, settings).positions
        return ((positions[:, :, 0] - positions[:, :, 1]).norm(dim=-1) < 4).double().mean()

    assert inner((1.0,)) > 0.95
    assert abs(inner((1.0, 2.0, 4.0, 8.0)) - exact) < 0.1


def test_the_seed_decides():
    first = start(5, 3, 2)
    settings = Tempering((1.0, 1.5), 5, 4, 1, 3)
    one, same, other = (run(DoubleWell(3), first, settings, seed).positions for seed in (0, 0, 1))
    assert torch.equal(one, same)
    assert not torch.equal(one, other)


def test_chains_leave_overlaps_at_the_start():
    first = start(20, 6, 3, 0.3, torch.float32)
    first[:, 1] = first[:, 0] + 1e-3
    energies = run(LennardJones(6), first, QUICK).energies
    assert energies.max() < 60


def test_bad_input():
    first = start(4, 3, 2)

    def logarithm(x):
        return (x - x.mean(-2, keepdim=True)).sum((-1, -2)).log()

    with pytest.raises(MolflowError, match=r"start of chain 2: its energy is nan"):
        run(gaussian, first.index_fill(0, torch.tensor([2]), torch.nan))
    with pytest.raises(MolflowError, match=r"start of chain \d: its energy is (nan|-inf)"):
        run(logarithm, first)
    with pytest.raises(MolflowError, match="changes under translations"):
        run(lambda x: x.sum((-1, -2)), first)
    with pytest.raises(MolflowError, match=r"one energy for each of 4 configurations, got shape \(4, 1\)"):
        run(lambda x: gaussian(x).unsqueeze(1), first)
    with pytest.raises(MolflowError, match=r"two chains or more, \(C, N, D\), got \(1, 3, 2\)"):
        run(gaussian, first[:1])
    with pytest.raises(MolflowError, match=r"temperatures must ascend from 1, got \(2.0,\)"):
        Tempering((2.0,), 1, 4, 1, 1)
    with pytest.raises(MolflowError, match="n_samples >= 4"):
        Tempering((1.0,), 1, 3, 1, 1)


def test_split_r_hat():
    values = torch.tensor([[0.0, 2.0, 0.0, 2.0], [0.0, 2.0, 0.0, 2.0]], dtype=torch.float64)
    assert split_r_hat(values) == pytest.approx(0.5**0.5)  # halves agree, so only (n - 1) / n with n = 2 is left
    values[:, 2:] += 2  # means of halves 1, 3, 1, 3 with variance 4 / 3, within 2
    assert split_r_hat(values) == pytest.approx((0.5 + 4 / 3 / 2) ** 0.5)
