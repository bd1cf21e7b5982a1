"""Molecules from anywhere, inspected in worker processes and scored under named protocols.

It takes structures and no model: what is scored is what stands in the file. Molecules stream through one report at a
time, and a tally of them is all that stays.
"""

import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from functools import partial
from itertools import islice
from typing import TYPE_CHECKING, TypeVar

import numpy as np
from tqdm import tqdm

from molflow.batch import MoleculeBatch, structures_of
from molflow.chem.build import bond_list
from molflow.chem.elements import atomic_number
from molflow.chem.io import Structure
from molflow.chem.valences import VALENCES
from molflow.errors import MolflowError
from molflow.evaluation.chunks import bonded_chunks
from molflow.evaluation.inspection import Bonded, MoleculeReport, inspect_bonded, lost, unfit, unless_reported, warm_up
from molflow.evaluation.novelty import TrainingReference
from molflow.evaluation.reference import REFERENCES, recorded_scores
from molflow.evaluation.scores import MoleculeScores
from molflow.evaluation.tally import Tally
from molflow.evaluation.workers import Lost, outcomes

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch_geometric.data import Data

__all__ = ["REFERENCES", "SECONDS", "MoleculeScores", "evaluate", "inspect_all"]

SECONDS = 10.0
"""What one molecule may take by default, of processor time."""

_BLOCK = 1024  # structures whose bonds are looked up together
_COVERED = [atomic_number(element) for element in VALENCES]
_T = TypeVar("_T")


def evaluate(
    molecules: "MoleculeBatch | Iterable[Structure | Mol | Data]",
    *,
    reference: str | None = None,
    training: TrainingReference | None = None,
    rdkit: bool = True,
    progress: bool = False,
    workers: int | None = None,
    seconds: float = SECONDS,
    relax: bool = False,
    each: Callable[[MoleculeReport], object] | None = None,
) -> MoleculeScores:
    """Score molecules given by positions and elements alone.

    Args:
        molecules: a batch, or structures, RDKit molecules or PyG data as `molflow.batch.structures_of` takes them.
        reference: a name in `REFERENCES`, whose recorded scores are set beside these.
        training: what novelty is measured against, such as `qm9_training_reference()`; without it, the scores that
            ask for training molecules are None.
        rdkit: False leaves out all but stability and compositions, and RDKit is not loaded.
        progress: show bars on stderr.
        workers, seconds, relax: as in `inspect_all`.
        each: called with the report on each molecule, in order.

    Raises:
        MolflowError: no molecules, one without 3D coordinates, an unknown reference, an element that the look-up
            tables do not cover, or worker processes that cannot be started.

    Source: stability by arXiv 2203.17003; uniqueness is taken over connected molecules only, so a model cannot
        gain by fragments.
    """
    structures: Iterable[Structure] = structures_of(molecules)
    if isinstance(molecules, MoleculeBatch | Sequence):
        structures = list(structures)
        _check_elements(structures, 1)  # what stops all work is told before it begins
    if reference is not None:
        recorded_scores(reference)  # a name that is not known is told before the work
    tally = Tally()
    if rdkit:
        with closing(
            inspect_all(structures, workers=workers, seconds=seconds, relax=relax, progress=progress)
        ) as reports:
            for record, report in enumerate(reports, start=1):
                _refuse_unsupported(record, report)
                tally.add(report)
                if each is not None:
                    each(report)
    else:
        _count_stability(tally, structures, progress)
    return tally.scores(reference=reference, training=training, progress=progress)


def _refuse_unsupported(record: int, report: MoleculeReport | None) -> None:
    if report is not None and report.status == "unsupported":
        raise MolflowError(f"molecule {record}: {report.reason}")


def _count_stability(tally: Tally, structures: Iterable[Structure], progress: bool) -> None:
    source, first = iter(structures), 1
    with tqdm(desc="scoring", unit="molecule", disable=not progress, dynamic_ncols=True) as bar:
        while block := list(islice(source, 16 * _BLOCK)):
            _check_elements(block, first)
            tally.add_stability(block)
            first += len(block)
            bar.update(len(block))


def _check_elements(structures: Sequence[Structure], first: int) -> None:
    """Name a molecule by its place among all: in a chunk that place is lost."""
    numbers = np.concatenate([np.zeros(0, np.int64), *(structure.atomic_numbers for structure in structures)])
    if not np.isin(numbers, _COVERED).all():
        for record, structure in enumerate(structures, start=first):
            _refuse_unsupported(record, unfit(*structure))


def inspect_all(
    structures: Iterable[Structure | MoleculeReport],
    *,
    workers: int | None = None,
    seconds: float = SECONDS,
    relax: bool = False,
    progress: bool = False,
    inspector: Callable[[Bonded], MoleculeReport] | None = None,
) -> Generator[MoleculeReport]:
    """A report on each molecule, in order, as they are made.

    RDKit runs in worker processes. A molecule that it hangs on has the status "timed out", one that ends the process
    "crashed"; both keep their look-up stability, and all others are as if they had not been there. The reports do not
    depend on the number of workers, and memory not on that of molecules.

    Args:
        structures: positions (n, 3) in Å and atomic_numbers (n,) of each; may be endless. A report among them, such as
            one on a record that could not be read, is passed on in its turn.
        workers: processes, by default one for each core; 0 for none, where nothing can be ended.
        seconds: of processor time that one molecule may take.
        relax: with the strain, which takes about as long as all the rest.
        progress: show a bar on stderr.
        inspector: what the workers run in place of `inspect_bonded`; it is pickled by name.

    Raises:
        MolflowError: worker processes cannot be started.

    Example:
        >>> water = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
        >>> [report.status for report in inspect_all([water, water], workers=0)]
        ['stable', 'stable']
    """
    run = partial(inspect_bonded, relax=relax) if inspector is None else inspector
    pending: deque[Bonded | MoleculeReport] = deque()
    with (
        closing(
            outcomes(
                partial(unless_reported, run),
                _remembered(_prepared(structures), pending),
                workers=default_workers() if workers is None else workers,
                seconds=seconds,
                prepare=warm_up if inspector is None else None,
            )
        ) as results,
        tqdm(
            total=len(structures) if isinstance(structures, Sequence) else None,
            desc="inspecting",
            unit="molecule",
            disable=not progress,
            dynamic_ncols=True,
        ) as bar,
    ):
        for result in results:
            item = pending.popleft()
            if isinstance(result, Lost):
                result = item if isinstance(item, MoleculeReport) else lost(item, *result)
            yield result
            bar.update()


def default_workers() -> int:
    """One for each core that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _remembered(items: Iterable[_T], pending: deque[_T]) -> Iterator[_T]:
    for item in items:
        pending.append(item)
        yield item


def _prepared(structures: Iterable[Structure | MoleculeReport]) -> Iterator[Bonded | MoleculeReport]:
    """Molecules with their look-up bonds; of those that cannot have them the report, as there is nothing to inspect."""
    source = iter(structures)
    while block := list(islice(source, _BLOCK)):
        ready: list[Bonded | MoleculeReport | None] = [
            item if isinstance(item, MoleculeReport) else unfit(*item) for item in block
        ]
        fit = [k for k, report in enumerate(ready) if report is None]
        for chunk in bonded_chunks([block[k] for k in fit]):  # type: ignore[misc]
            for member, x, z, orders in zip(*chunk[:3], chunk.orders.numpy(), strict=True):
                ready[fit[member]] = Bonded(x, z, bond_list(orders))
        yield from ready  # type: ignore[misc]
