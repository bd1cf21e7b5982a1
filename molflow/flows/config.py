"""What a flow is made of, as validated data: the `[model]` table of an experiment and of a checkpoint's config.json."""

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from molflow.distributions import AtomCounts
from molflow.flows.dequantization import DEQUANTIZERS
from molflow.flows.domains import Domain, MoleculeDomain, ParticleDomain
from molflow.flows.free_form import FreeFormFlow
from molflow.nn import EGNN


class Config(BaseModel):
    """Base of all configuration: frozen, and an unknown key is an error."""

    model_config = ConfigDict(frozen=True, extra="forbid")


class EGNNConfig(Config):
    """`molflow.nn.EGNN`."""

    kind: Literal["egnn"] = "egnn"
    hidden: int = Field(64, gt=0)
    pair_hidden: int | None = Field(None, gt=0, description="width of pair layers, by default `hidden`")
    n_blocks: int = Field(16, gt=0)
    n_inner: int = Field(2, ge=0)

    def build(self, n_features: int) -> nn.Module:
        return EGNN(n_features, **self.model_dump(exclude={"kind"}))


class MoleculesConfig(Config):
    """`MoleculeDomain`. `atom_counts` (entry n: molecules with n atoms) come from the training data where empty."""

    kind: Literal["molecules"] = "molecules"
    elements: tuple[str, ...] = Field(("H", "C", "N", "O", "F"), min_length=1)
    dequantization: Literal["argmax", "variational"] = "argmax"
    scale: float = Field(1.5, gt=0, description="angstrom in one model unit")
    atom_counts: tuple[int, ...] = ()

    def build(self) -> Domain:
        dequantizer = DEQUANTIZERS[self.dequantization](len(self.elements))
        return MoleculeDomain(self.elements, AtomCounts(self.atom_counts), dequantizer, self.scale)


class ParticlesConfig(Config):
    """`ParticleDomain`."""

    kind: Literal["particles"] = "particles"
    n_particles: int = Field(gt=1)
    dim: int = Field(gt=0)
    scale: float = Field(1.0, gt=0)

    def build(self) -> Domain:
        return ParticleDomain(self.n_particles, self.dim, self.scale)


class FreeFormConfig(Config):
    """`FreeFormFlow`."""

    kind: Literal["free_form"] = "free_form"
    domain: Annotated[MoleculesConfig | ParticlesConfig, Field(discriminator="kind")]
    encoder: EGNNConfig = EGNNConfig()
    decoder: EGNNConfig = EGNNConfig()

    def build(self) -> FreeFormFlow:
        """A flow with fresh weights; seed torch before for reproducible ones."""
        domain = self.domain.build()
        return FreeFormFlow(domain, self.encoder.build(domain.n_features), self.decoder.build(domain.n_features))
