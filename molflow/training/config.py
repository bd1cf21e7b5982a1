"""An experiment as validated data: what a TOML file in `experiments/` may say, with the defaults."""

import difflib
import tomllib
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

from pydantic import BaseModel, Field, ValidationError, model_validator

from molflow.errors import MolflowError
from molflow.flows.config import Config, FlowConfig

Pairing = Literal["none", "alignment", "optimal_transport", "equivariant_optimal_transport"]
"""Which noise a configuration is joined with; `molflow.training.pairing.pair` says what each is."""


class DataConfig(Config):
    """The data set to train on: `name` says what it is of; `file` is a user's own array in place of the data made here.

    "particles" is a system whose energy is not known here; it needs a file.
    """

    name: Literal["qm9", "dw4", "lj13", "lj13-unordered", "lj55", "lj55-unordered", "particles"] = "qm9"
    file: Path | None = Field(None, description=".npy, or .npz with `positions`: configurations (n, N, D)")

    @model_validator(mode="after")
    def _has_data(self) -> "DataConfig":
        if self.name == "particles" and self.file is None:
            raise ValueError("particles need a file")
        if self.name == "qm9" and self.file is not None:
            raise ValueError("qm9 takes no file")
        return self


class _ObjectiveConfig(Config):
    """Base of the objectives."""

    @property
    def needs_teacher(self) -> bool:
        """Whether a frozen copy of the decoder that training starts from takes part."""
        return False


class FreeFormObjectiveConfig(_ObjectiveConfig):
    """The free-form loss: `beta` weighs the reconstruction error, `n_probes` vectors estimate the volume change."""

    kind: Literal["free_form"] = "free_form"
    beta: float = Field(100.0, gt=0)
    n_probes: int = Field(1, gt=0)
    surrogate: Literal["encoder_jvp", "decoder_jvp"] = "encoder_jvp"
    frozen_decoder: bool = Field(False, description="train the encoder alone, to keep a decoder that samples well")
    energy_weight: float = Field(
        0.0, ge=0, lt=1, description="share of training by energy, where data have a known one"
    )


class FlowMatchingObjectiveConfig(_ObjectiveConfig):
    """The velocity of a continuous flow learns that of straight paths from data to noise, at no solver's cost."""

    kind: Literal["flow_matching"] = "flow_matching"
    pairing: Pairing = "alignment"
    power: float = Field(0.0, ge=0, le=1, description="loss |d|^(2 - 2 power); 0 has the exact velocity as minimum")


class MeanFlowObjectiveConfig(_ObjectiveConfig):
    """Warm-up of an average-velocity decoder by flow matching (r = t) and average velocities (from t to r)."""

    kind: Literal["mean_flow"] = "mean_flow"
    target: Literal["mean_flow", "lagrangian"] = "mean_flow"
    average_fraction: float = Field(0.5, ge=0, le=1, description="of a batch with r < t; 0 is plain flow matching")
    from_latent_fraction: float = Field(0.5, ge=0, le=1, description="of those with t = 1")
    both_ways: bool = Field(False, description="every other r < t is exchanged: from data to latents, for an encoder")
    pairing: Pairing = "alignment"
    power: float = Field(0.5, ge=0, le=1, description="loss |d|^(2 - 2 power); 0 is the squared error")

    @property
    def needs_teacher(self) -> bool:
        return self.target == "lagrangian"


class InversionObjectiveConfig(_ObjectiveConfig):
    """Warm-up of an encoder: it learns to invert the decoder, which stays as it is."""

    kind: Literal["inversion"] = "inversion"


class RegressionObjectiveConfig(_ObjectiveConfig):
    """Both maps learn where the paths of a teacher lead, the decoder from latent to data, the encoder back."""

    kind: Literal["regression"] = "regression"
    teacher: Path = Field(description="folder of a trained flow on the same domain")
    evaluations: int | None = Field(None, gt=0, description="of the teacher's network; by default by its own solver")
    power: float = Field(0.5, ge=0, le=1, description="loss |d|^(2 - 2 power); 0 is the squared error")


class LikelihoodObjectiveConfig(_ObjectiveConfig):
    """The negative log-likelihood of a continuous flow; `divergence` is exact, or estimated with `n_probes` vectors."""

    kind: Literal["likelihood"] = "likelihood"
    divergence: Literal["exact", "rademacher", "gaussian"] = "rademacher"
    n_probes: int = Field(1, gt=0)
    kinetic_energy: float = Field(0.0, ge=0, description="weight of the velocity's square along the path")


ObjectiveConfig = Annotated[
    FreeFormObjectiveConfig
    | MeanFlowObjectiveConfig
    | InversionObjectiveConfig
    | RegressionObjectiveConfig
    | LikelihoodObjectiveConfig
    | FlowMatchingObjectiveConfig,
    Field(discriminator="kind"),
]


class OptimizerConfig(Config):
    """AdamW with linear warm-up, then a cosine decay to `final_fraction` of the learning rate."""

    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(500, ge=0)
    final_fraction: float = Field(0.02, gt=0, le=1)


