"""The training state on disk, for resuming, and the check that it belongs to the given experiment and data.

The file is a line with the SHA-256 of the rest, then what torch.save wrote. Nothing here unpickles: the state is read
with torch's weights-only reader.
"""

import hashlib
import io
import logging
import zipfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

from molflow.errors import MolflowError
from molflow.files import atomic_path
from molflow.flows.storage import read_card
from molflow.training.config import ExperimentConfig, read_experiment
from molflow.training.run import Run

log = logging.getLogger("molflow")

STATE = "training_state.pt"
RESUMABLE_KEYS = {  # may differ between a run and its continuation; another length changes the learning-rate schedule
    "name",
    *(f"training.{key}" for key in ("epochs", "max_steps", "device", "workers", "checkpoint_every", "log_every")),
    *(f"training.{key}" for key in ("validate_every", "validation_molecules", "validation_samples")),
}

_HEAD = b"molflow training state, sha256 "


def save_state(folder: Path, state: dict[str, Any]) -> None:
    """Write the state of a run, `Run.state` and the experiment, atomically."""
    content = io.BytesIO()
    torch.save(state, content)
    with atomic_path(folder / STATE) as temporary, temporary.open("wb") as file:
        file.write(_head(content.getbuffer()))
        file.write(content.getbuffer())


def load_state(folder: Path) -> dict[str, Any]:
    """Read what `save_state` wrote, tensors and plain values only.

    Raises:
        MolflowError: no such file, one that was changed or is damaged, or anything else in it; nothing is executed.
    """
    path = folder / STATE
    if not path.is_file():
        raise MolflowError(f"{path}: no such file; there is nothing to resume in {folder}")
    try:
        content = _checked(path.read_bytes())
        with zipfile.ZipFile(io.BytesIO(content)) as archive:  # torch would try anything else as a bare pickle
            if sum(member.file_size for member in archive.infolist()) > len(content):
                raise ValueError("compressed, which torch.save never does")
        state: dict[str, Any] = torch.load(io.BytesIO(content), map_location="cpu", weights_only=True)
        if not isinstance(state, dict):
            raise TypeError("not a table")
        return state
    except Exception as error:  # a damaged archive can raise nearly anything, and torch's advice is to unpickle it
        raise MolflowError(f"{path}: damaged, or not a training state; nothing in it was executed") from error


def _head(content: memoryview | bytes) -> bytes:
    return _HEAD + hashlib.sha256(content).hexdigest().encode() + b"\n"


def _checked(content: bytes) -> bytes:
    """What torch.save wrote. Raises ValueError unless it has its checksum, or is of a version that wrote none."""
    head, _, rest = content.partition(b"\n")
    if content.startswith(b"PK"):
        return content
    if head + b"\n" != _head(rest):
        raise ValueError("another checksum")
    return rest


def restore_run(run: Run, config: ExperimentConfig, state: dict[str, Any], folder: Path) -> None:
    """Put a run into a state that was loaded from `folder`.

    Raises:
        MolflowError: the run there had another configuration, other data or another teacher.
    """
    try:
        saved = state.get("experiment") or read_experiment(folder).model_dump(mode="json")
        if "fingerprints" not in state:
            log.warning("%s: of an older version of molflow, so data and teacher are not checked", folder / STATE)
            card = read_card(folder)
            known = {"fingerprints": run.fingerprints, **{key: card[key] for key in ("validation", "started_from")}}
            state = state | known
        if problem := _another(saved, config.model_dump(mode="json"), state["fingerprints"], run.fingerprints):
            raise MolflowError(f"{folder}: its run has {problem}; resume it with what it began with")
        run.restore(state)
    except MolflowError:
        raise
    except (AttributeError, KeyError, RuntimeError, TypeError, ValueError) as error:
        raise MolflowError(f"{folder / STATE}: does not fit the configuration of the run") from error


def _another(
    saved: Mapping[str, Any], given: Mapping[str, Any], learnt_from: Mapping[str, Any], found: Mapping[str, Any]
) -> str | None:
    """The first difference in words; that of data before what follows from them in the model."""
    keys, contents = differences(saved, given), differences(learnt_from, found)
    problems = [f"another {key}" for key in keys if not key.startswith("model.")]
    problems += [f"other content of its {name}" for name in contents]
    return next(iter(problems + [f"another {key}" for key in keys]), None)


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
