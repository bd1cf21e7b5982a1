"""The examples in docstrings run, and give what they say."""

import doctest
from importlib import import_module

import numpy as np
import pytest
import torch

import molflow

MODULES = [
    "molflow.chem.bonds",
    "molflow.data.loaders",
    "molflow.data.structures",
    "molflow.energies.double_well",
    "molflow.energies.lennard_jones",
    "molflow.energies.reweighting",
    "molflow.testing",
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name):
    failed, attempted = doctest.testmod(import_module(name), extraglobs={"np": np, "torch": torch, "molflow": molflow})
    assert attempted > 0
    assert failed == 0
