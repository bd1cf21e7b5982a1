"""Files of configurations of particles: .npy and .npz, extended XYZ, and trajectories by MDTraj or MDAnalysis."""

import logging
import re
from collections.abc import Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from molflow.data.files import array_names, read_array
from molflow.errors import MolflowError

log = logging.getLogger("molflow")

ARRAYS, TRAJECTORIES = (".npy", ".npz"), (".dcd", ".xtc", ".trr", ".h5", ".nc")
SUFFIXES = (*ARRAYS, ".xyz", ".extxyz", *TRAJECTORIES)

_BOXES = ("box", "boxes", "cell", "lattice", "unitcell_lengths")
_LATTICE = re.compile(r"""Lattice=(?:"[^"]*"|'[^']*'|\S+)""", re.IGNORECASE)
_PBC = re.compile(r"""pbc=["']?([TF1][\w ]*)""", re.IGNORECASE)
_PROPERTIES = re.compile(r"""Properties=["']?([^\s"']+)""", re.IGNORECASE)
_NO_BOX = "a periodic system; molflow models particles without a box: unwrap them and leave the box out"


class Configurations(NamedTuple):
    """Configurations, float32 (n, N, D) with zero centroid, and the species, if the file names them."""

    positions: Tensor
    species: tuple[str, ...] = ()


def read_configurations(
    path: str | Path, n_particles: int | None = None, dim: int | None = None, key: str | None = "positions"
) -> Tensor:
    """Read the positions of `read_particles`, float32 (n, N, D).

    Args:
        path, n_particles, dim, key: as in `read_particles`.

    Raises:
        MolflowError: as `read_particles`.

    Example:
        >>> np.save("mine.npy", np.random.default_rng(0).normal(size=(5, 4, 2)))
        >>> read_configurations("mine.npy").shape
        torch.Size([5, 4, 2])
    """
    return read_particles(path, n_particles, dim, key).positions


def read_particles(
    path: str | Path,
    n_particles: int | None = None,
    dim: int | None = None,
    key: str | None = "positions",
    topology: str | Path | None = None,
) -> Configurations:
    """Read configurations of one number of particles, and centre them.

    Where D is given, an array (n, N D) is accepted as well, and a line says how it is read.

    Args:
        path: .npy, .npz, .xyz or .extxyz, or a trajectory (.dcd, .xtc, .trr, .h5, .nc) for MDTraj or MDAnalysis, in
            angstrom. It is never unpickled.
        n_particles: N, if it is known.
        dim: D, if it is known.
        key: the array to take from an .npz file; None for `positions`, or else the only array (n, N, D) in it.
        topology: the file that names the atoms of a trajectory.

    Raises:
        MolflowError: the file cannot be read, has no such array or one of another shape, holds a periodic system or
            frames of several sizes, or a configuration is not finite; the message names the file and the first such
            configuration.

    Example:
        >>> frame = "2\\nProperties=species:S:1:pos:R:3\\nA 0 0 0\\nB 0 0 1.5\\n"
        >>> _ = Path("two.xyz").write_text(3 * frame)
        >>> positions, species = read_particles("two.xyz")
        >>> positions.shape, species
        (torch.Size([3, 2, 3]), ('A', 'B'))
    """
    path = Path(path)
    species: tuple[str, ...] = ()
    if path.suffix.lower() in (".xyz", ".extxyz"):
        array, species = _read_xyz(path)
    elif path.suffix.lower() in TRAJECTORIES:
        array, species = _read_trajectory(path, topology)
    else:
        array = _read_arrays(path, key)
    return Configurations(_checked(array, path, n_particles, dim), species)


