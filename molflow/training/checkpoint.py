"""Models on disk: a folder with config.json, model.safetensors and card.json. Nothing here unpickles."""

import json
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save
from torch import nn

from molflow.config import parse
from molflow.errors import MolflowError
from molflow.files import atomic_path
from molflow.flows.base import Flow
from molflow.flows.config import FlowConfig
from molflow.training.config import ExperimentConfig

CONFIG, WEIGHTS, CARD = "config.json", "model.safetensors", "card.json"


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MolflowError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise MolflowError(f"{path}: not JSON: {error}") from error


def save_model(folder: Path, config: ExperimentConfig, flow: nn.Module, card: dict[str, Any]) -> None:
    """Write the configuration, the weights and the card; `folder` is made if it does not exist."""
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / CONFIG, config.model_dump(mode="json"))
    weights = {name: tensor.detach().cpu().contiguous() for name, tensor in flow.state_dict().items()}
    with atomic_path(folder / WEIGHTS) as temporary:
        temporary.write_bytes(save(weights))  # save_file would make it readable to its owner alone
    write_json(folder / CARD, card)


def load(folder: str | Path, device: torch.device | str = "cpu") -> Flow:
    """The flow of a checkpoint folder, ready to sample.

    Raises:
        MolflowError: a missing or damaged file, a pickle in place of safetensors, or weights that do not fit the
            configuration.
    """
    folder = Path(folder)
    if not folder.is_dir():
        raise MolflowError(f"{folder}: no such checkpoint folder")
    with torch.random.fork_rng():
        flow = build_flow(read_config(folder).model, str(folder / CONFIG))
    load_weights(flow, folder / WEIGHTS)
    return flow.to(device).eval()


def build_flow(config: FlowConfig, source: str) -> Flow:
    """The flow a configuration describes, with random weights; an impossible one is an error that names `source`."""
    try:
        return config.build()
    except ValueError as error:
        raise MolflowError(f"{source}: {error}") from error


def read_config(folder: Path) -> ExperimentConfig:
    """The experiment that made a checkpoint."""
    return parse(ExperimentConfig, read_json(folder / CONFIG), str(folder / CONFIG))


def load_weights(flow: nn.Module, path: Path) -> None:
    """Copy a safetensors file into a flow, in place."""
    if not path.is_file():
        raise MolflowError(f"{path}: no such file")
    try:
        weights = load_file(path)
    except (SafetensorError, OSError) as error:
        raise MolflowError(f"{path}: not a safetensors file ({error}); other formats are not read") from error
    expected = flow.state_dict()
    missing, unknown = sorted(expected.keys() - weights), sorted(weights.keys() - expected)
    if missing or unknown:
        difference = f"lacks {missing[0]}" if missing else f"has an unknown {unknown[0]}"
        raise MolflowError(f"{path}: does not fit its config.json: {difference}")
    for name, tensor in weights.items():
        if tensor.shape != expected[name].shape:
            got, want = tuple(tensor.shape), tuple(expected[name].shape)
            raise MolflowError(f"{path}: {name} has shape {got}, config.json asks for {want}")
    flow.load_state_dict(weights)
