"""Damaged files of every kind are read or refused in one line: no traceback, no hang, no growth.

`pytest tests/test_fuzz.py --fuzz-cases 10000 --log-cli-level INFO` damages each file so many times, and prints what was
refused. The damage follows from the number of the case.
"""

import gzip
import json
import logging
import re
import resource
import time
from pathlib import Path

import numpy as np
import pytest
from rdkit import Chem
from rdkit.Chem import AllChem

from molflow import load
from molflow.chem import Structure, StructureWriter, iter_records, read_structures
from molflow.data import MoleculeSet, read_configurations
from molflow.data.smiles import read_smiles
from molflow.data.vectors import read_vectors, save_vectors
from molflow.errors import MolflowError, printable
from molflow.flows.storage import CARD, CONFIG, WEIGHTS, build_flow, read_card, read_model_config, save_model
from molflow.sbi.posterior import POSTERIOR
from molflow.sbi.posterior import load as load_posterior
from molflow.training.config import load_experiment, read_experiment
from molflow.training.state import STATE, load_state, save_state

TESTS = Path(__file__).parent
EXPERIMENT = """
name = "points"
seed = 3
data = {name = "vectors", file = "vectors.npz", condition = []}
[model]
kind = "free_form"
domain = {kind = "vectors", n_features = 2, mean = [0.0, 1.0], std = [1.0, 2.0]}
[model.encoder]
kind = "resnet"
hidden = 8
n_blocks = 1
[model.decoder]
kind = "resnet"
hidden = 8
n_blocks = 1
[training]
batch_size = 16
max_steps = 6
"""
log = logging.getLogger(__name__)

SECONDS, MEGABYTES = 20, 600
"""Processor time of one file, and growth of the memory with all of them."""

HOSTILE = [
    b"0", b"-1", b"1e999", b"nan", b"999999999", b"1" * 400, b"null", b"true", b'""', b'"\\u001b[31m"', b"[" * 3000,
    b"{", b"]", b"\n", b"\r", b"\0", b"\x1b[31m", b"\xff", b"$$$$\n", b">  <a>\n", b"M  END\n", b"  3  2", b"Xx", b"=",
    b",", b"..", b"/", b"\xe2\x80\xae", b"[a.b.c]\n", b"a.a.a.a.a=1\n", b"1_0", b"C" * 5000,
]  # fmt: skip


def damaged(content: bytes, generator: np.random.Generator) -> bytes:
    """Content with one to four changes: a byte, a piece cut out or doubled, something inserted, a value, an end."""
    found = bytearray(content)
    for _ in range(generator.integers(1, 5)):
        place, length = int(generator.integers(len(found) + 1)), int(generator.integers(1, 40))
        token = HOSTILE[generator.integers(len(HOSTILE))]
        kind = generator.integers(12)
        values = list(re.finditer(rb"-?\d+\.?\d*|\"[^\"\n]*\"", found)) if 6 <= kind < 11 else []
        if values:
            value = values[generator.integers(len(values))]
            found[value.start() : value.end()] = token
        elif kind in (0, 1):
            found[place : place + 1] = bytes([int(generator.integers(256))])
        elif kind == 2:
            del found[place : place + length]
        elif kind == 3:
            found[place:place] = found[place : place + length]
        elif kind == 11:
            del found[place:]
        else:
            found[place:place] = token
    return bytes(found)


# ---- files, and what reads them --------------------------------------------------------------------------------------


def molecules(suffix):
    def make(folder):
        structures = read_structures(TESTS / "fixtures" / "qm9_200.npz")[:3]
        with StructureWriter(folder / f"a{suffix}") as writer:
            for structure in structures:
                writer.write(Structure(*structure[:2]), {"note": "1"} if suffix == ".sdf" else None)
        return folder / f"a{suffix}"

    return make


def v3000(folder):
    mol = Chem.AddHs(Chem.MolFromSmiles("CC[O-]"))
    AllChem.EmbedMolecule(mol, randomSeed=0)
    (folder / "a.mol").write_text(Chem.MolToV3KMolBlock(mol) + ">  <note>\n1\n\n$$$$\n")
    return folder / "a.mol"


def text(name, content):
    def make(folder):
        (folder / name).write_bytes(content)
        return folder / name

    return make


def model(name):
    def make(folder):
        (folder / "a.toml").write_text(EXPERIMENT)
        config = load_experiment(folder / "a.toml")
        flow = build_flow(config.model, "a")
        card = {"name": "a", "steps": 6, "epochs": 1.0, "scores": {"ess": 0.5}, "started_from": None, "validation": {}}
        save_model(folder, config.model, flow, card, config.without_model())
        save_state(folder, {"step": 3, "ema": flow.state_dict(), "validation": {"nll": 1.5}})
        return folder / name

    return make


def posterior(folder):
    model(CONFIG)(folder)
    numbers = {"low": [0.0, None], "high": [1.0, None], "smallest": [0.0], "largest": [2.0], "offset": [None]}
    (folder / POSTERIOR).write_text(json.dumps({"format": 2, "names": ["a", "b"], **numbers}))
    return folder / POSTERIOR


