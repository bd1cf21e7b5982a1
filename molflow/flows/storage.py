"""Models on disk: a folder with config.json, model.safetensors and card.json.

config.json is {"format": 1, "model": {...}, "experiment": {...}}. Loading reads `model` alone, so the keys of an
experiment may change without breaking a model. Weights are safetensors with a checksum; nothing here unpickles.
"""

import json
from pathlib import Path
from typing import Any

import torch
from pydantic import ConfigDict
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor, nn

from molflow.checksums import digest
from molflow.config import Config, parse
from molflow.errors import MolflowError
from molflow.files import atomic_path, read_json, write_json
from molflow.flows.base import Flow, FlowChoice, FlowConfig
from molflow.flows.bounds import BoundedTensors

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "card.json"
FORMAT = 1
_CHECKSUM = "sha256"  # in the metadata of a file of weights: the digest of its tensors
_EQUAL = "equal_tensors"  # there too: name -> name of the tensor in the file that it equals, in JSON
_LARGE = 1024  # numbers of a tensor that is worth it


class About(Config):
    """What a reader of a card should know before using the model."""

    purpose: str
    data: str
    core_hours: float
    machine: str
    caveats: tuple[str, ...] = ()
    cite: tuple[str, ...] = ()


class Card(Config):
    """The parts of card.json that molflow reads; a card may have more."""

    model_config = ConfigDict(frozen=True, extra="allow")

    name: str | None = None
    data: str | None = None
    task: str | None = None
    epochs: float | None = None
    steps: int | None = None
    validation: dict[str, Any] | None = None
    scores: dict[str, Any] | None = None
    how: str | None = None
    about: About | None = None
    started_from: dict[str, Any] | None = None
    weights_sha256: str | None = None  # of shipped models, whose files are older than the checksum in them


class _Stored(Config):
    """The part of config.json that loading reads."""

    model: FlowChoice


def save_model(
    folder: str | Path,
    config: FlowConfig,
    flow: nn.Module,
    card: dict[str, Any],
    experiment: dict[str, Any] | None = None,
) -> None:
    """Write the configuration, the weights and the card; `folder` is created if it does not exist.

    Args:
        folder: of the model.
        config: what builds the flow.
        flow: the weights.
        card: how the model was made and what it scored.
        experiment: the rest of the experiment that made the model, as plain values.

    Example:
        >>> network, domain = {"kind": "mlp"}, {"kind": "vectors", "n_features": 2}
        >>> config = molflow.flows.FreeFormConfig(domain=domain, encoder=network, decoder=network)
        >>> save_model("model", config, config.build(), card={"name": "mine"})
        >>> molflow.load("model").sample(3, seed=0).shape
        torch.Size([3, 2])
    """
    folder = Path(folder)
    folder.mkdir(parents=True, exist_ok=True)
    content = {"format": FORMAT, "model": config.model_dump(mode="json"), "experiment": experiment}
    write_json(folder / CONFIG, content)
    (folder / CARD).unlink(missing_ok=True)  # a program that is killed here leaves no card rather than that of others
    save_weights(flow.state_dict(), folder / WEIGHTS)
    write_json(folder / CARD, card)


def read_card(folder: Path) -> dict[str, Any]:
    """The card of a model as plain values.

    Raises:
        MolflowError: a missing or damaged file.
    """
    card = read_json(folder / CARD)
    parse(Card, card, str(folder / CARD))
    found: dict[str, Any] = card
    return found


