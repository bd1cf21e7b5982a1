"""Records of speed: their keys, how they are counted, and None for unknown figures."""

import time
from pathlib import Path

import numpy as np
import pytest
import torch

from molflow.batch import MoleculeBatch
from molflow.chem import Structure, read_structures
from molflow.evaluation import TrainingReference, evaluate
from molflow.evaluation.throughput import (
    ParticleSampler,
    count_new,
    count_stable,
    particle_throughput,
    peak_memory_mb,
    reset_peak_memory,
    sampling_record,
    sampling_throughput,
    time_sampling,
    training_throughput,
)

QM9 = MoleculeBatch.from_structures(read_structures(Path(__file__).parents[1] / "fixtures" / "qm9_200.npz"))
LONE_ATOMS = MoleculeBatch.from_structures([Structure(np.zeros((1, 3)), np.array([8]))] * 200)
CONDITIONS = {"peak_memory_mb", "device", "threads", "batch_size"}
SAMPLING = CONDITIONS | {
    "model", "n", "ms_per_molecule", "ms_per_stable_molecule", "molecules_per_s", "stable_molecules_per_s",
}  # fmt: skip


def test_sampling_record():
    record = sampling_record("a", len(QM9), count_stable(QM9), 4.0, "cpu", 64)
    stable = evaluate(QM9, scope="stability").molecule_stability
    assert 0 < stable < 1
    assert record.keys() == SAMPLING
    assert (record["model"], record["n"], record["device"], record["batch_size"]) == ("a", 200, "cpu", 64)
    assert record["threads"] == torch.get_num_threads()
    assert record["ms_per_molecule"] == pytest.approx(20)
    assert record["molecules_per_s"] == pytest.approx(50)
    assert record["ms_per_stable_molecule"] == pytest.approx(20 / stable)
    assert record["stable_molecules_per_s"] == pytest.approx(50 * stable)


def test_a_molecule_outside_the_look_up_tables_is_not_stable():
    sulphide = Structure(np.array([[0, 0, 0], [1.34, 0, 0], [-0.05, 1.34, 0]]), np.array([16, 1, 1]))
    water = Structure(np.array([[0, 0, 0], [0.96, 0, 0], [-0.24, 0.93, 0]]), np.array([8, 1, 1]))
    assert count_stable(MoleculeBatch.from_structures([sulphide, water])) == 1


def test_the_cost_of_a_stable_molecule_is_none_if_none_is_stable():
    record = sampling_record("a", len(LONE_ATOMS), count_stable(LONE_ATOMS), 4.0, "cpu", 64)
    assert record["ms_per_stable_molecule"] is None
    assert record["stable_molecules_per_s"] == 0
    assert record["ms_per_molecule"] == pytest.approx(20)


@pytest.mark.parametrize(("n", "batch_size", "warm_up"), [(20, 8, 8), (5, 8, 5)])
def test_sampling_throughput_warms_up_and_takes_the_median(n, batch_size, warm_up):
    calls, naps = [], {0: 0.05, 1: 0.1, 2: 0.5}

    def sample(count, seed):
        calls.append((count, seed))
        time.sleep(naps[seed] if len(calls) > 1 else 1)
        return QM9[:count]

    (record,) = sampling_throughput({"a": sample}, n, batch_size=batch_size)
    assert calls == [(warm_up, 0), (n, 0), (n, 1), (n, 2)]
    assert record.keys() == SAMPLING | {
        "repeats", "warm_up", "molecule_stability", "molecule_stability_interval", "valid_unique_novel",
        "ms_per_valid_unique_novel_molecule",
    }  # fmt: skip
    assert (record["warm_up"], record["valid_unique_novel"]) == (warm_up, None)
    assert (record["n"], record["repeats"]) == (n, 3)
    assert record["molecule_stability"] == pytest.approx(evaluate(QM9[:n], scope="stability").molecule_stability)
    low, high = record["molecule_stability_interval"]
    assert low < record["molecule_stability"] <= high
    assert 0.1 <= record["ms_per_molecule"] * n / 1e3 < 0.3


