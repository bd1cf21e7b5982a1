"""QM9: 130,831 small molecules with DFT geometries, read once from a published source and cached as one NPZ file.

Ramakrishnan, Dral, Rupp, von Lilienfeld, Scientific Data 1:140022 (2014). datasets/README.md has the details.
"""

import csv
import math
import os
import zlib
from array import array
from collections.abc import Iterable, Mapping
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np
from pydantic import Field
from tqdm import tqdm

from molflow.data.base import DataSetConfig, Loaded, Split, columns
from molflow.data.files import cache_path
from molflow.data.registry import DATASETS
from molflow.data.structures import MoleculeSet
from molflow.errors import MolflowError
from molflow.progress import progress_bar

N_MOLECULES = 130_831
SMALLEST, LARGEST = 3, 29  # atoms
ATOMIC_NUMBERS = {"H": 1, "C": 6, "N": 7, "O": 8, "F": 9}


class Property(NamedTuple):
    """Unit of a property (the same in the wheel), its column in the wheel, and its index in PyG's ``y``."""

    unit: str
    column: str
    pyg_target: int


PROPERTIES = {
    "dipole": Property("debye", "Dipole_debye", 0),
    "polarizability": Property("bohr^3", "Polarizability_bohr3", 1),
    "homo": Property("hartree", "HOMO_au", 2),
    "lumo": Property("hartree", "LUMO_au", 3),
    "gap": Property("hartree", "HOMO_LUMO_gap_au", 4),
    "r2": Property("bohr^2", "R2_bohr2", 5),
    "zpve": Property("hartree", "ZPVE_au", 6),
    "u0": Property("hartree", "InternalEnergy_0K_au", 7),
    "u298": Property("hartree", "InternalEnergy_298K_au", 8),
    "h298": Property("hartree", "Enthalphy_298K_au", 9),
    "g298": Property("hartree", "GibbsFreeEnergy_298K_au", 10),
    "heat_capacity": Property("cal/mol/K", "Heatcapacity_Cv_cal_mol_K", 11),
    "rotational_a": Property("GHz", "RotA_GHz", 16),
    "rotational_b": Property("GHz", "RotB_GHz", 17),
    "rotational_c": Property("GHz", "RotC_GHz", 18),
}
_REINSTALL = "pip install --force-reinstall qm9pack==1.0.3 restores it"
_COLUMNS = ["Index", "SMILES", "N_atoms", "Elements", "XYZ_Ang", *(p.column for p in PROPERTIES.values())]


class Part(NamedTuple):
    """One source file: its number of molecules, and two checksums over its rows that locate an edit.

    With c the CRC-32 of a row and k its number, the sums are sum(c) and sum(k c). An edit of one row changes them by
    d and k d, so their ratio is the number of the row.
    """

    molecules: int
    crc_sum: int
    weighted_crc_sum: int


WHEEL_PARTS = {
    "qm9_part1.csv": Part(43_610, 93_638_040_368_094, 2_040_673_050_941_412_148),
    "qm9_part2.csv": Part(43_611, 93_651_249_003_165, 2_045_179_697_866_749_777),
    "qm9_part3.csv": Part(43_610, 92_887_285_566_743, 2_026_326_500_610_353_525),
}


def parse_numbers(text: str) -> list[float]:
    """Parse comma-separated numbers, plain or as Mathematica writes them (``0.``, ``1.5*^-6``).

    Raises:
        ValueError: something that is not a finite number; the message quotes it.
    """
    numbers = [float(word) for word in text.replace("*^", "e").split(",")]
    if not all(map(math.isfinite, numbers)):
        raise ValueError(f"not a finite number: {next(number for number in numbers if not math.isfinite(number))}")
    return numbers


def _edited_row(change: int, weighted_change: int, rows: int) -> str:
    """``, row k`` if an edit of row k alone explains the changed checksums, else an empty text."""
    row, rest = divmod(weighted_change, change) if change else (0, 0)
    return f", row {row}" if rest == 0 and 1 <= row <= rows else ""


class _Molecule(NamedTuple):
    atomic_numbers: list[int]
    coordinates: list[float]
    properties: list[float]


