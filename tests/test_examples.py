"""The examples in docstrings run, and give what they say."""

import doctest
from importlib import import_module
from pathlib import Path

import numpy as np
import pytest
import torch

import molflow

PACKAGE = Path(molflow.__file__).parent
NAMES = {"np": np, "torch": torch, "molflow": molflow, "__name__": "example"}
MODULES = [
    ".".join(path.relative_to(PACKAGE.parent).with_suffix("").parts).removesuffix(".__init__")
    for path in sorted(PACKAGE.rglob("*.py"))
    if ">>> " in path.read_text(encoding="utf-8")
]


@pytest.mark.parametrize("name", MODULES)
def test_examples_in_docstrings(name, tmp_path, monkeypatch, forget_additions):
    monkeypatch.chdir(tmp_path)
    torch.manual_seed(0)
    result = doctest.testmod(import_module(name), extraglobs=NAMES, optionflags=doctest.IGNORE_EXCEPTION_DETAIL)
    assert result.failed == 0


def test_most_rooms_have_an_example():
    assert {name.split(".")[1] for name in MODULES} >= {"chem", "data", "energies", "flows", "registry", "testing"}
