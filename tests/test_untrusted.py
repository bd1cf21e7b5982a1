"""Input from strangers: bounded before memory is taken, refused in one line, and shown without control characters."""

import csv
import gzip
import json
import os
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from rdkit import Chem

from molflow import load_experiment, load_pretrained
from molflow.chem import Structure, StructureWriter, iter_records
from molflow.chem.arrays import LARGEST_NPZ
from molflow.data import MoleculeSet, read_array
from molflow.data.smiles import read_smiles
from molflow.errors import MolflowError, printable
from molflow.evaluation import DetailWriter
from molflow.evaluation.reports import MoleculeReport
from molflow.flows.bounds import LARGEST, BoundedTensors
from molflow.flows.storage import CARD, read_card
from molflow.pretrained import folder_of

WATER = Structure(np.array([[0, 0, 0.12], [0, 0.76, -0.48], [0, -0.76, -0.48]]), np.array([8, 1, 1]))
TINY = Path(__file__).parent / "training" / "tiny.toml"


# ---- sizes -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("key", ["n_blocks", "hidden", "pair_hidden"])
def test_a_model_that_would_fill_the_memory_is_refused_before_it_is_built(fails, tmp_path, key):
    code, error = fails("train", TINY, "--out", tmp_path / "run", "--set", f"model.encoder.{key}=1000000000")
    assert code == 1
    assert error == f"model: a model of more than {LARGEST:,} numbers, or of more layers than can be made"


@pytest.mark.parametrize("model", ["kind = 'planar'", "encoder.kind = 'resnet'", "kind = 'iresnet'"])
def test_layers_that_would_fill_the_memory_with_their_widths_are_refused(fails, tmp_path, model):
    key = "encoder.n_layers" if "encoder" in model else "n_layers"
    text = (
        f"name = 'x'\ndata.name = 'two-moons'\nmodel.domain.kind = 'vectors'\nmodel.{model}\nmodel.{key} = 1000000000"
    )
    (tmp_path / "x.toml").write_text(text)
    code, error = fails("train", tmp_path / "x.toml", "--out", tmp_path / "run")
    assert code == 1
    assert error.endswith(f"x.toml: model.{key}: expected at most 10000, got 1000000000")


def test_a_message_is_one_line_whatever_a_file_holds(tmp_path):
    (tmp_path / "a.csv").write_text('"name\nof it",logP\nCCO,1\n')
    with pytest.raises(
        MolflowError, match=r"^.*a\.csv: has no column 'smiles', only name of it, logP; name the one .*$"
    ):
        list(read_smiles(tmp_path / "a.csv", "smiles"))


def test_bounds_change_no_weights():
    config = load_experiment(TINY).model.encoder
    made = []
    for bounds in (BoundedTensors(), torch.random.fork_rng()):
        with torch.random.fork_rng(), bounds:
            torch.manual_seed(0)
            made.append(config.build(5).state_dict())
    assert all(torch.equal(made[0][name], made[1][name]) for name in made[1])


def test_an_archive_that_says_that_it_unpacks_to_gigabytes_is_refused(tmp_path):
    path = tmp_path / "a.npz"
    np.savez_compressed(path, positions=np.zeros((2, 3, 3)))
    packed = path.read_bytes()
    place = packed.index(b"PK\x01\x02") + 24  # of the unpacked size in the directory
    path.write_bytes(packed[:place] + (LARGEST_NPZ + 1).to_bytes(4, "little") + packed[place + 4 :])
    for read in (lambda: read_array(path, "positions"), lambda: MoleculeSet.load(path)):
        with pytest.raises(MolflowError, match=r"a\.npz: unpacks to 2\.1 GB, at most 2\.1 GB are read"):
            read()


def test_a_line_that_unpacks_to_megabytes_is_refused(tmp_path):
    path = tmp_path / "a.smi.gz"
    path.write_bytes(gzip.compress(b"C" * 50_000_000))
    with pytest.raises(MolflowError, match="has a line of 65,536 characters; expected a SMILES and a name"):
        list(read_smiles(path, "smiles"))


# ---- configurations, cards, seeds ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("a = " + "[" * 5000, "not a TOML file: "),
        (".".join("a" * 500) + " = 1", "nested too deeply; at most 100 levels are read"),
        ("a = 1\n" * 200_000, "larger than 1 MiB"),
        ("\n".join(f"a{k} = 1" for k in range(1000)), "unknown key a5; "),
        ("seed = " + "9" * 5000, "not a TOML file: "),
        ('name = "\\u001b[31m"', "expected the name of a folder within runs"),
    ],
)
def test_hostile_experiments(tmp_path, content, message):
    path = tmp_path / "a.toml"
    path.write_text(content)
    with pytest.raises(MolflowError) as caught:
        load_experiment(path)
    assert message in str(caught.value)
    assert str(caught.value).startswith(f"{path}: ")
    assert len(str(caught.value)) < 2000


