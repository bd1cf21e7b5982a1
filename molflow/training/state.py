"""The training state on disk, for resuming, and the check that it belongs to the given experiment.

Nothing here unpickles: the state is read with torch's weights-only reader.
"""

import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from molflow.errors import MolflowError
from molflow.files import atomic_path
from molflow.training.config import ExperimentConfig, read_experiment
from molflow.training.run import Run

STATE = "training_state.pt"
RESUMABLE_KEYS = {  # may differ between a run and its continuation; another length changes the learning-rate schedule
    "name",
    *(f"training.{key}" for key in ("epochs", "max_steps", "device", "workers", "checkpoint_every", "log_every")),
    *(f"training.{key}" for key in ("validate_every", "validation_molecules", "validation_samples")),
}


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a run, `Run.state`, atomically."""
    with atomic_path(folder / STATE) as temporary:
        torch.save(state, temporary)


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, tensors and plain values only.

    Raises:
        MolflowError: no such file, damaged, or with anything else in it; nothing is executed.
    """
    path = folder / STATE
    if not path.is_file():
        raise MolflowError(f"{path}: no such file; there is nothing to resume in {folder}")
    try:
        if not zipfile.is_zipfile(path):  # torch would try it as a bare pickle
            raise ValueError("not a zip archive")
        state: dict[str, Any] = torch.load(path, map_location="cpu", weights_only=True)
        return state
    except Exception as error:  # a damaged archive can raise nearly anything, and torch's advice is to unpickle it
        raise MolflowError(f"{path}: damaged, or not a training state; nothing in it was executed") from error


def restore_run(run: Run, config: ExperimentConfig, folder: Path) -> None:
    """Put a run into the state saved in `folder`.

    Raises:
        MolflowError: nothing to resume, or the run there had another configuration.
    """
    state = load_state(folder)
    if differing := differences(read_experiment(folder).model_dump(), config.model_dump()):
        raise MolflowError(
            f"{folder}: its run has another {differing[0]}; resume it with the configuration it began with"
        )
    try:
        run.restore(state)
    except (KeyError, RuntimeError, TypeError, ValueError) as error:
        raise MolflowError(f"{folder / STATE}: does not fit the configuration of the run") from error


def differences(saved: Mapping[str, Any], given: Mapping[str, Any], prefix: str = "") -> list[str]:
    """Dotted keys of two configurations that differ, except `RESUMABLE_KEYS`."""
    keys = []
    for name, value in saved.items():
        key, other = prefix + name, given.get(name)
        if isinstance(value, Mapping) and isinstance(other, Mapping):
            keys += differences(value, other, f"{key}.")
        elif value != other and key not in RESUMABLE_KEYS:
            keys.append(key)
    return keys
