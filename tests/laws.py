"""What the law-suites run over. A class entered here inherits all of their tests."""

from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from molflow.batch import MoleculeBatch
from molflow.distributions import CompositionModel
from molflow.flows import (
    DEQUANTIZERS,
    ComposedMoleculeDomain,
    ConditionsConfig,
    ContinuousConfig,
    DiffusionConfig,
    FixedStepSolver,
    Flow,
    FlowConfig,
    FreeFormConfig,
    NoiseRange,
    ODEFlow,
)
from molflow.flows import FLOWS as FAMILIES
from molflow.flows.domains import (
    ComposedMoleculesConfig,
    DomainConfig,
    MoleculesConfig,
    ParticlesConfig,
    VectorsConfig,
)
from molflow.flows.zoo import BijectiveConfig, BijectiveFlow
from molflow.geometry import Context, MeanFreeSpace, Points
from molflow.nn import (
    ChainConfig,
    EGNNConfig,
    EquivariantTransformer,
    EulerStepsConfig,
    MLPConfig,
    NetworkConfig,
    PlainTransformerConfig,
    ResNetConfig,
    TensorProductConfig,
    TensorProductNetwork,
    TransformerConfig,
)
from molflow.nn.transformer import RMSNorm

SIZES = [5, 3, 7, 2]
"""Points of each configuration of the batches that laws are tried on."""


CONDITIONS = ConditionsConfig(names=("mass", "charge"), mean=(1.0, -0.5), std=(2.0, 0.5))

_EGNN = EGNNConfig(hidden=12, n_blocks=2, n_inner=1)
_TRANSFORMER = TransformerConfig(hidden=12, n_vectors=4, pair_hidden=6, n_heads=2, n_blocks=2)
_STAGES = TransformerConfig(hidden=12, n_vectors=4, pair_hidden=6, n_heads=2, n_blocks=1, n_stages=2)
_TENSOR_PRODUCT = TensorProductConfig(irreps="6x0e + 2x1o + 2x2e", pair_channels=3, pair_hidden=4, n_blocks=2)
_PSEUDOVECTORS = TensorProductConfig(irreps="5x0e + 2x1o + 2x1e + 2x2e", pair_channels=3, pair_hidden=4, n_blocks=2)
_ONE_TRANSFORMER = TransformerConfig(hidden=12, n_vectors=4, pair_hidden=6, n_heads=2, n_blocks=1)
_ONE_TENSOR_PRODUCT = TensorProductConfig(irreps="4x0e + 2x1o", pair_channels=2, pair_hidden=3, n_blocks=1)
_CHAIN = ChainConfig(stages=[_ONE_TRANSFORMER, EGNNConfig(hidden=12, n_blocks=1)], factors=[1.0, 0.7])
_PLAIN = PlainTransformerConfig(hidden=12, n_heads=2, n_blocks=2)
_MLP = MLPConfig(hidden=12, n_blocks=2)
_RESNET = ResNetConfig(hidden=12, n_blocks=2)


class NetworkCase(NamedTuple):
    """A network of the law-suite: D (for point clouds), its configuration and the sizes of its inputs."""

    dim: int
    config: NetworkConfig
    n_features: int
    n_labels: int = 0
    n_times: int = 0
    n_conditions: int = 0

    def build(self) -> nn.Module:
        return self.config.build(*self[2:])


