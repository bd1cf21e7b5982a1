"""The names of networks; nothing here needs torch."""

from typing import TYPE_CHECKING

from molflow.registry import Registry

if TYPE_CHECKING:
    from molflow.nn.network import NetworkConfig

NETWORKS: "Registry[type[NetworkConfig]]" = Registry(
    "network",
    modules={
        "egnn": "molflow.nn.egnn",
        "transformer": "molflow.nn.transformer",
        "tensor_product": "molflow.nn.tensor_product",
        "plain_transformer": "molflow.nn.plain_transformer",
        "mlp": "molflow.nn.mlp",
        "resnet": "molflow.nn.resnet",
        "chain": "molflow.nn.chain",
        "euler_steps": "molflow.nn.euler_steps",
    },
    group="molflow.networks",
)
"""Kind -> configuration of a network."""
