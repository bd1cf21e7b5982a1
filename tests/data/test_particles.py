"""Particle data: what the cache holds, that the seed decides it, and what happens with damaged or foreign files."""

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from molflow.data import (
    DATASETS,
    load_particles,
    particle_diagnostics,
    particles,
    prepare_particles,
    read_configurations,
)
from molflow.energies import Tempering, get_system
from molflow.errors import MolflowError

SHAPES = {"train": (40, 4, 2), "validation": (10, 4, 2), "test": (30, 4, 2)}


@pytest.fixture(autouse=True)
def small(monkeypatch, tmp_path):
    """Ten short chains in place of the full recipe."""
    quick = Tempering((1.0, 2.0), n_burn_in=10, n_samples=10, thinning=1, n_leapfrog=3)
    monkeypatch.setattr(particles, "CHAINS", {"train": 4, "validation": 1, "test": 3})
    monkeypatch.setattr(
        particles, "get_system", lambda name: replace(get_system(name), start_width=3.0, tempering=quick)
    )
    monkeypatch.setenv("MOLFLOW_CACHE", str(tmp_path / "cache"))


def test_built_in_systems_have_the_documented_sizes(monkeypatch):
    monkeypatch.undo()
    for name in ("dw4", "lj13", "lj13-unordered", "lj55", "lj55-unordered"):
        n_samples = get_system(name).tempering.n_samples
        sizes = {split: n * n_samples for split, n in particles.CHAINS.items()}
        assert sizes == {"train": 100_000, "validation": 10_000, "test": 100_000}


def test_the_cache(tmp_path):
    path = prepare_particles("dw4")
    assert path == tmp_path / "cache" / "dw4.npz"
    assert [p.name for p in path.parent.iterdir()] == ["dw4.npz"], "nothing is left beside it"
    written = path.stat().st_mtime_ns
    splits = {split: load_particles("dw4", split) for split in SHAPES}
    assert path.stat().st_mtime_ns == written, "it is made once"
    for split, x in splits.items():
        assert x.shape == SHAPES[split]
        assert x.dtype == torch.float32
        assert x.mean(1).abs().max() < 1e-6
    every = torch.cat(list(splits.values()))
    assert len(every.unique(dim=0)) > 0.7 * len(every), "only refused moves repeat a configuration"
    for a, b in ("train", "test"), ("train", "validation"), ("validation", "test"):
        assert len(torch.cat([splits[s].unique(dim=0) for s in (a, b)]).unique(dim=0)) == sum(
            len(splits[s].unique(dim=0)) for s in (a, b)
        ), f"{a} and {b} share configurations"


def test_diagnostics():
    diagnostics = particle_diagnostics("dw4")
    assert diagnostics["seed"] == 0
    assert diagnostics["chains"] == {"train": 4, "validation": 1, "test": 3}
    assert diagnostics["tempering"]["temperatures"] == [1.0, 2.0]
    assert diagnostics["virial_expected"] == 6
    assert {"acceptance", "swap_acceptance", "r_hat", "mean_energy", "virial_error", "seconds"} <= diagnostics.keys()


def test_the_same_seed_gives_the_same_data(tmp_path):
    first = load_particles("lj13", "test", tmp_path / "a")
    assert torch.equal(first, load_particles("lj13", "test", tmp_path / "b"))
    before = (tmp_path / "a" / "lj13.npz").stat().st_mtime_ns
    prepare_particles("lj13", tmp_path / "a", force=True)
    assert (tmp_path / "a" / "lj13.npz").stat().st_mtime_ns > before
    assert not torch.equal(first, load_particles("lj13-unordered", "test"))


def test_unknown_names(tmp_path):
    with pytest.raises(
        MolflowError, match="unknown energy 'lj14'; did you mean lj13\\? Known are: dw4, lj13, lj13-unordered, lj55"
    ):
        prepare_particles("lj14")
    with pytest.raises(MolflowError, match="unknown split 'all', accepted: train, validation, test"):
        load_particles("dw4", "all")
    (tmp_path / "file").touch()
    with pytest.raises(MolflowError, match="cannot be written"):
        prepare_particles("dw4", tmp_path / "file")


