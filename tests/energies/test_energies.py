"""The energies: dimers and trimers by hand, symmetries, derivatives, coincident particles, and the registry."""

import dataclasses
import math
import subprocess
import sys

import pytest
import torch

from molflow.energies import (
    ENERGIES,
    DoubleWell,
    Energy,
    LennardJones,
    System,
    get_system,
    parallel_tempering,
    softened,
)
from molflow.errors import MolflowError
from molflow.geometry import MeanFreeSpace, Points
from molflow.testing import assert_invariant

EXAMPLES = {
    "dw4": DoubleWell(),
    "double-well-3d": DoubleWell(5, 3),
    "lj4-ordered": LennardJones(4),
    "lj5-unordered": LennardJones(5, "unordered"),
    "lj13": LennardJones(13),
}
"""Every energy entered here must obey the laws."""

EVERY = pytest.mark.parametrize("energy", EXAMPLES.values(), ids=EXAMPLES)


def on_a_line(*places, dim=3):
    x = torch.zeros(len(places), dim, dtype=torch.float64)
    x[:, 0] = torch.tensor(places, dtype=x.dtype)
    return x


def some(energy, n=6, dtype=torch.float64, width=1.5):
    mask = torch.ones(n, energy.n_particles, dtype=torch.bool)
    return width * MeanFreeSpace(mask, energy.dim).randn(torch.Generator().manual_seed(3), dtype).x


@pytest.mark.parametrize(
    ("x", "expected"),
    [
        (on_a_line(0, 4, dim=2), 0.0),
        (on_a_line(0, 5, dim=2), 0.9 - 4),
        (on_a_line(0, 2, dim=2), 0.9 * 16 - 4 * 4),
        (on_a_line(0, 3, 8, dim=2), (0.9 - 4) + (0.9 - 4) + (0.9 * 256 - 4 * 16)),
        (torch.tensor([[0, 0], [3, 0], [0, 4]]).double(), 2 * (0.9 - 4)),  # a right triangle with sides 3, 4 and 5
    ],
)
def test_double_well_by_hand(x, expected):
    torch.testing.assert_close(DoubleWell(len(x))(x), torch.tensor(expected, dtype=torch.float64))


@pytest.mark.parametrize(
    ("x", "pairs", "trap"),
    [
        (on_a_line(0, 1), -1, 0.25),  # two particles at 1/2 from their centroid
        (on_a_line(7, 9), 2**-12 - 2**-5, 1.0),
        (on_a_line(0, 0.8), 0.8**-12 - 2 * 0.8**-6, 0.16),
        (on_a_line(-1, 0, 1), -2 + 2**-12 - 2**-5, 1.0),
        (torch.tensor([[0, 0, 0], [1, 0, 0], [0.5, 0.75**0.5, 0]]).double(), -3, 0.5),  # an equilateral triangle
    ],
)
def test_lennard_jones_by_hand(x, pairs, trap):
    for pair_sum, factor in ("ordered", 2), ("unordered", 1):
        expected = torch.tensor(factor * pairs + trap, dtype=torch.float64)
        torch.testing.assert_close(LennardJones(len(x), pair_sum)(x), expected)


def test_force_of_a_dimer_by_hand():
    x = on_a_line(-1, 1)
    towards = -2 * (-12 * 2**-13 + 12 * 2**-7) - 1  # ordered: twice the pair's slope at r = 2, and the trap
    torch.testing.assert_close(LennardJones(2).force(x), on_a_line(-towards, towards))


@EVERY
def test_invariance(energy):
    x = some(energy)

    def small(p, mask):
        real = p.x[mask].view(-1, energy.n_particles, energy.dim)
        return energy(real).asinh()  # so that a wall does not hide errors elsewhere

    assert_invariant(small, Points(x, x[..., :0]), torch.ones(x.shape[:2], dtype=torch.bool))
    torch.testing.assert_close(energy(x + 10), energy(x))


