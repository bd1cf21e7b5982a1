"""The scores of QM9 itself, shown beside those of samples: molflow/evaluation/qm9_reference.{json,npz}.

    python experiments/qm9_reference.py [--workers 2] [--all | --add]

Look-up scores are of all 130,831 molecules. Scores on perceived bonds and the histograms are of the 13,083 of the test
split, and strain by GFN2-xTB of its first 1,000. Novelty is that of the test split against the training split. Metrics
that compare with a reference compare as many of the validation split with the test split, so they show the noise.
"""

import argparse
import json
import re
import time
from collections import Counter
from collections.abc import Iterable
from importlib import metadata
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np

from molflow.chem import Structure
from molflow.data import load_qm9
from molflow.evaluation import METRICS, EvaluationOptions, MoleculeReport, Tally, distributions, evaluate, inspect_all
from molflow.evaluation.novelty import qm9_training_reference
from molflow.evaluation.reference import recorded_histogram

SCORES = Path(__file__).parents[1] / "molflow" / "evaluation" / "qm9_reference.json"
GFN2_OF = 1000
TRIVIAL = ("novelty", "validity_x_uniqueness_x_novelty", "edm_validity_x_uniqueness_x_novelty")
"""Metrics without a reference: the molecules of QM9 differ, so those of one split are new to another."""

KEYS = (
    "n_molecules", "n_atoms", "atom_stability", "molecule_stability", "validity", "connected_validity", "uniqueness",
    "validity_x_uniqueness", "novelty", "n_distinct", "protocol",
)  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--workers", type=int, default=None)
    parser.add_argument("--all", action="store_true", help="renew validity and uniqueness of all, not stability alone")
    parser.add_argument("--add", action="store_true", help="measure only metrics and quantities that are not recorded")
    options = parser.parse_args()
    workers = options.workers
    if options.add:
        add_missing(workers)
        return

    test, everything = load_qm9("test"), list(load_qm9("all").structures())
    failures: list[tuple[int, MoleculeReport]] = []
    training = qm9_training_reference(progress=True)
    tested = tally(test.structures(), workers, "test", failures, training=training, strain="mmff94", posebusters=True)
    add_gfn2(tested.histogram, test.structures(), workers)
    write_histogram(tested.histogram)
    show(failures, test.smiles)

    scores = evaluate(everything, scope="stability").to_dict()
    looked_up = json.loads(SCORES.read_text(encoding="utf-8"))
    if options.all:
        looked_up = evaluate(everything, scope="lookup", progress=True).to_dict()
    if any(rounded(scores[key]) != rounded(looked_up[key]) for key in ("atom_stability", "molecule_stability")):
        raise SystemExit("stability is not what is recorded; run with --all")
    of_test = tested.scores().to_dict()
    metrics = of_test["metrics"] | scores["metrics"] | compared(workers)
    record = {
        "name": "qm9",
        **{key: rounded(looked_up[key]) for key in KEYS},
        "measured": "experiments/qm9_reference.py: evaluate over all molecules of qm9pack 1.0.3, positions as float32; "
        f"RDKit {metadata.version('rdkit')}. A reference for itself has no novelty. metrics: stability of all, the "
        "others of the 13,083 test molecules, and their novelty against the training split; w1_*, js_*, validity_3d, "
        "rare_ring_sizes: as many validation molecules against them",
        "metrics": recorded(metrics),
        "distributions": summaries(of_test["distributions"]),
    }
    SCORES.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def add_missing(workers: int | None) -> None:
    """Measure what the record lacks, but for PoseBusters and GFN2-xTB, and leave all that it has."""
    record, test = json.loads(SCORES.read_text(encoding="utf-8")), load_qm9("test")
    training = qm9_training_reference(progress=True)
    tested = tally(test.structures(), workers, "test", training=training, strain="mmff94")
    histogram = recorded_histogram("qm9")
    for name in distributions.QUANTITIES:
        if not distributions.counts_of(histogram, name).any():
            distributions.counts_of(histogram, name)[:] = distributions.counts_of(tested.histogram, name)
    write_histogram(histogram)
    scores = tested.scores().to_dict()
    record["metrics"] = recorded(scores["metrics"] | compared(workers)) | record["metrics"]
    record["distributions"] = summaries(scores["distributions"]) | record["distributions"]
    SCORES.write_text(json.dumps(record, indent=2) + "\n", encoding="utf-8")


def compared(workers: int | None) -> dict[str, dict[str, Any]]:
    """Metrics of the validation split that compare it with the recorded histogram, which is of the test split."""
    recorded_histogram.cache_clear()
    structures = load_qm9("validation").subset(range(len(load_qm9("test")))).structures()
    metrics = tally(structures, workers, "validation", reference="qm9").scores().to_dict()["metrics"]
    return {
        name: metric | {"what": f"{metric['what']} of the validation split"}
        for name, metric in metrics.items()
        if METRICS[name].needs == "reference"
    }


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


def write_histogram(histogram: np.ndarray) -> None:
    bins = np.flatnonzero(histogram)
    np.savez_compressed(
        SCORES.with_suffix(".npz"),
        bins=np.diff(bins, prepend=0).astype(np.uint32),
        counts=histogram[bins].astype(np.uint32),
    )


def add_gfn2(histogram: np.ndarray, structures: Iterable[Structure], workers: int | None) -> None:
    """The strain by GFN2-xTB, of few molecules as it takes a hundred times as long."""
    few = tally(islice(structures, GFN2_OF), workers, "GFN2-xTB", strain="gfn2-xtb")
    for name in distributions.QUANTITIES:
        if name.startswith("GFN2-xTB"):
            distributions.counts_of(histogram, name)[:] = distributions.counts_of(few.histogram, name)


def tally(
    structures: Iterable[Structure],
    workers: int | None,
    name: str,
    failures: list[tuple[int, MoleculeReport]] | None = None,
    **options: Any,
) -> Tally:
    """Count all molecules, collect those that fail under one of the protocols, and print the time."""
    chosen = EvaluationOptions(workers=workers, **options)
    total, before = Tally(chosen), time.perf_counter()
    for place, report in enumerate(inspect_all(structures, options=chosen)):
        total.add(report)
        if failures is not None and not (report.connected and report.perceived_stable and report.default_connected):
            failures.append((place, report))
    print(f"{name}: {total.n_molecules:,} molecules in {time.perf_counter() - before:.0f} s")  # noqa: T201
    return total


def rounded(value: Any) -> Any:
    return round(value, 6) if isinstance(value, float) else value


def show(failures: list[tuple[int, MoleculeReport]], smiles: np.ndarray) -> None:
    """Failures of connected validity by class with an example, and those on perceived bonds."""
    for title, fails, reason in (
        ("connected validity (look-up)", lambda r: not r.connected, lambda r: classed(r.reason)),
        ("valence stability (perceived)", lambda r: not r.perceived_stable, lambda r: classed(r.perception)),
        ("RDKit's defaults", lambda r: not r.default_connected, lambda r: ""),
    ):
        chosen = [(place, report) for place, report in failures if fails(report)]
        examples = {reason(report): f"{smiles[place]} (test molecule {place})" for place, report in reversed(chosen)}
        print(f"\n{title}: {len(chosen)} failures")  # noqa: T201
        for words, count in Counter(reason(report) for _, report in chosen).most_common():
            print(f"  {count:5d}  {words}; for example {examples[words]}")  # noqa: T201


def classed(reason: str) -> str:
    """A reason without the place of the atom."""
    return re.sub(r"atom \d+ ", "", reason)


if __name__ == "__main__":
    main()
