"""An E(3)-equivariant network of higher tensor ranks: scalars, vectors and more on points, joined by tensor products.

Points send their features along spherical harmonics of the pair vectors, as in tensor field networks (arXiv 1802.08219)
and NequIP (arXiv 2101.03164). Irreps and Clebsch-Gordan coefficients come from e3nn (arXiv 2207.09453). The sums are
written out here for two reasons. The modules of e3nn decompose the product of every pair, while the sum over neighbours
can precede the decomposition, which is linear. And their coefficients are buffers: they stay inexact in float64 if the
network was created in float32, and some of them are in its `state_dict`.
"""

import math
from collections.abc import Callable
from itertools import accumulate, product
from typing import Any, Self

import torch
from pydantic import Field, field_validator
from torch import Tensor, nn
from torch.nn.functional import silu

from molflow.geometry import pair_mask, project, safe_sqrt
from molflow.nn.egnn import PairLayer
from molflow.nn.network import NetworkConfig, PointNetwork
from molflow.nn.registry import NETWORKS
from molflow.nn.transformer import RMSNorm, small_linear

SCALAR, VECTOR = "0e", "1o"

Irreps = dict[str, int]
"""Name of an irrep, such as "1o" -> how many of it."""

Features = dict[str, Tensor]
"""Name of an irrep -> (B, N, 2l + 1, channels)."""


@NETWORKS.register("tensor_product")
class TensorProductConfig(NetworkConfig):
    """Sizes of a `TensorProductNetwork`, for points in space."""

    irreps: str = Field(
        "64x0e + 16x1o + 8x2e",
        description="hidden features of a point, as e3nn writes them; scalars 0e and vectors 1o must be among them",
    )
    lmax: int = Field(2, ge=1, description="highest degree of the spherical harmonics")
    pair_channels: int = Field(16, gt=0, description="channels of each irrep that a point sends")
    pair_hidden: int = Field(32, gt=0, description="width of the MLP of pairs")
    n_blocks: int = Field(4, gt=0, description="rounds of messages")

    @field_validator("irreps")
    @classmethod
    def _irreps_can_be_read(cls, irreps: str) -> str:
        parse_irreps(irreps)
        return irreps

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0) -> PointNetwork:
        return TensorProductNetwork(n_features, n_labels, n_times, n_conditions, **self.settings())


def parse_irreps(text: str) -> Irreps:
    """Multiplicities of irreps such as "64x0e + 16x1o + 8x2e", in which an irrep may stand more than once.

    Raises:
        ValueError: it cannot be read, or has no scalars 0e or no vectors 1o.
    """
    from e3nn import o3

    try:
        irreps = {str(ir): mul for mul, ir in o3.Irreps(text).sort().irreps.simplify() if mul}
    except ValueError as error:
        raise ValueError(f"irreps must be written as in '64x0e + 16x1o + 8x2e', got {text!r}") from error
    for name, what in ((SCALAR, "scalars"), (VECTOR, "vectors")):
        if name not in irreps:
            raise ValueError(f"irreps must have {what} ({name}), got {text!r}")
    return irreps


def clebsch_gordan(l1: int, l2: int, l3: int) -> Tensor:
    """Coefficients (2 l1 + 1, 2 l2 + 1, 2 l3 + 1) that give entries of variance one from entries of variance one."""
    from e3nn import o3

    coefficients: Tensor = o3.wigner_3j(l1, l2, l3, dtype=torch.float64)
    return coefficients * math.sqrt(2 * l3 + 1)


def degree_of(name: str) -> int:
    """l of an irrep."""
    return int(name[:-1])


def dimension_of(name: str) -> int:
    """2l + 1."""
    return 2 * degree_of(name) + 1


class Constant(nn.Module):
    """A tensor as exact as the precision of its module, unlike a buffer that goes from float32 to float64."""

    value: Tensor

    def __init__(self, exact: Tensor):
        super().__init__()
        self.exact = exact
        self.register_buffer("value", exact.to(torch.get_default_dtype()), persistent=False)

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> Self:
        super()._apply(fn, recurse)  # type: ignore[no-untyped-call]
        self.value = self.exact.to(self.value)
        return self

    def forward(self) -> Tensor:
        return self.value