class TrainingConfig(Config):
    """How long, in what batches, and how often to look."""

    epochs: int = Field(10, gt=0)
    max_steps: int | None = Field(None, gt=0, description="stop after this many steps; by default after `epochs`")
    batch_size: int = Field(64, gt=0)
    micro_batch: int | None = Field(None, gt=0, description="back-propagate so many at a time; less memory")
    ema_decay: float = Field(0.999, ge=0, lt=1)
    log_every: int = Field(50, gt=0, description="steps averaged in a line of metrics.jsonl")
    checkpoint_every: int = Field(500, gt=0, description="steps between checkpoints")
    validate_every: int = Field(5000, gt=0, description="steps between validations")
    validation_molecules: int = Field(128, gt=0, description="held-out molecules for the exact likelihood")
    batches: Literal["equal_size", "mixed_size"] = Field(
        "equal_size", description="of molecules; mixed: padded to one shape"
    )
    compile: bool = Field(False, description="torch.compile the loss; molecules need mixed_size")
    validation_samples: int = Field(500, gt=0, description="samples scored for stability")
    workers: int = Field(0, ge=0, description="processes that draw and pair noise ahead of the steps")
    device: Literal["auto", "cpu", "cuda"] = "auto"


class ExperimentConfig(Config):
    """One training run."""

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig = DataConfig()
    model: Annotated[FlowConfig, Field(discriminator="kind")]
    objective: ObjectiveConfig = FreeFormObjectiveConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    @model_validator(mode="before")
    @classmethod
    def _free_form_by_default(cls, table: Any) -> Any:
        if isinstance(table, dict) and isinstance(table.get("model"), dict):
            return table | {"model": {"kind": "free_form"} | table["model"]}
        return table

    @model_validator(mode="after")
    def _one_shape(self) -> "ExperimentConfig":
        if self.training.compile and self.data.name == "qm9" and self.training.batches != "mixed_size":
            raise ValueError("training.compile needs batches = 'mixed_size': every other shape would be compiled anew")
        return self


def load_experiment(path: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read a TOML experiment file, with `a.b=value` overrides (value as in TOML; a bare word is a string).

    Raises:
        MolflowError: no such file, not TOML, an unknown key (the nearest known one is named) or an unfit value.
    """
    path = Path(path)
    try:
        table = tomllib.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MolflowError(f"{path}: cannot be read: {error.strerror}") from error
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise MolflowError(f"{path}: not a TOML file: {error}") from error
    for override in overrides:
        _apply(table, override)
    return parse(ExperimentConfig, table, str(path))


def parse(model: type[Config], table: dict[str, Any], source: str) -> Any:
    """Validate a table against a configuration class; errors become one line that names `source` and the key."""
    try:
        return model.model_validate(table)
    except ValidationError as error:
        raise MolflowError(f"{source}: " + "; ".join(_explain(model, e) for e in error.errors())) from error


def _apply(table: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    *parents, last = key.strip().split(".")
    if not equals or not last:
        raise MolflowError(f"--set {override}: expected a.b=value")
    try:
        value = tomllib.loads(f"value = {text}")["value"]
    except tomllib.TOMLDecodeError:
        value = text
    for name in parents:
        table = table.setdefault(name, {})
        if not isinstance(table, dict):
            raise MolflowError(f"--set {override}: {name} is a value, not a table")
    table[last] = value


def _explain(model: type[BaseModel], error: Any) -> str:
    # A discriminated union puts its tag into the location; it is no key of the file.
    tags = {"molecules", "composed_molecules", "particles", "egnn", "transformer", "tensor_product"}
    tags |= {"free_form", "mean_flow", "inversion", "regression", "likelihood", "flow_matching", "continuous"}
    tags |= {"dopri5", "euler", "midpoint", "heun3", "rk4"}
    location = [str(part) for part in error["loc"] if part not in tags]
    key = ".".join(location)
    if error["type"] == "union_tag_not_found":
        return f"{key}: has no {error['ctx']['discriminator'].strip(chr(39))}"
    if error["type"] != "extra_forbidden":
        told = error["type"] == "missing" or isinstance(error["input"], dict) or ", got " in error["msg"]
        got = "" if told else f" (got {error['input']!r})"
        return (f"{key}: " if key else "") + error["msg"].removeprefix("Value error, ") + got
    by_name: dict[str, list[str]] = {}
    for known in _known_keys(model):
        by_name.setdefault(known.rpartition(".")[2], []).append(known)
    names = difflib.get_close_matches(location[-1], by_name, n=1, cutoff=0.4)
    near = difflib.get_close_matches(key, by_name[names[0]], n=1, cutoff=0) if names else []
    return f"unknown key {key}" + (f"; did you mean {near[0]}?" if near else "")


def _known_keys(model: type[BaseModel], prefix: str = "") -> list[str]:
    """Dotted names of all keys, tables included."""
    keys = []
    for name, field in model.model_fields.items():
        keys.append(prefix + name)
        for inner in (field.annotation, *get_args(field.annotation)):
            if isinstance(inner, type) and issubclass(inner, BaseModel):
                keys += _known_keys(inner, f"{prefix}{name}.")
    return keys
