"""A user's own energy, named by its import path, as an `Energy`: torch, numpy or ASE, batched or one at a time."""

import sys
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from molflow.energies.base import Energy
from molflow.energies.systems import System
from molflow.errors import MolflowError

BOLTZMANN = 8.617333262e-5
"""The Boltzmann constant in eV / K."""

_ACCEPTED = (
    "expected energies (n,) of configurations (n, N, D), or one energy of (N, D), as a torch tensor that can be "
    "differentiated, or as a pair (energy, forces) with forces of the shape of the configurations"
)


class OwnEnergy(Energy):
    """A function of configurations that a user wrote, divided by kT.

    The function takes configurations (n, N, D), or one (N, D), as a torch tensor or a numpy array, in float64. It gives
    energies, as torch tensors that can be differentiated, or a pair (energies, forces) of any arrays. Which of these it
    is, a trial on two configurations finds out.

    Args:
        function: the energy, in units of which `kT` is the thermal energy.
        example: configurations (n, N, D), at least two, to try it on.
        kT: thermal energy in the unit of the function.
        name: for messages.

    Attributes:
        way: how the function is called, in words.

    Raises:
        MolflowError: a function that cannot be called in one of these ways.

    Example:
        >>> def springs(x):
        ...     x = x - x.mean(axis=-2, keepdims=True)
        ...     return (x**2).sum(axis=(-2, -1)) / 2, -x
        >>> energy = OwnEnergy(springs, torch.randn(2, 3, 2), kT=0.5)
        >>> energy.way
        'torch tensors, batched, with forces'
        >>> energy(torch.tensor([[[1.0, 0.0], [-1.0, 0.0], [0.0, 0.0]]]))
        tensor([2.])
    """

    def __init__(self, function: Callable[..., Any], example: Tensor, kT: float = 1.0, name: str = "energy"):
        super().__init__(*example.shape[1:])
        if not kT > 0:
            raise MolflowError(f"{name}: kT must be above 0, got {kT}")
        self.function, self.kT, self.name, self._has_forces = function, kT, name, False
        self._evaluate, self.way = self._find_way(example[:2].double())

    def _energy(self, x: Tensor) -> Tensor:
        u: Tensor = self._evaluate(x.double()) / self.kT
        return u.to(x)

    def _find_way(self, x: Tensor) -> tuple[Callable[[Tensor], Tensor], str]:
        reasons = []
        for batched in (True, False):
            for kind in ("torch tensors", "numpy arrays"):

                def evaluate(x: Tensor, kind: str = kind, batched: bool = batched) -> Tensor:
                    parts = [self._call(part, kind) for part in ([x] if batched else x.unbind(0))]
                    return parts[0] if batched else torch.stack(parts)

                try:
                    with torch.enable_grad():
                        trial = x.clone().requires_grad_(True)
                        u = evaluate(trial)
                        alone = evaluate(trial[:1])
                        differentiable = u.requires_grad
                except Exception as error:  # a user's function can raise anything
                    reasons.append(f"{kind}{', batched' if batched else ', one'}: {type(error).__name__}: {error}")
                    continue
                if u.shape != (2,):
                    reasons.append(f"{kind}{', batched' if batched else ', one'}: shape {tuple(u.shape)}")
                elif not differentiable:
                    reasons.append(f"{kind}{', batched' if batched else ', one'}: no gradient and no forces")
                elif not torch.allclose(alone, u[:1], rtol=1e-4, atol=1e-6, equal_nan=True):
                    reasons.append(f"{kind}, batched: the energy of a configuration depends on the others")
                else:
                    forces = "with forces" if self._has_forces else "gradients by autograd"
                    return evaluate, f"{kind}, {'batched' if batched else 'one at a time'}, {forces}"
        raise MolflowError(f"{self.name}: {_ACCEPTED}; tried {'; '.join(dict.fromkeys(reasons))}")

    def _call(self, x: Tensor, kind: str) -> Tensor:
        """Energies of a batch, or of one configuration."""
        try:
            # The function may change its argument.
            result = self.function(x if kind == "torch tensors" else x.detach().cpu().numpy().copy())
        except SystemExit as error:
            raise MolflowError(f"{self.name}: the function ended the program (SystemExit: {error})") from error
        self._has_forces = isinstance(result, tuple | list)
        if not self._has_forces:
            return torch.as_tensor(result)
        u, forces = (_array(values, x) for values in result)
        if forces.shape != x.shape:
            raise MolflowError(f"forces of shape {tuple(forces.shape)} for configurations {tuple(x.shape)}")
        return _WithForces.apply(x, u.reshape(x.shape[:-2]), forces)  # type: ignore[no-untyped-call, no-any-return]