NETWORKS = {
    "egnn-3d": NetworkCase(3, EGNNConfig(hidden=12, n_blocks=2), 5),
    "egnn-2d-no-features": NetworkCase(2, EGNNConfig(hidden=12, n_blocks=2), 0),
    "egnn-narrow-pairs": NetworkCase(3, EGNNConfig(hidden=16, pair_hidden=6, n_blocks=2, n_inner=1), 5),
    "egnn-no-messages": NetworkCase(2, EGNNConfig(hidden=12, n_blocks=2, n_inner=0), 3),
    "egnn-time": NetworkCase(3, _EGNN, 2, n_times=1),
    "egnn-labels": NetworkCase(3, _EGNN, 0, 4),
    "egnn-labels-two-times": NetworkCase(3, _EGNN, 2, 3, 2),
    "egnn-conditions": NetworkCase(3, _EGNN, 2, n_conditions=2),
    "egnn-labels-time-conditions": NetworkCase(2, _EGNN, 1, 2, 1, 3),
    "transformer-3d-labels": NetworkCase(3, _TRANSFORMER, 2, 3),
    "transformer-2d-no-features": NetworkCase(2, _TRANSFORMER, 0),
    "transformer-labels-two-times": NetworkCase(3, _TRANSFORMER, 0, 3, 2),
    "transformer-conditions": NetworkCase(2, _ONE_TRANSFORMER, 2, n_conditions=1),
    "transformer-two-times-conditions": NetworkCase(3, _ONE_TRANSFORMER, 0, 0, 2, 2),
    "chain-of-transformers": NetworkCase(3, _STAGES, 2, 2),
    "chain-of-transformers-conditions": NetworkCase(3, _STAGES, 1, 0, 0, 2),
    "chain-with-factors": NetworkCase(3, _CHAIN, 2, 2),
    "chain-conditions": NetworkCase(2, _CHAIN, 0, n_conditions=2),
    "chain-time-conditions": NetworkCase(3, _CHAIN, 1, 2, 1, 1),
    "plain-transformer-labels": NetworkCase(3, _PLAIN, 2, 3),
    "plain-transformer-conditions": NetworkCase(3, _PLAIN, 0, n_conditions=2),
    "plain-transformer-time-conditions": NetworkCase(
        2, PlainTransformerConfig(dim=2, hidden=8, n_heads=2, n_blocks=1), 1, 0, 1, 1
    ),
    "tensor-product-labels": NetworkCase(3, _PSEUDOVECTORS, 2, 3),
    "tensor-product-no-features": NetworkCase(3, _TENSOR_PRODUCT, 0),
    "tensor-product-labels-two-times": NetworkCase(3, _TENSOR_PRODUCT, 2, 3, 2),
    "tensor-product-conditions": NetworkCase(3, _ONE_TENSOR_PRODUCT, 1, n_conditions=2),
    "tensor-product-time-conditions": NetworkCase(3, _ONE_TENSOR_PRODUCT, 0, 2, 1, 1),
}
"""Networks on point clouds."""

VECTOR_NETWORKS = {
    "mlp": NetworkCase(0, _MLP, 3),
    "mlp-time": NetworkCase(0, _MLP, 3, n_times=1),
    "mlp-conditions": NetworkCase(0, _MLP, 2, n_conditions=3),
    "mlp-two-times-conditions": NetworkCase(0, MLPConfig(hidden=8, n_blocks=1), 1, 0, 2, 2),
    "resnet": NetworkCase(0, _RESNET, 3),
    "resnet-conditions": NetworkCase(0, _RESNET, 2, n_conditions=3),
    "euler-steps": NetworkCase(0, EulerStepsConfig(velocity=_MLP, times=(1, 0.4, 0.1, 0)), 3),
    "euler-steps-conditions": NetworkCase(0, EulerStepsConfig(velocity=_MLP, times=(0, 0.3, 1)), 2, n_conditions=3),
    "euler-steps-time-conditions": NetworkCase(0, EulerStepsConfig(velocity=_RESNET, times=(1, 0)), 1, 0, 1, 2),
    "resnet-time-conditions": NetworkCase(0, ResNetConfig(hidden=8, n_layers=1, n_blocks=3), 1, 0, 1, 2),
}

ALL_ATOM, UNITED = ("H", "C", "N", "O", "F"), ("C", "CH", "CH3", "NH2", "O")
ENVIRONMENT = ("C.200", "CH.110", "CH3.100", "NH2.100", "O.010")
MEANING = {
    "H": (1, 0), "C": (6, 0), "N": (7, 0), "O": (8, 0), "F": (9, 0), "CH": (6, 1), "CH3": (6, 3), "NH2": (7, 2),
    "C.200": (6, 0), "CH.110": (6, 1), "CH3.100": (6, 3), "NH2.100": (7, 2), "O.010": (8, 0),
}  # fmt: skip
"""Atomic number and hydrogens of types, written down by hand."""

BONDS = {"C.200": (2, 0, 0), "CH.110": (1, 1, 0), "CH3.100": (1, 0, 0), "NH2.100": (1, 0, 0), "O.010": (0, 1, 0)}
"""Single, double and triple bonds of environment types."""

_NARROW = EGNNConfig(hidden=12, pair_hidden=8, n_blocks=2, n_inner=1)
_SMALL_TRANSFORMER = TransformerConfig(hidden=6, n_vectors=2, pair_hidden=4, n_heads=1, n_blocks=1)
_MOLECULE_SIZES = [5, 3, 2, 4]
_TYPES_OF_ATOMS = torch.tensor([[0, 1, 1, 4, 2], [0, 1, 1, 0, 0], [1, 3, 0, 0, 0], [1, 4, 1, 3, 0]])
_HOW_OFTEN = torch.tensor([2, 2, 1, 1])  # the molecules above in the table of compositions
_FEW_ATOMS = (0, 0, 1, 2, 1, 2)  # which gives their sizes the same probabilities


