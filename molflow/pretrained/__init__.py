"""The models that come with molflow: one folder each, a checkpoint with its card.

Nothing heavy is imported before a model is loaded, as `molflow --help` lists the names.
"""

from pathlib import Path
from typing import TYPE_CHECKING, Any

from molflow.errors import MolflowError
from molflow.files import read_json
from molflow.plot.tables import html_table
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
    """The names of all shipped models.

    Example:
        >>> model_names()[:3]
        ('dw4', 'dw4-cnf', 'lj13')
    """
    return tuple(sorted(card.parent.name for card in _HERE.glob(f"*/{_CARD}")))


class Card(dict[str, Any]):
    """What is known of a shipped model: data, split, seed, steps, versions and measured scores, as in its card.json.

    Example:
        >>> molflow.pretrained.model_cards()["qm9"]
        Card(qm9: molecules of qm9, molecule_stability 0.909)
        >>> molflow.pretrained.model_cards()["qm9"]["scores"]["n_molecules"]
        10000
    """

    def __repr__(self) -> str:
        figures = "".join(f", {name} {value:.4g}" for name, value in self._figures())
        return f"{type(self).__name__}({self.get('name')}: {self.get('task')} of {self.get('data')}{figures})"

    def _repr_html_(self) -> str:
        facts = [(key, value) for key, value in self.items() if isinstance(value, str | int | float)]
        return html_table([*facts, *self._figures()])

    def _figures(self) -> list[tuple[str, float]]:
        """The main measured scores."""
        scores = self.get("scores") or {}
        return [(name, scores[name]) for name in ("molecule_stability", "ess_fraction") if scores.get(name) is not None]


def model_cards() -> dict[str, Any]:
    """Name -> `Card` of every shipped model.

    Example:
        >>> model_cards()["dw4"]["scores"]["n_samples"]
        10000
    """
    return {name: Card(read_json(_HERE / name / _CARD)) for name in model_names()}


def load_pretrained(name: str, device: "torch.device | str" = "cpu") -> "Flow[Any]":
    """A shipped model, ready to sample.

    Args:
        name: one of `model_names`.
        device: where its weights go.

    Raises:
        MolflowError: no such model; the nearest one is named.

    Example:
        >>> load_pretrained("dw4")
        FreeFormFlow(4 particles in 2D, 293,262 parameters, 1 evaluation per sample)
    """
    from molflow.flows.storage import load

    if name not in (known := model_names()):
        raise MolflowError(f"unknown model {name!r}{known_names(name, known, 'shipped')}")
    return load(_HERE / name, device)


def folder_of(name_or_folder: str) -> Path:
    """The checkpoint folder of a shipped model by name, or the folder itself.

    Args:
        name_or_folder: a name of `model_names`, or a path.

    Raises:
        MolflowError: neither; the nearest shipped name is given.

    Example:
        >>> folder_of("qm9").name
        'qm9'
    """
    known = model_names()
    if name_or_folder in known:
        return _HERE / name_or_folder
    if Path(name_or_folder).is_dir():
        return Path(name_or_folder)
    hint = known_names(name_or_folder, known, "shipped")
    raise MolflowError(f"unknown model {name_or_folder!r}, and no such folder{hint}")


def load_named(name_or_folder: str, device: "torch.device | str" = "cpu") -> "Flow[Any]":
    """A shipped model by name, or a checkpoint folder by path; errors as `folder_of` and `load`.

    Args:
        name_or_folder: a name of `model_names`, or a path.
        device: where its weights go.

    Example:
        >>> load_named("dw4").domain
        4 particles in 2D
    """
    from molflow.flows.storage import load

    return load(folder_of(name_or_folder), device)
