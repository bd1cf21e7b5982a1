"""Cache files of data sets, and arrays in .npz and .npy files."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import platformdirs

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
