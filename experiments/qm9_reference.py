"""The scores of QM9 itself, shown beside those of samples: molflow/evaluation/qm9_reference.{json,npz}.

    python experiments/qm9_reference.py lookup protocols strain energy gfn2 [--workers 2] [--most N] [--folder FOLDER]

Each stage renews its part of the record and leaves the others; FOLDER keeps finished molecules of an interrupted one.

lookup      what look-up bonds alone decide, of all 130,831 molecules
protocols   the same molecules under every other protocol, with PoseBusters' checks. The bonds of a file are those
            of the data set's SMILES, laid onto the atoms; molecules on which they do not fit have none. Novelty is that
            of the test split against the training split. The histogram is of the 13,083 test molecules; w1_* and js_*
            compare as many of the validation split with it, so they show the noise.
strain      by MMFF94, of the test split
energy      PoseBusters' internal energy, of the first 2,000 of the test split
gfn2        strain by GFN2-xTB, of the first 1,000 of the test split
"""

import argparse
import json
import re
from collections import Counter
from collections.abc import Iterable, Iterator
from importlib import metadata
from itertools import chain, islice
from pathlib import Path
from typing import Any

import numpy as np
from rdkit import Chem

from molflow.chem import Record, Structure
from molflow.chem.perception import connected
from molflow.chem.structure import Stated
from molflow.data import load_qm9, prepare_qm9
from molflow.data.structures import MoleculeSet
from molflow.evaluation import METRICS, EvaluationOptions, MoleculeReport, Tally, distributions, inspect_all
from molflow.evaluation.inspection import inspect_lookup
from molflow.evaluation.journal import Journal
from molflow.evaluation.metrics.base import SetMetric
from molflow.evaluation.novelty import qm9_training_reference
from molflow.evaluation.options import Bonds
from molflow.evaluation.parallel import inspected
from molflow.evaluation.protocols import headline
from molflow.evaluation.reference import recorded_histogram

SCORES = Path(__file__).parents[1] / "molflow" / "evaluation" / "qm9_reference.json"
ENERGY_OF, GFN2_OF = 2000, 1000
SPLITS = ("test", "validation", "train")
"""The order of molecules, so that a part of them is a random one: the splits are of a random permutation."""

TRIVIAL = ("novelty", "validity_x_uniqueness_x_novelty", "edm_validity_x_uniqueness_x_novelty")
"""Metrics without a reference: the molecules of QM9 differ, so those of one split are new to another."""

COVERAGE = ("lookup_covered", "qm9_elements")

LOOKED_UP = [
    name for name, metric in METRICS.items() if (metric.scope != "all" and not metric.needs) or name in COVERAGE
]
"""Metrics of the stage lookup."""

APART = (*LOOKED_UP, "strain_per_atom", "posebusters_energy")
"""Metrics of the other stages than protocols."""

