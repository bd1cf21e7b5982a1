"""Diffusion beside flows of one evaluation: what a stable molecule costs, from one run in which models take turns.

    OMP_NUM_THREADS=1 python experiments/diffusion.py --models runs/qm9-diffusion:1000,100,20 qm9:1 -n 512

NAME:K,... are the evaluations of a model; without them it is sampled in its own way. Factors are those of the cheapest.
"""

import argparse
import platform
from functools import partial
from pathlib import Path

import molflow
from molflow.evaluation.throughput import sampling_throughput
from molflow.files import write_json
from molflow.pretrained import load_named


def processor() -> str:
    """Name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8").splitlines()
    except OSError:
        lines = []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", nargs="+", required=True, metavar="NAME[:K,...]", help="shipped or of a folder")
    parser.add_argument("-n", type=int, default=512, help="molecules in each repeat")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--batch-size", type=int, default=1024)
    parser.add_argument("--json", type=Path, help="file for the record")
    arguments = parser.parse_args()

    samplers = {}
    for word in arguments.models:
        name, _, numbers = word.partition(":")
        flow = load_named(name)
        for k in [int(number) for number in numbers.split(",")] if numbers else [None]:
            samplers[name if k is None else f"{name}:{k}"] = partial(draw, flow, k, arguments.batch_size)
    records = sampling_throughput(
        samplers, arguments.n, batch_size=arguments.batch_size, repeats=arguments.repeats, progress=True
    )
    costs = [record["ms_per_stable_molecule"] for record in records]
    least = min((cost for cost in costs if cost), default=None)
    for record, cost in zip(records, costs, strict=True):
        record |= {"processor": processor(), "relative_ms_per_stable_molecule": cost and cost / least}
    if arguments.json:
        write_json(arguments.json, records)
    print(f"{processor()}, {records[0]['threads']} threads, {arguments.n} molecules, {arguments.repeats} repeats")  # noqa: T201
    print("| model:evaluations | ms a molecule | stable, % | ms a stable molecule | times the cheapest |")  # noqa: T201
    for record, cost in zip(records, costs, strict=True):
        shown = "none | " if cost is None else f"{cost:.3g} | {cost / least:.3g}"
        stable = 100 * record["molecule_stability"]
        print(f"| `{record['model']}` | {record['ms_per_molecule']:.3g} | {stable:.1f} | {shown} |")  # noqa: T201


def draw(flow: molflow.Flow, k: int | None, batch_size: int, n: int, seed: int) -> molflow.MoleculeBatch:
    """Molecules by k evaluations, or in the flow's own way."""
    return flow.sample(n, seed=seed, n_evaluations=k, batch_size=batch_size, compile=False)


if __name__ == "__main__":
    main()
