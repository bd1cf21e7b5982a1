"""Shards: files with equal numbers of samples, each of which depends on the settings and on its own number alone.

A folder of shards holds `shard-000000.sdf.gz` and so on, and `manifest.json`: the settings, and of each finished shard
its number of samples, its size, its SHA-256 and the counts of its scores. A shard appears whole, then its entry in the
manifest. A shard without an entry, or with another checksum, is made anew by a run that is resumed.
"""

import os
import platform
import re
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch

from molflow.checksums import sha256
from molflow.errors import MolflowError
from molflow.files import read_json, write_json

MANIFEST = "manifest.json"
FORMAT = 1
MOST = 20_000
"""Number of shards, above which the manifest would become larger than what is read as JSON."""

_SHARD = re.compile(r"shard-\d{6,}\..*")

Entry = dict[str, Any]


@dataclass(frozen=True)
class ShardPlan:
    """The division of n samples into shards.

    Attributes:
        n: number of samples.
        size: samples in a shard; the last one may have fewer.
        format: format of the files, which is also their suffix.

    Example:
        >>> plan = ShardPlan(n=25, size=10, format="npz")
        >>> [(plan.name(number), plan.samples(number)) for number in plan.part(1, 2)]
        [('shard-000000.npz', 10), ('shard-000002.npz', 5)]
    """

    n: int
    size: int
    format: str

    def __post_init__(self) -> None:
        if len(self) > MOST:
            smallest = -(-self.n // MOST)
            raise MolflowError(f"{len(self):,} shards are too many; expected a shard size of at least {smallest:,}")

    def __len__(self) -> int:
        return -(-self.n // self.size)

    def part(self, i: int, k: int) -> range:
        """The shards of process i of k, from 1: those whose number leaves i - 1 when it is divided by k."""
        return range(i - 1, len(self), k)

    def name(self, number: int) -> str:
        """The name of the file of a shard."""
        return f"shard-{number:06d}.{self.format}"

    def samples(self, number: int) -> int:
        """Number of samples of a shard."""
        return min(self.size, self.n - number * self.size)


def shard_seed(seed: int, number: int) -> int:
    """The seed of a shard, 63 bits: a hash of the seed of the run and of its number, by NumPy's SeedSequence."""
    return int(np.random.SeedSequence([seed, number]).generate_state(1, np.uint64)[0] >> np.uint64(1))


def processor(device: torch.device) -> str:
    """The kind of processor, on which the last bits of samples depend."""
    if device.type == "cuda":
        return torch.cuda.get_device_name(device)
    return f"{platform.machine()} {torch.backends.cpu.get_cpu_capability()}"


class ShardFolder:
    """The shards of a run and its manifest. Several processes, each with other shards, may write to one folder.

    Args:
        path: the folder; it is created when it is needed.
        plan: the division into shards.
        settings: all that the shards depend on, values for JSON.
    """

    def __init__(self, path: Path, plan: ShardPlan, settings: Mapping[str, Any]) -> None:
        self.path, self.plan, self.settings = path, plan, dict(settings)
        self._own: dict[str, Entry] = {}

    def holds(self, numbers: Iterable[int]) -> bool:
        """Whether any of these shards is there, or other shards without a manifest."""
        there = set(shard_files(self.path))
        return bool(there) and (not (self.path / MANIFEST).exists() or any(self.file(k) in there for k in numbers))

    def clear(self) -> None:
        """Delete all shards and their manifest."""
        if (self.path / MANIFEST).exists():
            read_manifest(self.path)  # of shards, and not of another program
        for file in (self.path / MANIFEST, *shard_files(self.path)):
            file.unlink(missing_ok=True)

    def begin(self) -> None:
        """Write the manifest, or compare its settings with those of this run.

        Raises:
            MolflowError: the folder has shards with other settings, or cannot be written to.
        """
        try:
            self.path.mkdir(parents=True, exist_ok=True)
            with self._locked():
                if not (self.path / MANIFEST).exists():
                    self._write({})
        except OSError as error:
            raise MolflowError(f"{self.path}: cannot be written ({error.strerror}); expected a folder") from error
        there = read_manifest(self.path)["settings"]
        for name in (self.settings | there).keys() - {"model"}:  # which may have another name from another folder
            if self.settings.get(name) != there.get(name):
                raise MolflowError(
                    f"{self.path / MANIFEST}: these shards have {name} = {there.get(name)}, not "
                    f"{self.settings.get(name)}; expected the settings that they were begun with"
                )

    def unfinished(self, numbers: Iterable[int]) -> list[int]:
        """Those of these shards that are missing, or not as their entry in the manifest says."""
        entries = self.entries()
        return [k for k in numbers if not is_intact(self.path, entries.get(self.plan.name(k)))]

    def entries(self) -> dict[str, Entry]:
        """The finished shards by the names of their files, in order."""
        return {entry["file"]: entry for entry in read_manifest(self.path)["shards"]}

    def file(self, number: int) -> Path:
        """The file of a shard."""
        return self.path / self.plan.name(number)

    def add(self, entry: Entry) -> None:
        """Enter a finished shard into the manifest."""
        self._own[entry["file"]] = entry
        with self._locked():
            self._write(self.entries() | self._own)

    def _write(self, entries: dict[str, Entry]) -> None:
        shards = [entries[name] for name in sorted(entries)]
        content = {"format": FORMAT, "settings": self.settings, "n_shards": len(self.plan)}
        content |= {"n_samples": sum(entry["n"] for entry in shards), "shards": shards}
        write_json(self.path / MANIFEST, content)

    @contextmanager
    def _locked(self) -> Iterator[None]:
        """Only one process at a time changes the manifest.

        Where folders cannot be locked, a lost entry comes back with the next one of its process.
        """
        handle = os.open(self.path, os.O_RDONLY) if os.name == "posix" else None
        try:
            if handle is not None:
                with suppress(ImportError, OSError):
                    import fcntl

                    fcntl.flock(handle, fcntl.LOCK_EX)
            yield
        finally:
            if handle is not None:
                os.close(handle)


def shard_files(folder: Path) -> list[Path]:
    """The files in a folder that are named like shards, in order."""
    return sorted(path for path in folder.glob("shard-*") if _SHARD.fullmatch(path.name))


def has_shards(folder: Path) -> bool:
    """Whether a path is a folder of shards with their manifest."""
    return (folder / MANIFEST).is_file() and bool(shard_files(folder))


def read_manifest(folder: Path) -> dict[str, Any]:
    """The manifest of a folder of shards.

    Raises:
        MolflowError: it is missing, damaged, of a newer version, or not of shards.
    """
    path = folder / MANIFEST
    content: Any = read_json(path)
    if not _has(content, {"format": int, "settings": dict, "n_shards": int, "n_samples": int, "shards": list}):
        raise MolflowError(f"{path}: not a manifest of shards; expected n_shards, n_samples, shards and settings")
    if content["format"] != FORMAT:
        raise MolflowError(f"{path}: has format {content['format']}, this version of molflow reads {FORMAT}")
    for entry in content["shards"]:
        if not _has(entry, {"file": str, "n": int, "bytes": int, "sha256": str}) or not _SHARD.fullmatch(entry["file"]):
            raise MolflowError(f"{path}: damaged; expected file, n, bytes and sha256 of each shard")
    manifest: dict[str, Any] = content
    return manifest


def _has(content: Any, kinds: Mapping[str, type]) -> bool:
    """Whether a value is an object of JSON with values of these types."""
    return isinstance(content, dict) and all(isinstance(content.get(key), kind) for key, kind in kinds.items())


def is_intact(folder: Path, entry: Entry | None) -> bool:
    """Whether a shard is there with the size and the checksum of its entry."""
    if entry is None:
        return False
    file = folder / entry["file"]
    return file.is_file() and file.stat().st_size == entry["bytes"] and bool(sha256(file) == entry["sha256"])
