"""Hostile numbers: half precision, another default dtype, inputs that want gradients, temperatures, far coordinates."""

import math
import re

import pytest
import torch
from laws import asked, make_flow, random_data

from molflow import evaluate
from molflow.batch import MoleculeBatch
from molflow.data.batches import Batch
from molflow.energies import DoubleWell, LennardJones
from molflow.errors import MolflowError, NumericalError
from molflow.training.objectives import OBJECTIVES

FLOWS = ["molecules-argmax", "composed-united-conditional", "particles-2d", "particles-continuous", "vectors-glow"]


@pytest.fixture(params=FLOWS)
def name(request):
    return request.param


def densities(flow, data):
    settings = asked(flow)
    return [flow.log_prob(data, which=which, **settings) for which in ("encoder", "decoder")]


def tensors(samples):
    return [samples.positions, samples.atomic_numbers] if isinstance(samples, MoleculeBatch) else [samples]


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_half_precision_is_refused(name, dtype):
    flow, data = make_flow(name, dtype), random_data(make_flow(name), torch.float32)
    condition = asked(flow)
    calls = {
        "sample": lambda: flow.sample(2, seed=0, **({name: c[:2] for name, c in condition.items()})),
        "density": lambda: densities(flow, data),
        "nll": lambda: flow.nll(data, condition.get("condition"), flow.generator(0)),
    }
    for call in calls.values():
        with pytest.raises(MolflowError, match=r"this flow is in b?float16; convert it with flow\.float\(\)"):
            call()


def test_the_default_dtype_changes_nothing(name):
    """A flow in float32 stays one, sample for sample."""
    flow, data = make_flow(name, torch.float32), random_data(make_flow(name), torch.float32)
    samples, density = flow.sample(4, seed=0, **asked(flow)), densities(flow, data)
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    try:
        again, other = flow.sample(4, seed=0, **asked(flow)), densities(flow, data)
    finally:
        torch.set_default_dtype(before)
    torch.testing.assert_close(tensors(again), tensors(samples), rtol=0, atol=0)
    torch.testing.assert_close(other, density, rtol=1e-5, atol=1e-4)


def test_inputs_may_want_gradients(name):
    flow = make_flow(name)
    data, same = random_data(flow), random_data(flow)
    (data if isinstance(data, torch.Tensor) else data.positions).requires_grad_()
    torch.testing.assert_close(densities(flow, data), densities(flow, same), rtol=0, atol=0)


def test_molecules_may_want_gradients(tmp_path):
    molecules = make_flow("molecules-argmax", torch.float32).sample(5, seed=0)
    figures = evaluate(molecules, scope="stability").to_dict()
    molecules.positions.requires_grad_()
    assert evaluate(molecules, scope="stability").to_dict() == figures
    molecules.write(tmp_path / "molecules.xyz")
    assert len(molecules.to_rdkit()) == 5


@pytest.mark.parametrize("temperature", [math.inf, -math.inf, math.nan, 0.0, -1.0, 1e-30, 1e30])
def test_temperatures_without_a_meaning_are_refused(temperature):
    flow = make_flow("particles-2d", torch.float32)
    for draw in (flow.sample, flow.sample_and_log_prob):
        with pytest.raises(ValueError, match="temperature must be a number from 1e-06 to 1e"):
            draw(2, temperature=temperature)


def result_or_reason(call):
    """The result of a call, or the one line that says why there is none."""
    try:
        return call(), ""
    except NumericalError as error:
        return None, str(error)


@pytest.mark.parametrize("temperature", [1e-6, 1e6])
def test_extreme_temperatures(name, temperature):
    """Samples with finite densities, or one line where float32 does not suffice."""
    flow = make_flow(name, torch.float32)
    found, reason = result_or_reason(
        lambda: flow.sample_and_log_prob(4, seed=0, temperature=temperature, **asked(flow))
    )
    if found is None:
        assert temperature > 1
        assert "not finite at time" in reason
    else:
        assert all(tensor.isfinite().all() for tensor in (*tensors(found[0]), found[1]))


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_far_coordinates(name, which):
    """At 1e6 the density is far below that of the data, or one line says that it is not a number."""
    flow, data = make_flow(name, torch.float32), random_data(make_flow(name), torch.float32)
    near = flow.log_prob(data, which=which, **asked(flow))
    if isinstance(data, torch.Tensor):
        data = data * 1e6
    else:
        data.positions.mul_(1e6)
    far, reason = result_or_reason(lambda: flow.log_prob(data, which=which, **asked(flow)))
    if far is None:
        assert re.search(r"its density is not a number in torch\.float32|not finite at time", reason)
    else:
        assert (far < near - 1000).all()


def test_energies_of_far_coordinates():
    x = 1e6 * torch.randn(3, 4, 3, generator=torch.Generator().manual_seed(0))
    for energy in (DoubleWell(dim=3), LennardJones(4)):
        u = energy.energy(x)
        assert u.isfinite().all()
        torch.testing.assert_close(u, energy.energy(x.double()).float(), rtol=1e-4, atol=0)


def test_numbers_that_are_not_finite_are_refused(name):
    flow = make_flow(name, torch.float32)
    for bad in (math.nan, math.inf):
        data = random_data(flow, torch.float32)
        (data if isinstance(data, torch.Tensor) else data.positions)[2, 0] = bad
        with pytest.raises(MolflowError, match="configuration 2 of the batch: expected finite numbers"):
            densities(flow, data)


def test_an_objective_in_half_precision_is_refused():
    flow = make_flow("particles-2d", torch.bfloat16)
    objective = OBJECTIVES["free_form"]().build(flow)
    with pytest.raises(MolflowError, match="this flow is in bfloat16"):
        objective(Batch(torch.randn(2, 4, 2)), flow.generator(0))
