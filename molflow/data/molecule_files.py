"""A user's own molecules: any file of structures, or SMILES whose conformers are made, prepared once and cached."""

import csv
import hashlib
import json
from collections import Counter, deque
from collections.abc import Generator, Iterator, Mapping
from contextlib import closing
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from pydantic import Field, field_validator

from molflow.checksums import fingerprint
from molflow.chem.io import iter_records
from molflow.chem.preparation import Fragments, message_of, prepare, warm_up
from molflow.chem.reading import has_files_of_molecules
from molflow.data.base import FILE_KEYS, SPLITS, DataSetConfig, Loaded, Split, columns
from molflow.data.description import described
from molflow.data.files import cache_path
from molflow.data.registry import DATASETS
from molflow.data.smiles import holds_smiles, read_smiles, smiles_files
from molflow.data.splits import drawn_folds
from molflow.data.structures import MoleculeSet
from molflow.errors import MolflowError
from molflow.files import atomic_path, check_writable, csv_cell, hold, whole_lines
from molflow.progress import progress_bar
from molflow.workers import Failure, default_workers, outcomes

_VERSION = 3  # change it whenever preparation changes
_FOLDS = {"train": 0, "training": 0, "valid": 1, "val": 1, "validation": 1, "test": 2}
_FOUND = ("charge", "n_fragments", "fold", "shares_name")  # kept for each molecule beside the properties
_SEED = 0x9E3779B1  # spreads the seeds of conformers


class _Item(NamedTuple):
    """One molecule of the source: its split if that is given, its place and name, and named texts.

    `message` is what `prepare` takes; it is None if the molecule cannot be read, for which `error` has the reason.
    """

    fold: str
    source: str
    number: int
    name: str
    fields: Mapping[str, str]
    message: dict[str, Any] | None
    error: str


