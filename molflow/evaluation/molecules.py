"""Molecules from anywhere, inspected in worker processes and scored under named protocols.

It takes structures and no model: what is scored is what stands in the file. Molecules stream through one report at a
time, and a tally of them is all that stays.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from tqdm import tqdm

from molflow.batch import MoleculeBatch, structure_of, structures_of
from molflow.chem.build import bond_list
from molflow.chem.io import Record, Structure, iter_records
from molflow.errors import MolflowError
from molflow.evaluation.chunks import bonded_chunks
from molflow.evaluation.inspection import (
    Bonded,
    MoleculeReport,
    answer,
    check_extras,
    inspect_bonded,
    inspect_lookup,
    is_covered,
    lost,
    unfit,
    warm_up,
)
from molflow.evaluation.novelty import TrainingReference
from molflow.evaluation.reference import REFERENCES, recorded_scores
from molflow.evaluation.scores import MoleculeScores
from molflow.evaluation.tally import SCOPES, Scope, Tally
from molflow.evaluation.workers import name_of, outcomes

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch_geometric.data import Data

__all__ = ["REFERENCES", "SECONDS", "MoleculeScores", "evaluate", "inspect_all"]

SECONDS = 10.0
"""What one molecule may take by default, of processor time."""

_BLOCK = 1024  # molecules whose bonds are looked up together

Each = Callable[[MoleculeReport, Structure | None], object]


def evaluate(
    molecules: "MoleculeBatch | str | os.PathLike[str] | Iterable[Structure | Record | Mol | Data]",
    *,
    reference: str | None = None,
    training: TrainingReference | None = None,
    scope: Scope = "all",
    strain: str | None = None,
    posebusters: bool = False,
    workers: int | None = None,
    seconds: float = SECONDS,
    each: Each | None = None,
    progress: bool = False,
) -> MoleculeScores:
    """Score molecules given by positions and elements alone.

    They stream: memory does not grow with their number, but for the distinct SMILES and formulas.

    Args:
        molecules: a file, folder or "-" as `molflow.chem.iter_records` takes it, or its records; a batch; or
            structures, RDKit molecules or PyG data as `molflow.batch.structures_of` takes them. A record that could
            not be read is counted as such and is in no other figure.
        reference: a name in `REFERENCES`, whose recorded scores are set beside these.
        training: what novelty is measured against, such as `qm9_training_reference()`; without it, the scores that
            ask for training molecules are None.
        scope: "stability" is by look-up bonds and without RDKit, 0.02 ms a molecule of QM9; "lookup" also has
            validity, uniqueness and novelty by these bonds, 0.5 ms; "all" also what RDKit perceives, shapes and
            descriptors, 5 ms, in worker processes.
        strain, posebusters, workers, seconds: as in `inspect_all`; for the scope "all".
        each: called with the report on each molecule, in order, and the molecule, which is None where it could not be
            read; not for the scope "stability".
        progress: show bars on stderr.

    Raises:
        MolflowError: no molecules, one without 3D coordinates, nothing that can be read, an unknown reference, scope
            or method, a package that is not installed, or worker processes that cannot be started.

    Source: stability by arXiv 2203.17003; uniqueness is taken over connected molecules only, so a model cannot
        gain by fragments.

    Example:
        >>> evaluate("mine.sdf", reference="qm9").molecule_stability  # doctest: +SKIP
        0.852
    """
    if reference is not None:
        recorded_scores(reference)  # a name that is not known is told before the work
    _check_scope(scope, of_all=strain is not None or posebusters, of_each=each is not None)
    tally = Tally(scope)
    items = _items(molecules)
    if scope == "stability":
        _count_stability(tally, items, progress)
        return tally.scores(reference=reference, training=training, progress=progress)
    if scope == "lookup":
        found: Generator[_Inspected] = _looked_up(items, progress)
    else:
        found = _inspected(
            items, workers=workers, seconds=seconds, strain=strain, posebusters=posebusters, progress=progress
        )
    with closing(found):
        for structure, report in found:
            tally.add(report)
            if each is not None:
                each(report, structure)
    return tally.scores(reference=reference, training=training, progress=progress)


_Item = Structure | Record
_Inspected = tuple[Structure | None, MoleculeReport]


def _check_scope(scope: str, of_all: bool, of_each: bool) -> None:
    if scope not in SCOPES:
        raise MolflowError(f"unknown scope {scope!r}; expected one of {' '.join(SCOPES)}")
    if scope != "all" and of_all:
        raise MolflowError(f"strain and posebusters need the scope 'all', not {scope!r}")
    if scope == "stability" and of_each:
        raise MolflowError("each needs more than the scope 'stability'")


def _items(molecules: Any) -> Iterable[_Item]:
    """A list where all are at hand, so that a bar knows how many there are; else one by one."""
    if isinstance(molecules, str | os.PathLike):
        return iter_records(molecules)
    items = enumerate(structures_of(molecules) if hasattr(molecules, "to_data_list") else molecules, start=1)
    if isinstance(molecules, MoleculeBatch):
        return list(structures_of(molecules))
    found = (item if isinstance(item, Record) else structure_of(item, place) for place, item in items)
    return list(found) if isinstance(molecules, Sequence) else found


def inspect_all(
    structures: Iterable[_Item],
    *,
    workers: int | None = None,
    seconds: float = SECONDS,
    strain: str | None = None,
    posebusters: bool = False,
    progress: bool = False,
    inspector: Callable[..., MoleculeReport] = inspect_bonded,
) -> Generator[MoleculeReport]:
    """A report on each molecule, in order, as they are made.

    RDKit runs in worker processes. A molecule that it hangs on has the status "timed out", one that ends the process
    "crashed"; both keep their look-up stability, and all others are as if they had not been there. The reports do not
    depend on the number of workers, and memory not on that of molecules.

    Args:
        structures: positions (n, 3) in Å and atomic_numbers (n,) of each, or records; may be endless. A record that
            could not be read has a report that says so.
        workers: processes, by default one for each core; 0 for none, where nothing can be ended, as always on Windows.
        seconds: of processor time that one molecule may take.
        strain: with the strain by this of `molflow.chem.relaxation.METHODS`: "mmff94" takes about as long as all the
            rest, "gfn2-xtb" (extra `xtb`) far longer.
        posebusters: with the checks of PoseBusters (extra `posebusters`), which take longer than all the rest.
        progress: show a bar on stderr.
        inspector: what the workers run; found by its name.

    Raises:
        MolflowError: an unknown method, a package that is not installed, or worker processes that cannot be started.

    Example:
        >>> water = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
        >>> [report.status for report in inspect_all([water, water], workers=0)]
        ['stable', 'stable']
    """
    found = _inspected(
        structures,
        workers=workers,
        seconds=seconds,
        strain=strain,
        posebusters=posebusters,
        progress=progress,
        inspector=inspector,
    )
    with closing(found):
        for _, report in found:
            yield report


def _inspected(
    items: Iterable[_Item],
    *,
    workers: int | None,
    seconds: float,
    strain: str | None,
    posebusters: bool,
    progress: bool,
    inspector: Callable[..., MoleculeReport] = inspect_bonded,
) -> Generator[_Inspected]:
    """Each molecule with its report, in order."""
    extras = {name: wanted for name, wanted in (("strain", strain), ("posebusters", posebusters)) if wanted}
    check_extras(strain, posebusters)
    pending: deque[_Prepared] = deque()

    def messages() -> Iterator[list[Any] | None]:
        for prepared in _prepared(items):
            pending.append(prepared)
            yield prepared.molecule and prepared.molecule.to_message()

    results = outcomes(
        answer,
        messages(),
        workers=default_workers() if workers is None else workers,
        seconds=seconds,
        options={"inspector": name_of(inspector), **extras},
        prepare=warm_up,
    )
    with closing(results), _bar(items, "inspecting", progress) as bar:
        for result in results:
            yield pending.popleft().told(MoleculeReport.from_message(result) if isinstance(result, dict) else result)
            bar.update()


def _looked_up(items: Iterable[_Item], progress: bool) -> Generator[_Inspected]:
    """Each molecule with the report on its look-up bonds alone, in order."""
    with _bar(items, "inspecting", progress) as bar:
        for prepared in _prepared(items):
            yield prepared.told(prepared.molecule and inspect_lookup(prepared.molecule))
            bar.update()


def _count_stability(tally: Tally, items: Iterable[_Item], progress: bool) -> None:
    source = iter(items)
    with _bar(items, "scoring", progress) as bar:
        while block := list(islice(source, 16 * _BLOCK)):
            tally.add_stability([structure for item in block if (structure := _structure(item)) is not None])
            tally.add_unreadable(sum(_structure(item) is None for item in block))
            bar.update(len(block))


def _bar(items: Iterable[_Item], verb: str, progress: bool) -> "tqdm[Any]":
    total = len(items) if isinstance(items, Sequence) else None
    return tqdm(total=total, desc=verb, unit="molecule", disable=not progress, dynamic_ncols=True)


def default_workers() -> int:
    """One for each core that this process may use; none where there are no POSIX signals to end one by."""
    if os.name != "posix":
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class _Prepared:
    """A molecule on its way: what is to be inspected, or the report on what cannot be.

    Attributes:
        structure: None where it could not be read.
        report: None where there is something to inspect.
        molecule: that, with its look-up bonds.
    """

    def __init__(self, item: _Item, place: int):
        self.structure = _structure(item)
        self.origin = {"source": item.source, "record": item.number} if isinstance(item, Record) else {"record": place}
        self.report: MoleculeReport | None = None
        self.molecule: Bonded | None = None
        if isinstance(item, Record) and item.structure is None:
            self.report = MoleculeReport(n_atoms=0, formula="", status="unreadable", reason=item.error or "")
        elif self.structure is not None:
            self.report = unfit(*self.structure[:2])
            self.molecule = None if self.report else Bonded(*self.structure[:2], None)

    def told(self, result: Any) -> _Inspected:
        """The molecule with its report, given what its inspection came to: a report, or how it was lost."""
        report = result if isinstance(result, MoleculeReport) else self.report
        if report is None and self.molecule is not None:
            report = lost(self.molecule, *result)
        assert report is not None
        return self.structure, replace(report, **self.origin)


def _structure(item: _Item) -> Structure | None:
    return item.structure if isinstance(item, Record) else item


def _blocks(items: Iterable[_Prepared]) -> Iterator[list[_Prepared]]:
    """Many at a time; where the source breaks off with an error, first those before it."""
    block: list[_Prepared] = []
    try:
        for item in items:
            block.append(item)
            if len(block) == _BLOCK:
                yield block
                block = []
    except Exception:
        yield block
        raise
    yield block


def _prepared(items: Iterable[_Item]) -> Iterator[_Prepared]:
    """Molecules with their look-up bonds, which are found for many at once."""
    for block in _blocks(_Prepared(item, place) for place, item in enumerate(items, start=1)):
        covered = [each for each in block if each.molecule and is_covered(each.molecule.atomic_numbers)]
        for chunk in bonded_chunks([Structure(*each.molecule[:2]) for each in covered if each.molecule]):
            for member, orders in zip(chunk.members, chunk.orders.numpy(), strict=True):
                each = covered[member]
                each.molecule = each.molecule and each.molecule._replace(bonds=bond_list(orders))
        yield from block