def arrays(name, **content):
    def make(folder):
        np.savez_compressed(folder / name, **content)
        return folder / name

    return make


def vectors(folder):
    save_vectors(folder / "a.npz", np.ones((4, 2)), np.ones((4, 1)))
    return folder / "a.npz"


def configurations(folder):
    np.save(folder / "a.npy", np.ones((3, 4, 2)))
    return folder / "a.npy"


def molecule_set(folder):
    MoleculeSet(np.ones((3, 3)), [8, 1, 1], [3], smiles=["O"], properties={"gap": np.ones(1)}).save(folder / "a.npz")
    return folder / "a.npz"


def records(path):
    """Read molecules; whether all of them can be read."""
    found = list(iter_records(path))
    for record in found:
        shown = [record.error or "", record.name, *record.fields, *record.fields.values()]
        assert all(printable(words) == words for words in shown)
        assert "\n" not in (record.error or "")
    return all(record.structure is not None for record in found)


def smiles(path):
    list(read_smiles(path, "smiles"))


def experiment(path):
    config = load_experiment(path)
    assert Path("runs", config.name).resolve().is_relative_to(Path("runs").resolve())
    build_flow(config.model, str(path))


def configuration(path):
    read_experiment(path.parent)
    build_flow(read_model_config(path.parent), str(path))


EXTENDED = b"""3
Lattice="9 0 0 0 9 0 0 0 9" Properties=species:S:1:charge:R:1:pos:R:3 charge=0 name="water one"
O 0.5 0.0 0.0 0.1
H 0.5 0.0 0.7 -0.5
H 0.5 0.0 -0.7 -0.5
"""
SMILES = b"CCO ethanol\nc1ccccc1\tbenzene\n[NH4+].[Cl-] salt\n"
TABLE = b"smiles,name,logP\nCCO,ethanol,-0.3\nC,methane,1.1\n"
READERS = {
    "sdf": (molecules(".sdf"), records),
    "xyz": (molecules(".xyz"), records),
    "npz of molecules": (molecules(".npz"), records),
    "extended xyz": (text("a.extxyz", EXTENDED), records),
    "V3000": (v3000, records),
    "gzipped xyz": (text("a.xyz.gz", gzip.compress(b"3\n\nO 0 0 0\nH 0 0 1\nH 0 1 0\n" * 5)), records),
    "EDM's npz": (arrays("a.npz", positions=np.ones((2, 3, 3)), charges=np.ones((2, 3)), num_atoms=[3, 2]), records),
    "smiles": (text("a.smi", SMILES), smiles),
    "table of smiles": (text("a.csv", TABLE), smiles),
    "gzipped smiles": (text("a.smi.gz", gzip.compress(SMILES)), smiles),
    "vectors": (vectors, lambda path: read_vectors(path, (), ("y",))),
    "table of vectors": (text("a.csv", b"x,y,z\n1,2,3\n4,5,6\n"), lambda path: read_vectors(path, (), ("z",))),
    "configurations": (configurations, lambda path: read_configurations(path, 4, 2)),
    "molecule set": (molecule_set, MoleculeSet.load),
    "experiment": (text("a.toml", EXPERIMENT.encode()), experiment),
    "recipe": (text("a.toml", (TESTS / "training" / "tiny.toml").read_bytes()), load_experiment),
    "configuration": (model(CONFIG), configuration),
    "posterior": (posterior, lambda path: load_posterior(path.parent)),
    "card": (model(CARD), lambda path: read_card(path.parent)),
    "weights": (model(WEIGHTS), lambda path: load(path.parent)),
    "state": (model(STATE), lambda path: load_state(path.parent)),
}


def test_undamaged_files_are_read(tmp_path):
    for place, (make, read) in enumerate(READERS.values()):
        (tmp_path / str(place)).mkdir()
        read(make(tmp_path / str(place)))


@pytest.mark.parametrize("name", READERS)
def test_damaged_files_are_read_or_refused(tmp_path, name, request):
    make, read = READERS[name]
    path = make(tmp_path)
    content, refused = path.read_bytes(), 0
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    n_cases = request.config.getoption("--fuzz-cases")
    for case in range(n_cases):
        path.write_bytes(damaged(content, np.random.default_rng([case, len(name)])))
        start = time.process_time()
        try:
            refused += read(path) is False
        except MolflowError as error:
            refused += 1
            message = str(error)
            assert len(message.splitlines()) == 1, (case, message)
            assert printable(message) == message
            assert len(message) < 5000, case
        except Exception as error:
            raise AssertionError(f"case {case} of {name}: {type(error).__name__}: {error}") from error
        assert time.process_time() - start < SECONDS, case
    grown = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    assert grown < MEGABYTES
    assert refused or n_cases < 50
    log.info("%s: %d damaged files, %d refused, memory grown by %.0f MB", name, n_cases, refused, grown)