def _parse_molecule(cell: dict[str, str]) -> _Molecule:
    symbols = cell["Elements"].strip("[]'").split("','")
    coordinates = parse_numbers(cell["XYZ_Ang"].replace("[", "").replace("]", ""))
    if unknown := set(symbols) - ATOMIC_NUMBERS.keys():
        raise ValueError(f"unknown element {unknown.pop()!r}, QM9 has {' '.join(ATOMIC_NUMBERS)}")
    if not 3 * int(cell["N_atoms"]) == 3 * len(symbols) == len(coordinates):
        raise ValueError(
            f"N_atoms is {cell['N_atoms']}, but there are {len(symbols)} elements "
            f"and {len(coordinates)} coordinates, 3 expected for each atom"
        )
    properties = parse_numbers(",".join(cell[p.column] for p in PROPERTIES.values()))
    return _Molecule([ATOMIC_NUMBERS[symbol] for symbol in symbols], coordinates, properties)


def read_part(path: Path, part: Part, bar: tqdm | None = None) -> MoleculeSet:
    """Read one CSV file of the wheel; ``bar`` advances by one for every molecule.

    Raises:
        MolflowError: naming the file and the row (the header is row 1) that is missing, malformed or edited.
    """
    positions, atomic_numbers, sizes = array("f"), array("B"), array("q")
    index, smiles, values = array("q"), [], array("d")
    crc_sum = weighted_crc_sum = row = 0
    try:
        with open(path, encoding="utf-8", errors="replace") as file:
            for row, line in enumerate(file, 1):
                crc = zlib.crc32(line.rstrip("\n").encode())
                crc_sum += crc
                weighted_crc_sum += row * crc
                fields = next(csv.reader([line], strict=True))
                if row == 1:
                    header = fields
                    if missing := set(_COLUMNS) - set(header):
                        raise ValueError(f"no column {', '.join(sorted(missing))}")
                    continue
                if len(fields) != len(header):
                    raise ValueError(f"{len(fields)} columns, expected {len(header)}")
                cell = dict(zip(header, fields, strict=True))
                molecule = _parse_molecule(cell)
                if index and int(cell["Index"]) <= index[-1]:
                    raise ValueError(f"Index {cell['Index']} follows {index[-1]}, expected a larger one")
                index.append(int(cell["Index"]))
                smiles.append(cell["SMILES"])
                sizes.append(len(molecule.atomic_numbers))
                atomic_numbers.extend(molecule.atomic_numbers)
                positions.extend(molecule.coordinates)
                values.extend(molecule.properties)
                if bar is not None:
                    bar.update()
    except OSError as error:
        raise MolflowError(f"{path}: cannot be read: {error.strerror}; {_REINSTALL}") from error
    except (ValueError, csv.Error) as error:
        raise MolflowError(f"{path}, row {row}: {error}; {_REINSTALL}") from error
    if len(sizes) != part.molecules:
        raise MolflowError(f"{path}: ends at row {row}, expected {part.molecules + 1} rows; {_REINSTALL}")
    if (change := (crc_sum - part.crc_sum, weighted_crc_sum - part.weighted_crc_sum)) != (0, 0):
        raise MolflowError(f"{path}{_edited_row(*change, row)}: differs from qm9pack 1.0.3; {_REINSTALL}")
    table = np.array(values).reshape(-1, len(PROPERTIES))
    return MoleculeSet(
        np.array(positions).reshape(-1, 3),
        np.array(atomic_numbers),
        np.array(sizes),
        np.array(smiles),
        {"gdb9_index": np.array(index)} | dict(zip(PROPERTIES, table.T, strict=True)),
    )


def read_wheel(folder: Path | None = None, progress: bool = False) -> MoleculeSet:
    """Read QM9 from the CSV files of the PyPI wheel ``qm9pack``, without importing it.

    SMILES are the GDB ones (no stereo marks), not those perceived from the relaxed geometry.

    Args:
        folder: where the CSV files are; by default the installed wheel.
        progress: show a bar on stderr.
    """
    if folder is None:
        try:
            folder = Path(str(metadata.distribution("qm9pack").locate_file("qm9pack/data")))
        except metadata.PackageNotFoundError as error:
            raise MolflowError('the qm9pack wheel is not installed: pip install "molflow[qm9]" brings it') from error
    with progress_bar(total=N_MOLECULES, desc="reading QM9", unit=" molecules", disable=not progress) as bar:
        return _joined([read_part(folder / name, part, bar) for name, part in WHEEL_PARTS.items()])


