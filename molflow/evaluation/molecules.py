"""Evaluation of molecules from any source, under named protocols.

It takes structures and no model, and scores them as they are. Molecules stream through, one report at a time; only the
tally stays in memory.
"""

import os
from collections.abc import Callable, Generator, Iterable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from molflow.batch import MoleculeBatch, structure_of, structures_of
from molflow.chem.io import Record, Structure, iter_records
from molflow.chem.plausibility import UNITS, missing_hydrogens
from molflow.chem.stated import completed, stated_in, stated_in_graph
from molflow.chem.structure import Stated
from molflow.errors import MolflowError
from molflow.evaluation.inspection import inspect_lookup, reject_invalid, reject_unscored
from molflow.evaluation.journal import Journal
from molflow.evaluation.options import Bonds, EvaluationOptions
from molflow.evaluation.parallel import Inspected, bar, inspect_all, inspected, prepared, structure_in
from molflow.evaluation.reports import MoleculeReport
from molflow.evaluation.scores import MoleculeScores
from molflow.evaluation.tally import Tally
from molflow.workers import default_workers

if TYPE_CHECKING:
    from rdkit.Chem import Mol
    from torch_geometric.data import Data

__all__ = ["MoleculeScores", "evaluate", "inspect_all"]

Each = Callable[[MoleculeReport, Structure | None], object]

_AT_ONCE = 1 << 14  # molecules whose stability is counted together


def evaluate(
    molecules: "MoleculeBatch | str | os.PathLike[str] | Iterable[Structure | Record | Mol | Data]",
    *,
    options: EvaluationOptions | None = None,
    each: Each | None = None,
    journal: Journal | None = None,
    **settings: Any,
) -> MoleculeScores:
    """Score molecules given by positions and elements.

    The memory does not grow with the number of molecules, but for the distinct SMILES and formulas.

    Args:
        molecules: a file, folder or "-" as in `molflow.chem.iter_records`, or its records; a batch; or structures,
            RDKit molecules or PyG data as in `molflow.batch.structures_of`. Records that could not be read are counted
            as such and are in no other figure.
        options: evaluation options.
        each: called with the report on each molecule, in order, and the molecule, which is None if it could not be
            read; not for the scope "stability".
        journal: keeps finished molecules for an evaluation that continues this one; not for the scope "stability".
        settings: fields of `EvaluationOptions`, which replace those of `options`.

    Raises:
        MolflowError: no molecules, one without 3D coordinates, nothing that can be read, options that do not fit, or
            worker processes that cannot be started.
        TypeError: a setting that `EvaluationOptions` does not have.

    Source: stability by arXiv 2203.17003. Uniqueness is a fraction of connected molecules, so that a model cannot gain
        by fragments.

    Example:
        >>> evaluate("mine.sdf", reference="qm9").molecule_stability  # doctest: +SKIP
        0.852
    """
    return tally_of(molecules, replace(options or EvaluationOptions(), **settings), each, journal).scores()


def stability_of(batch: MoleculeBatch, bonds: Bonds = "lookup") -> tuple[Tensor, Tensor]:
    """The number of stable atoms of each molecule (B,), and whether all of its atoms are stable (B,) bool.

    Args:
        batch: molecules with all atoms.
        bonds: the protocol; look-up bonds take 0.02 ms a molecule in this process, others some ms in a worker process.
    """
    if bonds == "lookup":
        atoms, molecules = batch.stability()  # of the batch itself, which keeps the bonds
        return atoms.sum(1), molecules
    reports: list[MoleculeReport] = []
    options = EvaluationOptions(bonds=bonds, workers=min(1, default_workers()))
    evaluate(batch, options=options, each=lambda report, _: reports.append(report))
    return torch.tensor([report.stable_atoms for report in reports]), torch.tensor([r.stable for r in reports])


