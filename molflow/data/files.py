"""Cache files of data sets, and arrays in .npz and .npy files."""

import hashlib
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs
import torch

from molflow.chem.arrays import open_arrays
from molflow.errors import MolflowError
from molflow.files import atomic_path


def cache_path(name: str, cache_dir: str | Path | None = None) -> Path:
    """The cache file of a data set, in ``cache_dir``, else in MOLFLOW_CACHE, else in the user's cache folder.

    Args:
        name: of the data set.
        cache_dir: the folder, if it is given.

    Example:
        >>> cache_path("qm9", "folder").name
        'qm9.npz'
    """
    folder = cache_dir or os.environ.get("MOLFLOW_CACHE") or platformdirs.user_cache_dir("molflow")
    return Path(folder) / f"{name}.npz"


def save_arrays(path: Path, arrays: dict[str, np.ndarray]) -> None:
    """Write an uncompressed .npz file; a crash leaves an earlier file unchanged.

    Raises:
        MolflowError: the file cannot be written.
    """
    with atomic_path(path) as temporary:
        try:
            with temporary.open("wb") as file:
                np.savez(file, **arrays)  # type: ignore[arg-type]
        except OSError as error:
            raise MolflowError(f"{path}: cannot be written: {error.strerror or error}") from error


def digest(values: Any) -> str:
    """SHA-256 of arrays and tensors in sequences, mappings and objects, with their shapes and types."""
    total = hashlib.sha256()
    for part in _bytes_of(values):
        total.update(part)
    return total.hexdigest()


def _bytes_of(value: Any) -> Iterator[Any]:
    if value is None or isinstance(value, str | int | float):
        yield repr(value).encode()
    elif isinstance(value, torch.Tensor):
        yield from _bytes_of(value.detach().cpu().view(-1).view(torch.uint8).numpy())
        yield f"{value.dtype} {tuple(value.shape)}".encode()
    elif isinstance(value, np.ndarray):
        yield f"{value.dtype.str} {value.shape}".encode()
        yield np.ascontiguousarray(value).reshape(-1).view(np.uint8)
    elif isinstance(value, Mapping):
        for key in sorted(value):
            yield from _bytes_of(key)
            yield from _bytes_of(value[key])
    elif isinstance(value, Sequence):
        for part in value:
            yield from _bytes_of(part)
    else:
        yield from _bytes_of(vars(value))


class NoArrayError(MolflowError):
    """The file can be read, but has no array of the requested name."""


def array_names(path: str | Path, npy: str = "positions") -> tuple[str, ...]:
    """The names of the arrays of an .npz file, or `npy` for a .npy file; raises as `read_array`."""
    return tuple(_arrays(path, npy, tuple))


def read_array(path: str | Path, key: str, npy: str = "positions") -> np.ndarray:
    """An array of an .npz file, or the one of a .npy file, whose name is taken to be `npy`. Nothing is unpickled.

    Args:
        path: the file.
        key: name of the array.
        npy: name that the array of a .npy file is taken to have.

    Raises:
        NoArrayError: the file has no array of that name.
        MolflowError: the file is missing or damaged.

    Example:
        >>> np.save("mine.npy", np.zeros((5, 4, 2)))
        >>> read_array("mine.npy", "positions").shape
        (5, 4, 2)
    """
    found: np.ndarray | str = _arrays(path, npy, lambda arrays: arrays[key] if key in arrays else ", ".join(arrays))
    if isinstance(found, str):
        raise NoArrayError(f"{path}: has no array {key!r}, only {found}")
    return found


def _arrays(path: str | Path, npy: str, take: Callable[[Any], Any]) -> Any:
    """What `take` gives of the arrays of an open file."""
    try:
        with Path(path).open("rb") as file:
            content = open_arrays(file)
            return take({npy: content} if isinstance(content, np.ndarray) else content)
    except MolflowError:
        raise
    except FileNotFoundError as error:
        raise MolflowError(f"{path}: no such file") from error
    except Exception as error:  # a damaged archive can raise nearly anything from zipfile, zlib or numpy
        raise MolflowError(f"{path}: not a readable .npy or .npz file of plain numbers") from error