@pytest.mark.parametrize("name", ["../../..", "/tmp/x", "a/../../b", "..", "x" * 101])
def test_a_run_cannot_leave_its_folder(name):
    with pytest.raises(MolflowError, match="name: expected the name of a folder within runs"):
        load_experiment(TINY, [f"name={json.dumps(name)}"])


@pytest.mark.parametrize(
    ("card", "message"),
    [
        ([1], "expected a table"),
        ({"scores": [1]}, "scores: "),
        ({"steps": "many"}, "steps: "),
        ({"started_from": 3}, "started_from: "),
    ],
)
def test_damaged_cards(tmp_path, card, message):
    (tmp_path / CARD).write_text(json.dumps(card))
    with pytest.raises(MolflowError, match=message):
        read_card(tmp_path)


def test_shipped_cards_are_read():
    assert read_card(folder_of("qm9"))["task"] == "molecules"


@pytest.mark.parametrize("seed", [2**64, -(2**63) - 1, 10**30])
def test_seeds_of_more_than_64_bits(seed):
    with pytest.raises(MolflowError, match=f"seed {seed}: expected a whole number of 64 bits"):
        load_pretrained("dw4").sample(2, seed=seed)


# ---- text ------------------------------------------------------------------------------------------------------------

RED = "\x1b[31mred\x07\u202e"


def test_messages_names_and_fields_have_no_control_characters(tmp_path):
    assert str(MolflowError(RED)) == "[31mred"
    with StructureWriter(tmp_path / "a.sdf") as writer:
        writer.write(WATER)
    text = (tmp_path / "a.sdf").read_text().replace("molecule 1", RED)
    (tmp_path / "a.sdf").write_text(text.replace("$$$$", f"> <{RED}>\n{RED}\n\n$$$$"))
    (record,) = iter_records(tmp_path / "a.sdf")
    assert (record.name, record.fields) == ("[31mred", {"[31mred": "[31mred"})
    (tmp_path / "b.xyz").write_text(f"1\n\n{RED} 0 0 0\n")
    (record,) = iter_records(tmp_path / "b.xyz")
    assert printable(record.error) == record.error


@pytest.mark.parametrize("value", ["$$$$", "$$$$ x", "> <other>", ">", "two\nlines\n\n$$$$", RED])
def test_properties_do_not_split_records(tmp_path, value):
    path = tmp_path / "a.sdf"
    with StructureWriter(path) as writer:
        for _ in range(2):
            writer.write(WATER, {"first": value, f"<{value}>": 1, "last": "x"})
    expected = " ".join(printable(value).split())
    found = list(iter_records(path))
    assert [record.error for record in found] == [None, None]
    for record in found:
        assert len(record.fields) == 3
        assert record.fields["first"].strip() == expected
    for mol in Chem.SDMolSupplier(str(path), removeHs=False):
        assert mol.GetProp("first").strip() == expected
        assert mol.GetProp("last") == "x"


def test_texts_that_look_like_formulas_are_quoted_and_numbers_are_not(tmp_path):
    report = MoleculeReport(n_atoms=1, formula="H", status="invalid", reason="=HYPERLINK(1)", source="-a", clashes=-1)
    with DetailWriter(tmp_path / "a.csv") as details:
        details.write(report, None)
    with (tmp_path / "a.csv").open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert (row["reason"], row["source"], row["clashes"]) == ("'=HYPERLINK(1)", "'-a", "-1")


# ---- pipes and streams -----------------------------------------------------------------------------------------------


def test_a_pipe_in_a_folder_is_named_and_not_waited_for(tmp_path):
    with StructureWriter(tmp_path / "a.xyz") as writer:
        writer.write(WATER)
    os.mkfifo(tmp_path / "b.xyz")
    first, second = iter_records(tmp_path)
    assert first.error is None
    assert second.complaint == f"{tmp_path / 'b.xyz'}, record 1, a pipe or a device; expected a file of molecules"


@pytest.mark.parametrize(
    ("redirection", "message"),
    [
        (">&-", "molflow: error: standard output or standard error is closed; send it to /dev/null to have none\n"),
        ("> /dev/full", "molflow: error: writing failed: No space left on device\n"),
        ("| true", ""),
    ],
)
def test_standard_output_that_cannot_be_written(redirection, message):
    command = f"({sys.executable} -m molflow.cli models; echo $? >&3) {redirection}"
    read, write = os.pipe()
    done = subprocess.run(
        ["bash", "-c", f"exec 3>&{write}; {command}"], pass_fds=[write], stderr=subprocess.PIPE, text=True, check=False
    )
    assert os.read(read, 10) == b"1\n"
    assert done.stderr == message
    os.close(read)
    os.close(write)
