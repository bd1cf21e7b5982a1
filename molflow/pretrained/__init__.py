"""The models that come with molflow: one folder each, a checkpoint with its card.

Nothing heavy is imported before a model is loaded, as `molflow --help` lists the names.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from molflow.errors import MolflowError
from molflow.files import read_json
from molflow.registry import known_names

if TYPE_CHECKING:
    import torch

    from molflow.flows.base import Flow

DEFAULT_MODEL = "qm9"
"""The model of commands that do not name one."""

DEFAULT_REFERENCE = "qm9"
"""The data set whose recorded scores and training molecules samples are compared with by default."""

_HERE = Path(__file__).parent
_CARD = "card.json"


def model_names() -> tuple[str, ...]:
    """The names of all shipped models."""
    return tuple(sorted(card.parent.name for card in _HERE.glob(f"*/{_CARD}")))


def model_cards() -> dict[str, Any]:
    """Name -> card of every shipped model: data, split, seed, steps, versions, measured scores."""
    return {name: read_json(_HERE / name / _CARD) for name in model_names()}


def load_pretrained(name: str, device: "torch.device | str" = "cpu") -> "Flow[Any]":
    """A shipped model, ready to sample.

    Raises:
        MolflowError: no such model; the nearest one is named.
    """
    from molflow.flows.storage import load

    if name not in (known := model_names()):
        raise MolflowError(f"unknown model {name!r}{known_names(name, known, 'shipped')}")
    return load(_HERE / name, device)


def folder_of(name_or_folder: str) -> Path:
    """The checkpoint folder of a shipped model by name, or the folder itself.

    Raises:
        MolflowError: neither; the nearest shipped name is given.
    """
    known = model_names()
    if name_or_folder in known:
        return _HERE / name_or_folder
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    hint = known_names(name_or_folder, known, "shipped")
    raise MolflowError(f"unknown model {name_or_folder!r}, and no such folder{hint}")


def load_named(name_or_folder: str, device: "torch.device | str" = "cpu") -> "Flow[Any]":
    """A shipped model by name, or a checkpoint folder by path; errors as `folder_of` and `load`."""
    from molflow.flows.storage import load

    return load(folder_of(name_or_folder), device)
