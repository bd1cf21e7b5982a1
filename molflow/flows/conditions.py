"""Conditions: numbers given for each configuration, in the user's units, and standardised for networks."""

import difflib
import math
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from pydantic import Field
from torch import Tensor, nn

from molflow.config import Config
from molflow.errors import MolflowError
from molflow.units import quantity


class ConditionsConfig(Config):
    """`Conditions`; training fills in mean and std from its data.

    Attributes:
        names: of the conditions.
    """

    names: tuple[str, ...] = Field(min_length=1)
    mean: tuple[float, ...] = ()
    std: tuple[float, ...] = ()
    units: tuple[str, ...] = Field((), description="of the numbers; empty where a number has none")
    optional: bool = Field(False, description="each condition may be left out")

    def build(self) -> "Conditions":
        return Conditions(self.names, self.mean or None, self.std or None, self.units or None, self.optional)


class Conditions(nn.Module):
    """C named numbers for each configuration, standardised as (value - mean) / std.

    Where they are optional, one that is left out, or NaN, is 0 after standardising, and a network gets C further
    numbers that say which ones are given (1) and which not (0).

    Args:
        names: of the conditions, all different.
        mean: (C,), by default 0.
        std: (C,), positive, by default 1.
        units: of the numbers, by default none.
        optional: whether each may be left out.

    Attributes:
        n_inputs: numbers that a network gets for a configuration: C, or 2 C where they are optional.

    Example:
        >>> conditions = Conditions(["gap"], mean=[6.8], std=[1.3], units=["eV"])
        >>> conditions({"gap": "5.5 eV"}, 2, torch.float32).tolist()
        [[-1.0], [-1.0]]
    """

    mean: Tensor
    std: Tensor

    def __init__(
        self,
        names: Sequence[str],
        mean: Sequence[float] | None = None,
        std: Sequence[float] | None = None,
        units: Sequence[str] | None = None,
        optional: bool = False,
    ):
        super().__init__()
        self.names, self.optional = tuple(names), optional
        self.units = tuple(units or [""] * len(names))
        self.n_inputs = (1 + optional) * len(names)
        if len(self.units) != len(names):
            raise ValueError(f"expected a unit for each of {len(names)} conditions, got {len(self.units)}")
        if not names or len(set(names)) < len(names):
            raise ValueError(f"expected different names of conditions, at least one, got {', '.join(names) or 'none'}")
        for name, values, default in (("mean", mean, 0.0), ("std", std, 1.0)):
            tensor = torch.tensor([default] * len(names) if values is None else list(values), dtype=torch.float64)
            if tensor.shape != (len(names),) or (name == "std" and not (tensor > 0).all()):
                raise ValueError(f"expected one {name} for each of {len(names)} conditions, std above 0")
            self.register_buffer(name, tensor, persistent=False)

    def forward(self, values: Any, n: int, dtype: torch.dtype) -> Tensor:
        """Standardised conditions of n configurations, (n, `n_inputs`).

        Args:
            values: (n, C), or (C,) for all; or name -> one number, (n,), or a text with a unit such as "5.2 eV". NaN
                stands for a condition that is not given, where conditions are optional.
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
        is_given = ~tensor.isnan() if self.optional else torch.ones_like(tensor, dtype=torch.bool)
        if not tensor[is_given].isfinite().all():
            raise MolflowError("expected finite conditions")
        standardized = ((tensor - self.mean) / self.std).where(is_given, 0.0)
        inputs = torch.cat([standardized, is_given], -1) if self.optional else standardized
        return inputs.to(dtype).expand(n, -1)

    def none_given(self, n: int, dtype: torch.dtype) -> Tensor:
        """The inputs of networks for n configurations without any condition, (n, `n_inputs`).

        Raises:
            MolflowError: conditions that are not optional.
        """
        if not self.optional:
            raise MolflowError(f"this model needs a condition: {', '.join(self.names)}")
        return torch.zeros(n, self.n_inputs, dtype=dtype, device=self.mean.device)

    def _stacked(self, values: Mapping[str, Any], n: int) -> Tensor:
        for name in values:
            if name not in self.names:
                near = difflib.get_close_matches(str(name), self.names, n=1)
                meant = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(self.names)}"
                raise MolflowError(f"this model has no condition {name}{meant}")
        if not self.optional and len(values) < len(self.names):
            given = ", ".join(values) or "none"
            raise MolflowError(f"expected the conditions {', '.join(self.names)}, got {given}")
        columns = [
            self._tensor(quantity(value, unit, name) if isinstance(value := values.get(name, math.nan), str) else value)
            for name, unit in zip(self.names, self.units, strict=True)
        ]
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