class SolidHarmonics(nn.Module):
    """Y_0, ..., Y_lmax of vectors (B, 3, N, N), each (B, 2l + 1, N, N), with |Y_l(u)|^2 = (2l + 1) |u|^(2l).

    They are polynomials, so they are smooth at u = 0. Y_(l+1) is the part of degree l + 1 of u Y_l.
    """

    def __init__(self, lmax: int):
        super().__init__()
        self.steps = nn.ModuleList(Constant(self._step(degree)) for degree in range(lmax))

    @staticmethod
    def _step(degree: int) -> Tensor:
        """Coefficients (2l + 3, 3 (2l + 1)), scaled so that on the axis y the middle entry is all of Y_(l+1)."""
        coefficients = clebsch_gordan(1, degree, degree + 1)
        on_axis = coefficients[1, degree, degree + 1]
        return coefficients.flatten(0, 1).T * math.sqrt((2 * degree + 3) / (2 * degree + 1)) / on_axis

    def forward(self, u: Tensor) -> list[Tensor]:
        harmonics = [torch.ones_like(u[:, :1])]
        for step in self.steps:
            products = (u.unsqueeze(2) * harmonics[-1].unsqueeze(1)).flatten(1, 2)
            harmonics.append((step() @ products.flatten(2)).unflatten(2, u.shape[2:]))
        return harmonics


class TensorProduct(nn.Module):
    """The irreps of sum_j h_j,c (x) R_c,l(ij) Y_l(ij), with a filter R for every channel c and degree l of harmonics.

    The sums come first, so that the coefficients are applied once to every point and not to every pair.

    Args:
        irreps_in: names of the irreps of h.
        irreps_out: names of those to keep.
        lmax: highest degree of the harmonics.

    Attributes:
        paths: name -> how many of the products have this irrep; without those that none has.
    """

    def __init__(self, irreps_in: list[str], irreps_out: list[str], lmax: int):
        super().__init__()
        starts = dict(zip(irreps_in, accumulate(map(dimension_of, irreps_in), initial=0), strict=False))
        width = sum(map(dimension_of, irreps_in))
        self.paths: dict[str, int] = {}
        columns = []
        for out in irreps_out:
            pairs = [(name, degree) for name, degree in product(irreps_in, range(lmax + 1)) if _has(name, degree, out)]
            if pairs:
                self.paths[out] = len(pairs)
            for name, degree in pairs:
                column = torch.zeros((lmax + 1) ** 2, width, dimension_of(out), dtype=torch.float64)
                rows = slice(degree**2, (degree + 1) ** 2), slice(starts[name], starts[name] + dimension_of(name))
                column[rows] = clebsch_gordan(degree_of(name), degree, degree_of(out)).transpose(0, 1)
                columns.append(column.flatten(0, 1))
        self.coefficients = Constant(torch.cat(columns, -1))

    def forward(self, h: Tensor, filters: Tensor, harmonics: list[Tensor]) -> Features:
        """Apply the product.

        Args:
            h: all components of C channels side by side (B, C, N, K).
            filters: of the pairs (B, C, lmax + 1, N, N).
            harmonics: of the pairs, (B, 2l + 1, N, N) for every l.

        Returns:
            The irreps of `paths`, each with its number of paths times C channels.
        """
        sums = []
        for radial, angular in zip(filters.unbind(2), harmonics, strict=True):
            filtered = (radial.unsqueeze(2) * angular.unsqueeze(1)).flatten(2, 3)
            sums.append((filtered @ h).unflatten(2, angular.shape[1:3]))
        irreps = torch.cat(sums, 2).permute(0, 3, 1, 2, 4).flatten(3) @ self.coefficients()
        parts = irreps.split([n * dimension_of(name) for name, n in self.paths.items()], -1)
        return {
            name: part.unflatten(-1, (n, -1)).permute(0, 1, 4, 3, 2).flatten(3)
            for (name, n), part in zip(self.paths.items(), parts, strict=True)
        }


