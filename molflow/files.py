"""Write files whole or not at all, check beforehand whether they can be written, and lock folders."""

import glob
import json
import os
import secrets
import shutil
import stat
import sys
import tempfile
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import IO, Any, BinaryIO, Self

from molflow.errors import MolflowError

try:
    import fcntl
except ImportError:  # Windows, where nothing is locked
    fcntl = None  # type: ignore[assignment]

STANDARD_STREAM = "-"
"""The path that means standard output."""

LARGEST_JSON = 16 << 20
"""Bytes of a JSON file, above which it is not read; it can take thirty times as much memory."""

_LOCK = ".lock"


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
    """Yield a temporary path; what is written there replaces `path` when the block ends without an error.

    The content is flushed to disk first, so a crash leaves either the old file or the new one. A symbolic link stays
    one: the file that it points to is replaced. A device, a pipe and standard output ("-") get the content and stay
    what they are. Temporary files of `path` that killed programs left are removed.

    Raises:
        MolflowError: writing failed.
    """
    path = Path(path)
    if is_stream(path):
        with tempfile.TemporaryDirectory() as folder, _named(path, temporary := Path(folder) / "content"):
            yield temporary
            with temporary.open("rb") as content, _open_stream(path) as stream:
                shutil.copyfileobj(content, stream)
        return
    target = Path(os.path.realpath(path))
    sweep(target.parent, target.name)
    temporary = target.with_name(f".{target.name}.{secrets.token_hex(4)}.tmp")
    with _named(path, temporary):
        try:
            with _in_use(temporary):
                yield temporary
                with temporary.open("rb") as file:
                    os.fsync(file.fileno())
                os.replace(temporary, target)
            _flush_folder(target.parent)
        finally:
            temporary.unlink(missing_ok=True)


def sweep(folder: Path, name: str | None = None) -> None:
    """Remove the temporary files that killed programs left in a folder; by default those of all names."""
    for path in folder.glob(f".{'*' if name is None else glob.escape(name)}.????????.tmp"):
        with suppress(OSError), path.open("rb") as file:
            _lock(file)
            path.unlink()


@contextmanager
def locked(folder: Path, work: str) -> Iterator[None]:
    """Refuse a folder in which another program works. The lock ends with this program, however that ends.

    Raises:
        MolflowError: another program has the lock; `work` says what it does, such as "trains".
    """
    with (folder / _LOCK).open("ab") as file:
        hold(file, f"{folder}: another program {work} there; expected a folder of its own")
        yield


def hold(file: IO[Any], message: str) -> None:
    """Lock an open file until it is closed. Raises MolflowError with this message if another program holds it."""
    try:
        _lock(file)
    except BlockingIOError as error:
        raise MolflowError(message) from error
    except OSError:  # this file system has no locks
        pass


def _lock(file: IO[Any]) -> None:
    """Lock an open file. Raises BlockingIOError if another program has the lock, OSError where there are none."""
    if fcntl is None:
        raise OSError("no locks")
    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)


@contextmanager
def _in_use(temporary: Path) -> Iterator[None]:
    """Make a temporary file that nobody sweeps within the block."""
    if fcntl is None:  # where an open file cannot be replaced either
        yield
        return
    with temporary.open("xb") as file:
        with suppress(OSError):
            _lock(file)
        yield


@contextmanager
def _named(path: Path, temporary: Path) -> Iterator[None]:
    """Let an error of writing name the file."""
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        if error.filename not in (None, str(temporary), str(path)):
            raise
        raise MolflowError(f"{path}: cannot be written ({error.strerror or error})") from error


def _flush_folder(folder: Path) -> None:
    """Flush the names in a folder to disk, where that can be done."""
    with suppress(OSError):
        descriptor = os.open(folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def is_stream(path: Path) -> bool:
    """Whether a path is a device, a pipe, or standard output under any name, and not a file that can be replaced."""
    if str(path) == STANDARD_STREAM:
        return True
    try:
        found = path.stat()
    except OSError:
        return False
    return not (stat.S_ISREG(found.st_mode) or stat.S_ISDIR(found.st_mode)) or _is_standard_output(found)


def _is_standard_output(found: os.stat_result) -> bool:
    try:
        return os.path.samestat(found, os.fstat(1))
    except OSError:  # it is closed
        return False


def _open_stream(path: Path) -> BinaryIO:
    if str(path) == STANDARD_STREAM or _is_standard_output(path.stat()):
        sys.stdout.flush()
        return os.fdopen(os.dup(1), "wb")
    return path.open("wb")


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

    Missing parent directories are created. An existing file stays unchanged. A device or a pipe is not tried.

    Raises:
        MolflowError: `path` is a directory, or its parent cannot be created or written to.
    """
    path = Path(path)
    if path.is_dir():
        raise MolflowError(f"{path}: is a directory; expected the name of a file")
    if is_stream(path):
        return
    target = Path(os.path.realpath(path))
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        # Try it: permission bits do not show read-only or special file systems, and do not bind root.
        with tempfile.TemporaryFile(dir=target.parent):
            pass
        if target.exists():
            target.open("ab").close()
    except OSError as error:
        raise MolflowError(
            f"{path}: cannot be written ({error.strerror or error}); expected a writable place"
        ) from error


def whole_lines(path: Path) -> int:
    """The number of lines of a file to which lines are added; a last one that a killed program left half is cut off."""
    n_lines = length = 0
    with path.open("r+b") as file:
        for line in file:
            if line.endswith(b"\n"):
                n_lines += 1
                length += len(line)
        file.truncate(length)
    return n_lines


def csv_cell(value: Any) -> Any:
    """A cell of a CSV table; a text that a spreadsheet would take for a formula gets an apostrophe before it.

    Example:
        >>> csv_cell("=1+1"), csv_cell("CCO"), csv_cell(-1.5)
        ("'=1+1", 'CCO', -1.5)
    """
    return f"'{value}" if isinstance(value, str) and value.startswith(("=", "+", "-", "@", "\t", "\r")) else value


def write_json(path: Path, content: Any) -> None:
    """Write JSON atomically; "-" is standard output."""
    with atomic_path(path) as temporary:
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_json(path: Path) -> Any:
    """Read JSON.

    Raises:
        MolflowError: no such file, not JSON, too large, or nested too deeply.
    """
    if path.exists() and not path.is_file():  # a pipe would be waited for
        raise MolflowError(f"{path}: cannot be read: not a file; expected JSON")
    text = read_text(path, LARGEST_JSON, "JSON")
    try:
        return json.loads(text)
    except ValueError as error:
        raise MolflowError(f"{path}: not JSON: {error}") from error
    except RecursionError:
        raise MolflowError(f"{path}: not JSON that can be read: nested too deeply") from None


def read_text(path: Path, largest: int, kind: str) -> str:
    """Read a text of at most `largest` bytes.

    Raises:
        MolflowError: no such file, not UTF-8, or larger; `kind` names the format.
    """
    try:
        with path.open("rb") as file:
            content = file.read(largest + 1)
        if len(content) > largest:
            raise MolflowError(f"{path}: larger than {largest >> 20} MiB, which is too much for {kind}")
        return content.decode()
    except OSError as error:
        raise MolflowError(f"{path}: cannot be read: {error.strerror}") from error
    except UnicodeDecodeError as error:
        raise MolflowError(f"{path}: not {kind}: {error}") from error
