"""Flows on vectors by bijections whose inverse and log-determinant are known: the families before free-form flows.

| kind | bijection from data to latents | inverse | source |
|---|---|---|---|
| `planar` | x + u tanh(w^T x + b) | a root in one dimension | arXiv 1505.05770 |
| `radial` | x + b (x - x_0) / (a + abs(x - x_0)) | a quadratic equation | arXiv 1505.05770 |
| `nice` | additive couplings, then a scale for each number | closed form | arXiv 1410.8516 |
| `realnvp` | affine couplings | closed form | arXiv 1605.08803 |
| `glow` | scale and shift, an invertible matrix, an affine coupling | closed form | arXiv 1807.03039 |
| `maf` | affine, each number given those before it | F passes | arXiv 1705.07057 |
| `iaf` | a MAF turned round: F passes here, one to sample | closed form | arXiv 1606.04934 |
| `nsf` | rational-quadratic splines, each number given those before it | F passes | arXiv 1906.04032 |
| `naf` | monotone networks, each number given those before it | F passes of root finding | arXiv 1804.00779 |
| `iresnet` | x + g(x) with a contraction g | fixed-point iteration | arXiv 1811.00995, 1906.02735 |
| `flowpp` | couplings by mixtures of logistics | roots in one dimension | arXiv 1902.00275 |

All of them are a `BijectiveFlow` and take conditions. `nice`, `realnvp`, `maf`, `iaf`, `nsf` and `naf` need zuko, which
the extra `zoo` installs. In an experiment:

    [model]
    kind = "nsf"
    domain = {kind = "vectors"}

    [objective]
    kind = "likelihood"
"""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.flows.zoo.base import Bijection, BijectiveConfig, BijectiveFlow, Composed, invert_increasing
    from molflow.flows.zoo.coupling import Conditioner, Coupling, Elementwise
    from molflow.flows.zoo.flowpp import FlowPPConfig, LogisticMixture
    from molflow.flows.zoo.glow import Affine, GlowConfig
    from molflow.flows.zoo.iresnet import IResNetConfig, ResidualBlock
    from molflow.flows.zoo.linear import ActNorm, InvertibleLinear, Reversal
    from molflow.flows.zoo.planar import Planar, PlanarConfig
    from molflow.flows.zoo.radial import Radial, RadialConfig
    from molflow.flows.zoo.zuko import IAFConfig, MAFConfig, NAFConfig, NICEConfig, NSFConfig, RealNVPConfig

__all__ = [
    "ActNorm", "Affine", "Bijection", "BijectiveConfig", "BijectiveFlow", "Composed", "Conditioner", "Coupling",
    "Elementwise", "FlowPPConfig", "GlowConfig", "IAFConfig", "IResNetConfig", "InvertibleLinear", "LogisticMixture",
    "MAFConfig", "NAFConfig", "NICEConfig", "NSFConfig", "Planar", "PlanarConfig", "Radial", "RadialConfig",
    "RealNVPConfig", "ResidualBlock", "Reversal", "invert_increasing",
]  # fmt: skip

__getattr__, __dir__ = lazy_names(
    __name__,
    {
        "base": ("Bijection", "BijectiveConfig", "BijectiveFlow", "Composed", "invert_increasing"),
        "coupling": ("Conditioner", "Coupling", "Elementwise"),
        "flowpp": ("FlowPPConfig", "LogisticMixture"),
        "glow": ("Affine", "GlowConfig"),
        "iresnet": ("IResNetConfig", "ResidualBlock"),
        "linear": ("ActNorm", "InvertibleLinear", "Reversal"),
        "planar": ("Planar", "PlanarConfig"),
        "radial": ("Radial", "RadialConfig"),
        "zuko": ("IAFConfig", "MAFConfig", "NAFConfig", "NICEConfig", "NSFConfig", "RealNVPConfig"),
    },
)
