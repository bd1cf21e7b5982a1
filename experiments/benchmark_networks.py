"""Networks in one run: free-form training step, sampling and peak memory, on all atoms.

    python experiments/benchmark_networks.py [--rounds 3] [--json FILE]

FFF's published EGNN as an edge list and dense, with the same weights, and the efficient transformer with its defaults,
also compiled, as `training.compile` does (surrogate decoder_jvp, which can be).
Each is the encoder and the decoder of the same flow, on the same 64 molecules of 18 atoms. Gradients are
accumulated over parts of 8 molecules or taken at once, and molecules are sampled in parts that fit the cache (as
`Flow.sample` does) or in one call; the ratio compares the better figure of each network. The variants take turns, each
in a process of its own, so that peak memory is its own.
"""

import argparse
import importlib.util
import json
import multiprocessing
import statistics
from itertools import combinations
from pathlib import Path
from typing import Any

import torch

from molflow.data.batches import Batch
from molflow.evaluation.throughput import peak_memory_mb, seconds
from molflow.flows.domains import MoleculesConfig
from molflow.flows.free_form import FreeFormConfig
from molflow.geometry import Context
from molflow.nn import EGNNConfig, TransformerConfig
from molflow.training.objectives.accumulation import accumulate_gradients
from molflow.training.objectives.free_form import FreeFormObjective, FreeFormObjectiveConfig

BATCH, ATOMS, REPEATS, THREADS = 64, 18, 3, 2
PUBLISHED = EGNNConfig(hidden=64, n_blocks=16, n_inner=2)
REFERENCE = Path(__file__).parent.parent / "tests" / "nn" / "edge_list_egnn.py"
COMPILED = "compiled transformer"
NETWORKS = ("edge list", "dense", "transformer", COMPILED)
VARIANTS = [(network, micro_batch) for micro_batch in (8, 64) for network in NETWORKS]


def edge_list(network: torch.nn.Module) -> torch.nn.Module:
    """The reference network of the tests, with the weights of a dense one."""
    spec = importlib.util.spec_from_file_location("edge_list_egnn", REFERENCE)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module.from_dense(network)


def surrogate_of(network: str) -> str:
    return "decoder_jvp" if network == COMPILED else FreeFormObjectiveConfig().surrogate


def measure(network: str, micro_batch: int) -> dict[str, Any]:
    """Molecules/s in a training step and in sampling, and the peak memory of the process."""
    torch.set_num_threads(THREADS)
    torch.manual_seed(0)
    domain = MoleculesConfig(types=("H", "C", "N", "O", "F"), atom_counts=(0,) * ATOMS + (1,))
    config = TransformerConfig() if "transformer" in network else PUBLISHED
    flow = FreeFormConfig(domain=domain, encoder=config, decoder=config).build()
    if network == "edge list":
        flow.encoder, flow.decoder = edge_list(flow.encoder), edge_list(flow.decoder)
    generator = flow.generator(0)
    mask = torch.ones(BATCH, ATOMS, dtype=torch.bool)
    context = Context(mask, torch.zeros(BATCH, ATOMS, 0))
    latent = flow.domain.space(mask).randn(generator)

    @torch.no_grad()
    def draw() -> Any:
        compiled = network == COMPILED
        return flow.sample(BATCH, seed=0, compile=compiled) if micro_batch < BATCH else flow.decode(latent, context)

    molecules = flow.sample(BATCH, seed=0)
    objective = FreeFormObjective(flow, FreeFormObjectiveConfig(surrogate=surrogate_of(network)))
    if network == COMPILED:
        objective.compile_loss()
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        accumulate_gradients(objective, Batch(molecules), generator, micro_batch)
        optimizer.step()

    def rate(work: Any) -> float:
        work()
        return BATCH / statistics.median(seconds(work) for _ in range(REPEATS))

    return {"sampling": rate(draw), "training": rate(step), "peak_memory_mb": peak_memory_mb()}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--rounds", type=int, default=3, help="how often the variants take turns")
    arguments = parser.parse_args()
    runs: dict[tuple[str, int], list[dict[str, Any]]] = {variant: [] for variant in VARIANTS}
    for _ in range(arguments.rounds):
        for variant in VARIANTS:
            with multiprocessing.get_context("spawn").Pool(1) as pool:
                runs[variant].append(pool.apply(measure, variant))
    records = [
        {"network": network, "molecules_at_once": micro_batch, "surrogate": surrogate_of(network)}
        | {key: statistics.median(result[key] for result in results) for key in results[0]}
        for (network, micro_batch), results in runs.items()
    ]
    best = {
        (network, what): max(record[what] for record in records if record["network"] == network)
        for network in NETWORKS
        for what in ("training", "sampling")
    }
    ratios = {
        f"{fast} / {slow}": {what: best[fast, what] / best[slow, what] for what in ("training", "sampling")}
        for slow, fast in combinations(NETWORKS, 2)
    }
    for record in records:
        print({k: round(v, 1) if isinstance(v, float) else v for k, v in record.items()})  # noqa: T201
    for name, ratio in ratios.items():
        print(f"{name}, best of each:", {what: round(value, 2) for what, value in ratio.items()})  # noqa: T201
    if arguments.json:
        content = {"threads": THREADS, "molecules_per_s": records, "ratios": ratios}
        arguments.json.write_text(json.dumps(content, indent=1) + "\n")


if __name__ == "__main__":
    main()
