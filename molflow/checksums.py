"""SHA-256 checksums of files, and of tensors and other values."""

import hashlib
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from molflow.errors import MolflowError


def sha256(path: Path) -> str:
    """SHA-256 of the content of a file, in hexadecimal digits, as `sha256sum` prints it."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def fingerprint(files: Mapping[str, Path]) -> str:
    """SHA-256 of the content of files, and of the files in folders, each by the name that it is given here.

    Raises:
        MolflowError: one that is missing or cannot be read.
    """
    total = hashlib.sha256()
    for name, source in files.items():
        if not source.exists():
            raise MolflowError(f"{source}: no such file; expected a file or folder of molecules")
        inside = sorted(p for p in source.iterdir() if p.is_file()) if source.is_dir() else [source]
        for path in inside:
            total.update(f"{name}:{path.name}:".encode(errors="surrogateescape"))
            try:
                total.update(bytes.fromhex(sha256(path)))
            except OSError as error:
                raise MolflowError(f"{path}: cannot be read: {error.strerror}") from error
    return total.hexdigest()


def digest(values: Any) -> str:
    """SHA-256 of arrays and tensors in sequences, mappings and objects, with their shapes and types."""
    total = hashlib.sha256()
    for part in _bytes_of(values):
        total.update(part)
    return total.hexdigest()


def _bytes_of(value: Any) -> Iterator[Any]:
    import torch  # here, as files are compared without it

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
