"""Write files so that they appear whole or not at all, and check beforehand whether they can be written."""

import json
import os
import secrets
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from molflow.errors import MolflowError


class Closing(ABC):
    """Base class that calls `close` at the end of a `with` block, also after an exception."""

    @abstractmethod
    def close(self) -> None:
        """Finish writing."""

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextmanager
def atomic_path(path: str | Path) -> Iterator[Path]:
    """Yield a temporary path in the same folder; it replaces `path` when the block ends without an error.

    The content is flushed to disk first, so a crash leaves either the old file or the new one.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{secrets.token_hex(4)}.tmp")
    try:
        yield temporary
        with temporary.open("rb") as file:
            os.fsync(file.fileno())
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def check_apart(inputs: Iterable[str | os.PathLike[str]], outputs: Iterable[str | os.PathLike[str]]) -> None:
    """Check that no output would overwrite an input or another output.

    Args:
        inputs: files, folders (no output may be in one of them), or "-" for standard input.
        outputs: files; they need not exist.

    Raises:
        MolflowError: two of them are the same file.
    """
    read = [Path(path) for path in inputs]
    written: set[Path] = set()
    for path in map(Path, outputs):
        if path.resolve() in written:
            raise MolflowError(f"{path}: is to be written twice; expected different files")
        written.add(path.resolve())
        for source in read:
            if _is_within(path, source):
                raise MolflowError(f"{path}: would be written over what is read from {source}; expected another place")


def _is_within(path: Path, source: Path) -> bool:
    if source.is_dir():
        return path.resolve().parent == source.resolve()
    if not path.exists():
        return False
    if str(source) == "-":
        return os.path.samestat(os.fstat(0), path.stat())
    return source.exists() and path.samefile(source)


def check_writable(path: str | os.PathLike[str]) -> None:
    """Check that a file can be written at `path`, before its content is computed.

    Missing parent directories are created. An existing file stays unchanged.

    Raises:
        MolflowError: `path` is a directory, or its parent cannot be created or written to.
    """
    path = Path(path)
    if path.is_dir():
        raise MolflowError(f"{path}: is a directory; expected the name of a file")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        # Try it: permission bits do not show read-only or special file systems, and do not bind root.
        with tempfile.TemporaryFile(dir=path.parent):
            pass
        if path.exists():
            path.open("ab").close()
    except OSError as error:
        raise MolflowError(
            f"{path}: cannot be written ({error.strerror or error}); expected a writable place"
        ) from error


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        MolflowError: no such file, or not JSON.
    """
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise MolflowError(f"{path}: cannot be read: {error.strerror}") from error
    except ValueError as error:
        raise MolflowError(f"{path}: not JSON: {error}") from error
