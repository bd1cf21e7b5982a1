"""FFF's published QM9 network, dense against edge-list, in one run: training step, sampling and peak memory.

    python experiments/benchmark_egnn.py [--json FILE]

Both networks carry the same weights and run inside the same flow, on the same 64 molecules of 18 atoms, in turn, with
gradients accumulated over parts of 8. Each is measured in a process of its own, so that peak memory is its own.
"""

import argparse
import importlib.util
import json
import multiprocessing
import statistics
from pathlib import Path
from typing import Any

import torch

from molflow.batch import MoleculeBatch
from molflow.evaluation.throughput import peak_memory_mb, seconds
from molflow.flows.config import EGNNConfig, FreeFormConfig, MoleculesConfig
from molflow.training.config import ObjectiveConfig
from molflow.training.objectives import FreeFormObjective, accumulate_gradients

BATCH, MICRO_BATCH, ATOMS, ROUNDS = 64, 8, 18, 3
PUBLISHED = EGNNConfig(hidden=64, n_blocks=16, n_inner=2)
REFERENCE = Path(__file__).parent.parent / "tests" / "nn" / "edge_list_egnn.py"


def edge_list(network: torch.nn.Module) -> torch.nn.Module:
    """The reference network of the tests, with the weights of a dense one."""
    spec = importlib.util.spec_from_file_location("edge_list_egnn", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.from_dense(network)


def measure(kind: str, surrogate: str) -> dict[str, Any]:
    """Median seconds of a training step and of sampling a batch, and peak memory after each."""
    torch.set_num_threads(2)
    torch.manual_seed(0)
    config = FreeFormConfig(
        domain=MoleculesConfig(atom_counts=(0,) * ATOMS + (1,)), encoder=PUBLISHED, decoder=PUBLISHED
    )
    flow = config.build()
    if kind == "edge list":
        flow.encoder, flow.decoder = edge_list(flow.encoder), edge_list(flow.decoder)
    molecules = flow.sample(BATCH, seed=0)
    assert isinstance(molecules, MoleculeBatch)
    objective = FreeFormObjective(flow, ObjectiveConfig(surrogate=surrogate))
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-5)
    generator = torch.Generator().manual_seed(0)

    def step() -> None:
        optimizer.zero_grad()
        accumulate_gradients(objective, molecules, generator, MICRO_BATCH)
        optimizer.step()

    def draw() -> None:
        flow.sample(BATCH, seed=0, batch_size=BATCH)

    draw()
    sampling = statistics.median(seconds(draw) for _ in range(ROUNDS))
    before = peak_memory_mb()
    step()
    training = statistics.median(seconds(step) for _ in range(ROUNDS))
    return {"training": training, "sampling": sampling, "peak_mb": peak_memory_mb(), "before_step_mb": before}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=2, help="how often the variants take turns")
    arguments = parser.parse_args()
    variants = [(k, s) for s in ("decoder_jvp", "encoder_jvp") for k in ("edge list", "dense")]
    runs: dict[tuple[str, str], list[dict[str, Any]]] = {v: [] for v in variants}
    for _ in range(arguments.rounds):
        for variant in variants:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                runs[variant].append(pool.apply(measure, variant))
    records = []
    for (kind, surrogate), results in runs.items():
        middle = {key: statistics.median(r[key] for r in results) for key in results[0]}
        records.append(
            {
                "network": kind,
                "surrogate": surrogate,
                "training_molecules_per_s": BATCH / middle["training"],
                "sampling_molecules_per_s": BATCH / middle["sampling"],
                "peak_memory_mb": middle["peak_mb"],
            }
        )
    for record in records:
        line = "  ".join(f"{k} {v:.1f}" if isinstance(v, float) else f"{v:12}" for k, v in record.items())
        print(line)  # noqa: T201
    for slow, fast in zip(records[::2], records[1::2], strict=True):
        ratios = {k: fast[k] / slow[k] for k in ("training_molecules_per_s", "sampling_molecules_per_s")}
        print(slow["surrogate"], "dense / edge list:", {k: round(v, 2) for k, v in ratios.items()})  # noqa: T201
    if arguments.json:
        arguments.json.write_text(json.dumps(records, indent=1) + "\n")


if __name__ == "__main__":
    main()
