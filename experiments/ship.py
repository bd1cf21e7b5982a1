"""Measure a trained model and put it into the package: weights, configuration, and a card with its scores.

    python experiments/ship.py runs/qm9 --name qm9 [--samples 10000] [--test 256]

Molecules: the scores of `molflow evaluate` on the samples of seed 0, the main ones also for seeds 1 and 2, and the
negative log-likelihood of test molecules with the exact volume change of either map: where types are generated, the
variational bound at one draw of the dequantisation noise; where they are given, of the molecules whose composition the
training data have, and their share.

Particles: the scores of `molflow.evaluation.evaluate_boltzmann`, likelihoods of test configurations included.

Both kinds have the network evaluations per sample, which are counted.
"""

import argparse
import json
import shutil
from pathlib import Path
from typing import Any

import torch

import molflow
from molflow.checksums import digest
from molflow.data import load_particles, load_qm9
from molflow.energies import get_system
from molflow.evaluation import TrainingReference, evaluate_boltzmann, qm9_training_reference
from molflow.evaluation.throughput import count_stable, sampling_record, seconds
from molflow.files import read_json, write_json
from molflow.flows import AdaptiveSolver, ODEFlow, ParticleDomain
from molflow.flows.storage import CARD, CONFIG, WEIGHTS, read_weights, save_weights
from molflow.memory import keep_freed_memory
from molflow.training.config import read_experiment

REPEATED = ("atom_stability", "molecule_stability", "validity_x_uniqueness", "novelty", "stable_molecules_per_s")
REPEATED_OF_PARTICLES = ("ess_fraction", "reweighted_log_z", "reweighted_mean_energy", "reverse_kl")
SPEEDS = ("ms_per_molecule", "ms_per_stable_molecule", "stable_molecules_per_s", "device", "threads")


def write_half(source: Path, target: Path) -> None:
    """Copy weights as 16-bit numbers: half the size, and scores of molecules do not change beyond their intervals."""
    save_weights({name: t.half() if t.is_floating_point() else t for name, t in read_weights(source).items()}, target)


def score(
    flow: molflow.Flow, arguments: argparse.Namespace, training: TrainingReference, seed: int
) -> dict[str, object]:
    """Sample molecules and evaluate."""
    k, batches = arguments.evaluations, []
    elapsed = seconds(lambda: batches.append(flow.sample(arguments.samples, seed=seed, n_evaluations=k)))
    speed = sampling_record(arguments.name, arguments.samples, count_stable(batches[0]), elapsed, "cpu", 1024)
    settings = {"sampling_seed": seed, "temperature": 1.0, "evaluations": k or flow.n_evaluations}
    scores = molflow.evaluate(batches[0], training=training, reference="qm9").to_dict()
    del scores["distributions"], scores["reference_scores"]  # hundreds of them
    return scores | settings | {key: speed[key] for key in SPEEDS}


@torch.no_grad()
def likelihoods(flow: molflow.Flow, molecules: molflow.MoleculeBatch, noise: float | None) -> dict[str, object]:
    """Negative log-likelihood of held-out molecules by either map, in nats; an ODE is solved by dopri5."""
    if isinstance(flow, ODEFlow):
        flow.solver = AdaptiveSolver()
    noise = flow.noise if noise is None else noise
    encoder = flow.likelihood(molecules, which="encoder", noise=noise)
    decoder = flow.likelihood(molecules, which="decoder", noise=noise)
    known = decoder.log_prob > -torch.inf
    return {
        "test_molecules": len(molecules),
        "test_noise": noise,
        "test_known_compositions": known.double().mean().item(),
        "test_nll_encoder": -encoder.log_prob[known].mean().item(),
        "test_nll_decoder": -decoder.log_prob[known].mean().item(),
        "test_nll_encoder_median": -encoder.log_prob[known].median().item(),
        "test_nll_decoder_median": -decoder.log_prob[known].median().item(),
        "test_nll_standard_error": (decoder.log_prob[known].std() / known.sum() ** 0.5).item(),
        "test_reconstruction_error": encoder.reconstruction_error.mean().item(),
    }


