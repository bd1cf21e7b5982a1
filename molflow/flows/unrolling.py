"""One deep decoder from several evaluations: of an average velocity, or of a velocity behind another decoder."""

import copy
from collections.abc import Sequence
from itertools import pairwise

from torch import nn

from molflow.errors import MolflowError
from molflow.flows.base import Flow
from molflow.flows.continuous import ContinuousFlow
from molflow.flows.domains.base import Data
from molflow.flows.free_form import FreeFormFlow
from molflow.flows.networks import fall_to_zero, passes
from molflow.nn import Chain, EquivariantTransformer, EulerSteps
from molflow.nn.chain import chained


def unroll(
    flow: FreeFormFlow[Data] | ContinuousFlow[Data],
    times: Sequence[float],
    backward: FreeFormFlow[Data] | ContinuousFlow[Data] | None = None,
) -> FreeFormFlow[Data]:
    """A flow whose decoder is one deep network, equal to several evaluations of an average velocity, or of a velocity.

    g = g_k ... g_1 with g_i(z) = z - (t - r) u(z, r, t) for neighbouring times t > r, or for a continuous flow
    z - (t - r) v(z, t), a step of Euler's method. On point clouds each step becomes a stage of a `Chain`, with weights
    of its own that can be trained further; on vectors the steps are `EulerSteps`, which share the weights of v. The
    domain is shared with `flow`, and so is its encoder, if it has one and `backward` is None.

    Args:
        flow: one with an `EquivariantTransformer` as average velocity, or a continuous flow with one; on vectors any
            continuous flow.
        times: from 1 down to 0.
        backward: a flow that makes the encoder, by the steps back from 0 to 1: an average velocity that was trained for
            these steps and for the same paths as `flow`, which may be `flow` itself; or a continuous flow, whose steps
            of Euler's method are a beginning that must be trained. By default a continuous `flow` itself.

    Raises:
        MolflowError: another decoder, or other times.

    Example:
        >>> steps = molflow.load_pretrained("qm9-steps")
        >>> unroll(steps, [1, 0.4, 0.1, 0]).decoder.__class__.__name__
        'Chain'
    """
    if not fall_to_zero(times) or times[0] != 1:
        raise MolflowError(f"times must fall from 1 to 0, got {', '.join(map(str, times))}")
    if backward is None and isinstance(flow, FreeFormFlow):
        encoder = flow.encoder
    else:
        encoder = _stages(backward or flow, times[::-1])
    return FreeFormFlow(encoder, _stages(flow, times), domain=flow.domain, condition=flow.conditions)


def refined(flow: FreeFormFlow[Data], velocity: ContinuousFlow[Data], times: Sequence[float]) -> FreeFormFlow[Data]:
    """A flow whose decoder goes on with Euler steps of a velocity, which remove the errors that it makes.

    A decoded point p counts as data with noise: (1 - t) p is a point of a path at time t, which is followed to the
    data, once or several times. All becomes one decoder, a `Chain`, so a sample still costs one evaluation, of a deeper
    network. The encoder stays as it is.

    Args:
        flow: one with a decoder on point clouds, not trained with noise: for that there is `DenoiserConfig`.
        velocity: a continuous flow on the same domain, with an `EquivariantTransformer`.
        times: of the steps, from below 1 down to 0; each rise begins another pass.

    Raises:
        MolflowError: another flow or velocity, other conditions, or other times.

    Example:
        >>> one_step = unroll(molflow.load_pretrained("qm9-steps"), [1, 0])
        >>> velocity = molflow.load_pretrained("qm9-environment")
        >>> len(refined(one_step, velocity, [0.5, 0.2, 0, 0.2, 0]).decoder.stages)
        4
    """
    if flow.noise_range or flow.has_average_velocity or flow.domain.acts_on != "points":
        raise MolflowError("only a decoder of point clouds without noise and without times can be refined")
    if _names(flow) != _names(velocity):
        raise MolflowError("the velocity must have the conditions of the flow, in the same order")
    try:
        parts = passes(times, start_from_noise=False)
    except ValueError as error:
        raise MolflowError(f"{error}, got {', '.join(map(str, times))}") from error
    steps = [_stages(velocity, part) for part in parts]
    decoder = chained([flow.decoder, *steps], [1, *(1 - part[0] for part in parts)])
    return FreeFormFlow(flow.encoder, decoder, domain=flow.domain, condition=flow.conditions)


def _names(flow: Flow[Data]) -> tuple[str, ...]:
    return () if flow.conditions is None else flow.conditions.names


def _stages(flow: FreeFormFlow[Data] | ContinuousFlow[Data], times: Sequence[float]) -> nn.Module:
    """The steps of an average velocity, or of Euler's method, between times, one network after another."""
    if isinstance(flow, ContinuousFlow) and flow.domain.acts_on == "vectors":
        return EulerSteps(copy.deepcopy(flow.network), times)
    averages = isinstance(flow, FreeFormFlow)
    network = flow.decoder if averages else flow.network
    if not isinstance(network, EquivariantTransformer) or (averages and not flow.has_average_velocity):
        raise MolflowError(
            "only a velocity on vectors, or a transformer that is a velocity or an average one, can be unrolled"
        )
    at = [[r, t] if averages else [t] for t, r in pairwise(times)]
    lengths = [r - t for t, r in pairwise(times)]
    stages = [network.at_times(network.spread.new_tensor(a), dt) for a, dt in zip(at, lengths, strict=True)]
    return Chain(stages) if len(stages) > 1 else stages[0]