def read_pyg(root: Path, progress: bool = False) -> MoleculeSet:
    """Read QM9 from ``torch_geometric.datasets.QM9``, which downloads into ``root``.

    Raises:
        MolflowError: the download or PyG's processing failed.
    """
    from torch_geometric.datasets import QM9

    try:
        dataset = QM9(str(root))
    except Exception as error:  # PyG, fsspec and aiohttp have no common error type
        raise MolflowError(
            f"torch_geometric could not download QM9 into {root}: {error or type(error).__name__}; "
            'the wheel needs no download: pip install "molflow[qm9]" and source="wheel"'
        ) from error
    return from_pyg(progress_bar(dataset, desc="reading QM9", unit=" molecules", disable=not progress))


def from_pyg(dataset: Iterable[Any]) -> MoleculeSet:
    """Convert PyG's QM9 ``Data`` objects (z, pos, y, idx, smiles) to the wheel's order, names and units.

    PyG keeps properties in float32, energies in eV, so they agree with the wheel's to a relative 3e-7. Its SDF
    source has four decimals: positions agree to 5e-5 angstrom. Its SMILES are RDKit's, with explicit hydrogens.
    """
    from torch_geometric.datasets.qm9 import conversion

    rows = [
        (data.pos.numpy(), data.z.numpy(), data.y.numpy(), int(data.idx) + 1, data.smiles)  # PyG counts from 0
        for data in dataset
    ]
    positions, atomic_numbers, targets, index, smiles = zip(*rows, strict=True)
    table = np.concatenate(targets).astype(np.float64) / conversion.double().numpy()
    return MoleculeSet(
        np.concatenate(positions),
        np.concatenate(atomic_numbers),
        np.array([len(numbers) for numbers in atomic_numbers]),
        np.array(smiles),
        {"gdb9_index": np.array(index)} | {name: table[:, p.pyg_target] for name, p in PROPERTIES.items()},
    )


def _joined(parts: list[MoleculeSet]) -> MoleculeSet:
    return MoleculeSet(
        np.concatenate([part.positions for part in parts]),
        np.concatenate([part.atomic_numbers for part in parts]),
        np.concatenate([part.n_atoms for part in parts]),
        np.concatenate([part.smiles for part in parts if part.smiles is not None]),
        {name: np.concatenate([part.properties[name] for part in parts]) for name in parts[0].properties},
    )


def check_complete(molecules: MoleculeSet) -> MoleculeSet:
    """Return the set if it is all of QM9 in GDB9 order; otherwise raise a MolflowError that names the difference."""
    index = molecules.properties.get("gdb9_index", np.zeros(1))
    if len(molecules) != N_MOLECULES:
        raise MolflowError(f"{len(molecules):,} molecules, QM9 has {N_MOLECULES:,}")
    if (np.diff(index) <= 0).any() or len(index) != N_MOLECULES:
        raise MolflowError("the molecules are not in the order of their GDB9 index, so the split would be another one")
    if (molecules.n_atoms.min(), molecules.n_atoms.max()) != (SMALLEST, LARGEST):
        raise MolflowError(f"molecules must have {SMALLEST} to {LARGEST} atoms, like QM9's")
    if not np.isin(molecules.atomic_numbers, list(ATOMIC_NUMBERS.values())).all():
        raise MolflowError(f"an element other than {' '.join(ATOMIC_NUMBERS)}")
    return molecules


