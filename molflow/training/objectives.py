"""Losses as modules: a batch in, one number out, so that `DistributedDataParallel` can wrap them.

What can be compiled, the arithmetic on tensors, is apart from what cannot: drawing noise, checking and pairing data.
What takes long and needs no network, the pairing, is apart from the module, so that worker processes can do it.
"""

import copy
from abc import ABC, abstractmethod
from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils._pytree import tree_leaves

from molflow.energies.base import Potential
from molflow.errors import MolflowError
from molflow.flows.base import Flow
from molflow.flows.continuous import ContinuousFlow
from molflow.flows.free_form import FreeFormFlow, FreeFormTerms, average_velocity
from molflow.geometry import Context, Points
from molflow.training.config import (
    FlowMatchingObjectiveConfig,
    FreeFormObjectiveConfig,
    InversionObjectiveConfig,
    LikelihoodObjectiveConfig,
    MeanFlowObjectiveConfig,
    ObjectiveConfig,
    RegressionObjectiveConfig,
)
from molflow.training.paths import DrawPaths, Paths, Times, intervals, moments

Parts = dict[str, Tensor]
Preparation = Callable[[Any, torch.Generator | None], Any]


def data_as_they_are(data: Any, generator: torch.Generator | None) -> Any:
    """The preparation of an objective that draws what it needs in its step."""
    return data


class CheckedCompile:
    """A function of tensors, compiled. Its first result is compared with the eager one.

    Raises:
        MolflowError: the two differ, at the first call.
    """

    def __init__(self, function: Callable[..., Any]):
        self.eager, self.compiled, self.checked = function, torch.compile(function), False

    def __call__(self, *arguments: Any) -> Any:
        values = self.compiled(*arguments)
        if not self.checked:
            self.checked = True
            pairs = list(zip(tree_leaves(values), tree_leaves(self.eager(*arguments)), strict=True))
            if not all(torch.allclose(a, b, rtol=1e-2, atol=1e-3) for a, b in pairs):
                difference = max(float((a - b).detach().abs().max()) for a, b in pairs)
                raise MolflowError(
                    f"the compiled loss differs from the eager one by {difference:.2g}: do not compile here"
                )
        return values


