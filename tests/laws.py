"""What the law-suites run over. A class entered here inherits all of their tests."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor, nn

from molflow.batch import MoleculeBatch
from molflow.flows import (
    DEQUANTIZERS,
    ContinuousConfig,
    ContinuousFlow,
    DomainConfig,
    FixedStepSolver,
    Flow,
    FlowConfig,
    FreeFormConfig,
)
from molflow.flows.domains import ComposedMoleculesConfig, MoleculesConfig, ParticlesConfig
from molflow.geometry import Context, MeanFreeSpace, Points
from molflow.nn import (
    EGNN,
    Chain,
    EGNNConfig,
    EquivariantTransformer,
    TensorProductConfig,
    TensorProductNetwork,
    TransformerConfig,
)
from molflow.nn.network import NetworkConfig
from molflow.nn.transformer import RMSNorm

SIZES = [5, 3, 7, 2]
"""Points of each configuration of the batches that laws are tried on."""


def _transformer(*args: int, n_blocks: int = 2) -> EquivariantTransformer:
    return EquivariantTransformer(*args, hidden=12, n_vectors=4, pair_hidden=6, n_heads=2, n_blocks=n_blocks)


def _tensor_product(*args: int, irreps: str = "6x0e + 2x1o + 2x2e") -> TensorProductNetwork:
    return TensorProductNetwork(*args, irreps=irreps, pair_channels=3, pair_hidden=4, n_blocks=2)


NETWORKS: dict[str, tuple[int, Callable[[], nn.Module]]] = {
    "egnn-3d": (3, lambda: EGNN(5, hidden=12, n_blocks=2)),
    "egnn-2d-no-features": (2, lambda: EGNN(0, hidden=12, n_blocks=2)),
    "egnn-narrow-pairs": (3, lambda: EGNN(5, hidden=16, pair_hidden=6, n_blocks=2, n_inner=1)),
    "egnn-no-messages": (2, lambda: EGNN(3, hidden=12, n_blocks=2, n_inner=0)),
    "egnn-time": (3, lambda: EGNN(2, n_times=1, hidden=12, n_blocks=2, n_inner=1)),
    "egnn-labels": (3, lambda: EGNN(0, 4, hidden=12, n_blocks=2, n_inner=1)),
    "egnn-labels-two-times": (3, lambda: EGNN(2, 3, 2, hidden=12, n_blocks=2, n_inner=1)),
    "transformer-3d-labels": (3, lambda: _transformer(2, 3)),
    "transformer-2d-no-features": (2, lambda: _transformer(0)),
    "transformer-labels-two-times": (3, lambda: _transformer(0, 3, 2)),
    "chain-of-transformers": (3, lambda: Chain(_transformer(2, 2, n_blocks=1) for _ in range(2))),
    "tensor-product-labels": (3, lambda: _tensor_product(2, 3, irreps="5x0e + 2x1o + 2x1e + 2x2e")),
    "tensor-product-no-features": (3, lambda: _tensor_product(0)),
    "tensor-product-labels-two-times": (3, lambda: _tensor_product(2, 3, 2)),
}
"""Name -> (D, constructor)."""

ALL_ATOM, UNITED = ("H", "C", "N", "O", "F"), ("C", "CH", "CH3", "NH2", "O")
MEANING = {
    "H": (1, 0), "C": (6, 0), "N": (7, 0), "O": (8, 0), "F": (9, 0), "CH": (6, 1), "CH3": (6, 3), "NH2": (7, 2),
}  # fmt: skip
"""Atomic number and hydrogens of types, written down by hand."""

_EGNN = EGNNConfig(hidden=12, pair_hidden=8, n_blocks=2, n_inner=1)
_TRANSFORMER = TransformerConfig(hidden=12, n_vectors=4, pair_hidden=6, n_heads=2, n_blocks=2)
_STAGES = TransformerConfig(hidden=12, n_vectors=4, pair_hidden=6, n_heads=2, n_blocks=1, n_stages=2)
_SMALL_TRANSFORMER = TransformerConfig(hidden=6, n_vectors=2, pair_hidden=4, n_heads=1, n_blocks=1)
_TENSOR_PRODUCT = TensorProductConfig(irreps="6x0e + 2x1o + 2x2e", pair_channels=3, pair_hidden=4, n_blocks=2)
_MOLECULE_SIZES = [5, 3, 2, 4]
_TYPES_OF_ATOMS = torch.tensor([[0, 1, 1, 4, 2], [0, 1, 1, 0, 0], [1, 3, 0, 0, 0], [1, 4, 1, 3, 0]])
_HOW_OFTEN = torch.tensor([2, 2, 1, 1])  # the molecules above in the table of compositions
_FEW_ATOMS = (0, 0, 1, 2, 1, 2)  # which gives their sizes the same probabilities


def _free_form(
    domain: DomainConfig, network: NetworkConfig = _EGNN, average_velocity: bool = False
) -> Callable[[], Flow]:
    return _builder(FreeFormConfig(domain=domain, encoder=network, decoder=network, average_velocity=average_velocity))


def _continuous(domain: DomainConfig, network: NetworkConfig, n_steps: int) -> Callable[[], Flow]:
    solver = FixedStepSolver(method="rk4", n_steps=n_steps)
    return _builder(ContinuousConfig(domain=domain, network=network, solver=solver))


def _builder(config: FlowConfig) -> Callable[[], Flow]:
    def build() -> Flow:
        flow = config.build()
        if isinstance(config.domain, ComposedMoleculesConfig):
            real = torch.arange(5) < torch.tensor(_MOLECULE_SIZES).unsqueeze(1)
            one_hot = nn.functional.one_hot(_TYPES_OF_ATOMS, 5) * real.unsqueeze(-1)
            flow.domain.compositions.fit(one_hot.sum(1), _HOW_OFTEN)
        return flow

    return build


MOLECULE_FLOWS: dict[str, Callable[[], Flow]] = {
    **{
        f"molecules-{name}": _free_form(MoleculesConfig(types=ALL_ATOM, atom_counts=_FEW_ATOMS, dequantization=name))
        for name in DEQUANTIZERS
    },
    "molecules-united-transformer": _free_form(
        MoleculesConfig(types=UNITED, representation="united-atom", atom_counts=_FEW_ATOMS), _STAGES
    ),
    "composed-all-atom": _free_form(ComposedMoleculesConfig(types=ALL_ATOM, n_compositions=4)),
    "composed-united-average-velocity": _free_form(
        ComposedMoleculesConfig(types=UNITED, representation="united-atom", n_compositions=4), _TRANSFORMER, True
    ),
    "molecules-continuous": _continuous(MoleculesConfig(types=ALL_ATOM, atom_counts=_FEW_ATOMS), _SMALL_TRANSFORMER, 2),
    "composed-united-continuous-transformer": _continuous(
        ComposedMoleculesConfig(types=UNITED, representation="united-atom", n_compositions=4), _SMALL_TRANSFORMER, 1
    ),
    "molecules-tensor-product": _free_form(MoleculesConfig(types=ALL_ATOM, atom_counts=_FEW_ATOMS), _TENSOR_PRODUCT),
}
PARTICLE_FLOWS: dict[str, Callable[[], Flow]] = {
    **{f"particles-{dim}d": _free_form(ParticlesConfig(n_particles=4, dim=dim, scale=1.7)) for dim in (2, 3)},
    "particles-continuous": _continuous(ParticlesConfig(n_particles=4, dim=2, scale=1.7), _EGNN, 2),
    "particles-average-velocity-tensor-product": _free_form(
        ParticlesConfig(n_particles=4, dim=3, scale=1.7), _TENSOR_PRODUCT, True
    ),
    "particles-continuous-tensor-product": _continuous(
        ParticlesConfig(n_particles=4, dim=3, scale=1.7), _TENSOR_PRODUCT, 1
    ),
}
FLOWS = MOLECULE_FLOWS | PARTICLE_FLOWS
CONTINUOUS = [name for name in FLOWS if "continuous" in name]
LOG_DET_ERROR = dict.fromkeys(CONTINUOUS, 1e-2)
"""Of flows that integrate the log-determinant, here in one or two steps."""

FREE_FORM = [name for name in FLOWS if name not in CONTINUOUS]


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
    return module


def random_points(
    dim: int, n_features: int, sizes: list[int] = SIZES, dtype: torch.dtype = torch.float64
) -> tuple[Points, Tensor]:
    """Standard normal points of several sizes, and their mask."""
    mask = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
    return MeanFreeSpace(mask, dim, n_features).randn(torch.Generator().manual_seed(1), dtype), mask


def random_case(
    dim: int, n_features: int, n_labels: int, sizes: list[int] = SIZES, dtype: torch.dtype = torch.float64
) -> tuple[Points, Context]:
    """Standard normal points of several sizes, and their context with one of the labels set for every point."""
    points, mask = random_points(dim, n_features, sizes, dtype)
    labels = torch.zeros(*mask.shape, n_labels, dtype=dtype)
    if n_labels:
        which = torch.randint(n_labels, mask.shape, generator=torch.Generator().manual_seed(6))
        labels = nn.functional.one_hot(which, n_labels).to(dtype) * mask.unsqueeze(-1)
    return points, Context(mask, labels)


def with_labels(points: Points, labels: Tensor) -> Points:
    """Labels as further features, which the assertions of `molflow.testing` then permute and pad with the points."""
    return Points(points.x, torch.cat([points.h, labels], -1))


def without_labels(points: Points, mask: Tensor, n_labels: int) -> tuple[Points, Context]:
    """The inverse of `with_labels`."""
    n_features = points.h.shape[-1] - n_labels
    return Points(points.x, points.h[..., :n_features]), Context(mask, points.h[..., n_features:])


def random_data(flow: Flow, dtype: torch.dtype = torch.float64) -> MoleculeBatch | Tensor:
    """Configurations that the domain of the flow accepts; molecules of two to five points."""
    if not hasattr(flow.domain, "types"):
        return torch.randn(4, 4, flow.domain.dim, dtype=dtype, generator=torch.Generator().manual_seed(2))
    points, mask = random_points(3, 0, _MOLECULE_SIZES, dtype)
    numbers, hydrogens = torch.tensor([MEANING[name] for name in flow.domain.types])[_TYPES_OF_ATOMS].unbind(-1)
    united = flow.domain.representation == "united-atom"
    return MoleculeBatch(1.5 * points.x, numbers * mask, mask, hydrogens * mask if united else None)


def make_flow(name: str, dtype: torch.dtype = torch.float64) -> Flow:
    """A flow of the registry with weights that deform space noticeably."""
    return randomize(FLOWS[name]()).to(dtype)


def training_terms(flow: Flow, way: int) -> tuple[NamedTuple, Tensor]:
    """The terms of the training loss of random data, computed in one of two ways, and the loss."""
    data, generator = random_data(flow), flow.generator(0)
    if isinstance(flow, ContinuousFlow):
        terms = flow.terms(data, None, generator, ("rademacher", "exact")[way])
        return terms, terms.nll(kinetic_energy=0.1).mean()
    terms = flow.terms(data, None, generator, n_probes=2, surrogate=("encoder_jvp", "decoder_jvp")[way])
    return terms, terms.loss(beta=10.0)