def _free_form(domain: DomainConfig, network: NetworkConfig = _NARROW, **settings: Any) -> FlowConfig:
    return FreeFormConfig(domain=domain, encoder=network, decoder=network, **settings)


def _continuous(domain: DomainConfig, network: NetworkConfig, n_steps: int, **settings: Any) -> FlowConfig:
    return ContinuousConfig(
        domain=domain, network=network, solver=FixedStepSolver(method="rk4", n_steps=n_steps), **settings
    )


def _diffusion(domain: DomainConfig, network: NetworkConfig, n_steps: int, **settings: Any) -> FlowConfig:
    return DiffusionConfig(
        domain=domain,
        network=network,
        solver=FixedStepSolver(method="rk4", n_steps=n_steps),
        **{"n_steps": 3} | settings,
    )


_MOLECULES = MoleculesConfig(types=ALL_ATOM, atom_counts=_FEW_ATOMS)
_COMPOSED_UNITED = ComposedMoleculesConfig(types=UNITED, representation="united-atom", n_compositions=4)
_COMPOSED_ENVIRONMENT = ComposedMoleculesConfig(types=ENVIRONMENT, representation="environment", n_compositions=4)
_MODELLED = ComposedMoleculesConfig(types=UNITED, representation="united-atom", compositions="model", max_points=5)
_PLANE, _SPACE = (ParticlesConfig(n_particles=4, dim=dim, scale=1.7) for dim in (2, 3))
_VECTORS = VectorsConfig(n_features=3, mean=(1.0, -2.0, 0.5), std=(2.0, 0.5, 3.0))

MOLECULE_FLOWS: dict[str, FlowConfig] = {
    **{
        f"molecules-{name}": _free_form(MoleculesConfig(types=ALL_ATOM, atom_counts=_FEW_ATOMS, dequantization=name))
        for name in DEQUANTIZERS
    },
    "molecules-united-transformer": _free_form(
        MoleculesConfig(types=UNITED, representation="united-atom", atom_counts=_FEW_ATOMS), _STAGES
    ),
    "composed-all-atom": _free_form(ComposedMoleculesConfig(types=ALL_ATOM, n_compositions=4)),
    "composed-united-average-velocity": _free_form(_COMPOSED_UNITED, _TRANSFORMER, average_velocity=True),
    "composed-united-stages": _free_form(_COMPOSED_UNITED, _STAGES),
    "composed-united-conditional": _free_form(_COMPOSED_UNITED, conditions=CONDITIONS),
    "molecules-continuous": _continuous(_MOLECULES, _SMALL_TRANSFORMER, 2),
    "composed-united-continuous-transformer": _continuous(_COMPOSED_UNITED, _SMALL_TRANSFORMER, 1),
    "molecules-environment": _free_form(
        MoleculesConfig(types=ENVIRONMENT, representation="environment", atom_counts=_FEW_ATOMS)
    ),
    "composed-environment-continuous": _continuous(_COMPOSED_ENVIRONMENT, _SMALL_TRANSFORMER, 1, last_step=0.1),
    "united-model-of-compositions": _free_form(_MODELLED),
    "composed-environment-noise": _free_form(_COMPOSED_ENVIRONMENT, noise=NoiseRange()),
    "molecules-diffusion": _diffusion(_MOLECULES, _SMALL_TRANSFORMER, 3),
    "composed-united-diffusion": _diffusion(_COMPOSED_UNITED, _SMALL_TRANSFORMER, 2, sampler="ddim"),
    "molecules-tensor-product": _free_form(_MOLECULES, _TENSOR_PRODUCT),
}
PARTICLE_FLOWS: dict[str, FlowConfig] = {
    "particles-2d": _free_form(_PLANE),
    "particles-3d": _free_form(_SPACE),
    "particles-noise-conditional": _free_form(_PLANE, noise=NoiseRange(lowest=0.1), conditions=CONDITIONS),
    "particles-continuous": _continuous(_PLANE, _NARROW, 2),
    "particles-average-velocity-tensor-product": _free_form(_SPACE, _TENSOR_PRODUCT, average_velocity=True),
    "particles-continuous-tensor-product": _continuous(_SPACE, _TENSOR_PRODUCT, 1),
    "particles-conditional-transformer": _free_form(_PLANE, _TRANSFORMER, conditions=CONDITIONS),
    "particles-conditional-average-velocity": _free_form(
        _PLANE, _TRANSFORMER, average_velocity=True, conditions=CONDITIONS
    ),
    "particles-continuous-conditional": _continuous(_PLANE, _NARROW, 2, conditions=CONDITIONS),
    "particles-diffusion": _diffusion(_PLANE, _NARROW, 2, sampler="ode"),
    "particles-diffusion-conditional": _diffusion(_PLANE, _ONE_TRANSFORMER, 2, conditions=CONDITIONS),
}
FLOWS = MOLECULE_FLOWS | PARTICLE_FLOWS
"""Flows on point clouds."""

