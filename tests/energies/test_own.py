"""A user's own energy: every way to write one, what is checked before training, and that models never execute it."""

import math
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

from molflow.energies import AseEnergy, Energy, OwnEnergy, check_energy, own_system
from molflow.errors import MolflowError

CHAIN = Path(__file__).parents[2] / "experiments" / "particles" / "chain"


def springs(x):
    """sum_i |x_i - c|^2 / 2 of tensors or arrays, (..., N, D)."""
    return ((x - x.mean(-2)[..., None, :]) ** 2).sum((-2, -1)) / 2


def force(x):
    return -(x - x.mean(-2)[..., None, :])


def one(x):
    assert x.ndim == 2
    return x


WAYS = {
    "torch tensors, batched, gradients by autograd": springs,
    "torch tensors, one at a time, gradients by autograd": lambda x: springs(one(x)),
    "numpy arrays, batched, with forces": lambda x: (np.asarray(springs(x)), np.asarray(force(x))),
    "numpy arrays, one at a time, with forces": lambda x: (float(springs(one(np.asarray(x)))), force(x).tolist()),
    "torch tensors, batched, with forces": lambda x: [springs(x).detach(), force(x).detach().float()],
}


@pytest.fixture
def x():
    return torch.randn(200, 5, 3, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("way", WAYS)
def test_every_way_to_write_an_energy_gives_the_same(way, x):
    energy = OwnEnergy(WAYS[way], x, kT=0.5)
    assert energy.way == way
    centred = x - x.mean(1, keepdim=True)
    torch.testing.assert_close(energy(x), centred.square().sum((1, 2)))
    torch.testing.assert_close(energy.force(x), -2 * centred)
    assert energy(x[0]).shape == ()
    assert energy(x).dtype == torch.float32


@pytest.mark.parametrize(
    ("function", "message"),
    [
        (lambda x: springs(x)[:1], r"expected energies \(n,\) of configurations .*shape \(1,\)"),
        (lambda x: np.asarray(springs(x.detach() if isinstance(x, torch.Tensor) else x)), "no gradient and no forces"),
        (lambda x: (springs(x), force(x)[..., 0]), r"forces of shape \(2, 5\) for configurations \(2, 5, 3\)"),
        (lambda x: 1 / 0, "ZeroDivisionError"),
        (lambda x: sys.exit(3), r"ended the program \(SystemExit: 3\)"),
    ],
)
def test_a_function_that_is_no_energy_is_refused(function, message, x):
    with pytest.raises(MolflowError, match=message):
        OwnEnergy(function, x, name="mine")


def test_kt_must_be_positive(x):
    with pytest.raises(MolflowError, match="kT must be above 0, got 0"):
        OwnEnergy(springs, x, kT=0)


class Changed(Energy):
    """Springs, and a change."""

    def __init__(self, change):
        super().__init__(5, 3)
        self.change = change

    def _energy(self, x):
        return springs(x) + self.change(x)


def wrong_force(x):
    return springs(x), 1.5 * force(x)


@pytest.mark.parametrize(
    ("energy", "message"),
    [
        (Changed(lambda x: x[:, 0].sum(1)), "under translation; expected an energy of relative positions"),
        (Changed(lambda x: (x[..., 0] - x[..., 0].mean(1, keepdim=True)).square().sum(1)), "under rotation"),
        (Changed(lambda x: torch.linalg.det(x[:, 1:4] - x[:, :1])), "under reflection; the model makes mirror images"),
        (
            Changed(lambda x: (x[:, 0] - x[:, 1]).square().sum(1)),
            "like particles; tell particles apart by data.species",
        ),
        (Changed(lambda x: torch.where(x[:, 0, 0] > 0, torch.nan, 0.0)), "is nan; expected finite ones"),
        (wrong_force, "its forces are not its gradient"),
        (
            lambda x: 4 * springs(x),
            r"have 12: the data are not samples of this energy in this unit; kT = 4\.\d+ in its unit",
        ),
    ],
)
def test_a_check_that_fails_says_why(energy, message, x):
    energy = energy if isinstance(energy, Energy) else OwnEnergy(energy, x)
    with pytest.raises(MolflowError, match=message):
        list(check_energy(energy, x, torch.zeros(5), "mine"))


def test_an_energy_that_is_sound_has_a_line_for_each_check(x):
    lines = list(check_energy(OwnEnergy(springs, x), x, torch.zeros(5), "mine"))
    assert len(lines) == 6
    assert lines[-1].endswith("where samples at kT = 1 have 12")


def test_particles_of_several_species_are_permuted_within_them(x):
    energy = Changed(lambda x: (x[:, 0] - x[:, 1]).square().sum(1))
    list(check_energy(energy, x / 2**0.5, torch.tensor([0, 0, 1, 1, 1]), "mine"))
    assert len(list(check_energy(energy, x / 2**0.5, torch.arange(5), "mine"))) == 5


@pytest.mark.parametrize(
    ("path", "message"),
    [
        ("chain", r"expected package\.module:function"),
        ("no_such_module:energy", "cannot be imported: ModuleNotFoundError"),
        ("chain:no_such_name", "cannot be imported: AttributeError"),
        ("math:pi", "is a float, expected a function of configurations"),
        ("molflow.energies.double_well:DoubleWell", "mine|expected energies"),
    ],
)
def test_a_path_that_leads_nowhere(path, message, x, monkeypatch):
    monkeypatch.chdir(CHAIN)
    with pytest.raises(MolflowError, match=message):
        own_system(path, x)
    assert str(CHAIN) not in sys.path


def test_a_module_that_ends_the_program(x, tmp_path, monkeypatch):
    """As a script does that reads its own arguments when it is imported."""
    (tmp_path / "a_script.py").write_text("import sys\nsys.exit('usage: a_script.py FILE')")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(MolflowError, match="a_script:energy: cannot be imported: SystemExit: usage"):
        own_system("a_script:energy", x)


def test_an_array_that_a_function_changes_is_its_own(x):
    def in_nanometres(x):
        x *= 0.1
        return np.asarray(springs(10 * x)), np.asarray(force(10 * x))

    energy, before = OwnEnergy(in_nanometres, x), x.double()
    torch.testing.assert_close(energy(before), springs(x.double()))
    assert torch.equal(before, x.double())


def test_the_temperature_counts_for_energies_too(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    configurations = torch.randn(10, 4, 2, generator=torch.Generator().manual_seed(0))
    Path("mine_dw4.py").write_text("from molflow.energies import DoubleWell\nenergy = DoubleWell()\n")
    cold, warm = (own_system("mine_dw4:energy", configurations, kT=kT) for kT in (1.0, 2.0))
    torch.testing.assert_close(warm.energy(configurations), cold.energy(configurations) / 2)


def test_the_chain_of_the_examples(x, monkeypatch):
    """Two beads at distance 1.1 and others at 1 in a line: 0.5 100 0.1^2, and no overlap."""
    monkeypatch.chdir(CHAIN)
    system = own_system("chain:energy", x)
    line = torch.tensor([0, 1.1, 2.1, 3.1, 4.1]).unsqueeze(1) * torch.tensor([1.0, 0, 0])
    assert float(system.energy(line)) == pytest.approx(0.5, rel=1e-4)
    with pytest.raises(MolflowError, match="under permutation of like particles"):
        list(check_energy(system.energy, line + 0.05 * x, torch.zeros(5), "chain"))


def test_a_calculator_of_ase(monkeypatch):
    """Three atoms at the distances a, a and sqrt(2) a, by hand, in units of kT at 30 K."""
    pytest.importorskip("ase")
    monkeypatch.chdir(CHAIN)
    x = 3.8 * torch.tensor([[0.0, 0, 0], [1, 0, 0], [0, 1, 0]]) + 0.1 * torch.randn(3, 3, 3)
    energy = own_system("argon:energy", x).energy
    assert energy.way == "numpy arrays, one at a time, with forces"

    def pair(r):
        return 4 * 0.0104 * ((3.4 / r) ** 12 - (3.4 / r) ** 6)

    right = torch.tensor([[0.0, 0, 0], [3.8, 0, 0], [0, 3.8, 0]])
    expected = (2 * pair(3.8) + pair(3.8 * math.sqrt(2))) / (8.617333262e-5 * 30)
    assert float(energy(right)) == pytest.approx(expected, rel=1e-3)
    from ase import Atoms

    with pytest.raises(MolflowError, match="atoms without a calculator"):
        AseEnergy(Atoms("Ar2"), 30)