def _has(name: str, degree: int, out: str) -> bool:
    """Whether the product of an irrep and harmonics of one degree contains irrep `out`: triangle rule and parity."""
    low, high = abs(degree_of(name) - degree), degree_of(name) + degree
    return low <= degree_of(out) <= high and (name[-1] == out[-1]) == (degree % 2 == 0)


class IrrepsLinear(nn.ModuleDict):
    """Channels of each irrep mixed, (B, N, 2l + 1, inputs) -> (B, N, 2l + 1, outputs); scalars 0e get a bias."""

    def __init__(self, inputs: Irreps, outputs: Irreps):
        super().__init__({name: nn.Linear(inputs[name], width, bias=name == SCALAR) for name, width in outputs.items()})

    def forward(self, features: Features) -> Features:
        return {name: layer(features[name]) for name, layer in self.items()}


class TensorProductBlock(nn.Module):
    """One round of messages, and the gated update of the points that receive them.

    The pair vectors are those of learned points p = x + W v, u_ij = (p_i - p_j) / (1 + |p_i - p_j|), and the filters
    are R_ij = W silu(M silu(A h_i + B h_j + C d_ij)) / sqrt(n), where d_ij holds the distances of p and of x.
    An MLP turns the scalars of the messages and the lengths of their other irreps into the change of scalars and gates.
    """

    def __init__(self, inputs: Irreps, outputs: Irreps, lmax: int, pair_channels: int, pair_hidden: int, change: float):
        super().__init__()
        hidden = inputs[SCALAR]
        self.norm = RMSNorm(hidden)
        self.shift = nn.Linear(inputs[VECTOR], 1, bias=False)
        degrees = range(lmax + 1)
        sent = [name for name in inputs if any(_has(name, degree, out) for degree in degrees for out in outputs)]
        self.sender = IrrepsLinear(inputs, dict.fromkeys(sent, pair_channels))
        self.harmonics = SolidHarmonics(lmax)
        self.first = PairLayer(hidden, pair_hidden)
        self.second = nn.Linear(pair_hidden, pair_hidden)
        self.filters = nn.Linear(pair_hidden, pair_channels * (lmax + 1), bias=False)
        self.product = TensorProduct(sent, list(outputs), lmax)
        received = {name: n * pair_channels for name, n in self.product.paths.items()}
        self.outputs = {name: outputs[name] for name in received}
        self.receiver = IrrepsLinear(received, self.outputs)
        lengths = sum(self.outputs.values()) - hidden
        self.update = nn.Linear(2 * hidden + lengths, 2 * hidden)
        self.last = small_linear(2 * hidden, hidden + lengths, change)

    def forward(self, features: Features, x: Tensor, distances: Tensor, weights: Tensor) -> Features:
        """Features of the next block; distances of x and weights of pairs are (B, N, N)."""
        h = self.norm(features[SCALAR])
        vectors, moved = pair_vectors(x + self.shift(features[VECTOR]).squeeze(-1))
        message = silu(self.second(self.first(h.squeeze(2), torch.stack([moved, distances], -1))))
        filters = (self.filters.weight @ message.flatten(1, 2).mT).unflatten(2, weights.shape[1:])
        harmonics = [y * weights.unsqueeze(1) for y in self.harmonics(vectors)]
        senders = self.sender({**features, SCALAR: h})
        sent = torch.cat(list(senders.values()), 2).permute(0, 3, 1, 2)
        received = self.receiver(self.product(sent, filters.unflatten(1, (-1, len(harmonics))), harmonics))
        return self._updated(features, h, received)

    def _updated(self, features: Features, h: Tensor, received: Features) -> Features:
        others = [name for name in received if name != SCALAR]
        lengths = [safe_sqrt(received[name].square().sum(2, keepdim=True)) for name in others]
        out = self.last(silu(self.update(torch.cat([h, received[SCALAR], *lengths], -1))))
        change, *gates = out.split([h.shape[-1], *(received[name].shape[-1] for name in others)], -1)
        updated = {**features, SCALAR: features[SCALAR] + change}
        for name, gate in zip(others, gates, strict=True):
            gated = received[name] * gate.sigmoid()
            updated[name] = features[name] + gated if name in features else gated
        return updated