VECTOR_FLOWS: dict[str, FlowConfig] = {
    "vectors": _free_form(_VECTORS, _MLP),
    "vectors-conditional": _free_form(_VECTORS, _MLP, conditions=CONDITIONS),
    "vectors-average-velocity-conditional": _free_form(_VECTORS, _MLP, average_velocity=True, conditions=CONDITIONS),
    "vectors-noise": _free_form(_VECTORS, _MLP, noise=NoiseRange(lowest=0.05, highest=0.5)),
    "vectors-continuous": _continuous(_VECTORS, _MLP, 4),
    "vectors-continuous-conditional": _continuous(_VECTORS, _MLP, 4, conditions=CONDITIONS),
    "vectors-diffusion": _diffusion(_VECTORS, _MLP, 6),
    "vectors-diffusion-conditional": _diffusion(_VECTORS, _MLP, 6, sampler="ode", conditions=CONDITIONS),
}
_SMALL = {
    "n_transforms": 2, "hidden": 8, "n_layers": 1, "n_bins": 4, "n_components": 3, "n_signals": 3, "n_units": 3,
}  # fmt: skip
ZOO = [kind for kind, config in FAMILIES.items() if issubclass(config, BijectiveConfig)]
"""Registered families of flows by bijections of vectors."""


def bijective(kind: str, domain: DomainConfig = _VECTORS, **settings: Any) -> FlowConfig:
    """A small flow of a registered family."""
    config = FAMILIES[kind]
    small = {name: value for name, value in _SMALL.items() if name in config.model_fields}
    return config(domain=domain, **{**small, **settings})


VECTOR_FLOWS |= {f"vectors-{kind}": bijective(kind) for kind in ZOO}
VECTOR_FLOWS |= {f"vectors-{kind}-conditional": bijective(kind, conditions=CONDITIONS) for kind in ZOO}
ALL_FLOWS = FLOWS | VECTOR_FLOWS
INTEGRATED = [name for name in ALL_FLOWS if "continuous" in name or "diffusion" in name]
LOG_DET_ERROR = dict.fromkeys(INTEGRATED, 1e-2)
"""Of flows that integrate the log-determinant, here in a few steps."""

FREE_FORM = [name for name in FLOWS if name not in INTEGRATED]


