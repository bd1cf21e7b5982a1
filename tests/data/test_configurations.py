"""Files of configurations: arrays of any name, extended XYZ, and what is refused."""

import re

import numpy as np
import pytest
import torch

from molflow.data import configurations, read_particles
from molflow.data.configurations import SUFFIXES
from molflow.errors import MolflowError

X = np.random.default_rng(0).normal(size=(3, 4, 3))
HEADER = "Properties=species:S:1:pos:R:3:forces:R:3"


def xyz(path, frames=X, species="AABB", comment=HEADER):
    rows = [
        [f"{len(x)}", comment, *(f"{s} {a} {b} {c} 0 0 0" for s, (a, b, c) in zip(species, x, strict=False))]
        for x in frames
    ]
    path.write_text("\n".join(line for frame in rows for line in frame) + "\n")
    return path


def centred(x):
    return torch.from_numpy(x - x.mean(1, keepdims=True)).float()


def test_extended_xyz_has_positions_and_species(tmp_path):
    positions, species = read_particles(xyz(tmp_path / "a.xyz"))
    torch.testing.assert_close(positions, centred(X))
    assert species == ("A", "A", "B", "B")
    plain, _ = read_particles(xyz(tmp_path / "b.extxyz", comment='pbc="F F F" Lattice="9 0 0 0 9 0 0 0 9"'))
    torch.testing.assert_close(plain, positions)


def test_columns_of_extended_xyz_in_another_order(tmp_path):
    path = tmp_path / "a.xyz"
    path.write_text("1\nProperties=id:I:1:pos:R:3:species:S:1\n7 1 2 3 C\n" * 2)
    positions, species = read_particles(path)
    assert (positions.shape, species) == ((2, 1, 3), ("C",))


def test_the_only_fitting_array_of_an_npz_file_is_taken(tmp_path, caplog):
    caplog.set_level("INFO", logger="molflow")
    np.savez(tmp_path / "a.npz", trajectory=X, energies=X[:, 0, 0])
    torch.testing.assert_close(read_particles(tmp_path / "a.npz", key=None).positions, centred(X))
    assert "positions are taken from its array trajectory" in caplog.text
    np.savez(tmp_path / "b.npz", first=X, second=X)
    with pytest.raises(
        MolflowError, match=r"has first, second of shape \(n, N, D\); name the array of positions by data"
    ):
        read_particles(tmp_path / "b.npz", key=None)
    torch.testing.assert_close(read_particles(tmp_path / "b.npz", key="second").positions, centred(X))


def test_a_flat_array_is_said(tmp_path, caplog):
    caplog.set_level("INFO", logger="molflow")
    np.save(tmp_path / "a.npy", X.reshape(3, 12))
    torch.testing.assert_close(read_particles(tmp_path / "a.npy", dim=3).positions, centred(X))
    assert "the flat array (3, 12) is read as 4 particles in 3 dimensions" in caplog.text
    with pytest.raises(MolflowError, match=r"got \(3, 12\); for a flat array \(n, N D\) give data\.dim"):
        read_particles(tmp_path / "a.npy")


@pytest.mark.parametrize(
    ("frames", "species", "comment", "message"),
    [
        (X, "AABB", 'Lattice="9 0 0 0 9 0 0 0 9"', "frame 0 (line 1): a periodic system"),
        (X, "AABB", f'pbc="T T T" {HEADER}', "frame 0 (line 1): a periodic system"),
        ([X[0], X[1][:3]], "AABB", HEADER, "frame 1 (line 7): has 3 particles, expected 4"),
        ([X[0], X[1] * np.nan], "AABB", HEADER, "configuration 1: expected finite coordinates"),
        (X, "AABB", "Properties=name:S:1:pos:R:3", "expected Properties with species:S:1 and pos:R:3"),
    ],
)
def test_xyz_that_cannot_be_used(tmp_path, frames, species, comment, message):
    with pytest.raises(MolflowError, match=re.escape(message)):
        read_particles(xyz(tmp_path / "a.xyz", frames, species, comment))


@pytest.mark.parametrize("text", ["", "4\n", "4\ncomment\nA 0 0 0\n", "x\n", "1\nc\nA 0 0 zero\n", "0\n\n"])
def test_damaged_xyz(tmp_path, text):
    (tmp_path / "a.xyz").write_text(text)
    with pytest.raises(MolflowError, match=r"a\.xyz"):
        read_particles(tmp_path / "a.xyz")