def pair_vectors(points: Tensor) -> tuple[Tensor, Tensor]:
    """(p_i - p_j) / (1 + |p_i - p_j|) as (B, 3, N, N), and |p_i - p_j| as (B, N, N)."""
    p = points.mT
    difference = p.unsqueeze(3) - p.unsqueeze(2)
    distance = safe_sqrt(difference.square().sum(1))
    return difference / (1 + distance).unsqueeze(1), distance


class TensorProductNetwork(PointNetwork):
    """Tensor products with spherical harmonics, for points in space; `PointNetwork` describes inputs and outputs.

    A block computes the irreps that products of its input contain: scalars and vectors at first.

    Args:
        n_features, n_labels, n_times, n_conditions: as in `PointNetwork`.
        sizes: the fields of `TensorProductConfig`.

    Raises:
        ValueError: unfit irreps, or positions that have not three coordinates.

    Example:
        >>> network = TensorProductNetwork(n_features=1, n_blocks=1)
        >>> x, h, mask = torch.randn(2, 5, 3), torch.zeros(2, 5, 1), torch.ones(2, 5, dtype=torch.bool)
        >>> [change.shape for change in network(x, h, mask)]
        [torch.Size([2, 5, 3]), torch.Size([2, 5, 1])]
    """

    def __init__(self, n_features: int, n_labels: int = 0, n_times: int = 0, n_conditions: int = 0, **sizes: Any):
        super().__init__(n_features, n_labels, n_times, n_conditions)
        config = TensorProductConfig(**sizes)
        wanted, n_blocks = parse_irreps(config.irreps), config.n_blocks
        outer = {name: wanted[name] for name in (SCALAR, VECTOR)}
        hidden = outer[SCALAR]
        self.embed = nn.Linear(n_features + n_labels + 1, hidden)
        self.embed_times: nn.Module | None = None
        if self.n_globals:
            self.embed_times = nn.Sequential(nn.Linear(self.n_globals, hidden), nn.SiLU(), nn.Linear(hidden, hidden))
        self.spread = nn.Parameter(torch.randn(outer[VECTOR]))
        self.blocks = nn.ModuleList()
        inputs = outer
        for i in range(n_blocks):
            outputs = wanted if i < n_blocks - 1 else outer
            sizes_of_pairs = config.lmax, config.pair_channels, config.pair_hidden
            block = TensorProductBlock(inputs, outputs, *sizes_of_pairs, (2 * n_blocks) ** -0.5)
            self.blocks.append(block)
            inputs = inputs | block.outputs
        self.move = small_linear(outer[VECTOR], 1, 1e-2, bias=False)
        self.norm = RMSNorm(hidden) if n_features else nn.Identity()
        if n_features:
            self.readout = small_linear(hidden, n_features, 1e-2)
            nn.init.zeros_(self.readout.bias)

    def _forward(self, x: Tensor, h: Tensor, mask: Tensor, global_inputs: Tensor | None) -> tuple[Tensor, Tensor]:
        if x.shape[-1] != 3:
            raise ValueError(f"expected positions of 3 coordinates, got {x.shape[-1]}")
        pairs = pair_mask(mask).to(x.dtype)
        weights = pairs * pairs.sum(2, keepdim=True).clamp(min=1).rsqrt()
        log_n = mask.sum(1).to(x.dtype).log()[:, None, None].expand(-1, x.shape[1], 1)
        scalars = self.embed(torch.cat([h, log_n], -1))
        if self.embed_times is not None:
            scalars = scalars + self.embed_times(global_inputs).unsqueeze(1)
        x = project(x, mask)
        distances = pair_vectors(x)[1]
        features = {SCALAR: scalars.unsqueeze(2), VECTOR: x.unsqueeze(-1) * self.spread}
        for block in self.blocks:
            features = block(features, x, distances, weights)
        return self.outputs(self.move(features[VECTOR]).squeeze(-1), self.norm(features[SCALAR].squeeze(2)), h, mask)
