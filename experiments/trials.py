"""Trials of networks, representations and objectives, each for the same CPU time on one core.

    OMP_NUM_THREADS=1 python experiments/trials.py qm9|dw4|lj13 [--minutes 4] [--only NAME ...]

Every trial is the first configuration of its data set with some values changed, eager and with a constant learning
rate, so that it may be stopped anywhere. Figures are of the averaged weights: 2,000 molecules, or 4,000 configurations
and the likelihood of 1,000 held-out ones (lj13: a tenth). Rows go to experiments/results: trials.json, or for particles
trials-dw4.json and trials-lj13.json.
"""

import argparse
import json
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import molflow
from molflow.data import load_particles
from molflow.energies import get_system
from molflow.evaluation import evaluate_boltzmann
from molflow.files import write_json
from molflow.flows import ParticleDomain

MAPS = ("encoder", "decoder")
KEPT = ("ess_fraction", "nll_decoder", "nll_encoder", "reconstruction_error", "reweighted_log_z", "reverse_kl")
COMMON = ["training.compile=false", "optimizer.final_fraction=1.0", "training.validate_every=1000000"]
JOINT = ["model.domain.kind=molecules", "training.batches=equal_size"]
_EGNN = "{kind='egnn', hidden=128, pair_hidden=32, n_blocks=6, n_inner=1}"
EGNN = [f"model.encoder={_EGNN}", f"model.decoder={_EGNN}"]
_TRANSFORMER = "{kind='transformer', hidden=64, n_vectors=8, pair_hidden=32, n_blocks=5}"


def both(network: str) -> list[str]:
    """The same change of encoder and decoder."""
    return [f"model.{map}.{network}" for map in ("encoder", "decoder")]


def free_form(**settings: object) -> list[str]:
    """Free-form training in place of flow matching."""
    values = {"kind": "free_form", "beta": 100.0} | settings
    objective = ", ".join(f"{key}={value!r}" for key, value in values.items())
    return [f"objective={{{objective}}}", "model.average_velocity=false"]


FREE_FORM = free_form()
PARTICLES: dict[str, list[str]] = {
    "as configured": [],
    "three blocks": both("n_blocks=3"),
    "eight blocks": both("n_blocks=8"),
    "beta 10": ["objective.beta=10.0"],
    "beta 100": ["objective.beta=100.0"],
    "four probes": ["objective.n_probes=4"],
    "batch of 64": ["training.batch_size=64"],
    "batch of 1024": ["training.batch_size=1024"],
    "learning rate 3e-4": ["optimizer.learning_rate=3e-4"],
    "learning rate 3e-3": ["optimizer.learning_rate=3e-3"],
    "transformer": [f"model.{map}={_TRANSFORMER}" for map in ("encoder", "decoder")],
    "surrogate encoder_jvp": ["objective.surrogate=encoder_jvp"],
    "no average of weights": ["training.ema_decay=0.0"],
}
MOLECULES: dict[str, list[str]] = {
    "flow matching": [],
    "EGNN": EGNN,
    "no pairing": ["objective.pairing=none"],
    "types generated": JOINT,
    "all atoms": ["model.domain.representation=all-atom", "model.domain.scale=1.5", "training.batches=equal_size"],
    "batch of 16": ["training.batch_size=16"],
    "MeanFlow target": ["objective.average_fraction=0.5"],
    "free-form": FREE_FORM,
    "free-form, types generated": [*FREE_FORM, *JOINT],
    "free-form, beta 10": free_form(beta=10.0),
    "free-form, beta 1000": free_form(beta=1000.0),
    "free-form, four probes": free_form(n_probes=4),
    "free-form, surrogate decoder_jvp": free_form(surrogate="decoder_jvp"),
    "free-form, decoder deeper": [*FREE_FORM, "model.encoder.n_blocks=3", "model.decoder.n_blocks=9"],
    "free-form, EGNN": [*FREE_FORM, *EGNN],
}
# Widths that give an EGNN and a transformer about as many weights as the network of tensor products has.
NETWORKS: dict[str, list[str]] = {
    "tensor product": [],
    "EGNN": [f"model.{map}={{kind='egnn', hidden=80, pair_hidden=40, n_blocks=5, n_inner=1}}" for map in MAPS],
    "transformer": [f"model.{map}={{kind='transformer', hidden=64, n_vectors=8, n_blocks=5}}" for map in MAPS],
}
SETS: dict[str, tuple[str, dict[str, list[str]]]] = {
    "qm9": ("experiments/recipe/united-teacher.toml", MOLECULES),
    "dw4": ("dw4", PARTICLES),
    "lj13": ("experiments/particles/lj13-tensor-product.toml", NETWORKS),
}