class _WithForces(torch.autograd.Function):
    """Energies whose gradient is minus the given forces."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, u: Tensor, forces: Tensor) -> Tensor:
        ctx.save_for_backward(forces)
        return u.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> tuple[Tensor, None, None]:
        (forces,) = ctx.saved_tensors
        return -forces * gradient[..., None, None], None, None


def _array(values: Any, like: Tensor) -> Tensor:
    tensor = values.detach() if isinstance(values, Tensor) else torch.from_numpy(np.array(values, dtype=np.float64))
    return tensor.to(like)


def own_system(path: str, example: Tensor, kT: float = 1.0) -> System:
    """The system of an energy at an import path; this executes the user's code.

    Args:
        path: package.module:name, looked for in the current folder as well. The name is a function as `OwnEnergy` takes
            it, or an `Energy`, or a `System`.
        example: configurations (n, N, D), at least two.
        kT: thermal energy in the unit of the energy.

    Raises:
        MolflowError: nothing can be imported there, or something else than an energy of these particles.

    Example:
        >>> code = "def u(x): return (x - x.mean(-2, keepdim=True)).square().sum((-2, -1))"
        >>> _ = Path("my_energy.py").write_text(code)
        >>> own_system("my_energy:u", torch.randn(2, 3, 2)).energy.way
        'torch tensors, batched, gradients by autograd'
    """
    found = _import(path)
    if isinstance(found, System | Energy):
        system = found if isinstance(found, System) else System(path, found)
        if (system.energy.n_particles, system.energy.dim) != tuple(example.shape[1:]):
            raise MolflowError(
                f"{path}: an energy of {system.energy.n_particles} particles in {system.energy.dim} dimensions, "
                f"expected {example.shape[1]} and {example.shape[2]}"
            )
        return system if kT == 1 else at_temperature(system, kT)
    if not callable(found):
        raise MolflowError(f"{path}: is a {type(found).__name__}, expected a function of configurations")
    return System(path, OwnEnergy(found, example, kT, path))


class _Scaled(Energy):
    """U / kT."""

    def __init__(self, energy: Energy, kT: float):
        super().__init__(energy.n_particles, energy.dim)
        self.original, self.kT = energy, kT

    def _energy(self, x: Tensor) -> Tensor:
        return self.original.energy(x) / self.kT


def at_temperature(system: System, kT: float) -> System:
    """The system of U / kT, of which no figures are known.

    Args:
        system: that of U.
        kT: thermal energy, in units of that of `system`.

    Example:
        >>> warm = at_temperature(molflow.energies.get_system("dw4"), 1.5)
        >>> x = torch.randn(3, 4, 2)
        >>> warm.name, torch.allclose(1.5 * warm.energy(x), molflow.energies.DoubleWell()(x))
        ('dw4 at kT = 1.5', True)
    """
    return System(f"{system.name} at kT = {kT:g}", _Scaled(system.energy, kT))


def split_path(path: str) -> tuple[str, str]:
    """The module and the name in it of package.module:function. Raises MolflowError for another form."""
    module, _, name = path.partition(":")
    if not (module and name):
        raise MolflowError(f"energy {path!r}: expected package.module:function")
    return module, name


def _import(path: str) -> Any:
    module, name = split_path(path)
    here = str(Path.cwd())
    sys.path.insert(0, here)
    try:
        found: Any = import_module(module)
        for part in name.split("."):
            found = getattr(found, part)
    except (Exception, SystemExit) as error:  # anything can go wrong while a user's module is imported
        raise MolflowError(f"energy {path}: cannot be imported: {type(error).__name__}: {error}") from error
    finally:
        sys.path.remove(here)
    return found


class AseEnergy:
    """The energy in kT of a calculator of ASE (extra `ase`), with its forces, for `OwnEnergy`: one (N, 3) at a time.

    Args:
        atoms: `ase.Atoms` with a calculator; its positions do not matter.
        temperature: in kelvin.

    Raises:
        MolflowError: periodic atoms, no calculator, or a temperature that is not positive.

    Example:
        A module `argon.py` for `--energy argon:energy`, with the extra `ase`:

        >>> from ase import Atoms  # doctest: +SKIP
        >>> from ase.calculators.lj import LennardJones  # doctest: +SKIP
        >>> atoms = Atoms("Ar3", [[0, 0, 0], [4, 0, 0], [0, 4, 0]])  # doctest: +SKIP
        >>> atoms.calc = LennardJones(sigma=3.4, epsilon=0.0103, rc=100)  # doctest: +SKIP
        >>> energy = AseEnergy(atoms, temperature=30)  # doctest: +SKIP
    """

    def __init__(self, atoms: Any, temperature: float):
        if atoms.calc is None:
            raise MolflowError("atoms without a calculator; set atoms.calc")
        if any(atoms.pbc):
            raise MolflowError("periodic atoms: molflow models particles without a box; set atoms.pbc = False")
        if not temperature > 0:
            raise MolflowError(f"expected a temperature above 0 K, got {temperature}")
        self.atoms, self.kT = atoms.copy(), BOLTZMANN * temperature
        self.atoms.calc = atoms.calc

    def __call__(self, x: np.ndarray) -> tuple[float, np.ndarray]:
        self.atoms.set_positions(np.asarray(x).reshape(len(self.atoms), 3))
        return self.atoms.get_potential_energy() / self.kT, self.atoms.get_forces() / self.kT
