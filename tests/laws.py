"""What the law-suites run over. A class entered here inherits all of their tests."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from molflow.batch import MoleculeBatch
from molflow.flows import Flow
from molflow.flows.config import EGNNConfig, FreeFormConfig, MoleculesConfig, ParticlesConfig
from molflow.flows.dequantization import DEQUANTIZERS
from molflow.geometry import MeanFreeSpace, Points
from molflow.nn import EGNN

SIZES = [5, 3, 7, 2]
"""Points of each configuration of the batches that laws are tried on."""

NETWORKS: dict[str, tuple[int, int, Callable[[], nn.Module]]] = {
    "egnn-3d": (3, 5, lambda: EGNN(5, hidden=12, n_blocks=2)),
    "egnn-2d-no-features": (2, 0, lambda: EGNN(0, hidden=12, n_blocks=2)),
    "egnn-narrow-pairs": (3, 5, lambda: EGNN(5, hidden=16, pair_hidden=6, n_blocks=2, n_inner=1)),
    "egnn-no-messages": (2, 3, lambda: EGNN(3, hidden=12, n_blocks=2, n_inner=0)),
    "egnn-time": (3, 2, lambda: EGNN(2, hidden=12, n_blocks=2, n_inner=1, time=True)),
}
"""Name -> (D, F, constructor)."""

_SMALL = EGNNConfig(hidden=12, pair_hidden=8, n_blocks=2, n_inner=1)
_FEW_ATOMS = (0, 0, 1, 2, 1, 2)


def _free_form(domain: MoleculesConfig | ParticlesConfig) -> Callable[[], Flow]:
    return FreeFormConfig(domain=domain, encoder=_SMALL, decoder=_SMALL).build


MOLECULE_FLOWS: dict[str, Callable[[], Flow]] = {
    f"molecules-{name}": _free_form(MoleculesConfig(atom_counts=_FEW_ATOMS, dequantization=name))
    for name in DEQUANTIZERS
}
PARTICLE_FLOWS: dict[str, Callable[[], Flow]] = {
    f"particles-{dim}d": _free_form(ParticlesConfig(n_particles=4, dim=dim, scale=1.7)) for dim in (2, 3)
}
FLOWS = MOLECULE_FLOWS | PARTICLE_FLOWS


def randomize(module: nn.Module, seed: int = 0, strength: float = 0.7) -> nn.Module:
    """Give every network in `module` weights of order one: a fresh network is nearly zero and obeys any law."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for layer in module.modules():
            if isinstance(layer, nn.Linear):
                layer.weight.normal_(0, strength * layer.in_features**-0.5, generator=generator)
                if layer.bias is not None:
                    layer.bias.normal_(0, 0.3 * strength, generator=generator)
    return module


def random_points(
    dim: int, n_features: int, sizes: list[int] = SIZES, dtype: torch.dtype = torch.float64
) -> tuple[Points, Tensor]:
    """Standard normal points of several sizes, and their mask."""
    mask = torch.arange(max(sizes)) < torch.tensor(sizes).unsqueeze(1)
    return MeanFreeSpace(mask, dim, n_features).randn(torch.Generator().manual_seed(1), dtype), mask


def random_data(flow: Flow, dtype: torch.dtype = torch.float64) -> MoleculeBatch | Tensor:
    """Configurations that the domain of the flow accepts; molecules of two to five atoms."""
    if not flow.domain.n_features:
        return torch.randn(4, 4, flow.domain.dim, dtype=dtype, generator=torch.Generator().manual_seed(2))
    points, mask = random_points(3, 0, [5, 3, 2, 4], dtype)
    numbers = torch.tensor([1, 6, 7, 8, 9])[torch.arange(20).view(4, 5) % 5]
    return MoleculeBatch(1.5 * points.x, numbers * mask, mask)


def make_flow(name: str, dtype: torch.dtype = torch.float64) -> Flow:
    """A flow of the registry with weights that deform space noticeably."""
    return randomize(FLOWS[name]()).to(dtype)
