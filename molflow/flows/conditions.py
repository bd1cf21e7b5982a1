"""Conditions: numbers given for each configuration, in the user's units, and standardised for networks."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.config import Config
from molflow.errors import MolflowError


class ConditionsConfig(Config):
    """`Conditions`; training fills in mean and std from its data."""

    names: tuple[str, ...] = Field(min_length=1)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()

    def build(self) -> "Conditions":
        return Conditions(self.names, self.mean or None, self.std or None)


class Conditions(nn.Module):
    """C named numbers for each configuration, standardised as (value - mean) / std.

    Args:
        names: of the conditions, all different.
        mean: (C,), by default 0.
        std: (C,), positive, by default 1.
    """

    mean: Tensor
    std: Tensor

    def __init__(self, names: Sequence[str], mean: Sequence[float] | None = None, std: Sequence[float] | None = None):
        super().__init__()
        self.names = tuple(names)
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected different names of conditions, at least one, got {', '.join(names) or 'none'}")
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            tensor = torch.tensor([default] * len(names) if values is None else list(values), dtype=torch.float64)
            if tensor.shape != (len(names),) or (name == "std" and not (tensor > 0).all()):
                raise ValueError(f"expected one {name} for each of {len(names)} conditions, std above 0")
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, values: Any, n: int, dtype: torch.dtype) -> Tensor:
        """Standardised conditions of n configurations, (n, C).

        Args:
            values: (n, C), or (C,) for all; or name -> one number or (n,).
            n: configurations.
            dtype: of the result.

        Raises:
            MolflowError: a missing or unknown name, another shape, or a value that is not finite.
        """
        tensor = self._stacked(values, n) if isinstance(values, Mapping) else self._tensor(values)
        if tensor.shape not in ((n, len(self.names)), (len(self.names),)):
            raise MolflowError(
                f"expected conditions ({n}, {len(self.names)}) or ({len(self.names)},) for {', '.join(self.names)}, "
                f"got {tuple(tensor.shape)}"
            )
        if not tensor.isfinite().all():
            raise MolflowError("expected finite conditions")
        return ((tensor - self.mean) / self.std).to(dtype).expand(n, -1)

    def _stacked(self, values: Mapping[str, Any], n: int) -> Tensor:
        if set(values) != set(self.names):
            given = ", ".join(map(str, values)) or "none"
            raise MolflowError(f"expected the conditions {', '.join(self.names)}, got {given}")
        columns = [self._tensor(values[name]) for name in self.names]
        try:
            return torch.stack(torch.broadcast_tensors(*columns), -1)
        except RuntimeError as error:
            shapes = ", ".join(f"{name} {tuple(c.shape)}" for name, c in zip(self.names, columns, strict=True))
            raise MolflowError(f"expected one number or ({n},) for each condition, got {shapes}") from error

    def _tensor(self, values: Any) -> Tensor:
        try:
            return torch.as_tensor(values, dtype=torch.float64, device=self.mean.device)
        except (TypeError, ValueError, RuntimeError) as error:
            raise MolflowError(f"expected conditions that are numbers: {error}") from error
