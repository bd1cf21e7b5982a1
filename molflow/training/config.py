"""An experiment as validated data: the keys of its TOML file, with their defaults."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, SerializeAsAny, field_validator

from molflow.config import Config, OneOf, override, parse, read_toml
from molflow.data.base import FILE_KEYS, DataConfig, default_data
from molflow.errors import MolflowError, printable
from molflow.flows.acceleration import Precision
from molflow.flows.base import FlowChoice
from molflow.flows.storage import CONFIG, read_config
from molflow.templates import experiment_file
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.base import ObjectiveConfig

_LONGEST_NAME = 100


class OptimizerConfig(Config):
    """AdamW with linear warm-up, then a cosine decay to `final_fraction` of the learning rate."""

    learning_rate: float = Field(1e-3, gt=0)
    weight_decay: float = Field(0.0, ge=0)
    warmup_steps: int = Field(500, ge=0)
    final_fraction: float = Field(0.02, gt=0, le=1)


class TrainingConfig(Config):
    """Length of training, batches, and how often to log, save and validate."""

    epochs: int = Field(10, gt=0)
    max_steps: int | None = Field(None, gt=0, description="stop after this many steps; by default after `epochs`")
    batch_size: int = Field(64, gt=0)
    micro_batch: int | None = Field(None, gt=0, description="back-propagate this many at a time; less memory")
    ema_decay: float = Field(0.999, ge=0, lt=1)
    log_every: int = Field(50, gt=0, description="steps averaged in a line of metrics.jsonl")
    checkpoint_every: int = Field(500, gt=0, description="steps between checkpoints")
    validate_every: int = Field(5000, gt=0, description="steps between validations")
    patience: int | None = Field(
        None,
        gt=0,
        description="end after so many validations that are not the best, with the weights of the best: the lowest "
        "loss, or for free-form flows the best exact likelihood and reconstruction, where likelihoods are validated",
    )
    validation_molecules: int = Field(128, gt=0, description="held-out molecules for the exact likelihood")
    batches: Literal["equal_size", "equal_cost", "mixed_size"] = Field(
        "equal_size",
        description="batches of molecules; equal_cost: of similar size, as many pairs of atoms in each; mixed_size: "
        "padded to one shape",
    )
    compile: Literal["auto", "dynamic", True, False] = Field(
        False,
        description="torch.compile the loss; auto: if there is a C++ compiler and all batches have one shape "
        "(molecules: mixed_size); dynamic: one code for batches of all sizes, which takes longer to compile",
    )
    precision: Precision = Field(
        "float32",
        description="of the products of matrices in networks on point clouds; bfloat16 is faster on processors that "
        "have it, and the first batch is compared with float32",
    )
    condition_dropout: float = Field(
        0.0, ge=0, lt=1, description="share of the conditions hidden, so that a model takes any of them or none"
    )
    validation_samples: int = Field(500, gt=0, description="samples scored for stability")
    workers: int = Field(0, ge=0, description="processes that draw and pair noise ahead of the steps")
    device: Literal["auto", "cpu", "cuda"] = "auto"


class ExperimentConfig(Config):
    """One training run.

    Attributes:
        name: of the run, and of its folder in runs.
        seed: of weights, batches and noise.
        data, model, objective, optimizer, training: the tables of the file.
    """

    name: str = Field(min_length=1)
    seed: int = Field(0, ge=0, lt=2**63)
    data: DataConfig = Field(default_factory=default_data)
    model: FlowChoice
    objective: Annotated[SerializeAsAny[ObjectiveConfig], OneOf(OBJECTIVES, default="free_form")] = Field(
        default_factory=lambda fields: OBJECTIVES[fields["model"].trained_by]()
    )
    optimizer: OptimizerConfig = OptimizerConfig()
    training: TrainingConfig = TrainingConfig()

    @field_validator("name")
    @classmethod
    def _is_a_folder(cls, name: str) -> str:
        if Path(name).is_absolute() or ".." in Path(name).parts or printable(name) != name or len(name) > _LONGEST_NAME:
            raise ValueError(f"expected the name of a folder within runs, of at most {_LONGEST_NAME} characters")
        return name

    def without_model(self) -> dict[str, Any]:
        """The experiment as plain values but for its model, as config.json keeps it."""
        return self.model_dump(mode="json", exclude={"model"})


def load_experiment(name_or_file: str | Path, overrides: Sequence[str] = ()) -> ExperimentConfig:
    """Read an experiment, with `a.b=value` overrides (value as in TOML; a bare word is a string).

    Args:
        name_or_file: name of a template (`molflow.templates.template_names`), a TOML file, or the config.json of a
            model, whose experiment it is. Words that end in .toml or .json or hold a slash are a file. Files of data in
            a TOML file are relative to its folder, those of overrides and of a config.json to the current one.
        overrides: applied in turn.

    Raises:
        MolflowError: no such template or file, not TOML, missing or unknown keys (the nearest known one is named) or
            invalid values, all in one line.

    Example:
        >>> molflow.load_experiment("dw4", ["training.max_steps=100"]).training.max_steps
        100
    """
    path = experiment_file(name_or_file)
    table = _table_of_model(path) if path.suffix == ".json" else _table_of_file(path)
    override(table, overrides)
    config = parse(ExperimentConfig, table, str(name_or_file))
    asked = any(text.startswith(("data.energy", "data=")) for text in overrides)
    return _of_model(config) if path.suffix == ".json" and not asked else config


def read_experiment(folder: Path) -> ExperimentConfig:
    """The experiment that made a model.

    Raises:
        MolflowError: a missing or damaged config.json, or a model that no experiment made.
    """
    return _of_model(parse(ExperimentConfig, _table_of_model(folder / CONFIG), str(folder / CONFIG)))


def _of_model(config: ExperimentConfig) -> ExperimentConfig:
    """The experiment of a config.json, which executes no code that it names."""
    return config.model_copy(update={"data": config.data.from_model()})


def _table_of_file(path: Path) -> dict[str, Any]:
    """The table of a TOML file, in which files of data are relative to its folder."""
    table = read_toml(path)
    data = table.get("data")
    if isinstance(data, dict):
        data |= {key: str(path.parent / data[key]) for key in FILE_KEYS if isinstance(data.get(key), str)}
    return table


def _table_of_model(path: Path) -> dict[str, Any]:
    """The table of the experiment in a config.json."""
    content = read_config(path)
    if content["experiment"] is None:
        raise MolflowError(f"{path}: the model was not made by an experiment of molflow")
    return {**content["experiment"], "model": content["model"]}
