"""Initial value problems by torchdiffeq, with errors that say where integration failed and what to change.

torchdiffeq is loaded when something is integrated.
"""

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from molflow.config import Config, OneOf
from molflow.errors import NumericalError
from molflow.flows.registry import SOLVERS

State = tuple[Tensor, ...]
Rate = Callable[[Tensor, State], State]
FixedStepMethod = Literal["euler", "midpoint", "heun3", "rk4"]

STAGES: dict[FixedStepMethod, int] = {"euler": 1, "midpoint": 2, "heun3": 3, "rk4": 4}
"""Evaluations in a step, which are also the order of the method."""

_LEARN = "where training led here, lower optimizer.learning_rate or weigh the kinetic energy more"


class IntegrationError(NumericalError):
    """A path cannot be integrated; the message names the time and the settings to change."""


class Solution(NamedTuple):
    """The states at the times that were asked for, stacked, and the number of evaluations of the rate of change."""

    states: State
    n_evaluations: int


class Solver(Config, ABC):
    """A way to integrate dy/dt = rate(t, y); it is its own configuration, chosen by `method`."""

    adjoint: bool = Field(
        False,
        description="gradients by a second problem, solved backwards (arXiv 1806.07366): memory does not grow with the "
        "steps, and the gradient is exact up to the error of the solver; otherwise by direct back-propagation, exact "
        "for what was computed, which keeps every evaluation",
    )

    @property
    @abstractmethod
    def n_evaluations(self) -> int | None:
        """Evaluations of the rate, or None where they depend on it."""

    @property
    @abstractmethod
    def remedy(self) -> str:
        """The settings to change where integration fails, in words."""

    @abstractmethod
    def settings(self) -> dict[str, Any]:
        """Arguments of `torchdiffeq.odeint`."""

    def for_density(self) -> "Solver":
        """The solver of paths whose density is computed; by default this one."""
        return self

    def integrate(self, rate: Rate, state: State, times: Sequence[float], parameters: Iterable[Tensor]) -> Solution:
        """The states at some times, given that at the first of them.

        Args:
            rate: (t (), state) -> dy/dt, tensors as in the state.
            state: tensors of one precision, none of them empty.
            times: at least two, ascending or descending; the first is that of `state`.
            parameters: all tensors but the state that a gradient is wanted for; the adjoint needs to know them.

        Raises:
            IntegrationError: the rate or the state is not finite, or the steps became too small or too many; also in
                the backward pass of the adjoint.
        """
        from torchdiffeq import odeint, odeint_adjoint

        watched = _Watched(rate, self, backwards=times[-1] < times[0])
        at = torch.tensor(times, dtype=state[0].dtype, device=state[0].device)
        settings = self.settings()
        if self.adjoint and torch.is_grad_enabled():
            # Errors of the parameters' gradients do not feed back and need not shorten steps (arXiv 2009.09457).
            backward = {**settings.get("options", {}), "norm": "seminorm"}
            given = {"adjoint_params": tuple(parameters), "adjoint_options": backward}
            path: State = odeint_adjoint(watched, state, at, **settings, **given)
        else:
            path = odeint(watched, state, at, **settings)
        watched.check(tuple(tensor[-1] for tensor in path), "state", times[-1])
        return Solution(path, watched.n_evaluations)


@SOLVERS.register("dopri5")
class AdaptiveSolver(Solver):
    """Dormand and Prince's method of order 5, with steps as long as the tolerances allow.

    The error of a step, a root mean square over all entries of a tensor of the state, must not exceed
    atol + rtol |y|. All that is integrated together shares its steps, and with `norm = "worst"` the error of no
    configuration may exceed it.

    Paths whose density is computed have a tolerance of their own, that of the worst configuration, as their errors
    decide how well the densities of encoder and decoder agree.
    """

    method: Literal["dopri5"] = "dopri5"
    rtol: float = Field(1e-4, gt=0, description="relative tolerance")
    atol: float = Field(1e-4, gt=0, description="absolute tolerance")
    norm: Literal["mean", "worst"] = Field("mean", description="error over all configurations, or of the worst one")
    density_tolerance: float = Field(1e-5, gt=0, description="rtol and atol, of the worst, where a density is computed")
    max_steps: int = Field(1000, gt=0, description="accepted and rejected steps, after which integration is given up")

    n_evaluations: ClassVar[None] = None

    @property
    def remedy(self) -> str:
        now = f"now {self.rtol:g} and {self.atol:g}"
        return f"loosen rtol and atol of the solver ({now}), integrate in float64, or take a fixed-step method"

    def settings(self) -> dict[str, Any]:
        given = {"method": self.method, "rtol": self.rtol, "atol": self.atol}
        return given if self.norm == "mean" else given | {"options": {"norm": _worst}}

    def for_density(self) -> "AdaptiveSolver":
        rtol, atol = min(self.rtol, self.density_tolerance), min(self.atol, self.density_tolerance)
        return self.model_copy(update={"rtol": rtol, "atol": atol, "norm": "worst"})


