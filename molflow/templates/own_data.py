"""A commented experiment for a user's own file of molecules."""

import json
import re
from pathlib import Path

import numpy as np

from molflow.data.molecule_files import MoleculeFile
from molflow.data.structures import MoleculeSet
from molflow.errors import MolflowError

_ENOUGH = 2000  # training molecules from which a model of compositions learns more than a table

_TEMPLATE = """\
# Flow matching on the molecules of {file}:
#
#     molflow train {name}.toml
#     molflow sample --model runs/{name} -n 100 --out samples.sdf
#     molflow evaluate samples.sdf --bonds perceived --training {file}
#
# {n_train:,} molecules for training, {n_validation:,} for validation, {n_test:,} for testing; {n_dropped:,} left out.
# Heavy atoms: {heavy}. Elements: {elements}.
name = {quoted_name}
seed = 0

[data]
file = {quoted_file}  # relative to the folder of this experiment
{column}split = "random"  # or "scaffold", or the name of a field with train, validation and test
# properties = {{logP = "1", gap = "eV"}}  # fields or columns to keep, with their units
# condition = ["logP"]  # those of them that samples are asked for
# fragments = "largest"  # of salts; by default they are left out
# add_hydrogens = true  # for files without hydrogens

[model]
kind = "continuous"  # "free_form" makes a molecule with one evaluation, and takes longer to train
times = [  # of a sample's steps: from noise at 1 to the data at 0, then twice from a little noise, which removes errors
    1, 0.864, 0.729, 0.593, 0.457, 0.321, 0.186, 0.05, 0,
    0.7, 0.55, 0.4, 0.25, 0.12, 0.05, 0.02, 0,
    0.4, 0.2, 0.1, 0.05, 0.02, 0,
]

[model.domain]
kind = "composed_molecules"  # how many atoms of each type is drawn first, then the flow makes the positions
representation = "united-atom"  # heavy atoms that carry hydrogens; "environment" also gives their bonds, or "all-atom"
compositions = {compositions}  # "table": those of the data; "model": learned from them, new ones too
scale = {scale}  # angstrom; about the standard deviation of the positions

[model.network]
kind = "transformer"

[model.solver]
method = "euler"
n_steps = 20
last_step = 0.02

[objective]
kind = "flow_matching"
pairing = "alignment"
loss_exponent = 0.5
near_fraction = 0.4  # of each batch, near the data, where bond lengths are learned

[optimizer]
learning_rate = 1e-3
warmup_steps = 300
weight_decay = 0.01

[training]
epochs = 100000
max_steps = 20000  # train longer for better molecules
batch_size = 64
batches = "equal_cost"
checkpoint_every = 500
validate_every = 5000
"""


def experiment_for(file: Path, smiles_column: str = "smiles") -> str:
    """The text of an experiment for a file of molecules, which is prepared first; a table has a column of SMILES.

    Raises:
        MolflowError: a file that cannot be prepared.
    """
    data = MoleculeFile(file=file, smiles_column=smiles_column)
    found = data.describe()
    try:
        molecules = MoleculeSet.load(found["file"]).united_atom()
    except MolflowError as error:
        raise MolflowError(f"{file}: {error}") from error
    centres = np.add.reduceat(molecules.positions, molecules.offsets[:-1]) / molecules.n_atoms[:, None]
    spread = (molecules.positions - np.repeat(centres, molecules.n_atoms, 0)).std()
    name = re.sub(r"[^\w-]+", "-", file.name.split(".")[0]).strip("-") or "mine"
    return _TEMPLATE.format(
        file=file.name,
        name=name,
        quoted_name=json.dumps(name, ensure_ascii=False),  # TOML has no surrogates
        quoted_file=json.dumps(str(file), ensure_ascii=False),
        column=""
        if smiles_column == "smiles"
        else f"smiles_column = {json.dumps(smiles_column, ensure_ascii=False)}\n",
        heavy="{} to {}, median {:g}".format(*(found["heavy_atoms"][i] for i in (0, 2, 1))),
        elements=" ".join(found["elements"]),
        compositions='"model"' if found["n_train"] >= _ENOUGH else '"table"',
        scale=round(float(spread), 2) or 1.0,  # 0 for single heavy atoms
        **{key: found[key] for key in ("n_train", "n_validation", "n_test", "n_dropped")},
    )
