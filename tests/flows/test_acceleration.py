"""Compiled networks give the samples of eager ones, and sampling says why it does not compile."""

import logging

import pytest
import torch
from laws import make_flow

from molflow.errors import MolflowError
from molflow.flows import acceleration
from molflow.flows.acceleration import has_compiler

needs_compiler = pytest.mark.skipif(not has_compiler(), reason="no C++ compiler")
CHAIN, STEPS = "molecules-united-transformer", "composed-environment-continuous"


@needs_compiler
@pytest.mark.parametrize("name", [CHAIN, STEPS])
def test_compiled_samples_are_the_eager_ones(name):
    """Of all sizes, in batches of different lengths; afterwards nothing is compiled."""
    flow = make_flow(name)
    ask = {"seed": 1, "batch_size": 23}
    expected = flow.sample(70, **ask, compile=False)
    found = flow.sample(70, **ask, compile=True)
    assert (found.atomic_numbers == expected.atomic_numbers).all()
    heavy, expected_heavy = (batch.united_atom().positions for batch in (found, expected))  # hydrogens may turn over
    assert 0 < (heavy - expected_heavy).abs().max() < 1e-4
    assert flow.sample(70, **ask).positions.equal(expected.positions)


@needs_compiler
def test_compiling_by_itself_where_it_repays(monkeypatch, caplog):
    flow = make_flow(CHAIN)
    compiled = []
    monkeypatch.setattr(acceleration, "_FEW", 0)
    monkeypatch.setattr(acceleration, "_compiled", lambda function: compiled.append(1) or function)
    caplog.set_level(logging.INFO, "molflow")
    expected = flow.sample(8, seed=1)
    assert (compiled, caplog.messages) == ([], [])
    monkeypatch.setattr(acceleration, "REPAYS", 1e3)
    assert flow.sample(8, seed=1).positions.equal(expected.positions)
    assert compiled
    assert [message.split(",")[0] for message in caplog.messages] == ["sampling is compiled"]


def test_without_a_compiler(monkeypatch, caplog):
    flow = make_flow(CHAIN)
    monkeypatch.setenv("CXX", "no-such-compiler")
    monkeypatch.setattr(acceleration, "_FEW", 0)
    monkeypatch.setattr(acceleration, "REPAYS", 1e3)
    caplog.set_level(logging.INFO, "molflow")
    assert len(flow.sample(4, seed=0)) == 4
    assert len(caplog.messages) == 1
    assert "no C++ compiler 'no-such-compiler' was found" in caplog.messages[0]
    with pytest.raises(MolflowError, match="'no-such-compiler' was found; install one"):
        flow.sample(4, seed=0, compile=True)


def test_a_compiled_network_that_differs_is_refused(monkeypatch, caplog):
    flow = make_flow(CHAIN)
    eager = flow.sample(4, seed=0)

    def wrong(function):
        return lambda network, x, *others: tuple(1.1 * change for change in function(network, x, *others))

    monkeypatch.setattr(acceleration, "has_compiler", lambda: True)
    monkeypatch.setattr(acceleration, "_compiled", wrong)
    with pytest.raises(MolflowError, match=r"cannot be compiled: compiled samples are .* from the eager ones"):
        flow.sample(4, seed=0, compile=True)
    monkeypatch.setattr(acceleration, "_FEW", 0)
    monkeypatch.setattr(acceleration, "REPAYS", 1e3)
    assert flow.sample(4, seed=0).positions.equal(eager.positions)
    assert "sampling is not compiled" in caplog.messages[-1]


def test_other_precision():
    flow = make_flow(CHAIN).float()
    exact, rounded = (flow.sample(20, seed=0, precision=precision) for precision in ("float32", "bfloat16"))
    assert 1e-5 < (exact.positions - rounded.positions).abs().median() < 0.1
    assert rounded.positions.dtype == torch.float32
    with pytest.raises(MolflowError, match="unknown precision 'float16'"):
        flow.sample(2, precision="float16")


def test_vectors_are_not_compiled():
    flow = make_flow("vectors")
    for settings in ({"compile": True}, {"precision": "bfloat16"}):
        with pytest.raises(MolflowError, match="on point clouds"):
            flow.sample(2, **settings)