@DATASETS.register("molecules")
class MoleculeFile(DataSetConfig):
    """Molecules in a user's file or folder: SDF, XYZ, NPZ, or SMILES (.smi, .csv); all but NPZ also gzipped.

    Bonds are those that the file states, else perceived ones. RDKit makes the conformers of SMILES (ETKDG, then MMFF94
    or UFF). A molecule that cannot be used is left out, and counted with its reason.

    Example:
        [data]
        file = "drugs.sdf"
        split = "scaffold"
        properties = {logP = "1"}
    """

    task = "molecules"
    file: Path = Field(description="file or folder of molecules")
    validation_file: Path | None = Field(None, description="molecules for validation, if `file` has none of them")
    test_file: Path | None = Field(None, description="molecules for testing, if `file` has none of them")
    split: str = Field(
        "random", description="random, scaffold, or the name of a field with train, validation and test as values"
    )
    split_seed: int = Field(0, ge=0, lt=2**32, description="of the random split, and of conformers")
    held_out: float = Field(0.1, gt=0, lt=0.5, description="share for validation, and the same for testing")
    properties: dict[str, str] = Field({}, description="fields or columns to keep: name -> unit, 1 without unit")
    smiles_column: str = Field("smiles", description="of a .csv file; upper or lower case")
    fragments: Fragments = Field("drop", description="molecules of several fragments: drop, keep, or keep the largest")
    add_hydrogens: bool = Field(False, description="complete the valences of molecules that lack hydrogens")
    seconds: float = Field(30.0, gt=0, description="limit of processor time for one molecule")

    @field_validator("properties")
    @classmethod
    def _are_others(cls, properties: dict[str, str]) -> dict[str, str]:
        if taken := [name for name in _FOUND if name in properties]:
            raise ValueError(f"{taken[0]} is a number that molflow finds itself; give the field another name")
        return properties

    @property
    def units(self) -> Mapping[str, str]:
        return self.properties

    def load(self, split: Split) -> Loaded[MoleculeSet]:
        self.check_split(split)
        molecules = MoleculeSet.load(self.prepare())
        chosen = molecules.properties["fold"] == SPLITS.index(split)
        if not chosen.any():
            raise MolflowError(f"{self.file}: its {split} split is empty; {self._split_words()}")
        data = molecules.subset(chosen)
        return Loaded(data, columns(data.properties, self.condition, str(self.file)))

    def split_text(self, n_training: int) -> str:
        return f"{n_training:,} molecules of {self.file.name}, split: {self.split}"

    def prepare(self, force: bool = False, progress: bool = True) -> Path:
        """Prepare the molecules unless the cache has those of the same content and options; the cache file.

        An interrupted preparation goes on where it stopped.

        Raises:
            MolflowError: a file that is missing, that changes while it is read, or has no molecule that can be used.
        """
        content = fingerprint(self._files)
        options = self.model_dump(mode="json", exclude={"condition", *FILE_KEYS})
        key = hashlib.sha256(json.dumps([_VERSION, content, options], sort_keys=True).encode()).hexdigest()[:16]
        path = cache_path(f"files/{self.file.name.split('.')[0] or 'molecules'}-{key}")
        if path.exists() and not force:
            return path
        check_writable(path)
        items = [item for fold, file in self._files.items() for item in self._items(fold, file)]
        self._check_fields(items)
        results = self._results(items, path.with_suffix(".partial.jsonl"), progress)
        if fingerprint(self._files) != content:
            raise MolflowError(f"{self.file}: changed while it was read; prepare it again")
        kept, dropped = self._sorted(items, results)
        with atomic_path(dropped_path(path)) as temporary, temporary.open("w", newline="", encoding="utf-8") as file:
            writer = csv.writer(file)
            writer.writerow(["source", "record", "name", "reason"])
            rows = ([item.source, item.number, item.name, reason] for item, reason in dropped)
            writer.writerows(map(csv_cell, row) for row in rows)
        if not kept:
            path.with_suffix(".partial.jsonl").unlink()  # so that --force prepares them anew
            common = Counter(reason for _, reason in dropped).most_common(1)
            why = f"; the most common reason: {common[0][0]}" if common else ""
            raise MolflowError(f"{self.file}: none of {len(items):,} molecules can be used{why}")
        self._set_of(kept).save(path)
        path.with_suffix(".partial.jsonl").unlink(missing_ok=True)
        return path

    def describe(self) -> dict[str, Any]:
        """Numbers of molecules, sizes, elements, charges, fragments, duplicates, and what was left out and why."""
        path = self.prepare()
        with dropped_path(path).open(encoding="utf-8", newline="") as file:
            reasons = Counter(row["reason"] for row in csv.DictReader(file))
        return {
            "name": self.file.name,
            "file": str(path),
            "n_dropped": sum(reasons.values()),
            "dropped": dict(reasons.most_common()),
            "dropped_file": str(dropped_path(path)),
            **described(MoleculeSet.load(path), self.properties),
        }

    @property
    def _files(self) -> dict[str, Path]:
        """The files by the fold that their molecules belong to; "" leaves it to `split`."""
        given = {"validation": self.validation_file, "test": self.test_file}
        return {"": self.file} | {fold: file for fold, file in given.items() if file is not None}

    def _items(self, fold: str, file: Path) -> Iterator[_Item]:
        if holds_smiles(file):
            for number, name, smiles, fields in read_smiles(file, self.smiles_column):
                made = {"smiles": smiles, "seed": (self.split_seed + number * _SEED) % 2**31}
                yield _Item(fold, str(file), number, name, fields, made, "" if smiles else "no SMILES")
            return
        of_smiles = smiles_files(file) if file.is_dir() else []
        for inside in of_smiles:
            yield from self._items(fold, inside)
        if of_smiles and not has_files_of_molecules(file):
            return
        for record in iter_records(file):
            message = None if record.structure is None else message_of(record)
            yield _Item(fold, record.source, record.number, record.name, record.fields, message, record.error or "")

    def _results(self, items: list[_Item], partial: Path, progress: bool) -> list[dict[str, Any]]:
        """The result of `prepare` for each item; those that an interrupted run left behind are not made again."""
        with partial.open("a", encoding="utf-8") as file:
            hold(file, f"{self.file}: another program prepares it; wait until it has")
            done = _read_lines(partial)[: len(items)]
            n_done = len(done)
            bar = progress_bar(
                total=len(items), initial=n_done, desc="molecules", unit="molecule", disable=not progress
            )
            with closing(self._made(items[n_done:])) as found, bar:
                for result in found:
                    done.append(_compact(result))
                    file.write(json.dumps(result) + "\n")
                    bar.update()
        return done

    def _made(self, items: list[_Item]) -> Generator[dict[str, Any], None, None]:
        """The result of `prepare` for each item, as they are made by worker processes."""
        options = {"fragments": self.fragments, "add_hydrogens": self.add_hydrogens}
        problems: deque[str] = deque()

        def messages() -> Iterator[Any]:
            for item in items:
                problems.append(item.error)
                yield item.message

        found = outcomes(
            _prepare, messages(), workers=default_workers(), seconds=self.seconds, options=options, prepare=warm_up
        )
        with closing(found):
            for result in found:
                unreadable = problems.popleft()
                if isinstance(result, Failure):
                    result = {"problem": ": ".join(result)}
                yield {"problem": unreadable} if unreadable else result

    def _sorted(
        self, items: list[_Item], results: list[dict[str, Any]]
    ) -> tuple[list[tuple[_Item, dict[str, Any]]], list[tuple[_Item, str]]]:
        """The molecules that can be used, with their properties, and the others with their reason."""
        kept, dropped = [], []
        for item, result in zip(items, results, strict=True):
            values = {name: _number(item.fields.get(name)) for name in self.properties}
            problem = result.get("problem") or next(
                (f"property {n} {v}" for n, v in values.items() if isinstance(v, str)), ""
            )
            if problem:
                dropped.append((item, problem))
            else:
                kept.append((item, {**result, "properties": values}))
        return kept, dropped

    def _check_fields(self, items: list[_Item]) -> None:
        """Check properties and the field of the split before the work begins.

        Raises:
            MolflowError: a field that no molecule has, of which the nearest is named, or a value that is no split.
        """
        import difflib

        known = {name for item in items for name in item.fields}
        wanted = [*self.properties, *([self.split] if self._is_given else [])]
        for name in wanted:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=1, cutoff=0.5)
                did = f"; did you mean {near[0]}?" if near else f"; it has {', '.join(sorted(known)) or 'none'}"
                raise MolflowError(f"{self.file}: no molecule has a field {name!r}{did}")
        for item in items if self._is_given else ():
            if item.fold == "" and not item.error and self._given_fold(item) not in _FOLDS:
                raise MolflowError(
                    f"{item.source}, record {item.number}: {self.split} is {self._given_fold(item)!r}; expected train, "
                    "validation or test"
                )

    @property
    def _is_given(self) -> bool:
        """Whether a field says which split a molecule belongs to."""
        return self.split not in ("random", "scaffold")

    def _given_fold(self, item: _Item) -> str:
        return item.fields.get(self.split, "").strip().lower()

    def _set_of(self, kept: list[tuple[_Item, dict[str, Any]]]) -> MoleculeSet:
        results = [result for _, result in kept]
        properties = {name: np.array([r["properties"][name] for r in results]) for name in self.properties}
        for name in ("charge", "n_fragments"):
            properties[name] = np.array([r[name] for r in results], dtype=np.int64)
        properties["fold"] = self._folds(kept)
        names = Counter(item.name for item, _ in kept if item.name)
        properties["shares_name"] = np.array([names[item.name] > 1 for item, _ in kept], dtype=np.int8)
        return MoleculeSet(
            np.concatenate([np.array(r["positions"]).reshape(-1, 3) for r in results]),
            np.concatenate([r["numbers"] for r in results]),
            np.array([len(r["numbers"]) for r in results]),
            np.array([r["smiles"] for r in results]),
            properties,
            environments=np.concatenate([np.array(r["environments"]).reshape(-1, 3) for r in results]),
        )

    def _folds(self, kept: list[tuple[_Item, dict[str, Any]]]) -> np.ndarray:
        """The split of each molecule, as its place in `SPLITS`."""
        folds = np.zeros(len(kept), dtype=np.int8)
        given = np.array([item.fold for item, _ in kept])
        for split in ("validation", "test"):
            folds[given == split] = SPLITS.index(split)
        free = np.flatnonzero(given == "")
        if self._is_given:
            folds[free] = [_FOLDS[self._given_fold(kept[i][0])] for i in free]
            return folds
        groups = [kept[i][1]["scaffold"] if self.split == "scaffold" else str(i) for i in free]
        named = [split for split in ("validation", "test") if split not in self._files]
        folds[free] = drawn_folds(groups, [SPLITS.index(split) for split in named], self.held_out, self.split_seed)
        return folds

    def _split_words(self) -> str:
        return f"it is split by {self.split}, with {100 * self.held_out:g} % held out"


def dropped_path(path: Path) -> Path:
    """The file that lists the molecules that were left out, beside a cache file."""
    return path.with_suffix(".dropped.csv")


def _prepare(message: dict[str, Any] | None, **options: Any) -> dict[str, Any] | None:
    return None if message is None else prepare(message, **options)


def _read_lines(path: Path) -> list[dict[str, Any]]:
    """The results in the whole lines of a file."""
    if not path.exists():
        return []
    whole_lines(path)
    with path.open(encoding="utf-8") as file:
        return [_compact(json.loads(line)) for line in file]


def _compact(result: dict[str, Any]) -> dict[str, Any]:
    """The same with arrays in place of lists, which take a third of the memory."""
    return {key: np.array(value) if isinstance(value, list) else value for key, value in result.items()}


def _number(text: str | None) -> float | str:
    """The value of a property, or words for what is wrong with it."""
    if text is None or not text.strip():
        return "is missing"
    try:
        value = float(text)
    except ValueError:
        return f"is no number: {text.strip()[:40]!r}"
    return value if np.isfinite(value) else f"is not finite: {text.strip()}"
