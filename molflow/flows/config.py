"""What a flow is made of, as validated data: the `[model]` table of an experiment and of a checkpoint's config.json."""

from typing import Annotated, Literal

from pydantic import Field, field_validator

from molflow.config import Config
from molflow.distributions import AtomCounts
from molflow.flows.continuous import ContinuousFlow
from molflow.flows.dequantization import DEQUANTIZERS
from molflow.flows.domains import ComposedMoleculeDomain, Domain, MoleculeDomain, ParticleDomain, Representation
from molflow.flows.free_form import FreeFormFlow
from molflow.flows.solvers import AdaptiveSolver, FixedStepMethod, FixedStepSolver, Solver
from molflow.nn import EGNN, Chain, EquivariantTransformer, PointNetwork, TensorProductNetwork
from molflow.nn.tensor_product import parse_irreps


class EGNNConfig(Config):
    """`molflow.nn.EGNN`."""

    kind: Literal["egnn"] = "egnn"
    hidden: int = Field(64, gt=0)
    pair_hidden: int | None = Field(None, gt=0, description="width of pair layers, by default `hidden`")
    n_blocks: int = Field(16, gt=0)
    n_inner: int = Field(2, ge=0)

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0) -> PointNetwork:
        return EGNN(n_features, n_labels, n_times, **self.model_dump(exclude={"kind"}))


class TransformerConfig(Config):
    """`molflow.nn.EquivariantTransformer`, or with several `n_stages` a `Chain` of them, each of `n_blocks`."""

    kind: Literal["transformer"] = "transformer"
    hidden: int = Field(128, gt=0)
    n_vectors: int = Field(16, gt=0)
    pair_hidden: int = Field(32, gt=0)
    n_heads: int = Field(4, gt=0)
    n_blocks: int = Field(6, gt=0)
    n_stages: int = Field(1, gt=0)

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0) -> PointNetwork:
        sizes = self.model_dump(exclude={"kind", "n_stages"})
        stages = [EquivariantTransformer(n_features, n_labels, n_times, **sizes) for _ in range(self.n_stages)]
        if len(stages) > 1 and n_times:
            raise ValueError("a network of several stages takes no times; set n_stages = 1 or average_velocity = false")
        return Chain(stages) if len(stages) > 1 else stages[0]


class TensorProductConfig(Config):
    """`molflow.nn.TensorProductNetwork`, for points in space."""

    kind: Literal["tensor_product"] = "tensor_product"
    irreps: str = Field("64x0e + 16x1o + 8x2e", description="hidden features of a point, as e3nn writes them")
    lmax: int = Field(2, ge=1, description="highest degree of the spherical harmonics")
    pair_channels: int = Field(16, gt=0, description="channels of each irrep that a point sends")
    pair_hidden: int = Field(32, gt=0)
    n_blocks: int = Field(4, gt=0)

    @field_validator("irreps")
    @classmethod
    def _irreps_can_be_read(cls, irreps: str) -> str:
        parse_irreps(irreps)
        return irreps

    def build(self, n_features: int, n_labels: int = 0, n_times: int = 0) -> PointNetwork:
        return TensorProductNetwork(n_features, n_labels, n_times, **self.model_dump(exclude={"kind"}))


NetworkConfig = EGNNConfig | TransformerConfig | TensorProductConfig


class _MoleculesConfig(Config):
    """Molecules in one of two representations. `types` of points come from the whole data set where empty."""

    representation: Representation = "all-atom"
    scale: float = Field(1.5, gt=0, description="angstrom in one model unit")
    types: tuple[str, ...] = ()


class MoleculesConfig(_MoleculesConfig):
    """`MoleculeDomain`. `atom_counts` (entry n: molecules with n points) come from the training data where empty."""

    kind: Literal["molecules"] = "molecules"
    dequantization: Literal["argmax", "variational"] = "argmax"
    atom_counts: tuple[int, ...] = ()

    def build(self) -> Domain:
        dequantizer = DEQUANTIZERS[self.dequantization](len(self.types))
        return MoleculeDomain(self.types, self.representation, self.scale, AtomCounts(self.atom_counts), dequantizer)


class ComposedMoleculesConfig(_MoleculesConfig):
    """`ComposedMoleculeDomain`. The table of compositions is in the weights; training sets its length."""

    kind: Literal["composed_molecules"] = "composed_molecules"
    n_compositions: int = Field(0, ge=0)

    def build(self) -> Domain:
        return ComposedMoleculeDomain(self.types, self.representation, self.scale, self.n_compositions)


class ParticlesConfig(Config):
    """`ParticleDomain`."""

    kind: Literal["particles"] = "particles"
    n_particles: int = Field(gt=1)
    dim: int = Field(gt=0)
    scale: float = Field(1.0, gt=0)

    def build(self) -> Domain:
        return ParticleDomain(self.n_particles, self.dim, self.scale)


DomainConfig = MoleculesConfig | ComposedMoleculesConfig | ParticlesConfig


class FreeFormConfig(Config):
    """`FreeFormFlow`. With `average_velocity` the decoder takes two times and can use several evaluations."""

    kind: Literal["free_form"] = "free_form"
    domain: Annotated[DomainConfig, Field(discriminator="kind")]
    encoder: Annotated[NetworkConfig, Field(discriminator="kind")] = EGNNConfig()
    decoder: Annotated[NetworkConfig, Field(discriminator="kind")] = EGNNConfig()
    average_velocity: bool = False

    def build(self) -> FreeFormFlow:
        """A flow with fresh weights; seed torch before for reproducible ones."""
        domain = self.domain.build()
        size = domain.n_features, domain.n_labels
        n_times = 2 if self.average_velocity else 0
        return FreeFormFlow(domain, self.encoder.build(*size), self.decoder.build(*size, n_times))


class AdaptiveSolverConfig(Config):
    """`AdaptiveSolver`."""

    method: Literal["dopri5"] = "dopri5"
    rtol: float = Field(1e-4, gt=0)
    atol: float = Field(1e-4, gt=0)
    max_steps: int = Field(1000, gt=0)
    adjoint: bool = Field(False, description="gradients by the adjoint method: little memory, small errors")

    def build(self) -> Solver:
        return AdaptiveSolver(**self.model_dump())


class FixedStepSolverConfig(Config):
    """`FixedStepSolver`."""

    method: FixedStepMethod = "rk4"
    n_steps: int = Field(20, gt=0)
    adjoint: bool = Field(False, description="gradients by the adjoint method: little memory, small errors")

    def build(self) -> Solver:
        return FixedStepSolver(**self.model_dump())


SolverConfig = AdaptiveSolverConfig | FixedStepSolverConfig


class ContinuousConfig(Config):
    """`ContinuousFlow`, on any network of one time."""

    kind: Literal["continuous"] = "continuous"
    domain: Annotated[DomainConfig, Field(discriminator="kind")]
    network: Annotated[NetworkConfig, Field(discriminator="kind")] = EGNNConfig()
    solver: Annotated[SolverConfig, Field(discriminator="method")] = AdaptiveSolverConfig()

    def build(self) -> ContinuousFlow:
        """A flow with fresh weights; seed torch before for reproducible ones."""
        domain = self.domain.build()
        return ContinuousFlow(domain, self.network.build(domain.n_features, domain.n_labels, 1), self.solver.build())


FlowConfig = FreeFormConfig | ContinuousConfig