def test_a_box_in_an_npz_file_is_refused(tmp_path):
    np.savez(tmp_path / "a.npz", positions=X, box=np.eye(3))
    with pytest.raises(MolflowError, match=r"a\.npz: box: a periodic system; molflow models particles without a box"):
        read_particles(tmp_path / "a.npz")


@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_missing_file_is_named(tmp_path, suffix):
    with pytest.raises(MolflowError, match=f"none{suffix}: no such file"):
        read_particles(tmp_path / f"none{suffix}")


@pytest.fixture
def trajectory():
    """Three frames of C2O2 in MDTraj, which has nanometres."""
    mdtraj = pytest.importorskip("mdtraj")
    topology = mdtraj.Topology()
    residue = topology.add_residue("A", topology.add_chain())
    for name, symbol in (("C1", "C"), ("C2", "C"), ("O1", "O"), ("O2", "O")):
        topology.add_atom(name, mdtraj.element.Element.getBySymbol(symbol), residue)
    return mdtraj.Trajectory(X / 10, topology)


@pytest.fixture(params=["mdtraj", "MDAnalysis"])
def reader(request, monkeypatch):
    """Only this package reads trajectories."""
    pytest.importorskip(request.param)
    monkeypatch.setattr(configurations, "_READERS", {request.param: configurations._READERS[request.param]})
    return request.param


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
@pytest.mark.parametrize("suffix", [".dcd", ".xtc", ".trr", ".nc"])
def test_a_trajectory_is_in_angstrom(tmp_path, trajectory, reader, suffix):
    trajectory[0].save_pdb(str(tmp_path / "a.pdb"))
    trajectory.save(str(tmp_path / f"a{suffix}"))
    positions, species = read_particles(tmp_path / f"a{suffix}", topology=tmp_path / "a.pdb")
    torch.testing.assert_close(positions, centred(X), atol=1e-4, rtol=0)
    assert species == ("C", "C", "O", "O")


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_trajectory_with_a_box_or_of_other_atoms_is_refused(tmp_path, trajectory, reader):
    trajectory[0].save_pdb(str(tmp_path / "a.pdb"))
    trajectory[0].atom_slice([0, 1]).save_pdb(str(tmp_path / "other.pdb"))
    trajectory.save(str(tmp_path / "a.dcd"))
    with pytest.raises(MolflowError, match=r"a\.dcd: cannot be read: .*; its topology is .*other\.pdb"):
        read_particles(tmp_path / "a.dcd", topology=tmp_path / "other.pdb")
    with pytest.raises(MolflowError, match=r"none\.pdb: no such file"):
        read_particles(tmp_path / "a.dcd", topology=tmp_path / "none.pdb")
    trajectory.unitcell_lengths, trajectory.unitcell_angles = np.full((3, 3), 5.0), np.full((3, 3), 90.0)
    trajectory.save(str(tmp_path / "box.dcd"))
    with pytest.raises(MolflowError, match=r"box\.dcd: a periodic system"):
        read_particles(tmp_path / "box.dcd", topology=tmp_path / "a.pdb")


def test_a_trajectory_of_one_file(tmp_path, trajectory):
    pytest.importorskip("tables")
    trajectory.save_hdf5(str(tmp_path / "a.h5"))
    positions, species = read_particles(tmp_path / "a.h5")
    torch.testing.assert_close(positions, centred(X), atol=1e-4, rtol=0)
    assert species == ("C", "C", "O", "O")


@pytest.mark.filterwarnings("ignore")
def test_particles_of_a_trajectory_without_names_are_identical(tmp_path, trajectory, monkeypatch):
    pytest.importorskip("MDAnalysis")
    monkeypatch.setattr(configurations, "_READERS", {"MDAnalysis": configurations._by_mdanalysis})
    trajectory.save(str(tmp_path / "a.dcd"))
    assert read_particles(tmp_path / "a.dcd").species == ()


def test_a_trajectory_without_a_reader(tmp_path, monkeypatch):
    monkeypatch.setattr(configurations, "_READERS", {})
    (tmp_path / "a.dcd").touch()
    with pytest.raises(MolflowError, match="trajectories need mdtraj or MDAnalysis: pip install mdtraj"):
        read_particles(tmp_path / "a.dcd")