KEYS = (
    "n_molecules", "n_atoms", "atom_stability", "molecule_stability", "validity", "connected_validity", "uniqueness",
    "validity_x_uniqueness", "novelty", "n_distinct", "protocol",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("stages", nargs="+", choices=STAGES)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--most", type=int, default=None, help="molecules of the stages protocols and energy")
    parser.add_argument("--folder", type=Path, default=Path("qm9_reference"))
    arguments = parser.parse_args()
    arguments.folder.mkdir(parents=True, exist_ok=True)
    for stage in arguments.stages:
        record = json.loads(SCORES.read_text(encoding="utf-8"))
        STAGES[stage](record, arguments)
        record["metrics"] = in_order(record["metrics"])
        SCORES.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def lookup(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Stability, validity and uniqueness by EDM's tables, of all molecules."""
    total, structures = Tally(EvaluationOptions()), load_qm9("all").structures()
    options = EvaluationOptions(scope="lookup", workers=arguments.workers, progress=True)
    for report in inspect_all(structures, options=options, inspector=inspect_lookup):
        total.add(report)
    scores = total.scores().to_dict()
    record |= {key: rounded(scores[key]) for key in KEYS}
    record["metrics"] |= {name: metric for name, metric in recorded(scores["metrics"]).items() if name in LOOKED_UP}


def protocols(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Everything but what look-up bonds alone decide, strain and energies."""
    n_test, training = len(load_qm9("test")), qm9_training_reference(progress=True)
    everything = {bonds: Tally(EvaluationOptions(bonds=bonds, posebusters=True)) for bonds in PROTOCOLS}
    tested = {bonds: Tally(EvaluationOptions(bonds=bonds, training=training)) for bonds in PROTOCOLS}
    records = chain.from_iterable(records_of(load_qm9(name)) for name in SPLITS)
    reports = kept("protocols", islice(records, arguments.most), arguments, posebusters=True)
    of_test = list(islice(reports, n_test))
    for report in of_test:
        for bonds in PROTOCOLS:
            tested[bonds].add(headline(report, bonds))
    write_histogram(tested["lookup"].histogram, kept="strain")
    show(enumerate(of_test), load_qm9("test").smiles)
    judged, compared = (Tally(EvaluationOptions(reference="qm9")) for _ in range(2))
    for place, report in enumerate(chain(of_test, reports)):
        judged.add(report)
        if n_test <= place < 2 * n_test:
            compared.add(report)
        for bonds in PROTOCOLS:
            everything[bonds].add(headline(report, bonds))

    distances = of_reference(compared, ("w1_", "js_"), " of the validation split")
    usual = of_reference(judged, ("validity_3d", "rare_"), "")
    record["metrics"] = {name: metric for name, metric in record["metrics"].items() if name in APART}
    for bonds in PROTOCOLS:
        scores = everything[bonds].scores().to_dict()
        found = recorded(tested[bonds].scores().to_dict()["metrics"] | scores["metrics"] | usual | distances)
        if bonds == "lookup":
            by_lookup = found
            record["metrics"] |= {name: metric for name, metric in found.items() if name not in APART}
        else:
            other = {name: metric for name, metric in found.items() if name not in by_lookup or depends_on_bonds(name)}
            main = {key: rounded(scores[key]) for key in KEYS}
            record.setdefault("bonds", {})[bonds] = main | {"metrics": in_order(other)}
    record["distributions"] |= summaries(tested["lookup"].scores().to_dict()["distributions"])
    record["measured"] = (
        "experiments/qm9_reference.py: qm9pack 1.0.3, positions as float32; "
        f"RDKit {metadata.version('rdkit')}. A reference for itself has no novelty. metrics: by look-up bonds alone of "
        f"all molecules, by others of {everything['lookup'].n_molecules:,} at random; novelty of the 13,083 test "
        "molecules against the training split; w1_*, js_*: as many validation molecules against the test split; "
        "posebusters_energy of the first of the test split. distributions and strain: of the test split"
    )


def strain(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Strain by MMFF94."""
    structures = load_qm9("test").structures()
    add_strain(record, kept("strain", structures, arguments, strain="mmff94"), "strain", "mmff94")


def gfn2(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """Strain by GFN2-xTB, of few molecules as it takes a hundred times as long."""
    structures = islice(load_qm9("test").structures(), GFN2_OF)
    add_strain(record, kept("gfn2", structures, arguments, strain="gfn2-xtb"), "GFN2-xTB", "gfn2-xtb")


def energy(record: dict[str, Any], arguments: argparse.Namespace) -> None:
    """PoseBusters' internal energy, of few molecules as it takes fifty times as long as everything else."""
    total = Tally(EvaluationOptions(posebusters_energy=True))
    structures = islice(load_qm9("test").structures(), arguments.most or ENERGY_OF)
    for report in kept("energy", structures, arguments, posebusters_energy=True):
        total.add(report)
    metrics = recorded(total.scores().to_dict()["metrics"])
    record["metrics"] |= {"posebusters_energy": metrics["posebusters_energy"]}


STAGES = {"lookup": lookup, "protocols": protocols, "strain": strain, "energy": energy, "gfn2": gfn2}
PROTOCOLS: tuple[Bonds, ...] = ("lookup", "perceived", "file")


def records_of(molecules: MoleculeSet) -> Iterator[Record]:
    """Molecules as a file with bonds has them."""
    assert molecules.smiles is not None
    for place, (structure, smiles) in enumerate(zip(molecules.structures(), molecules.smiles, strict=True), start=1):
        yield Record("", place, None, structure, None, bonds_of(structure, str(smiles)))


def bonds_of(structure: Structure, smiles: str) -> Stated | None:
    """The bonds and charges of a SMILES on the atoms of a structure; None where its graph has other bonds."""
    intended = Chem.AddHs(Chem.MolFromSmiles(smiles))
    Chem.Kekulize(intended, clearAromaticFlags=True)
    graph = Chem.RWMol(intended)
    for bond in graph.GetBonds():
        bond.SetBondType(Chem.BondType.SINGLE)
    for atom in graph.GetAtoms():
        atom.SetFormalCharge(0)
    place = connected(structure.positions.astype(np.float64), structure.atomic_numbers).GetSubstructMatch(graph)
    if len(place) != len(structure.atomic_numbers) or intended.GetNumAtoms() != len(place):
        return None
    bonds = [(place[b.GetBeginAtomIdx()], place[b.GetEndAtomIdx()], int(b.GetBondType())) for b in intended.GetBonds()]
    charges = np.zeros(len(place), dtype=np.int64)
    charges[list(place)] = [atom.GetFormalCharge() for atom in intended.GetAtoms()]
    return Stated(np.array(bonds, dtype=np.int64), charges)


def kept(
    name: str, molecules: Iterable[Structure | Record], arguments: argparse.Namespace, **settings: Any
) -> Iterator[MoleculeReport]:
    """Reports on molecules, in order; those of an interrupted run are read from the folder."""
    options = EvaluationOptions(workers=arguments.workers, progress=True, **settings)
    with Journal(arguments.folder / f"{name}.jsonl", [prepare_qm9()], options, resume=True) as journal:
        for _, report in journal.continued(molecules, options, inspected):
            yield report


def add_strain(record: dict[str, Any], reports: Iterable[MoleculeReport], prefix: str, method: str) -> None:
    """Renew the quantities whose names begin with `prefix`, and the metric of the default method."""
    total = Tally(EvaluationOptions(strain=method))
    for report in reports:
        total.add(report)
    histogram = recorded_histogram("qm9").copy()
    for name in distributions.QUANTITIES:
        if name.startswith(prefix):
            distributions.counts_of(histogram, name)[:] = distributions.counts_of(total.histogram, name)
    write_histogram(histogram)
    scores = total.scores().to_dict()
    record["distributions"] |= {k: v for k, v in summaries(scores["distributions"]).items() if k.startswith(prefix)}
    if method == "mmff94":
        record["metrics"]["strain_per_atom"] = recorded(scores["metrics"])["strain_per_atom"]


def of_reference(total: Tally, names: tuple[str, ...], further: str) -> dict[str, dict[str, Any]]:
    """Metrics that compare with the recorded histogram."""
    metrics = total.scores().to_dict()["metrics"]
    return {
        name: metric | {"what": f"{metric['what']}{further}"}
        for name, metric in metrics.items()
        if name.startswith(names) and METRICS[name].needs == "reference"
    }


def depends_on_bonds(name: str) -> bool:
    """Whether a metric is another one with other bonds behind the main figures."""
    metric = METRICS[name]
    return "{bonds}" in metric.protocol or (issubclass(metric, SetMetric) and metric.shared == "smiles")


def in_order(metrics: dict[str, Any]) -> dict[str, Any]:
    return {name: metrics[name] for name in METRICS if name in metrics}


def recorded(metrics: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    return {
        name: {key: rounded(metric[key]) for key in ("value", "count", "of", "what", "protocol")}
        for name, metric in metrics.items()
        if name not in TRIVIAL
    }


def summaries(found: dict[str, dict[str, Any]]) -> dict[str, dict[str, Any]]:
    """Quantities that tables show."""
    return {
        name: {key: rounded(quantity[key]) for key in ("unit", "count", "mean", "quantiles")}
        for name, quantity in found.items()
        if distributions.QUANTITIES[name].group in ("atom count", "descriptor", "strain", "ring size")
    }


def write_histogram(histogram: np.ndarray, kept: str | None = None) -> None:
    """Write the histogram; quantities with `kept` in their names stay as they are."""
    for name in distributions.QUANTITIES:
        if kept is not None and kept in name:
            distributions.counts_of(histogram, name)[:] = distributions.counts_of(recorded_histogram("qm9"), name)
    bins = np.flatnonzero(histogram)
    np.savez_compressed(
        SCORES.with_suffix(".npz"),
        bins=np.diff(bins, prepend=0).astype(np.uint32),
        counts=histogram[bins].astype(np.uint32),
    )
    recorded_histogram.cache_clear()


def rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def show(reports: Iterable[tuple[int, MoleculeReport]], smiles: np.ndarray) -> None:
    """Failures of connected validity by class with an example, and those on perceived bonds."""
    found = list(reports)
    for title, fails, reason in (
        ("connected validity (look-up)", lambda r: not r.connected, lambda r: classed(r.reason)),
        ("valence stability (perceived)", lambda r: not r.perceived_stable, lambda r: classed(r.perception)),
        ("RDKit's defaults", lambda r: not r.default_connected, lambda r: ""),
    ):
        chosen = [(place, report) for place, report in found if fails(report)]
        examples = {reason(report): f"{smiles[place]} (test molecule {place})" for place, report in reversed(chosen)}
        print(f"\n{title}: {len(chosen)} failures")  # noqa: T201
        for words, count in Counter(reason(report) for _, report in chosen).most_common():
            print(f"  {count:5d}  {words}; for example {examples[words]}")  # noqa: T201


def classed(reason: str) -> str:
    """A reason without the place of the atom."""
    return re.sub(r"atom \d+ ", "", reason)


if __name__ == "__main__":
    main()
