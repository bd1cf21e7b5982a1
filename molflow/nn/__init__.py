"""Networks on point clouds, (x, h, mask, t, condition) -> (dx, dh), all but one equivariant, and on vectors.

They do not depend on flows.
"""

from typing import TYPE_CHECKING

from molflow.nn.registry import NETWORKS
from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.nn.chain import Chain, ChainConfig
    from molflow.nn.egnn import EGNN, EGNNConfig
    from molflow.nn.euler_steps import EulerSteps, EulerStepsConfig
    from molflow.nn.mlp import MLP, MLPConfig
    from molflow.nn.network import Network, NetworkConfig, PointNetwork, VectorNetwork
    from molflow.nn.plain_transformer import PlainTransformer, PlainTransformerConfig
    from molflow.nn.resnet import ResNet, ResNetConfig
    from molflow.nn.tensor_product import TensorProductConfig, TensorProductNetwork
    from molflow.nn.transformer import EquivariantTransformer, TransformerConfig

__all__ = [
    "EGNN", "MLP", "NETWORKS", "Chain", "ChainConfig", "EGNNConfig", "EquivariantTransformer", "EulerSteps",
    "EulerStepsConfig", "MLPConfig", "Network", "NetworkConfig", "PlainTransformer", "PlainTransformerConfig",
    "PointNetwork", "ResNet", "ResNetConfig", "TensorProductConfig", "TensorProductNetwork", "TransformerConfig",
    "VectorNetwork",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "chain": ("Chain", "ChainConfig"),
        "egnn": ("EGNN", "EGNNConfig"),
        "euler_steps": ("EulerSteps", "EulerStepsConfig"),
        "mlp": ("MLP", "MLPConfig"),
        "network": ("Network", "NetworkConfig", "PointNetwork", "VectorNetwork"),
        "plain_transformer": ("PlainTransformer", "PlainTransformerConfig"),
        "resnet": ("ResNet", "ResNetConfig"),
        "tensor_product": ("TensorProductConfig", "TensorProductNetwork"),
        "transformer": ("EquivariantTransformer", "TransformerConfig"),
    },
)