class Objective(nn.Module, ABC):
    """A batch -> loss. The batch is what `preparation` makes of data.

    Args:
        flow: what is trained.

    Attributes:
        teacher: a frozen decoder or flow to learn from, where the objective needs one.
    """

    flow: Flow

    def __init__(self, flow: Flow):
        super().__init__()
        self.flow = flow
        self.teacher: nn.Module | None = None

    def preparation(self) -> Preparation:
        """What makes batches of data, with the domain as it is now: (data, generator), both on the CPU -> batch.

        It holds no network and can be pickled. A batch has a length, can be sliced, and has `to(device)`.
        """
        return data_as_they_are

    @abstractmethod
    def forward(self, batch: Any, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        """The loss, and the means of its parts for the log."""

    def compile_loss(self) -> None:
        """Let torch.compile fuse the arithmetic; worth it for many steps on batches of one shape.

        Raises:
            ValueError: this loss cannot be compiled.
        """
        raise ValueError("this objective cannot be compiled; set training.compile = false")


class FreeFormObjective(Objective):
    """beta |p - g(f(p))|^2 - log p(f(p)) - surrogate - correction, averaged over the batch (arXiv 2310.16624).

    With an energy U and a weight w it is (1 - w) times that plus w times its mirror image over latents z, the reverse
    Kullback-Leibler divergence: beta |z - f(g(z))|^2 + U(g(z)) - surrogate of log |det g'(z)|. So the maps invert each
    other wherever latents are drawn, not only where there are data.
    """

    flow: FreeFormFlow

    def __init__(self, flow: FreeFormFlow, config: FreeFormObjectiveConfig, energy: Potential | None = None):
        super().__init__(flow)
        if config.energy_weight and energy is None:
            raise ValueError("energy_weight needs data whose energy is known")
        self.config, self.energy = config, energy
        self._terms: Callable[..., FreeFormTerms] = flow.terms_of_points
        self._reverse_terms: Callable[..., tuple[Points, Tensor, Tensor]] = flow.reverse_terms
        flow.decoder.requires_grad_(not config.frozen_decoder)

    def forward(self, data: Any, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        points, context, correction = self.flow.to_points(data, generator)
        probes = self._probes(context, generator)
        terms = self._terms(points, context, correction, probes, self.config.surrogate)
        loss = terms.loss(self.config.beta)
        parts = {
            "reconstruction": terms.reconstruction.detach().mean(),
            "latent_nll": terms.latent.detach().mean(),
            "correction": terms.correction.detach().mean(),
        }
        if weight := self.config.energy_weight:
            by_energy, more = self._by_energy(context, generator)
            loss, parts = (1 - weight) * loss + weight * by_energy, parts | more
        return loss, parts

    def _by_energy(self, context: Context, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        z = self.flow.domain.space(context.mask).randn(generator, self.flow.dtype)
        probes = self._probes(context, generator)
        points, reconstruction, surrogate = self._reverse_terms(z, context, probes, self.config.surrogate)
        assert self.energy is not None
        u = self.energy(self.flow.domain.from_points(points, context))
        parts = {"energy": u.detach().mean(), "latent_reconstruction": reconstruction.detach().mean()}
        return (self.config.beta * reconstruction + u - surrogate).mean(), parts

    def _probes(self, context: Context, generator: torch.Generator | None) -> list[Points]:
        return self.flow.domain.space(context.mask).probes(self.config.n_probes, generator, self.flow.dtype)

    def compile_loss(self) -> None:
        if self.config.surrogate != "decoder_jvp":
            raise ValueError("only the surrogate decoder_jvp can be compiled; set it, or training.compile = false")
        self._terms = CheckedCompile(self.flow.terms_of_points)
        self._reverse_terms = CheckedCompile(self.flow.reverse_terms)


class _PathObjective(Objective):
    """Squared errors of velocities on straight paths: a mean over configurations of |error|^(2 - 2 power)."""

    config: FlowMatchingObjectiveConfig | MeanFlowObjectiveConfig

    def __init__(self, flow: Flow, config: FlowMatchingObjectiveConfig | MeanFlowObjectiveConfig):
        super().__init__(flow)
        self.config = config
        self._errors: Callable[..., Tensor] = self._of_tensors

    @abstractmethod
    def _of_tensors(
        self, at: Points, velocity: Points, context: Context, r: Tensor, t: Tensor, dof: Tensor, n_intervals: int
    ) -> Tensor:
        """Squared error by degree of freedom of each of the `Paths`, (B,)."""

    @abstractmethod
    def _times(self) -> Times:
        """How times are drawn."""

    def preparation(self) -> Preparation:
        domain = copy.deepcopy(self.flow.domain).cpu()
        return DrawPaths(domain, self.flow.dtype, self.config.pairing, self._times())

    def forward(self, batch: Paths, generator: torch.Generator | None = None) -> tuple[Tensor, Parts]:
        dof = self.flow.domain.space(batch.context.mask).divisor(batch.t.dtype)
        n = batch.n_intervals
        errors = self._errors(batch.at, batch.velocity, batch.context, batch.r, batch.t, dof, n)
        parts = {"flow_matching": errors[n:], "average_velocity": errors[:n]}
        return _robust(errors, self.config.power), {name: e.detach().mean() for name, e in parts.items() if len(e)}

    def compile_loss(self) -> None:
        self._errors = CheckedCompile(self._of_tensors)


class FlowMatchingObjective(_PathObjective):
    """|f(p_t, t) - v|^(2 - 2 power) with p_t = (1 - t) p + t z and v = z - p (arXiv 2210.02747).

    A mean over configurations, |.|^2 over degrees of freedom. For power 0 the minimum is the mean of v given p_t, which
    carries the noise to the data at t = 0. The features of p are what the domain makes of types: where these are
    generated, dequantised ones, one draw of q(h | types), through which no gradient flows, so that a dequantiser stays
    as it is; where they are given, and for particles, there are none.
    """

    flow: ContinuousFlow

    def _of_tensors(
        self, at: Points, velocity: Points, context: Context, r: Tensor, t: Tensor, dof: Tensor, n_intervals: int
    ) -> Tensor:
        return (self.flow.velocity(at, context, t) - velocity).squared_norm() / dof

    def _times(self) -> Times:
        return moments


class MeanFlowObjective(_PathObjective):
    """Average velocity u(p_t, r, t) of the paths that flow matching follows, p_t = (1 - t) p + t z, v = z - p.

    The loss is |u - sg(target)|^(2 - 2 power), a mean over configurations, |.|^2 over degrees of freedom. Where r = t
    the target is v, which is flow matching. Elsewhere it is, with q = p_t - (t - r) u where u leads at time r,

    - mean_flow: v - (t - r) du/dt along (v, 0, 1), which needs no velocity but the sample's (arXiv 2505.13447);
    - lagrangian: w(q, r, r) + (t - r) du/dr, by which q moves with the velocity w of a teacher, a frozen copy of the
      decoder that training starts from (arXiv 2505.18825; with the network as its own teacher it diverged).
    """

    flow: FreeFormFlow
    config: MeanFlowObjectiveConfig

    def __init__(self, flow: FreeFormFlow, config: MeanFlowObjectiveConfig):
        super().__init__(flow, config)
        if not flow.has_average_velocity:
            raise ValueError("the mean_flow objective needs model.average_velocity = true")

    def _of_tensors(
        self, at: Points, velocity: Points, context: Context, r: Tensor, t: Tensor, dof: Tensor, n_intervals: int
    ) -> Tensor:
        target = velocity
        if n := n_intervals:
            with torch.no_grad():
                first = Context(context.mask[:n], context.labels[:n])
                make = self._mean_flow_target if self.config.target == "mean_flow" else self._lagrangian_target
                made = make(_head(at, n), first, _head(velocity, n), r[:n], t[:n])
            target = Points(*(torch.cat([a, b[n:]]) for a, b in zip(made, velocity, strict=True)))
        return (self.flow.average_velocity(at, context, r, t) - target).squared_norm() / dof

    def _times(self) -> Times:
        return partial(intervals, self.config)

    def _mean_flow_target(self, at: Points, context: Context, v: Points, r: Tensor, t: Tensor) -> Points:
        def u(x: Tensor, h: Tensor, t: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.flow.average_velocity(Points(x, h), context, r, t))

        _, change = torch.func.jvp(u, (*at, t), (*v, torch.ones_like(t)))  # type: ignore[misc]
        return v - Points(*change) * (t - r)

    def _lagrangian_target(self, at: Points, context: Context, v: Points, r: Tensor, t: Tensor) -> Points:
        def u(r: Tensor) -> tuple[Tensor, ...]:
            return tuple(self.flow.average_velocity(at, context, r, t))

        value, change = torch.func.jvp(u, (r,), (torch.ones_like(r),))  # type: ignore[misc]
        arrived = at - Points(*value) * (t - r)
        assert self.teacher is not None
        return average_velocity(self.teacher, arrived, context, r, r) + Points(*change) * (t - r)


def _head(points: Points, n: int) -> Points:
    return Points(points.x[:n], points.h[:n])


def _robust(errors: Tensor, power: float) -> Tensor:
    """Mean of e / (sg(e) + 1e-3)^power over squared errors e (B,): the gradient weighs as that of e^(1 - power)."""
    return (errors * (errors.detach() + 1e-3) ** -power).mean()


class InversionObjective(Objective):
    """|f(g(z)) - z|^2 for latents z, and no gradient for the decoder g: the encoder learns to invert it."""

    flow: FreeFormFlow

    def __init__(self, flow: FreeFormFlow, config: InversionObjectiveConfig):
        super().__init__(flow)
        self.config = config

    def forward(self, data: Any, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        _, context, _ = self.flow.to_points(data, generator)
        z = self.flow.domain.space(context.mask).randn(generator, self.flow.dtype)
        with torch.no_grad():
            points = self.flow.decode(z, context)
        error = (self.flow.encode(points, context) - z).squared_norm().mean()
        return error, {}


class RegressionObjective(Objective):
    """Pairs (z, p) of a teacher that takes many evaluations: |g(z) - p|^(2 - 2 power) + |f(p) - z|^(2 - 2 power).

    A mean over latents, |.|^2 over degrees of freedom (arXiv 2506.01158). As encoder and decoder learn the two
    directions of one map, they come to invert each other; the better it is solved, the easier is its way back, so a
    continuous flow is the best of teachers. Of the data only the composition is used.
    """

    flow: FreeFormFlow

    def __init__(self, flow: FreeFormFlow, config: RegressionObjectiveConfig, teacher: Flow):
        super().__init__(flow)
        if config.evaluations is None and teacher.n_evaluations == 1:
            raise ValueError("the teacher makes pairs with one evaluation; set objective.evaluations")
        if config.evaluations is not None and not teacher.takes_evaluations:
            raise ValueError("the teacher has a decoder for one evaluation; name one that can use more")
        self.config = config
        self.teacher: Flow = teacher.requires_grad_(False)
        self._errors: Callable[..., tuple[Tensor, Tensor]] = self._of_points

    def forward(self, data: Any, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        _, context, _ = self.flow.to_points(data, generator)
        space = self.flow.domain.space(context.mask)
        z = space.randn(generator, self.flow.dtype)
        with torch.no_grad():
            points = self.teacher.decode(z, context, self.config.evaluations)
        errors = self._errors(z, points, context, space.divisor(self.flow.dtype))
        parts = dict(zip(("decoder_error", "encoder_error"), (e.detach().sqrt().mean() for e in errors), strict=True))
        return _robust(errors[0], self.config.power) + _robust(errors[1], self.config.power), parts

    def _of_points(self, z: Points, points: Points, context: Context, dof: Tensor) -> tuple[Tensor, Tensor]:
        """Squared errors of decoder and encoder by degree of freedom, (B,) each."""
        decoded, encoded = self.flow.decode(z, context), self.flow.encode(points, context)
        return (decoded - points).squared_norm() / dof, (encoded - z).squared_norm() / dof

    def compile_loss(self) -> None:
        self._errors = CheckedCompile(self._of_points)


class LikelihoodObjective(Objective):
    """-log p(data) + w int |f|^2 dt / dof, averaged over the batch (arXiv 1810.01367, 2002.02798)."""

    flow: ContinuousFlow

    def __init__(self, flow: ContinuousFlow, config: LikelihoodObjectiveConfig):
        super().__init__(flow)
        self.config = config

    def forward(self, data: Any, generator: torch.Generator | None) -> tuple[Tensor, Parts]:
        terms = self.flow.terms(data, generator, self.config.divergence, self.config.n_probes)
        parts = {
            "latent_nll": terms.latent.detach().mean(),
            "log_det": terms.log_det.detach().mean(),
            "kinetic_energy": terms.kinetic_energy.detach().mean(),
            "correction": terms.correction.detach().mean(),
            "evaluations": torch.tensor(float(terms.n_evaluations)),
        }
        return terms.loss(self.config.kinetic_energy), parts


def build_objective(
    flow: Flow,
    config: ObjectiveConfig,
    *,
    teacher: nn.Module | None = None,
    energy: Potential | None = None,
) -> Objective:
    """The loss that a configuration describes.

    Args:
        flow: what is trained.
        config: the kind of loss and its settings.
        teacher: for an objective that needs one: a flow to imitate (regression), or a decoder (Lagrangian target),
            by default a frozen copy of the flow's own as it is now.
        energy: of the data, in kT, for an objective that trains by it.

    Raises:
        ValueError: it does not go with the flow, or it needs an energy or a teacher.
    """
    if isinstance(config, LikelihoodObjectiveConfig | FlowMatchingObjectiveConfig):
        if not isinstance(flow, ContinuousFlow):
            raise ValueError(f"the {config.kind} objective needs model.kind = 'continuous'")
        if isinstance(config, FlowMatchingObjectiveConfig):
            return FlowMatchingObjective(flow, config)
        return LikelihoodObjective(flow, config)
    if not isinstance(flow, FreeFormFlow):
        raise ValueError(
            f"the {config.kind} objective needs model.kind = 'free_form'; "
            "a continuous flow takes 'likelihood' or 'flow_matching'"
        )
    if isinstance(config, FreeFormObjectiveConfig):
        return FreeFormObjective(flow, config, energy)
    if isinstance(config, InversionObjectiveConfig):
        return InversionObjective(flow, config)
    if isinstance(config, RegressionObjectiveConfig):
        if not isinstance(teacher, Flow):
            raise ValueError("the regression objective needs a flow as teacher")
        return RegressionObjective(flow, config, teacher)
    objective = MeanFlowObjective(flow, config)
    if config.needs_teacher:
        objective.teacher = copy.deepcopy(flow.decoder).requires_grad_(False) if teacher is None else teacher
    return objective


def accumulate_gradients(
    objective: nn.Module, batch: Any, generator: torch.Generator | None, micro_batch: int | None = None
) -> tuple[float, dict[str, float]]:
    """Add the gradient of the mean loss of a batch to the parameters' gradients, a part of the batch at a time.

    Memory follows the part, not the batch.

    Args:
        objective: (batch, generator) -> (loss, parts), means over what it is given.
        batch: anything with a length that can be sliced.
        generator: source of the noise.
        micro_batch: configurations in a part; by default all.

    Returns:
        The loss and its parts, means over the batch.
    """
    total = len(batch)
    sums: dict[str, float] = {}
    shares: dict[str, float] = {}  # a part of one configuration may lack some figures
    for start in range(0, total, micro_batch or total):
        piece = batch[start : start + (micro_batch or total)]
        share = len(piece) / total
        loss, parts = objective(piece, generator)
        (loss * share).backward()
        for name, value in {"loss": loss, **parts}.items():
            sums[name] = sums.get(name, 0.0) + share * value.item()
            shares[name] = shares.get(name, 0.0) + share
    means = {name: weighted / shares[name] for name, weighted in sums.items()}
    return means.pop("loss"), means
