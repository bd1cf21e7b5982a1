"""From atom types to continuous features and back, each with its term in the likelihood bound.

A flow has a density p(h) over continuous features, a molecule has types c. For any q(h | c) whose support lies where h
is read back as c, log P(c) >= E_{h ~ q}[log p(h) - log q(h | c)]; the bound is trained together with the flow.
"""

import math
from abc import ABC, abstractmethod

import torch
from torch import Tensor, nn
from torch.nn.functional import logsigmoid, one_hot, softplus

from molflow.flows.registry import DEQUANTIZERS
from molflow.geometry import masked_randn


class Dequantizer(nn.Module, ABC):
    """q(h | c) for types c in 0..n_types-1, one learned distribution for each type, and the rounding h -> c.

    Args:
        n_types: number of types, which is also the number of features F.
    """

    def __init__(self, n_types: int):
        super().__init__()
        self.n_types = n_types
        self.mean = nn.Parameter(torch.zeros(n_types, n_types))
        self.log_std = nn.Parameter(torch.zeros(n_types, n_types))

    def forward(self, types: Tensor, mask: Tensor, generator: torch.Generator | None) -> tuple[Tensor, Tensor]:
        """Draw features.

        Args:
            types: (B, N) integers; anything at padding.
            mask: (B, N) bool.
            generator: source of the noise.

        Returns:
            h (B, N, F), zero at padding, and log q(h | c) summed over the points of each molecule (B,).
        """
        types = types * mask
        is_type = one_hot(types, self.n_types).to(self.mean.dtype)  # indexing would add gradients in no fixed order
        mean, log_std = is_type @ self.mean, is_type @ self.log_std
        noise = masked_randn(mask, self.n_types, generator, mean.dtype)
        log_normal = -0.5 * noise.square() - log_std - 0.5 * math.log(2 * math.pi)
        h, log_det = self.transform(mean + noise * log_std.exp(), types)
        log_q = (log_normal - log_det).sum(-1)
        return h * mask.unsqueeze(-1), (log_q * mask).sum(-1)

    @abstractmethod
    def transform(self, u: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        """An injective map of u in R^F to features h that read as `types`, and log |dh/du|, (B, N, F) each."""

    def quantize(self, h: Tensor) -> Tensor:
        """The type of each point, the index of its largest feature: (B, N, F) -> (B, N)."""
        types: Tensor = h.argmax(-1)
        return types


@DEQUANTIZERS.register("argmax")
class ArgmaxDequantizer(Dequantizer):
    """Argmax dequantisation (arXiv 2102.05379): a Gaussian u, thresholded so that the true type's entry is largest.

    h_c = u_c and h_k = u_c - softplus(u_c - u_k) for the other entries.
    """

    def __init__(self, n_types: int):
        super().__init__(n_types)
        nn.init.constant_(self.log_std, math.log(0.5))
        with torch.no_grad():
            self.mean.copy_(2 * torch.eye(n_types) - 0.5)

    def transform(self, u: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        top = u.gather(-1, types.unsqueeze(-1))
        gap = top - u
        is_type = one_hot(types, self.n_types).bool()
        h = torch.where(is_type, u, top - softplus(gap))
        return h, torch.where(is_type, 0.0, logsigmoid(gap))


@DEQUANTIZERS.register("scaled_one_hot")
class ScaledOneHotDequantizer(ArgmaxDequantizer):
    """Argmax dequantisation that begins within 0.02 of 0.25 times the one-hot vector, a constant subtracted.

    On the way from noise to data types of this scale, that of EDM (arXiv 2203.17003), are decided after the positions,
    which then tell how many bonds an atom has.
    """

    def __init__(self, n_types: int):
        super().__init__(n_types)
        nn.init.constant_(self.log_std, math.log(0.02))
        scale = 0.25
        top = 0.75 * scale
        other = top - math.log(math.expm1(scale))  # softplus(top - other) = scale
        with torch.no_grad():
            self.mean.copy_(other + (top - other) * torch.eye(n_types))


@DEQUANTIZERS.register("variational")
class VariationalDequantizer(Dequantizer):
    """Variational dequantisation (arXiv 1902.00275) of the one-hot vector: h = one_hot(c) + sigmoid(u), u Gaussian."""

    def transform(self, u: Tensor, types: Tensor) -> tuple[Tensor, Tensor]:
        h = one_hot(types, self.n_types).to(u.dtype) + u.sigmoid()
        return h, logsigmoid(u) + logsigmoid(-u)
