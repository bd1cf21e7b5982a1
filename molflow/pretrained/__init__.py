"""The models that come with molflow: one folder each, a checkpoint with its card."""

from pathlib import Path
from typing import Any

import torch

from molflow.errors import MolflowError
from molflow.files import read_json
from molflow.flows.base import Flow
from molflow.flows.storage import CARD, load

_HERE = Path(__file__).parent


def model_cards() -> dict[str, Any]:
    """Name -> card of every shipped model: data, split, seed, steps, versions, measured scores."""
    return {card.parent.name: read_json(card) for card in sorted(_HERE.glob(f"*/{CARD}"))}


def load_pretrained(name: str, device: torch.device | str = "cpu") -> Flow[Any]:
    """A shipped model, ready to sample.

    Raises:
        MolflowError: no such model; the known ones are listed.
    """
    if name not in (known := sorted(model_cards())):
        raise MolflowError(f"unknown model {name!r}; shipped are: {', '.join(known)}")
    return load(_HERE / name, device)


def folder_of(name_or_folder: str) -> Path:
    """The checkpoint folder of a shipped model by name, or the folder itself.

    Raises:
        MolflowError: neither; the shipped names are listed.
    """
    known = sorted(model_cards())
    if name_or_folder in known:
        return _HERE / name_or_folder
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    raise MolflowError(f"unknown model {name_or_folder!r}, and no such folder; shipped are: {', '.join(known)}")


def load_named(name_or_folder: str, device: torch.device | str = "cpu") -> Flow[Any]:
    """A shipped model by name, or a checkpoint folder by path; errors as `folder_of` and `load`."""
    return load(folder_of(name_or_folder), device)