def randomize(module: nn.Module, seed: int = 0, strength: float = 0.7) -> nn.Module:
    """Give every network in `module` weights of order one: a fresh network is nearly zero and obeys any law."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0, strength * layer.in_features**-0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.3 * strength, generator=generator)
            elif isinstance(layer, RMSNorm):
                layer.weight.normal_(1, 0.3 * strength, generator=generator)
            elif isinstance(layer, EquivariantTransformer | TensorProductNetwork):
                layer.spread.normal_(0, 1, generator=generator)
        if isinstance(module, BijectiveFlow):  # not all of its parameters are those of linear layers
            for parameter in module.bijection.parameters():
                parameter += 0.3 * strength * torch.randn(parameter.shape, generator=generator)
    return module


def random_points(
    dim: int, n_features: int, sizes: list[int] = SIZES, dtype: torch.dtype = torch.float64
) -> tuple[Points, Tensor]:
    """Standard normal points of several sizes, and their mask."""
    mask = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
    return MeanFreeSpace(mask, dim, n_features).randn(torch.Generator().manual_seed(1), dtype), mask


def random_case(
    dim: int,
    n_features: int,
    n_labels: int,
    sizes: list[int] = SIZES,
    dtype: torch.dtype = torch.float64,
    n_conditions: int = 0,
) -> tuple[Points, Context]:
    """Standard normal points of several sizes, and their context: one of the labels is set for every point."""
    points, mask = random_points(dim, n_features, sizes, dtype)
    labels = torch.zeros(*mask.shape, n_labels, dtype=dtype)
    if n_labels:
        which = torch.randint(n_labels, mask.shape, generator=torch.Generator().manual_seed(6))
        labels = nn.functional.one_hot(which, n_labels).to(dtype) * mask.unsqueeze(-1)
    return points, Context(mask, labels, random_conditions(len(sizes), n_conditions, dtype))


def random_conditions(n: int, n_conditions: int, dtype: torch.dtype = torch.float64) -> Tensor | None:
    """Standard normal conditions (n, C); None without conditions."""
    if not n_conditions:
        return None
    return torch.randn(n, n_conditions, dtype=torch.float64, generator=torch.Generator().manual_seed(8)).to(dtype)


def asked(flow: Flow, n: int = 4) -> dict[str, Any]:
    """The argument `condition` of a conditional flow for n configurations; no argument for another flow."""
    return {} if flow.conditions is None else {"condition": random_conditions(n, len(flow.conditions.names))}


def with_labels(points: Points, labels: Tensor) -> Points:
    """Labels as further features, which the assertions of `molflow.testing` then permute and pad with the points."""
    return Points(points.x, torch.cat([points.h, labels], -1))


def without_labels(
    points: Points, mask: Tensor, n_labels: int, condition: Tensor | None = None
) -> tuple[Points, Context]:
    """The inverse of `with_labels`; the condition is that of each configuration, or (1, C) for all."""
    n_features = points.h.shape[-1] - n_labels
    condition = None if condition is None else condition.expand(len(mask), -1)
    return Points(points.x, points.h[..., :n_features]), Context(mask, points.h[..., n_features:], condition)


def random_data(flow: Flow, dtype: torch.dtype = torch.float64) -> MoleculeBatch | Tensor:
    """Configurations that the domain of the flow accepts; molecules of two to five points."""
    if flow.domain.acts_on == "vectors":
        return torch.randn(4, flow.domain.n_features, dtype=dtype, generator=torch.Generator().manual_seed(2))
    if not hasattr(flow.domain, "types"):
        return torch.randn(4, 4, flow.domain.dim, dtype=dtype, generator=torch.Generator().manual_seed(2))
    points, mask = random_points(3, 0, _MOLECULE_SIZES, dtype)
    types = flow.domain.types
    numbers, hydrogens = torch.tensor([MEANING[name] for name in types])[_TYPES_OF_ATOMS].unbind(-1)
    counts, environments = None, None
    if flow.domain.representation != "all-atom":
        counts = hydrogens * mask
    if flow.domain.representation == "environment":  # random points do not have these bonds, so the batch says them
        environments = torch.tensor([BONDS[name] for name in types])[_TYPES_OF_ATOMS] * mask.unsqueeze(-1)
    return MoleculeBatch(1.5 * points.x, numbers * mask, mask, counts, environments=environments)


def build_flow(name: str) -> Flow:
    """A flow of the registry with fresh weights; a table of compositions is filled, a model of them is random."""
    with torch.random.fork_rng():
        torch.manual_seed(1)
        flow = ALL_FLOWS[name].build()
    if isinstance(flow.domain, ComposedMoleculeDomain):
        real = torch.arange(5) < torch.tensor(_MOLECULE_SIZES).unsqueeze(1)
        one_hot = nn.functional.one_hot(_TYPES_OF_ATOMS, 5) * real.unsqueeze(-1)
        if isinstance(flow.domain.compositions, CompositionModel):
            flow.domain.compositions.n_fitted.fill_(1)
        else:
            flow.domain.compositions.fit(one_hot.sum(1), _HOW_OFTEN)
    return flow


def make_flow(name: str, dtype: torch.dtype = torch.float64, seed: int = 0) -> Flow:
    """A flow of the registry with weights that deform space noticeably."""
    flow = randomize(build_flow(name), seed).to(dtype)
    if isinstance(flow, BijectiveFlow):
        flow.initialized.fill_(True)  # its scales are these random ones, not those of the first data
    return flow


def training_terms(flow: Flow, way: int) -> tuple[tuple[Any, ...], Tensor]:
    """The terms of the training loss of random data, computed in one of two ways, and the loss."""
    data, generator, condition = random_data(flow), flow.generator(0), asked(flow).get("condition")
    if isinstance(flow, BijectiveFlow):
        nll = flow.nll(data, condition, generator)
        return (nll,), nll.mean()
    if isinstance(flow, ODEFlow):
        terms = flow.terms(data, condition, generator, ("rademacher", "exact")[way])
        return terms, terms.nll(kinetic_energy=0.1).mean()
    terms = flow.terms(data, condition, generator, n_probes=2, surrogate=("encoder_jvp", "decoder_jvp")[way])
    return terms, terms.loss(beta=10.0)