def test_a_damaged_cache_says_how_to_make_it_anew():
    path = prepare_particles("dw4")
    whole = path.read_bytes()
    for content in whole[: len(whole) // 2], b"", whole[:200] + bytes(200) + whole[400:]:
        path.write_bytes(content)
        with pytest.raises(MolflowError) as error:
            load_particles("dw4", "train")
        assert str(error.value) == (
            f"{path}: not a readable .npy or .npz file of plain numbers; rerun: molflow data dw4 --force"
        )
    path.write_bytes(b"")
    with pytest.raises(MolflowError, match=r"dw4.npz: not a readable .*; rerun: molflow data dw4 --force"):
        particle_diagnostics("dw4")
    np.savez(path, train=np.zeros((3, 13, 3)), diagnostics=np.array(json.dumps({"version": particles.VERSION})))
    with pytest.raises(MolflowError, match=r"expected .*\(n, 4, 2\), got \(3, 13, 3\); rerun: molflow data dw4 --f"):
        load_particles("dw4", "train")
    with pytest.raises(MolflowError, match=r"has no array 'test', only train, diagnostics; rerun: molflow data dw4"):
        load_particles("dw4", "test")
    old = "drawn by another version of molflow"
    for text, message in ("no JSON", "Expecting value"), ('{"version": 0}', old), ("{}", old), ("[]", old):
        np.savez(path, train=np.zeros((3, 4, 2)), diagnostics=np.array(text))
        with pytest.raises(MolflowError, match=f"{message}.*; rerun: molflow data dw4 --force"):
            load_particles("dw4", "train")


def test_a_users_own_file(tmp_path):
    x = np.random.default_rng(0).normal(size=(7, 4, 2)) + 5
    centred = torch.from_numpy(x - x.mean(1, keepdims=True)).float()
    np.save(tmp_path / "a.npy", x)
    np.savez(tmp_path / "a.npz", positions=x.astype(np.float32), other=np.zeros(3))
    np.save(tmp_path / "flat.npy", x.reshape(7, 8))
    torch.testing.assert_close(read_configurations(tmp_path / "a.npy"), centred)
    torch.testing.assert_close(read_configurations(tmp_path / "a.npz", 4, 2), centred, atol=1e-6, rtol=0)
    torch.testing.assert_close(read_configurations(tmp_path / "flat.npy", 4, 2), centred)


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((3, 5, 2)), "expected configurations of shape (n, 4, 2), got (3, 5, 2)"),
        (np.zeros((3, 4, 3)), "expected configurations of shape (n, 4, 2), got (3, 4, 3)"),
        (np.zeros((3, 9)), "expected configurations of shape (n, 4, 2), got (3, 9)"),
        (np.zeros((0, 4, 2)), "expected configurations of shape (n, 4, 2), got (0, 4, 2)"),
        (np.full((3, 4, 2), "a"), "holds <U1 values, expected numbers of shape (n, 4, 2)"),
    ],
)
def test_invalid_files_are_refused(tmp_path, array, message):
    path = tmp_path / "a.npy"
    np.save(path, array)
    with pytest.raises(MolflowError) as error:
        read_configurations(path, 4, 2)
    assert str(error.value) == f"{path}: {message}"


@pytest.mark.parametrize("value", [np.nan, np.inf, 1e300])
def test_the_configuration_that_is_not_finite_is_named(tmp_path, value):
    x = np.random.default_rng(0).normal(size=(7, 4, 2))
    x[4, 1, 0] = value
    np.save(tmp_path / "a.npy", x)
    with pytest.raises(MolflowError, match=r"a.npy, configuration 4: expected finite coordinates in float32"):
        read_configurations(tmp_path / "a.npy")


def test_files_that_are_none(tmp_path):
    with pytest.raises(MolflowError, match=r"a.npy: no such file"):
        read_configurations(tmp_path / "a.npy")
    with pytest.raises(MolflowError, match="not a readable"):
        read_configurations(tmp_path)
    (tmp_path / "a.npy").write_text(json.dumps([1, 2]))
    with pytest.raises(MolflowError, match="not a readable"):
        read_configurations(tmp_path / "a.npy")
    np.save(tmp_path / "objects.npy", np.array([{}, []], dtype=object))
    with pytest.raises(MolflowError, match="not a readable"):
        read_configurations(tmp_path / "objects.npy")
    np.savez(tmp_path / "b.npz", x=np.zeros(3), y=np.zeros(3))
    with pytest.raises(MolflowError, match="has no array 'positions', only x, y"):
        read_configurations(tmp_path / "b.npz")


def test_coordinates_of_dw4_in_the_mean_free_space():
    data = DATASETS["dw4-vectors"]()
    vectors, x = data.load("train").data, load_particles("dw4", "train")
    assert vectors.shape == (40, 6)
    torch.testing.assert_close(data.configurations(vectors), x, atol=1e-5, rtol=0)
    torch.testing.assert_close(
        torch.cdist(vectors, vectors), torch.cdist(x.flatten(1), x.flatten(1)), atol=1e-2, rtol=0
    )
