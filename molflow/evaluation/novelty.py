"""Training molecules as novelty needs them: SMILES, fingerprints and formulas.

RDKit is imported inside functions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from molflow.chem.build import bonded_mol, canonical_smiles, is_sanitised
from molflow.chem.elements import formula
from molflow.chem.io import Structure
from molflow.data.files import save_arrays
from molflow.data.qm9 import load_qm9, prepare_qm9
from molflow.data.structures import MoleculeSet
from molflow.errors import MolflowError
from molflow.evaluation.chunks import look_up
from molflow.evaluation.edm import explicit_smiles
from molflow.files import check_writable
from molflow.progress import progress_bar

if TYPE_CHECKING:
    from rdkit import Chem

FINGERPRINT_RADIUS, FINGERPRINT_BITS = 2, 2048

_FORMAT = 3  # a file of another format or RDKit version is made again
_LOOKED_UP_AT_ONCE = 1 << 13
_TRAINING_AT_ONCE = 1 << 14  # fingerprints unpacked at a time, 32 MB


@dataclass(frozen=True, eq=False)
class TrainingReference:
    """A training set as novelty needs it.

    Attributes:
        name: name of the set, for records.
        n_molecules: number of molecules that it was made from.
        n_refused: number of those without look-up bonds that RDKit accepts; only the data set's SMILES represent them.
        smiles: distinct canonical SMILES, by the look-up bonds and by the data set.
        edm_smiles: the same as EDM's code writes them: by the look-up bonds alone, with explicit hydrogens, see
            `molflow.evaluation.edm`; without structures, the SMILES of the data set with explicit hydrogens.
        fingerprints: (len(smiles), 256) uint8, Morgan fingerprints of `smiles` as packed bits.
        formulas: distinct molecular formulas of the structures, see `formula`.
        scaffolds: distinct scaffolds of `smiles`, see `scaffold`.

    Example:
        >>> water = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
        >>> reference = TrainingReference.from_structures([water], ["O", "CO"], name="mine")
        >>> reference.n_molecules, sorted(reference.smiles), sorted(reference.formulas)
        (1, ['CO', 'O'], ['H2O'])
        >>> reference.nearest_similarity(["CO", "CCO"]).round(2).tolist()
        [1.0, 0.29]
    """

    name: str
    n_molecules: int
    n_refused: int
    smiles: frozenset[str]
    edm_smiles: frozenset[str]
    fingerprints: np.ndarray
    formulas: frozenset[str]
    scaffolds: frozenset[str]

    @classmethod
    def from_structures(
        cls, structures: Sequence[Structure], smiles: Iterable[str] = (), *, name: str, progress: bool = False
    ) -> "TrainingReference":
        """Look up the bonds of the training molecules.

        If the look-up bonds differ from the intended ones, a model may generate either form. `smiles` therefore adds
        the SMILES of the data set, which are brought into the same canonical form.

        Args:
            structures: positions (n, 3) in Å and atomic_numbers (n,) of each molecule.
            smiles: SMILES of training molecules from another source, in any form; they add no formulas.
            name: name of the set, for records.
            progress: show progress bars on stderr.

        Raises:
            MolflowError: a SMILES that RDKit cannot read, or no molecule at all.
        """
        bar = progress_bar(total=len(structures), desc="training molecules", disable=not progress)
        known: set[str] = set()
        edm: set[str] = set()
        n_refused = 0
        for found, found_by_edm in _looked_up(structures):
            n_refused += found is None
            if found is not None and found_by_edm is not None:
                known.add(found)
                edm.add(found_by_edm)
            bar.update()
        bar.close()
        for mol in map(_parsed, progress_bar(smiles, desc="their SMILES", disable=not progress)):
            known.add(canonical_smiles(mol))
            if not structures:
                edm.add(_with_hydrogens(mol))
        if not known:
            raise MolflowError("no molecule that RDKit accepts; expected at least one training molecule")
        prints = fingerprints(sorted(known), progress)
        formulas = frozenset(formula(s.atomic_numbers) for s in structures)
        shown = progress_bar(sorted(known), desc="scaffolds", disable=not progress)
        scaffolds = frozenset(map(scaffold, shown))
        return cls(
            name,
            len(structures),
            n_refused,
            frozenset(known),
            frozenset(edm),
            prints,
            formulas,
            scaffolds - {""},
        )

    @classmethod
    def from_set(cls, molecules: MoleculeSet, *, name: str, progress: bool = False) -> "TrainingReference":
        """`from_structures` for a prepared set of molecules, with its own SMILES."""
        smiles = [] if molecules.smiles is None else molecules.smiles.tolist()
        return cls.from_structures(list(molecules.structures()), smiles, name=name, progress=progress)

    def nearest_similarity(self, smiles: Sequence[str], progress: bool = False) -> np.ndarray:
        """Tanimoto similarity of each molecule to the most similar training molecule.

        |a and b| / |a or b| over the bits of Morgan fingerprints; 1 for equal ones.

        Returns:
            (len(smiles),) float64 in 0..1.
        """
        queries = [np.flatnonzero(bits) for bits in np.unpackbits(fingerprints(smiles), axis=1)]
        nearest = np.zeros(len(queries))
        starts = range(0, len(self.fingerprints), _TRAINING_AT_ONCE)
        for start in progress_bar(starts, desc="nearest molecules", disable=not progress):
            packed = self.fingerprints[start : start + _TRAINING_AT_ONCE]
            columns = np.unpackbits(np.ascontiguousarray(packed.T), axis=0)  # a query needs some 20 of 2048 rows
            sizes = columns.sum(0, dtype=np.int64)
            weights = {n: (1 / (sizes + n)).astype(np.float32) for n in set(map(len, queries))}
            for k, on in enumerate(queries):
                shared: np.ndarray = np.zeros(len(packed), dtype=np.uint8 if len(on) < 256 else np.uint16)
                for bit in on:
                    shared += columns[bit]
                best = int((shared * weights[len(on)]).argmax())  # s / (a + b) grows with s / (a + b - s)
                found = int(shared[best])
                nearest[k] = max(nearest[k], found / (int(sizes[best]) + len(on) - found))
        return nearest


def fingerprints(smiles: Sequence[str], progress: bool = False) -> np.ndarray:
    """Morgan fingerprints (radius 2, 2048 bits, no chirality) of canonical SMILES as packed bits, (M, 256) uint8."""
    from rdkit import Chem
    from rdkit.Chem.rdFingerprintGenerator import GetMorganGenerator

    generator = GetMorganGenerator(radius=FINGERPRINT_RADIUS, fpSize=FINGERPRINT_BITS)
    packed = np.zeros((len(smiles), FINGERPRINT_BITS // 8), dtype=np.uint8)
    for row, text in zip(packed, progress_bar(smiles, desc="fingerprints", disable=not progress), strict=True):
        mol = Chem.MolFromSmiles(text, sanitize=False)  # canonical SMILES need no second sanitisation
        mol.UpdatePropertyCache(strict=False)
        Chem.FastFindRings(mol)
        row[:] = np.packbits(generator.GetFingerprintAsNumPy(mol))
    return packed


def scaffold(smiles: str) -> str:
    """The Bemis-Murcko scaffold of a canonical SMILES: its rings and what links them; empty without rings."""
    from rdkit import Chem, rdBase
    from rdkit.Chem.Scaffolds import MurckoScaffold

    scaffold_of: Any = MurckoScaffold.GetScaffoldForMol  # has no types
    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
        return "" if mol is None else canonical_smiles(scaffold_of(mol))


def qm9_training_reference(cache_dir: str | Path | None = None, progress: bool = False) -> TrainingReference:
    """QM9's training split, cached as qm9_training.npz beside QM9.

    The file is made in under a minute if it is missing, if QM9 was prepared again, or if the version of RDKit changed,
    because canonical SMILES may differ between versions.

    Args:
        cache_dir: by default the folder in MOLFLOW_CACHE, else the user's cache folder.
        progress: show a bar on stderr.

    Raises:
        MolflowError: QM9 cannot be prepared, or the file is damaged or cannot be written.

    Example:
        >>> "C" in qm9_training_reference().smiles  # doctest: +SKIP
    """
    source = prepare_qm9(cache_dir=cache_dir, progress=progress)
    path = source.with_name("qm9_training.npz")
    if path.exists() and path.stat().st_mtime >= source.stat().st_mtime and (kept := _load(path)) is not None:
        return kept
    check_writable(path)
    molecules = load_qm9("train", cache_dir)
    reference = TrainingReference.from_set(molecules, name="the training split of qm9", progress=progress)
    _save(reference, path)
    return reference


def _looked_up(structures: Sequence[Structure]) -> Iterator[tuple[str | None, str | None]]:
    """SMILES of each molecule by its look-up bonds: canonical ones, and those of EDM's code.

    Both are None where RDKit refuses the bonds or an element has none.
    """
    from rdkit import Chem

    for start in range(0, len(structures), _LOOKED_UP_AT_ONCE):
        for structure in look_up(structures[start : start + _LOOKED_UP_AT_ONCE]):
            raw = None if structure.bonds is None else bonded_mol(*structure)
            mol = None if raw is None else Chem.Mol(raw)
            if raw is None or mol is None or not len(structure.positions) or not is_sanitised(mol):
                yield None, None
            else:
                yield canonical_smiles(mol), explicit_smiles(raw)


def _with_hydrogens(mol: "Chem.Mol") -> str:
    from rdkit import Chem

    return str(Chem.MolToSmiles(Chem.AddHs(mol), isomericSmiles=False))


def _parsed(smiles: str) -> "Chem.Mol":
    from rdkit import Chem, rdBase

    with rdBase.BlockLogs():
        mol = Chem.MolFromSmiles(smiles)
    if mol is None:
        raise MolflowError(f"training SMILES {smiles!r}: RDKit cannot read it")
    return mol


def _version() -> str:
    import rdkit

    return f"{_FORMAT}, rdkit {rdkit.__version__}"


def _save(reference: TrainingReference, path: Path) -> None:
    arrays = {
        "version": np.array(_version()),
        "name": np.array(reference.name),
        "counts": np.array([reference.n_molecules, reference.n_refused]),
        "smiles": np.char.encode(sorted(reference.smiles), "ascii"),
        "edm_smiles": np.char.encode(sorted(reference.edm_smiles), "ascii"),
        "fingerprints": reference.fingerprints,
        "formulas": np.char.encode(sorted(reference.formulas), "ascii"),
        "scaffolds": np.char.encode(sorted(reference.scaffolds), "ascii"),
    }
    save_arrays(path, arrays)


def _load(path: Path) -> TrainingReference | None:
    """The reference in a file; None where another version wrote it."""
    try:
        with path.open("rb") as file, np.load(file, allow_pickle=False) as archive:
            if str(archive["version"]) != _version():
                return None
            arrays = {name: archive[name] for name in archive.files}
        n_molecules, n_refused = arrays["counts"].tolist()
        smiles, edm_smiles, formulas, scaffolds = (
            frozenset(np.char.decode(arrays[name], "ascii").tolist())
            for name in ("smiles", "edm_smiles", "formulas", "scaffolds")
        )
        prints = arrays["fingerprints"]
        if prints.shape != (len(smiles), FINGERPRINT_BITS // 8) or prints.dtype != np.uint8:
            raise ValueError(f"fingerprints are {prints.dtype} {prints.shape}")
        name = str(arrays["name"])
        return TrainingReference(name, n_molecules, n_refused, smiles, edm_smiles, prints, formulas, scaffolds)
    except Exception as error:  # a damaged archive can raise nearly anything from zipfile, zlib or numpy
        raise MolflowError(f"{path}: damaged: {error}; delete it, and it is made anew") from error
