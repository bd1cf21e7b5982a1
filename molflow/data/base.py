"""The contract of a data set: a configuration that can prepare, describe and load its splits."""

from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Generic, Literal, NamedTuple, Self, TypeVar

import numpy as np
import torch
from pydantic import Field, SerializeAsAny
from torch import Tensor

from molflow.config import KindConfig, OneOf
from molflow.data.registry import DATASETS, DEFAULT_DATA_SET
from molflow.errors import MolflowError

if TYPE_CHECKING:
    from molflow.energies import System

Data = TypeVar("Data")
Split = Literal["train", "validation", "test"]
SPLITS: tuple[Split, ...] = ("train", "validation", "test")


class Loaded(NamedTuple, Generic[Data]):
    """One split of a data set.

    Attributes:
        data: a `MoleculeSet`, or a tensor (n, N, D) for particles or (n, F) for vectors.
        condition: the values that samples are conditioned on, float32 (n, C); None without conditions.
    """

    data: Data
    condition: Tensor | None = None


class DataSetConfig(KindConfig):
    """Base of data sets, which `[data] name` chooses among.

    Implementing a data set: derive a class in a module of your own, register it, and return the splits from `load`.

    Example:
        >>> import torch
        >>> from molflow.data import DATASETS, DataSetConfig, Loaded
        >>> @DATASETS.register("spiral")
        ... class Spiral(DataSetConfig):
        ...     task = "vectors"
        ...     noise: float = 0.1
        ...
        ...     def load(self, split):
        ...         generator = torch.Generator().manual_seed(self.splits.index(split))
        ...         angle = torch.rand(1000, generator=generator) * 4 * torch.pi
        ...         spiral = angle.unsqueeze(1) * torch.stack([angle.cos(), angle.sin()], 1) / 4
        ...         return Loaded(spiral + self.noise * torch.randn(1000, 2, generator=generator))
        >>> DATASETS["spiral"](noise=0.2).load("test").data.shape
        torch.Size([1000, 2])

    Attributes:
        task: the task that its data are for: "molecules", "particles" or "vectors".
        splits: the splits that it has.
        reference: name of the recorded scores of the data set itself (`molflow.evaluation.REFERENCES`), if any.
        condition: names of the quantities to condition on.
    """

    kind_key = "name"
    task: ClassVar[str]
    splits: ClassVar[tuple[Split, ...]] = SPLITS
    reference: ClassVar[str | None] = None

    condition: tuple[str, ...] = Field((), description="names of the quantities that samples are conditioned on")

    @property
    def name(self) -> str:
        assert self.kind is not None
        return self.kind

    @property
    def units(self) -> Mapping[str, str]:
        """The unit of each quantity that samples can be conditioned on, where it is known."""
        return {}

    @classmethod
    def system(cls) -> "System | None":
        """The energy that the data are samples of, with what is known about it, or None."""
        return None

    def own_system(self) -> "System | None":
        """The energy that a user gave for these data, or else `system`.

        Raises:
            MolflowError: it cannot be imported, or is of other particles.
        """
        return self.system()

    def species_numbers(self) -> tuple[int, ...]:
        """For particles: the species of each, as numbers from 0; () where all are identical."""
        return ()

    def from_model(self) -> Self:
        """The same data set as the config.json of a model names it: nothing that it names is executed."""
        return self

    @abstractmethod
    def load(self, split: Split) -> Loaded[Any]:
        """One split, prepared first if need be.

        Raises:
            MolflowError: a split that the data set does not have, or data that cannot be prepared or read.
        """

    def prepare(self, force: bool = False, progress: bool = False) -> Path | None:
        """Make or download the data if they are not there, or again with `force`; the file or folder that has them.

        The default is for data that need no preparation.
        """
        return None

    def describe(self) -> dict[str, Any]:
        """Figures about the prepared data by name, for `molflow data NAME`."""
        return {f"n_{split}": len(self.load(split).data) for split in self.splits}

    def split_text(self, n_training: int) -> str:
        """Words for the data that a model was trained on, for its card."""
        return "train"

    def check_split(self, split: str) -> None:
        """Raise MolflowError for a split that the data set does not have."""
        if split not in self.splits:
            raise MolflowError(f"unknown split {split!r} of {self.name}, accepted: {', '.join(self.splits)}")


class _OneDataSet(OneOf):
    """The choice of a data set; a table with a file and no name is about molecules."""

    def name_in(self, table: Mapping[str, Any]) -> Any:
        return table.get(self.key, "molecules" if "file" in table else self.default)


DataConfig = Annotated[SerializeAsAny[DataSetConfig], _OneDataSet(DATASETS, default=DEFAULT_DATA_SET, key="name")]
"""The `[data]` table of an experiment."""

FILE_KEYS = ("file", "validation_file", "test_file", "topology")
"""Keys of a `[data]` table that name files; in an experiment they are relative to its folder."""


def default_data() -> DataSetConfig:
    """The data set of an experiment that does not name one.

    Example:
        >>> default_data().name
        'qm9'
    """
    return DATASETS[DEFAULT_DATA_SET]()


def columns(table: dict[str, np.ndarray], names: tuple[str, ...], source: str) -> Tensor | None:
    """The named columns side by side, float32 (n, C), or None for no names.

    Raises:
        MolflowError: a name that the table does not have, or values that are not finite numbers in float32.
    """
    if not names:
        return None
    found = []
    for name in names:
        if name not in table:
            raise MolflowError(f"{source}: has no quantity {name!r}, only {', '.join(table) or 'none'}")
        if table[name].dtype.kind not in "fiub":
            raise MolflowError(f"{source}: {name}: expected numbers, got {table[name].dtype} values")
        with np.errstate(over="ignore"):  # values that overflow are refused below
            found.append(table[name].astype(np.float32))
        if not (finite := np.isfinite(found[-1])).all():
            raise MolflowError(f"{source}, row {int(finite.argmin())}: {name}: expected finite numbers in float32")
    return torch.from_numpy(np.stack(found, 1))


def hold_out(n: int, split: Split, splits: tuple[Split, ...], source: str) -> Tensor:
    """Indices of one split of n data in a user's file: a tenth each for validation and test, the rest for training.

    Raises:
        MolflowError: fewer than ten data.
    """
    if n < 10:
        raise MolflowError(f"{source}: expected at least 10 data, got {n}")
    held_out = [name for name in splits if name != "train"]
    order = torch.randperm(n, generator=torch.Generator().manual_seed(0))
    if split == "train":
        return order[len(held_out) * (n // 10) :]
    start = held_out.index(split) * (n // 10)
    return order[start : start + n // 10]
