"""The names of flows and of their parts; nothing here needs torch."""

from typing import TYPE_CHECKING, Any

from molflow.registry import Registry

if TYPE_CHECKING:
    from molflow.flows.base import FlowConfig
    from molflow.flows.dequantization import Dequantizer
    from molflow.flows.domains.base import DomainConfig
    from molflow.flows.solvers import Solver

FLOWS: "Registry[type[FlowConfig]]" = Registry(
    "flow",
    modules={
        "free_form": "molflow.flows.free_form",
        "continuous": "molflow.flows.continuous",
        "diffusion": "molflow.flows.diffusion",
        "planar": "molflow.flows.zoo.planar",
        "radial": "molflow.flows.zoo.radial",
        "nice": "molflow.flows.zoo.zuko",
        "realnvp": "molflow.flows.zoo.zuko",
        "glow": "molflow.flows.zoo.glow",
        "maf": "molflow.flows.zoo.zuko",
        "iaf": "molflow.flows.zoo.zuko",
        "nsf": "molflow.flows.zoo.zuko",
        "naf": "molflow.flows.zoo.zuko",
        "iresnet": "molflow.flows.zoo.iresnet",
        "flowpp": "molflow.flows.zoo.flowpp",
    },
    group="molflow.flows",
)
"""Kind -> configuration of a flow."""

DOMAINS: "Registry[type[DomainConfig]]" = Registry(
    "domain",
    modules={
        "molecules": "molflow.flows.domains.molecules",
        "composed_molecules": "molflow.flows.domains.molecules",
        "particles": "molflow.flows.domains.particles",
        "vectors": "molflow.flows.domains.vectors",
    },
)
"""Kind -> configuration of a domain."""

SOLVERS: "Registry[type[Solver]]" = Registry(
    "solver", modules=dict.fromkeys(("dopri5", "euler", "midpoint", "heun3", "rk4"), "molflow.flows.solvers")
)
"""Method -> solver of initial value problems."""

SURROGATES: Registry[Any] = Registry(
    "surrogate", modules=dict.fromkeys(("encoder_jvp", "decoder_jvp"), "molflow.flows.free_form")
)
"""Name -> function of `molflow.volume` whose gradient is that of a log-determinant."""

DIVERGENCES: Registry[Any] = Registry(
    "divergence", modules=dict.fromkeys(("exact", "rademacher", "gaussian"), "molflow.flows.continuous")
)
"""Name -> (space, generator, dtype) -> a probe vector, or None for the exact divergence."""

DEQUANTIZERS: "Registry[type[Dequantizer]]" = Registry(
    "dequantization", modules=dict.fromkeys(("argmax", "scaled_one_hot", "variational"), "molflow.flows.dequantization")
)
"""Name -> `Dequantizer`."""