def _worst(state: State) -> Tensor:
    """The largest root mean square over the entries of one configuration."""
    return torch.stack([tensor.square().flatten(1).mean(1).max().sqrt() for tensor in state]).max()


@SOLVERS.register(*STAGES)
class FixedStepSolver(Solver):
    """An explicit Runge-Kutta method with equal steps, whose error falls with a power of their number.

    Methods are euler, midpoint, heun3 and rk4, of order 1, 2, 3 and 4. With `last_step` the step at the data, time 0,
    has that length and the others are equal.
    """

    method: FixedStepMethod = "rk4"
    n_steps: int = Field(20, gt=0, description="from the start to the end")
    last_step: float = Field(0.0, ge=0, lt=1, description="length of the step at the data, in time; 0: as the others")

    @property
    def n_evaluations(self) -> int:
        return STAGES[self.method] * self.n_steps

    @property
    def remedy(self) -> str:
        return f"take more steps (now {self.n_steps} of {self.method}) or an adaptive solver"

    def times(self, ends: Tensor) -> Tensor:
        """The times at which steps begin and end, from the first of `ends` to the last, (n_steps + 1,)."""
        # Not torchdiffeq's step_size, which gives a step too many where rounding makes 1 / (1 / n) more than n.
        first, last = ends[[0, -1]].tolist()
        if not self.last_step or self.n_steps == 1:
            return torch.linspace(first, last, self.n_steps + 1, dtype=ends.dtype, device=ends.device)
        data, latent = sorted((first, last))
        equal = torch.linspace(latent, data + self.last_step, self.n_steps, dtype=ends.dtype, device=ends.device)
        grid = torch.cat([equal, ends.new_tensor([data])])
        return grid if first > last else grid.flip(0)

    def settings(self) -> dict[str, Any]:
        def grid(rate: Rate, state: Tensor, times: Tensor) -> Tensor:
            return self.times(times)

        return {"method": self.method, "options": {"grid_constructor": grid}}


SolverChoice = Annotated[SerializeAsAny[Solver], OneOf(SOLVERS, key="method")]
"""Type of a configuration field that holds any registered solver."""


class _Watched:
    """A rate that torchdiffeq calls; it counts evaluations and raises for states that cannot be integrated."""

    def __init__(self, rate: Rate, solver: Solver, backwards: bool):
        self.rate, self.solver = rate, solver
        self.n_evaluations = 0
        self.direction = -1 if backwards else 1
        self.steps = {"path": 0, "gradient": 0}

    def __call__(self, t: Tensor, state: State) -> State:
        self.n_evaluations += 1
        derivative = self.rate(t, state)
        self.check(derivative, "velocity", t)
        return derivative

    def check(self, values: State, name: str, t: Tensor | float) -> None:
        if not torch.stack([value.isfinite().all() for value in values]).all():
            time = float(t.detach() if isinstance(t, Tensor) else t)
            raise IntegrationError(f"the {name} is not finite at time {time:.4g}: {self.solver.remedy}; {_LEARN}")

    def callback_step(self, t: Tensor, state: State, dt: Tensor) -> None:
        """Check the state before each step of the path; t is the time of the path, dt is positive."""
        t, dt = t.detach(), dt.detach()
        self._check_step("path", float(t), state, t + self.direction * dt == t)

    def callback_step_adjoint(self, t: Tensor, state: State, dt: Tensor) -> None:
        """Check before each step of the backward pass; torchdiffeq gives -t for a path that went backwards."""
        self._check_step("gradient", abs(float(t)), state, t - dt == t)

    def _check_step(self, name: str, t: float, state: State, vanished: Tensor) -> None:
        self.check(state, "state" if name == "path" else name, t)
        self.steps[name] += 1
        where = f"at time {t:.4g} of the {name}"
        if vanished:
            raise IntegrationError(f"the step of the solver vanished {where}: {self.solver.remedy}; {_LEARN}")
        if isinstance(self.solver, AdaptiveSolver) and self.steps[name] > self.solver.max_steps:
            more = f"{self.solver.remedy}, or raise max_steps"
            raise IntegrationError(
                f"{self.solver.max_steps} steps of the solver were used up {where}: {more}; {_LEARN}"
            )