def cpu_seconds(process: int) -> float:
    """CPU time of a process; other work on the machine disturbs it less than the wall time."""
    times = subprocess.run(["ps", "-o", "cputimes=", "-p", str(process)], capture_output=True, text=True, check=False)
    return float(times.stdout or 0)


def run(base: str, name: str, overrides: list[str], minutes: float, seed: int) -> dict[str, Any]:
    """Train for the time given, sample, score."""
    settings = [word for value in [*overrides, *COMMON, f"seed={seed}"] for word in ("--set", value)]
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "run"
        command = [sys.executable, "-m", "molflow.cli", "train", base, "--out", str(out), *settings]
        # A shell that runs this in the background has SIGINT ignored, also for what it starts.
        signal.signal(signal.SIGINT, signal.default_int_handler)
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        while process.poll() is None and cpu_seconds(process.pid) < 60 * minutes:
            time.sleep(1)
        process.send_signal(signal.SIGINT)  # it writes a checkpoint and exits
        if process.wait() != 1:
            raise SystemExit(f"{name}: ended with exit code {process.returncode}; run: {' '.join(command)}")
        flow = molflow.load(out)
        card = json.loads((out / "card.json").read_text())
        lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    return {
        "trial": name,
        "changed": overrides,
        "cpu_minutes": minutes,
        "seed": seed,
        "molecules_seen": card["steps"] * molflow.load_experiment(base, [*overrides, *COMMON]).training.batch_size,
        "loss": sum(line["loss"] for line in lines[-10:]) / max(1, len(lines[-10:])),
        **(particle_scores(flow, card["data"]) if isinstance(flow.domain, ParticleDomain) else molecule_scores(flow)),
    }


def molecule_scores(flow: molflow.Flow) -> dict[str, Any]:
    row: dict[str, Any] = {}
    for k in (1, 4, 20) if getattr(flow, "has_average_velocity", False) else (1,):
        scores = molflow.evaluate(flow.sample(2000, seed=0, n_evaluations=k))
        row[f"k={k}"] = {
            "atom_stability": scores.atom_stability,
            "molecule_stability": scores.molecule_stability,
            "validity_x_uniqueness": scores.validity_x_uniqueness,
        }
    return row


def particle_scores(flow: molflow.Flow, name: str) -> dict[str, Any]:
    few = 1 if name == "dw4" else 10  # densities of more particles take longer
    x, log_q = flow.sample_and_log_prob(4000 // few, seed=0)
    maps = {which: flow.likelihood(load_particles(name, "validation")[: 1000 // few], which=which) for which in MAPS}
    scores = evaluate_boltzmann(
        x,
        get_system(name).energy,
        log_prob=log_q,
        system=get_system(name),
        nll_encoder=-maps["encoder"].log_prob,
        nll_decoder=-maps["decoder"].log_prob,
        reconstruction_error=maps["decoder"].reconstruction_error,
    ).to_dict()
    return {key: scores[key] for key in KEPT}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("data", choices=list(SETS))
    parser.add_argument("--minutes", type=float, default=4.0, help="of CPU time for each")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", nargs="+", metavar="NAME", help="by default all")
    arguments = parser.parse_args()
    base, trials = SETS[arguments.data]
    if unknown := set(arguments.only or ()) - set(trials):
        parser.error(f"no such trial: {', '.join(sorted(unknown))}; there are: {', '.join(trials)}")
    results = Path("experiments/results") / (
        "trials.json" if arguments.data == "qm9" else f"trials-{arguments.data}.json"
    )
    rows = json.loads(results.read_text()) if results.exists() else []
    for name in arguments.only or trials:
        row = run(base, name, trials[name], arguments.minutes, arguments.seed)
        rows.append(row)
        write_json(results, rows)
        print(json.dumps(row), flush=True)  # noqa: T201


if __name__ == "__main__":
    main()
