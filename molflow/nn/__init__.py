"""Equivariant networks: (x, h, mask, t) -> (dx, dh). They know nothing of flows."""

from molflow.nn.egnn import EGNN

__all__ = ["EGNN"]