def _checked(array: np.ndarray, path: Path, n_particles: int | None, dim: int | None) -> Tensor:
    expected = f"(n, {n_particles or 'N'}, {dim or 'D'})"
    if array.dtype.kind not in "fiu":
        raise MolflowError(f"{path}: holds {array.dtype} values, expected numbers of shape {expected}")
    shape = array.shape
    if array.ndim == 2 and dim and shape[1] % dim == 0 and n_particles in (None, shape[1] // dim):
        array = array.reshape(-1, shape[1] // dim, dim)
        log.info("%s: the flat array %s is read as %d particles in %d dimensions", path, shape, array.shape[1], dim)
    if array.ndim != 3 or 0 in shape or n_particles not in (None, array.shape[1]) or dim not in (None, array.shape[2]):
        flat = "; for a flat array (n, N D) give data.dim" if array.ndim == 2 and dim is None else ""
        raise MolflowError(f"{path}: expected configurations of shape {expected}, got {shape}{flat}")
    with np.errstate(over="ignore", invalid="ignore"):  # values that overflow are refused below
        array = (array - array.mean(1, keepdims=True, dtype=np.float64)).astype(np.float32)
    finite = np.isfinite(array).all((1, 2))
    if not finite.all():
        raise MolflowError(f"{path}, configuration {int(finite.argmin())}: expected finite coordinates in float32")
    return torch.from_numpy(array)


def _read_arrays(path: Path, key: str | None) -> np.ndarray:
    names = array_names(path)
    for name in names:
        if name.lower() in _BOXES and (box := read_array(path, name)).dtype.kind in "fiu" and box.any():
            raise MolflowError(f"{path}: {name}: {_NO_BOX}")
    if key is None and "positions" not in names:
        fitting = [name for name in names if (a := read_array(path, name)).ndim == 3 and a.dtype.kind in "fiu"]
        if len(fitting) != 1:
            raise MolflowError(
                f"{path}: has {', '.join(fitting) or 'no array'} of shape (n, N, D); name the array of positions by "
                f"data.key, one of {', '.join(names)}"
            )
        log.info("%s: positions are taken from its array %s", path, fitting[0])
        key = fitting[0]
    return read_array(path, key or "positions")


def _read_xyz(path: Path) -> tuple[np.ndarray, tuple[str, ...]]:
    """Frames (n, N, 3) and the species, which must be the same in all."""
    try:
        lines = path.read_text(encoding="utf-8").splitlines()
    except FileNotFoundError as error:
        raise MolflowError(f"{path}: no such file") from error
    except (OSError, UnicodeDecodeError) as error:
        raise MolflowError(f"{path}: not a readable text file") from error
    frames: list[np.ndarray] = []
    names: list[str] = []
    at = 0
    while at < len(lines):
        if not lines[at].strip():
            at += 1
            continue
        where = f"{path}, frame {len(frames)} (line {at + 1})"
        if not lines[at].strip().isdecimal():
            raise MolflowError(f"{where}: expected the number of particles, got {lines[at].strip()[:60]!r}")
        count = int(lines[at])
        rows = lines[at + 2 : at + 2 + count]
        found, x = _frame(lines[at + 1] if at + 1 < len(lines) else "", rows, count, where)
        names = names or found
        if found != names:
            what = f"{len(found)} particles, expected {len(names)}" if len(found) != len(names) else "other species"
            raise MolflowError(f"{where}: has {what}; all frames must be of the same particles")
        frames.append(x)
        at += 2 + count
    if not frames:
        raise MolflowError(f"{path}: has no frame")
    return np.stack(frames), tuple(names)


def _frame(comment: str, rows: Sequence[str], count: int, where: str) -> tuple[list[str], np.ndarray]:
    pbc = _PBC.search(comment)
    if "T" in pbc[1].upper() or "1" in pbc[1] if pbc else _LATTICE.search(comment):
        raise MolflowError(f"{where}: {_NO_BOX}")
    kind, first = _columns(comment, where)
    try:
        fields = [row.split() for row in rows]
        if len(fields) != count or not count:
            raise ValueError
        x = np.array([[float(value) for value in row[first : first + 3]] for row in fields])
        return [row[kind] for row in fields], x.reshape(count, 3)
    except (ValueError, IndexError) as error:
        raise MolflowError(f"{where}: expected {count} lines with a species and three coordinates") from error


def _columns(comment: str, where: str) -> tuple[int, int]:
    """The columns of the species and of the first coordinate."""
    named = _PROPERTIES.search(comment)
    if named is None:
        return 0, 1
    parts, places, first = named[1].split(":"), {}, 0
    for name, _, width in zip(parts[::3], parts[1::3], parts[2::3], strict=False):
        places[name.lower()] = first
        first += int(width) if width.isdecimal() else 1
    if not {"species", "pos"} <= places.keys():
        raise MolflowError(f"{where}: expected Properties with species:S:1 and pos:R:3, got {named[1][:60]}")
    return places["species"], places["pos"]


def _read_trajectory(path: Path, topology: str | Path | None) -> tuple[np.ndarray, tuple[str, ...]]:
    """Frames (n, N, 3) in angstrom and the elements or names of the atoms."""
    for file in (path, topology):
        if file is not None and not Path(file).exists():
            raise MolflowError(f"{file}: no such file")
    read = next((read for package, read in _READERS.items() if find_spec(package)), None)
    if read is None:
        raise MolflowError(f"{path}: trajectories need mdtraj or MDAnalysis: pip install mdtraj")
    try:
        frames, names, box = read(path, topology)
    except Exception as error:  # the readers raise many kinds of errors, with texts of many lines
        hint = "name its topology by data.topology" if topology is None else f"its topology is {topology}"
        raise MolflowError(f"{path}: cannot be read: {' '.join(str(error).split())[:200]}; {hint}") from error
    if box:
        raise MolflowError(f"{path}: {_NO_BOX}")
    return frames, names


def _by_mdtraj(path: Path, topology: str | Path | None) -> tuple[np.ndarray, tuple[str, ...], bool]:
    import mdtraj  # type: ignore[import-not-found]

    trajectory: Any = mdtraj.load(str(path), **({} if topology is None else {"top": str(topology)}))
    names = tuple(atom.element.symbol if atom.element else atom.name for atom in trajectory.topology.atoms)
    return 10 * trajectory.xyz, names, trajectory.unitcell_lengths is not None  # MDTraj has nm


def _by_mdanalysis(path: Path, topology: str | Path | None) -> tuple[np.ndarray, tuple[str, ...], bool]:
    import MDAnalysis  # type: ignore[import-not-found]

    universe: Any = MDAnalysis.Universe(*map(str, (path,) if topology is None else (topology, path)))
    frames = np.stack([step.positions.copy() for step in universe.trajectory])
    elements = getattr(universe.atoms, "elements", [""])
    names = elements if all(elements) else getattr(universe.atoms, "names", [])
    box = universe.trajectory.ts.dimensions
    return frames, tuple(map(str, names)), box is not None and bool(np.any(box[:3]))


_READERS = {"mdtraj": _by_mdtraj, "MDAnalysis": _by_mdanalysis}
