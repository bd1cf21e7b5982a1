"""Equivariant networks: (x, h, mask, t) -> (dx, dh). They know nothing of flows."""

from molflow.nn.chain import Chain
from molflow.nn.egnn import EGNN
from molflow.nn.network import PointNetwork
from molflow.nn.tensor_product import TensorProductNetwork
from molflow.nn.transformer import EquivariantTransformer

__all__ = ["EGNN", "Chain", "EquivariantTransformer", "PointNetwork", "TensorProductNetwork"]
