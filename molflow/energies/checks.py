"""Checks of an energy before it is trained on: what the model assumes, its forces, and its unit."""

from collections.abc import Iterator
from itertools import pairwise

import torch
from torch import Tensor

from molflow.energies.base import Energy, energy_and_gradient
from molflow.energies.convention import virial
from molflow.errors import MolflowError

_CHECKED = 4  # configurations
_VIRIAL_FITS, _VIRIAL_FAILS = 4.0, 2.0  # standard errors; factor beyond which the unit cannot be kT


def check_energy(energy: Energy, x: Tensor, species: Tensor, name: str) -> Iterator[str]:
    """Check an energy on configurations of its density; one line for each check.

    1. Energies of the data are finite.
    2. It does not change under translations, rotations, reflections, and permutations of particles of one species,
       which the model cannot tell apart.
    3. Its forces are its gradient, by finite differences.
    4. The mean of x . grad U is (N - 1) D, as it must be where U is in kT.

    Args:
        energy: U.
        x: configurations (n, N, D), at least two.
        species: of each particle, (N,); equal ones are interchangeable.
        name: of the energy, for messages.

    Raises:
        MolflowError: a check fails.

    Example:
        >>> from molflow.energies import DoubleWell
        >>> x = molflow.load_pretrained("dw4").sample(500, seed=0)
        >>> for line in check_energy(DoubleWell(), x, torch.zeros(4), "dw4"):
        ...     print(line.split(" (")[0].split(" is ")[0])
        the energy does not change under translation
        the energy does not change under rotation
        the energy does not change under reflection
        the energy does not change under permutation of like particles
        forces are the gradient of the energy, by finite differences
        the mean of x . grad U
    """
    x = x[:1000].double()
    x = x - x.mean(1, keepdim=True)
    u, gradient = energy_and_gradient(energy, x)
    if not (finite := u.isfinite() & gradient.isfinite().all(2).all(1)).all():
        i = int((~finite).nonzero()[0])
        raise MolflowError(f"{name}: the energy of configuration {i} is {float(u[i])}; expected finite ones and forces")
    some = x[:_CHECKED]
    for change, moved, cause in _changes(some, species):
        before = u[: len(some)].repeat_interleave(len(moved) // len(some))
        difference = (energy(moved).detach() - before).abs()
        if (difference > 1e-2 + 1e-4 * before.abs()).any():
            raise MolflowError(f"{name}: changes by {float(difference.max()):.3g} kT under {change}; {cause}")
        yield f"the energy does not change under {change} (at most {float(difference.max()):.1g} kT)"
    yield _check_forces(energy, some, gradient[: len(some)], name)
    yield _check_unit(energy, x, name)


def _changes(x: Tensor, species: Tensor) -> Iterator[tuple[str, Tensor, str]]:
    """Changes that the model's density does not notice: name, changed configurations (some for each), and a cause."""
    generator = torch.Generator().manual_seed(0)
    n, dim = x.shape[1:]
    yield "translation", x + x.std(), "expected an energy of relative positions"
    if dim > 1:
        q, _ = torch.linalg.qr(torch.randn(dim, dim, generator=generator, dtype=x.dtype))
        q[:, 0] *= torch.linalg.det(q).sign()
        yield "rotation", x @ q, "the model takes all directions as equal"
    yield "reflection", x * torch.tensor([-1.0] + [1.0] * (dim - 1)).to(x), "the model makes mirror images alike"
    orders = []  # exchanges of neighbours in a list, of which every permutation consists
    for kind in species.unique():
        for i, j in pairwise((species == kind).nonzero().squeeze(1).tolist()):
            order = torch.arange(n)
            order[i], order[j] = j, i
            orders.append(order)
    if orders:
        yield (
            "permutation of like particles",
            x[:, torch.stack(orders)].flatten(0, 1),
            "tell particles apart by data.species, or by data.bonds, as for an ordered chain",
        )


def _check_forces(energy: Energy, x: Tensor, gradient: Tensor, name: str) -> str:
    direction = torch.randn(x.shape, generator=torch.Generator().manual_seed(1), dtype=x.dtype)
    step = 1e-3 * float(x.std())
    slope = (energy(x + step * direction) - energy(x - step * direction)).detach() / (2 * step)
    expected = (gradient * direction).sum((1, 2))
    off = (slope - expected).abs()
    if (off > 0.02 * (slope.abs() + expected.abs()) + 0.1 / float(x.std())).any():
        i = int(off.argmax())
        raise MolflowError(
            f"{name}: its forces are not its gradient: along a random direction the energy rises by "
            f"{float(slope[i]):.4g} kT per unit of length, by its forces {float(expected[i]):.4g}"
        )
    return "forces are the gradient of the energy, by finite differences"


def _check_unit(energy: Energy, x: Tensor, name: str) -> str:
    mean, error = virial(energy, x)
    ratio = mean / energy.dof
    said = f"the mean of x . grad U is {mean:.3g} +- {error:.2g}, where samples at kT = 1 have {energy.dof}"
    far = abs(mean - energy.dof) > _VIRIAL_FITS * error
    if far and not 1 / _VIRIAL_FAILS < ratio < _VIRIAL_FAILS:
        fits = f"; kT = {ratio:.3g} in its unit would fit" if ratio > 0 else ""
        raise MolflowError(f"{name}: {said}: the data are not samples of this energy in this unit{fits}")
    return said + (", which does not fit well" if far else "")


def distinguishable(x: Tensor, species: Tensor) -> tuple[int, int] | None:
    """Two particles of one species whose mean distances to the others, sorted, differ clearly; None if there are none.

    Args:
        x: configurations (n, N, D).
        species: of each particle, (N,).
    """
    distances = torch.cdist(x[:1000].double(), x[:1000].double())
    mean, error = distances.mean(0), distances.std(0) / min(len(x), 1000) ** 0.5
    profile = mean.sort(1).values
    for i in range(len(species)):
        for j in range(i):
            off = (profile[i] - profile[j]).abs()
            if species[i] == species[j] and (off > 5 * error.max() + 0.05 * mean.max()).any():
                return j, i
    return None