def prepare_qm9(
    source: Literal["wheel", "pyg"] = "wheel",
    cache_dir: str | Path | None = None,
    force: bool = False,
    progress: bool = True,
) -> Path:
    """Write the QM9 cache if there is none, or again with ``force``, and return its path.

    Args:
        source: the wheel qm9pack, or PyTorch Geometric, which downloads.
        cache_dir: by default the folder in MOLFLOW_CACHE, else the user's cache folder.
        force: write the cache again.
        progress: show a bar on stderr.

    Raises:
        MolflowError: the source is missing, damaged or incomplete, or the folder cannot be written.

    Example:
        >>> prepare_qm9()  # doctest: +SKIP
    """
    if source not in ("wheel", "pyg"):
        raise MolflowError(f"unknown QM9 source {source!r}, accepted: wheel, pyg")
    path = cache_path("qm9", cache_dir)
    if path.exists() and not force:
        if source != "wheel":
            raise MolflowError(f"{path}: exists already; rerun with --force to prepare it from {source}")
        return path
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise MolflowError(f"{path.parent}: cannot be created: {error.strerror}") from error
    if not os.access(path.parent, os.W_OK):
        raise MolflowError(f"{path.parent}: not writable; name another folder in MOLFLOW_CACHE")
    molecules = read_wheel(progress=progress) if source == "wheel" else read_pyg(path.parent / "pyg", progress)
    check_complete(molecules).save(path)
    return path


def load_qm9(split: Split | Literal["all"] = "all", cache_dir: str | Path | None = None) -> MoleculeSet:
    """One split of QM9 with its properties (units in :data:`PROPERTIES`), prepared first if there is no cache.

    ``all`` is in GDB9 order; a split is in the order of :func:`qm9_split`.

    Args:
        split: all, train, validation or test.
        cache_dir: by default the folder in MOLFLOW_CACHE, else the user's cache folder.

    Example:
        >>> load_qm9("test").batch([0, 1]).positions.shape  # doctest: +SKIP
        torch.Size([2, 17, 3])

    Raises:
        MolflowError: unknown split, no source, or a damaged cache.
    """
    if split not in ("train", "validation", "test", "all"):
        raise MolflowError(f"unknown split {split!r}, accepted: train, validation, test, all")
    path = prepare_qm9(cache_dir=cache_dir)
    try:
        molecules = check_complete(MoleculeSet.load(path))
    except MolflowError as error:
        message = str(error).removeprefix(f"{path}: ")
        raise MolflowError(f"{path}: {message}; rerun: molflow data qm9 --force") from error
    return molecules if split == "all" else molecules.subset(qm9_split()[split])


def qm9_split() -> dict[Split, np.ndarray]:
    """Indices into the full set of the split that E-NF, EDM, GeoLDM and FFF use: 100,000 / 17,748 / 13,083.

    Example:
        >>> {name: index.shape for name, index in qm9_split().items()}
        {'train': (100000,), 'validation': (17748,), 'test': (13083,)}
    """
    order = np.random.RandomState(0).permutation(N_MOLECULES)
    train, validation, test = np.split(order, [100_000, 117_748])
    return {"train": train, "validation": validation, "test": test}


@DATASETS.register("qm9")
class QM9(DataSetConfig):
    """QM9; conditions are names of :data:`PROPERTIES`, in their units."""

    task = "molecules"
    reference = "qm9"
    source: Literal["wheel", "pyg"] = Field("wheel", description="the qm9pack wheel, or PyTorch Geometric's download")
    training_half: Literal["first", "second"] | None = Field(
        None, description="of the training split, for EDM's protocol of conditional generation"
    )

    @property
    def units(self) -> Mapping[str, str]:
        return {name: each.unit for name, each in PROPERTIES.items()}

    def load(self, split: Split) -> Loaded[MoleculeSet]:
        self.check_split(split)
        molecules = load_qm9(split)
        if split == "train" and self.training_half is not None:
            half = len(molecules) // 2
            molecules = molecules.subset(slice(half) if self.training_half == "first" else slice(half, None))
        return Loaded(molecules, columns(molecules.properties, self.condition, self.name))

    def prepare(self, force: bool = False, progress: bool = False) -> Path:
        return prepare_qm9(self.source, force=force, progress=progress)

    def describe(self) -> dict[str, Any]:
        path = cache_path(self.name)
        sizes = MoleculeSet.load(path).n_atoms
        totals = {"n_molecules": len(sizes), "n_atoms": int(sizes.sum())}
        return {
            "name": self.name,
            "file": str(path),
            **totals,
            "smallest": int(sizes.min()),
            "largest": int(sizes.max()),
        }

    def split_text(self, n_training: int) -> str:
        return f"train ({n_training:,} molecules; RandomState(0) permutation)"
