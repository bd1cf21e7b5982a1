"""Networks: equivariant ones on point clouds, (x, h, mask, t, condition) -> (dx, dh), and plain ones on vectors.

They know nothing of flows.
"""

from typing import TYPE_CHECKING

from molflow.nn.registry import NETWORKS
from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.nn.chain import Chain
    from molflow.nn.egnn import EGNN, EGNNConfig
    from molflow.nn.mlp import MLP, MLPConfig
    from molflow.nn.network import Network, NetworkConfig, PointNetwork, VectorNetwork
    from molflow.nn.tensor_product import TensorProductConfig, TensorProductNetwork
    from molflow.nn.transformer import EquivariantTransformer, TransformerConfig

__all__ = [
    "EGNN",
    "MLP",
    "NETWORKS",
    "Chain",
    "EGNNConfig",
    "EquivariantTransformer",
    "MLPConfig",
    "Network",
    "NetworkConfig",
    "PointNetwork",
    "TensorProductConfig",
    "TensorProductNetwork",
    "TransformerConfig",
    "VectorNetwork",
]

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        **dict.fromkeys(("Chain",), "molflow.nn.chain"),
        **dict.fromkeys(("EGNN", "EGNNConfig"), "molflow.nn.egnn"),
        **dict.fromkeys(("MLP", "MLPConfig"), "molflow.nn.mlp"),
        **dict.fromkeys(("Network", "NetworkConfig", "PointNetwork", "VectorNetwork"), "molflow.nn.network"),
        **dict.fromkeys(("TensorProductConfig", "TensorProductNetwork"), "molflow.nn.tensor_product"),
        **dict.fromkeys(("EquivariantTransformer", "TransformerConfig"), "molflow.nn.transformer"),
    },
)