def load(folder: str | Path, device: torch.device | str = "cpu") -> Flow[Any]:
    """The flow of a model folder, ready to sample.

    Args:
        folder: of the model: config.json and model.safetensors.
        device: where its weights go.

    Raises:
        MolflowError: a missing or damaged file, a pickle in place of safetensors, or weights that do not fit the
            configuration.

    Example:
        >>> network, domain = {"kind": "mlp"}, {"kind": "vectors", "n_features": 2}
        >>> config = molflow.flows.FreeFormConfig(domain=domain, encoder=network, decoder=network)
        >>> molflow.flows.save_model("model", config, config.build(), card={"name": "mine"})
        >>> load("model")
        FreeFormFlow(2 features, 199,428 parameters, 1 evaluation per sample)
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MolflowError(f"{folder}: no such model folder")
    with torch.random.fork_rng():
        flow = build_flow(read_model_config(folder), str(folder / CONFIG))
    load_weights(flow, folder / WEIGHTS)
    return flow.to(device).eval()


def build_flow(config: FlowConfig, source: str) -> Flow[Any]:
    """The flow that a configuration describes, with random weights.

    Raises:
        MolflowError: a configuration that cannot be, or describes more than `BoundedTensors` allows; the message names
            `source`.
    """
    try:
        with BoundedTensors():
            return config.build()
    except (ArithmeticError, RuntimeError, TypeError, ValueError) as error:
        raise MolflowError(f"{source}: {' '.join(str(error).split())}") from error


def read_model_config(folder: Path) -> FlowConfig:
    """The configuration of the flow of a model folder."""
    path = folder / CONFIG
    return parse(_Stored, {"model": read_config(folder)["model"]}, str(path)).model


def read_config(path: Path) -> dict[str, Any]:
    """config.json as plain values, in the format of today: keys `format`, `model` and `experiment`, which may be None.

    Args:
        path: the file, or the folder of the model.

    Raises:
        MolflowError: a missing or damaged file, or one of a newer format.
    """
    if path.suffix != ".json":
        path = path / CONFIG
    content = read_json(path)
    parts = content if isinstance(content, dict) else {}
    if not isinstance(parts.get("model"), dict):
        raise MolflowError(f"{path}: has no model; expected format, model and experiment")
    version = content.get("format", 0)
    if version not in range(FORMAT + 1):
        raise MolflowError(
            f"{path}: has format {version!r}, this version of molflow reads up to {FORMAT}; update molflow"
        )
    if version == 0:
        return _from_format_0(content)
    experiment = content.get("experiment")
    return parts | {"experiment": experiment if isinstance(experiment, dict) else None}


def _from_format_0(content: dict[str, Any]) -> dict[str, Any]:
    """Up to version 0.1 the file was the whole experiment, with other names for some values."""
    experiment = {key: value for key, value in content.items() if key != "model"}
    model = json.loads(json.dumps(content["model"]))
    domain = model.get("domain")
    if isinstance(domain, dict) and domain.get("representation") == "united":
        domain["representation"] = "united-atom"
    objective = experiment.get("objective")
    if isinstance(objective, dict) and "power" in objective:
        experiment["objective"] = {
            "loss_exponent" if key == "power" else key: value for key, value in objective.items()
        }
    data = experiment.get("data")
    if isinstance(data, dict) and data.get("file", "") is None:
        experiment["data"] = {key: value for key, value in data.items() if key != "file"}
    return {"format": FORMAT, "model": model, "experiment": experiment}


def save_weights(weights: dict[str, Tensor], path: Path) -> None:
    """Write tensors, with their checksum, to a safetensors file, atomically.

    Of large tensors that are equal, as in the stages of an unrolled network, one is written; the others are named in
    the metadata.
    """
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    equal = _equal_tensors(weights)
    metadata = {_CHECKSUM: digest(weights)} | ({_EQUAL: json.dumps(equal)} if equal else {})
    written = {name: tensor for name, tensor in weights.items() if name not in equal}
    with atomic_path(path) as temporary:  # save_file would make it readable to its owner alone
        temporary.write_bytes(save(written, metadata))


def _equal_tensors(weights: dict[str, Tensor]) -> dict[str, str]:
    """Name -> name of the first tensor with the same values, for large ones."""
    first: dict[str, str] = {}
    same = {n: first.setdefault(digest(t), n) for n, t in weights.items() if t.numel() >= _LARGE}
    return {name: other for name, other in same.items() if name != other}


def read_weights(path: Path) -> dict[str, Tensor]:
    """The tensors of a safetensors file, as they were saved.

    Raises:
        MolflowError: a missing or damaged file. A file without a checksum, as other programs write it, is not checked.
    """
    if not path.is_file():
        raise MolflowError(f"{path}: no such file")
    try:
        with safe_open(path, "pt") as file:
            weights = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118 (it is no mapping)
            metadata = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise MolflowError(f"{path}: not a safetensors file ({error}); other formats are not read") from error
    try:
        weights |= {name: weights[other] for name, other in json.loads(metadata.get(_EQUAL, "{}")).items()}
    except (ValueError, AttributeError, LookupError, TypeError, RecursionError) as error:
        raise MolflowError(f"{path}: the weights are damaged: their list of equal tensors cannot be read") from error
    stated = metadata.get(_CHECKSUM)
    source, card = "it", path.with_name(CARD)
    if stated is None and card.is_file():
        source, stated = CARD, read_card(path.parent).get("weights_sha256")
    if stated is not None and stated != digest(weights):
        raise MolflowError(f"{path}: the weights are damaged: they do not have the checksum that is stated in {source}")
    return weights


def load_weights(flow: nn.Module, path: Path) -> None:
    """Copy a safetensors file into a flow, in place.

    Raises:
        MolflowError: as `read_weights`; a tensor that is missing, unknown, of another shape or type, or not finite.
    """
    weights = read_weights(path)
    expected = flow.state_dict()
    missing, unknown = sorted(expected.keys() - weights), sorted(weights.keys() - expected)
    if missing or unknown:
        difference = f"lacks {missing[0]}" if missing else f"has an unknown {unknown[0]}"
        raise MolflowError(f"{path}: does not fit its config.json: {difference}")
    for name, tensor in weights.items():
        want = expected[name]
        if tensor.shape != want.shape:
            got = tuple(tensor.shape)
            raise MolflowError(f"{path}: {name} has shape {got}, config.json asks for {tuple(want.shape)}")
        if not _fits(tensor.dtype, want.dtype):
            raise MolflowError(f"{path}: {name} has type {tensor.dtype}, config.json asks for {want.dtype}")
        if not tensor.isfinite().all():
            raise MolflowError(f"{path}: {name} has values that are not finite")
    flow.load_state_dict(weights)


def _fits(got: torch.dtype, want: torch.dtype) -> bool:
    """Whether weights of one type may be loaded as another: the same, or half precision for a floating-point type."""
    return got == want or (want.is_floating_point and got in (torch.float16, torch.bfloat16))