def evaluations_per_sample(flow: molflow.Flow, k: int | None) -> float:
    """Network evaluations per sample (measured for adaptive solvers)."""
    with flow.counted() as used:
        flow.sample(1000, seed=0, n_evaluations=k)
    return used.configurations / 1000


def molecule_scores(flow: molflow.Flow, arguments: argparse.Namespace) -> dict[str, Any]:
    training = qm9_training_reference(progress=True)
    by_seed = [score(flow, arguments, training, seed) for seed in range(arguments.seeds)]
    scores = by_seed[0] | {
        "evaluations_per_sample": evaluations_per_sample(flow, arguments.evaluations),
        "other_seeds": [{key: row[key] for key in ("sampling_seed", *REPEATED)} for row in by_seed[1:]],
    }
    if arguments.test and read_experiment(arguments.run).objective.kind != "mean_flow":  # it does not train the encoder
        scores |= likelihoods(flow, load_qm9("test").batch(slice(arguments.test)), arguments.noise)
    return scores


def particle_scores(flow: molflow.Flow, arguments: argparse.Namespace) -> dict[str, Any]:
    system = get_system(read_experiment(arguments.run).data.name)
    reference = load_particles(system.name, "test")
    found = flow.likelihood(reference[: arguments.test], compare=True)
    by_seed = []
    for seed in range(arguments.seeds):
        x, log_q = flow.sample_and_log_prob(arguments.samples, seed=seed)
        by_seed.append(
            evaluate_boltzmann(
                x,
                system.energy,
                log_prob=log_q,
                reference=reference,
                system=system,
                nll_encoder=-found.log_prob,
                nll_decoder=found.disagreement - found.log_prob,
                reconstruction_error=found.reconstruction_error * flow.domain.scale,
            ).to_dict()
        )
    others = [{"sampling_seed": s} | {k: row[k] for k in REPEATED_OF_PARTICLES} for s, row in enumerate(by_seed)][1:]
    evaluations = {"evaluations": flow.n_evaluations, "evaluations_per_sample": evaluations_per_sample(flow, None)}
    return by_seed[0] | {"sampling_seed": 0, **evaluations, "other_seeds": others}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path)
    parser.add_argument("--name", required=True)
    parser.add_argument("--how", default="", help="one sentence on how the run was made")
    parser.add_argument("--evaluations", type=int, help="of the network for each sample; by default the model's own")
    parser.add_argument("--samples", type=int, default=10_000)
    parser.add_argument("--seeds", type=int, default=3, help="how many times to sample")
    parser.add_argument(
        "--test", type=int, default=256, help="test molecules or configurations for the likelihood; 0: none"
    )
    parser.add_argument("--noise", type=float, help="of the likelihood, model units; by default the model's own")
    arguments = parser.parse_args()

    keep_freed_memory()
    folder = Path(molflow.__file__).parent / "pretrained" / arguments.name
    folder.mkdir(exist_ok=True)
    shutil.copyfile(arguments.run / CONFIG, folder / CONFIG)
    flow = molflow.load(arguments.run)
    if isinstance(flow.domain, ParticleDomain):  # few weights, and rounding would change the density
        shutil.copyfile(arguments.run / WEIGHTS, folder / WEIGHTS)
        scores = particle_scores(flow, arguments)
    else:
        write_half(arguments.run / WEIGHTS, folder / WEIGHTS)
        scores = molecule_scores(molflow.load(folder), arguments)
    metrics = arguments.run / "metrics.jsonl"  # a model whose parts were only joined has none
    lines = [json.loads(line) for line in metrics.read_text().splitlines()] if metrics.exists() else []
    history = [line for line in lines if "validation_loss" in line]
    before = read_json(folder / CARD) if (folder / CARD).exists() else {}
    about = {"about": before["about"]} if "about" in before else {}
    card = read_json(arguments.run / CARD) | {"name": arguments.name, "how": arguments.how} | about
    card["weights_sha256"] = digest(read_weights(folder / WEIGHTS))
    write_json(folder / CARD, card | {"validation_history": history, "scores": scores})
    for line in history:
        print({key: value if value is None else round(value, 3) for key, value in line.items()})  # noqa: T201
    for key, value in scores.items():
        print(key, value)  # noqa: T201


if __name__ == "__main__":
    main()