def test_the_cost_of_a_new_molecule():
    """Of four molecules two are known, one is there twice: one new one."""
    known = TrainingReference.from_structures(list(QM9[:2].structures()), name="two")
    batch = QM9[[0, 1, 2, 2]]
    assert count_new(batch, known) == 1
    (record,) = sampling_throughput({"a": lambda n, seed: batch}, 4, batch_size=4, training=known)
    assert record["valid_unique_novel"] == 1 / 4
    assert record["ms_per_valid_unique_novel_molecule"] == pytest.approx(4 * record["ms_per_molecule"])
    (record,) = sampling_throughput({"a": lambda n, seed: batch[:2]}, 2, batch_size=4, training=known)
    assert (record["valid_unique_novel"], record["ms_per_valid_unique_novel_molecule"]) == (0, None)


def test_samplers_take_turns_and_have_peaks_of_their_own():
    calls = []

    def sampler(name, megabytes):
        def sample(n, seed):
            calls.append((name, n, seed))
            block = np.ones(megabytes * 125_000)
            return int(block.sum())

        return sample

    large, small = time_sampling([sampler("large", 400), sampler("small", 1)], 5, batch_size=8, repeats=2)
    assert calls == [(name, 5, seed) for seed in (0, 0, 1) for name in ("large", "small")]
    assert large.samples == [50_000_000] * 2
    assert small.samples == [125_000] * 2
    if reset_peak_memory():
        assert 380 < large.peak_memory_mb - small.peak_memory_mb < 600


def test_particle_throughput():
    """Half of the samples have weight zero, so an effective one costs twice as much."""
    calls = []

    def sample(n, seed):
        calls.append((n, seed))
        time.sleep(0.05)
        return torch.zeros(n, 4, 2)

    def sample_and_log_prob(n, seed):
        calls.append((n, seed, "density"))
        time.sleep(0.2)
        return torch.zeros(n, 4, 2), torch.tensor([0.0, torch.inf]).repeat(n)[:n]

    def energy(x):
        return x.sum((1, 2))

    def record_of(*sampler):
        (record,) = particle_throughput({"a": ParticleSampler(sample, *sampler, 10)}, 20, batch_size=8)
        return record

    record = record_of(sample_and_log_prob, energy)
    assert calls == [(8, 0), (20, 0), (20, 1), (20, 2), (1, 0, "density"), (10, 0, "density")]
    assert (record["ess_fraction"], record["n_densities"]) == (pytest.approx(0.5), 10)
    assert 2.5 <= record["ms_per_sample"] < 20
    assert 20 <= record["ms_per_sample_with_density"] < 100
    for kind in ("", "_with_density"):
        assert record[f"ms_per_effective_sample{kind}"] == pytest.approx(2 * record[f"ms_per_sample{kind}"])
    assert record["samples_per_s"] == pytest.approx(1e3 / record["ms_per_sample"])

    without_energy = record_of(sample_and_log_prob, None)
    without_density = record_of(None, energy)
    assert without_energy.keys() == without_density.keys() == record.keys()
    unknown = {"ess_fraction", "ess_fraction_error", "ms_per_effective_sample", "ms_per_effective_sample_with_density"}
    assert {key for key, value in without_energy.items() if value is None} == unknown
    unknown |= {"n_densities", "ms_per_sample_with_density"}
    assert {key for key, value in without_density.items() if value is None} == unknown


def test_training_throughput():
    calls = []

    def step():
        calls.append(1)
        time.sleep(0.5 if len(calls) in (1, 3) else 0.05)

    record = training_throughput("a", step, batch_size=64)
    assert len(calls) == 6
    assert record.keys() == CONDITIONS | {"model", "ms_per_step", "molecules_per_s", "repeats"}
    assert 50 <= record["ms_per_step"] < 300
    assert record["molecules_per_s"] == pytest.approx(64e3 / record["ms_per_step"])


def test_peak_memory_grows_and_does_not_fall():
    before = peak_memory_mb()
    assert 10 < before < 1e6
    block = np.ones(int(1e6 * before / 8))  # as much again
    during = peak_memory_mb()
    assert during > before
    size = block.nbytes / 1e6
    assert during - before <= 1.1 * size
    del block
    assert peak_memory_mb() >= during
    if reset_peak_memory():
        assert peak_memory_mb() < during - 0.9 * size