@EVERY
def test_any_batch_shape_and_both_precisions(energy):
    x = some(energy, 6)
    u = energy.energy(x)
    assert u.shape == (6,)
    torch.testing.assert_close(energy(x.unflatten(0, (2, 3))), u.view(2, 3))
    torch.testing.assert_close(energy(x[0]), u[0])
    assert energy(x[:0]).shape == (0,)
    assert energy(x.float()).dtype == torch.float32
    torch.testing.assert_close(energy(x.float()).double(), u, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(energy.force(x.float()).double(), energy.force(x), rtol=1e-3, atol=1e-3)


@EVERY
def test_derivatives(energy):
    x = some(energy, 2, width=2.5).requires_grad_(True)
    assert torch.autograd.gradcheck(energy, x)
    assert torch.autograd.gradgradcheck(energy, x)
    (gradient,) = torch.autograd.grad(energy(x).sum(), x)
    torch.testing.assert_close(energy.force(x), -gradient)
    assert not energy.force(x).requires_grad


@EVERY
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_coincident_particles(energy, dtype):
    x = some(energy, 2, dtype)
    x[:, 1] = x[:, 0]
    together = torch.zeros_like(x[:1])
    close = together.clone()
    close[:, 0, 0] = 1e-30
    for configuration in x, together, close:
        u, force = energy(configuration), energy.force(configuration)
        assert u.isfinite().all()
        assert force.isfinite().all()
        assert (u > 100).all()


def test_the_core_continues_value_and_slope():
    energy = LennardJones(2, "unordered")
    r = torch.tensor([0.5 - 1e-9, 0.5, 0.5 + 1e-9], dtype=torch.float64)
    x = torch.zeros(3, 2, 3, dtype=torch.float64)
    x[:, 1, 0] = r
    torch.testing.assert_close(energy(x), torch.full_like(r, 2**12 - 2 * 2**6 + 0.0625), rtol=1e-6, atol=0)
    slope = -12 * (2**13 - 2**7) + 0.25
    torch.testing.assert_close(energy.force(x)[:, 1, 0], torch.full_like(r, -slope), rtol=1e-6, atol=0)
    x[:, 1, 0] = torch.tensor([0.4, 0.2, 0.0])
    assert (energy(x).diff() > 1000).all(), "the closer, the higher"


@EVERY
def test_wrong_shapes_are_refused(energy):
    n, dim = energy.n_particles, energy.dim
    for shape in (3, n + 1, dim), (3, n, dim + 1), (n,):
        with pytest.raises(MolflowError) as error:
            energy(torch.zeros(shape))
        assert str(error.value) == f"expected configurations (..., {n}, {dim}), got {shape}"


def test_wrong_arguments_are_refused():
    with pytest.raises(MolflowError, match="unknown pair_sum 'both', accepted: ordered, unordered"):
        LennardJones(13, "both")
    with pytest.raises(MolflowError, match="expected at least 2 particles and 1 dimension, got 1 and 3"):
        LennardJones(1)
    with pytest.raises(MolflowError, match="got 4 and 0"):
        DoubleWell(4, 0)


@pytest.mark.parametrize("name", ENERGIES)
def test_figures_of_a_system_are_consistent(name):
    system = get_system(name)
    assert system.name == name
    known = [value is not None for value in (system.mean_energy, system.log_z, system.entropy)]
    assert len(set(known)) == 1
    if system.entropy is not None:
        assert math.isclose(system.entropy, system.mean_energy + system.log_z, abs_tol=0.011)
    assert system.energy(torch.zeros(1, system.energy.n_particles, system.energy.dim)).isfinite()


def test_conventions_of_the_systems():
    for name, pair_sum in ("lj13", "ordered"), ("lj13-unordered", "unordered"):
        for system in get_system(name), get_system(name.replace("13", "55")):
            assert system.energy.pair_sum == pair_sum


def test_a_system_is_built_once():
    assert get_system("dw4") is get_system("dw4")
    assert get_system("dw4").energy is not ENERGIES["dw4"]().energy


def test_an_energy_of_another_file_is_known_by_its_name(monkeypatch):
    class RingEnergy(Energy):
        """U = 1/2 sum over neighbours on a ring of r^2."""

        def _energy(self, x):
            return 0.5 * (x - x.roll(1, dims=1)).square().sum((1, 2))

    monkeypatch.setattr(ENERGIES, "_objects", dict(ENERGIES._objects))

    @ENERGIES.register("ring")
    def ring() -> System:
        return System("ring", RingEnergy(5, 2))

    assert "ring" in ENERGIES.names()
    assert get_system("ring").energy(torch.eye(5)[:, :2]).item() == pytest.approx(0.5 * (2 + 1 + 1))
    assert get_system("ring").log_z is None
    with pytest.raises(MolflowError, match=r"unknown energy 'rng'; did you mean ring"):
        get_system("rng")


def test_an_unknown_energy_names_the_nearest():
    with pytest.raises(MolflowError, match=r"unknown energy 'lj14'; did you mean lj13.* Known are: dw4, lj13, "):
        get_system("lj14")


def test_names_of_energies_need_no_torch():
    script = "import sys; from molflow.energies import ENERGIES; print(*ENERGIES.names(), 'torch' in sys.modules)"
    out = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout
    assert out.split() == ["dw4", "lj13", "lj13-unordered", "lj55", "lj55-unordered", "False"]


def test_data_of_a_system_without_settings_can_be_drawn():
    """The default settings suit a few particles."""
    system = System("springs", DoubleWell(3, 2))
    start = system.start_width * some(system.energy, 40, torch.float32, width=1.0)
    settings = dataclasses.replace(system.tempering, n_burn_in=30, n_samples=4)
    chains = parallel_tempering(system.energy, start, settings, torch.Generator().manual_seed(0))
    assert chains.positions.shape == (40, 4, 3, 2)


def test_softened_by_hand():
    soft = softened(lambda x: x.sum((-2, -1)), 2.0)
    x = torch.tensor([1.0, 2.0, 5.0, torch.inf]).double().view(4, 1, 1).requires_grad_()
    torch.testing.assert_close(soft(x)[:3], torch.tensor([1.0, 2.0, 2 + math.log(4)]).double())
    (slope,) = torch.autograd.grad(soft(x)[:3].sum(), x)
    torch.testing.assert_close(slope.flatten()[:3], torch.tensor([1.0, 1.0, 0.25]).double())
    far = torch.tensor([[[1e9]]], requires_grad=True)
    (slope,) = torch.autograd.grad(soft(far).sum(), far)
    assert slope.item() == pytest.approx(1e-9), "in float32 nothing cancels"