def tally_of(
    molecules: Any, options: EvaluationOptions, each: Each | None = None, journal: Journal | None = None
) -> Tally:
    """The counts behind the scores of `evaluate`, which merge exactly with those of other molecules.

    Args:
        molecules, options, each, journal: as in `evaluate`.

    Raises:
        MolflowError: as `evaluate`, but not for no molecules.

    Example:
        >>> water = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
        >>> options = EvaluationOptions(scope="stability")
        >>> total = tally_of([water], options)
        >>> total.merge(tally_of([water, water], options))
        >>> total.scores().n_molecules
        3
    """
    if options.scope == "stability" and each is not None:
        raise MolflowError("each needs more than the scope 'stability'")
    tally, items = Tally(options), _items(molecules)
    if options.unit != "angstrom" or options.add_hydrogens or isinstance(options.charge, str):
        items = (_mended(item, options) for item in items)
    if options.scope == "stability":
        _count_stability(tally, items)
        return tally
    inspect = _looked_up if options.scope == "lookup" else inspected
    with closing(journal.continued(items, options, inspect) if journal else inspect(items, options)) as found:
        for structure, report in found:
            tally.add(report)
            if each is not None:
                each(report, structure)
    return tally


def _items(molecules: Any) -> Iterable[Structure | Record]:
    """Molecules as a list if they are all in memory, so that a progress bar knows their number; else one by one."""
    if isinstance(molecules, str | os.PathLike):
        return iter_records(molecules)
    if isinstance(molecules, MoleculeBatch):
        return list(structures_of(molecules))
    items = enumerate(structures_of(molecules) if hasattr(molecules, "to_data_list") else molecules, start=1)
    found = (item if isinstance(item, Record) else _record_of(item, place) for place, item in items)
    return list(found) if isinstance(molecules, Sequence) else found


def _record_of(item: Any, place: int) -> Structure | Record:
    """A molecule in memory; RDKit molecules and PyG data with the bonds and charges that they have."""
    structure = structure_of(item, place)
    if hasattr(item, "GetConformers"):
        return Record("", place, None, structure, None, stated_in(item))
    if getattr(item, "edge_attr", None) is not None:
        return Record("", place, None, structure, None, stated_in_graph(item))
    return structure


def _mended(item: Structure | Record, options: EvaluationOptions) -> Structure | Record:
    """A molecule in angstrom, with the charge of its field, and with its hydrogens if they are to be added."""
    structure = structure_in(item)
    if structure is None:
        return item
    if isinstance(options.charge, str):
        item = _charged(item, options.charge)
    if options.unit != "angstrom":
        structure = Structure(structure.positions * UNITS[options.unit], structure.atomic_numbers)
    stated = item.stated if isinstance(item, Record) else None
    if options.add_hydrogens and missing_hydrogens(structure, stated):
        structure, stated = completed(structure, stated)
    return item._replace(structure=structure, stated=stated) if isinstance(item, Record) else structure


def _charged(item: Structure | Record, name: str) -> Record:
    """A record with the net charge that one of its fields has.

    Raises:
        MolflowError: no such field, or not a whole number.
    """
    if not isinstance(item, Record):
        raise MolflowError(f"a molecule in memory has no field {name}; give its charge as a number")
    text = item.fields.get(name)
    where = f"{item.source}, record {item.number}"
    if text is None:
        known = ", ".join(sorted(item.fields)) or "none"
        raise MolflowError(f"{where}: no field {name} for the charge; its fields: {known}")
    try:
        charge = int(float(text)) if float(text).is_integer() else None
    except (ValueError, OverflowError):
        charge = None
    if charge is None:
        raise MolflowError(f"{where}: the charge {name} is {text!r}, expected a whole number")
    return item._replace(stated=(item.stated or Stated())._replace(charge=charge))


def _looked_up(items: Iterable[Structure | Record], options: EvaluationOptions) -> Generator[Inspected]:
    """Each molecule with the report on its look-up bonds alone, in order."""
    if options.workers:
        yield from inspected(items, options, inspect_lookup)
        return
    with bar(items, "inspecting", options) as progress:
        for record, report in prepared(items):
            if report is None:
                assert record.structure is not None
                report = inspect_lookup(record.structure)
            yield record.structure, replace(report, source=record.source, record=record.number)
            progress.update()


def _count_stability(tally: Tally, items: Iterable[Structure | Record]) -> None:
    source: Iterator[Structure | Record] = iter(items)
    with bar(items, "scoring", tally.options) as progress:
        while block := list(islice(source, _AT_ONCE)):
            scored = []
            for item in block:
                structure, stated = structure_in(item), item.stated if isinstance(item, Record) else None
                if structure is None:
                    tally.add_unreadable()
                elif not reject_invalid(structure) and (rejected := reject_unscored(structure, stated)):
                    tally.add_unscored(rejected.reason)
                else:
                    scored.append(structure)
            tally.add_stability(scored)
            progress.update(len(block))
