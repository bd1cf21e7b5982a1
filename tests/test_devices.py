"""Every public path makes its tensors on the device of its inputs.

Where there is a GPU, models and inputs lie on it. Elsewhere the default device is "meta" while they lie on the CPU: a
tensor that is made without a device has no data there, and what uses it fails.
"""

import copy

import numpy as np
import pytest
import torch
from laws import asked, make_flow, random_data

from molflow.batch import MoleculeBatch
from molflow.chem import EDM_QM9, read_structures
from molflow.data import load_qm9
from molflow.data.batches import Batch
from molflow.energies import (
    DoubleWell,
    LennardJones,
    effective_sample_size,
    independent_metropolis,
    log_weights,
    resample,
)
from molflow.evaluation import evaluate, mmd
from molflow.flows import FixedStepSolver
from molflow.testing import assert_equivariant
from molflow.training.objectives import OBJECTIVES
from molflow.training.objectives.accumulation import accumulate_gradients
from molflow.training.pairing import PAIRINGS

DEVICE = "cuda" if torch.cuda.is_available() else "cpu"
FLOWS = [
    "molecules-argmax", "molecules-variational", "molecules-united-transformer", "composed-united-average-velocity",
    "composed-united-conditional", "composed-environment-noise", "united-model-of-compositions", "particles-2d",
    "particles-continuous", "particles-diffusion", "vectors-conditional", "vectors-continuous", "vectors-diffusion",
    "vectors-planar", "vectors-radial", "vectors-nice", "vectors-glow", "vectors-maf", "vectors-nsf", "vectors-naf",
    "vectors-iresnet", "vectors-flowpp",
]  # fmt: skip


@pytest.fixture
def strict():
    """Call it when all inputs are made: tensors without a device have no data from then on."""
    yield lambda: torch.set_default_device("meta" if DEVICE == "cpu" else None)
    torch.set_default_device(None)


@pytest.mark.parametrize("name", FLOWS)
def test_flows(name, strict):
    flow = make_flow(name).to(DEVICE)
    data, settings = random_data(flow).to(DEVICE), asked(flow)
    condition = settings.get("condition")
    strict()
    flow.sample(4, seed=0, temperature=0.9, **settings)
    flow.sample_and_log_prob(4, seed=0, **settings)
    for which in ("encoder", "decoder"):
        flow.log_prob(data, which=which, **settings)
    if flow.takes_evaluations:
        flow.sample(4, seed=0, n_evaluations=2, **settings)
    flow.loss(data, condition, flow.generator(0)).backward()


@pytest.mark.parametrize("ask", [{"formula": "C2H4O"}, {"n_atoms": 5}, {"elements": ["C", "H", "O"]}], ids=str)
@pytest.mark.parametrize("name", ["composed-united-conditional", "united-model-of-compositions"])
def test_what_is_asked(name, ask, strict):
    flow = make_flow(name).to(DEVICE)
    strict()
    flow.domain.log_prob_of(**ask)


@pytest.mark.parametrize("name", ["composed-united-conditional", "united-model-of-compositions"])
def test_room_for_a_scaffold(name, strict):
    flow = make_flow(name).to(DEVICE)
    x, numbers = torch.randn(1, 2, 3, device=DEVICE), torch.tensor([[6, 8]], device=DEVICE)
    scaffold = MoleculeBatch(x, numbers, numbers > 0)
    strict()
    request = flow.domain.request(scaffold=scaffold)
    flow.domain.sample_context(4, flow.generator(0), flow.device, flow.dtype, request)
    flow.domain.log_prob_of(scaffold=scaffold)


@pytest.mark.parametrize("kind", OBJECTIVES)
def test_objectives(kind, strict):
    """A training step: preparation on the CPU, then gradients, in parts."""
    flow = make_flow(
        {
            "flow_matching": "composed-united-continuous-transformer", "likelihood": "molecules-continuous",
            "diffusion": "composed-united-diffusion", "stages": "composed-united-stages",
        }.get(kind, "composed-united-average-velocity")
    ).to(DEVICE)  # fmt: skip
    settings = {
        "stages": {"teacher": "a run", "times": (1.0, 0.3, 0.0), "longest_step": 0.4},
        "regression": {"teacher": "a run", "evaluations": 2},
        "flow_matching": {"near_fraction": 0.3, "pairing": "equivariant_optimal_transport"},
        "mean_flow": {"both_ways": True, "pairing": "optimal_transport"},
    }.get(kind, {})
    teacher = {"stages": "composed-united-continuous-transformer"}.get(kind)
    teacher = make_flow(teacher).to(DEVICE) if teacher else copy.deepcopy(flow)
    objective, data = OBJECTIVES[kind](**settings).build(flow, teacher=teacher), random_data(flow)
    strict()
    prepared = objective.preparation()(Batch(data), torch.Generator().manual_seed(0)).to(DEVICE)
    objective.initialize(prepared)
    loss, _ = accumulate_gradients(objective, prepared, flow.generator(0), micro_batch=3)
    assert np.isfinite(loss)


@pytest.mark.parametrize("pairing", PAIRINGS)
def test_pairings(pairing, strict):
    flow = make_flow("composed-united-average-velocity")
    points, context, _ = flow.to_points(random_data(flow), None)
    latent = flow.domain.space(context.mask).randn(flow.generator(0), flow.dtype)
    strict()
    PAIRINGS[pairing](points, latent, context, torch.Generator().manual_seed(0))


def test_molecules(strict, tmp_path):
    molecules = load_qm9("test").batch(np.arange(6)).to(DEVICE)
    strict()
    molecules.write(tmp_path / "molecules.sdf")
    structures = read_structures(tmp_path / "molecules.sdf")
    assert MoleculeBatch.from_structures(structures)[[0, 2]].mask.device.type == "cpu"
    assert len(molecules[[0, 2]].to_rdkit()) == 2
    assert len(MoleculeBatch.concatenate([molecules, molecules])) == 12
    atoms, _ = EDM_QM9.stability(molecules.positions, molecules.atomic_numbers, molecules.mask)
    assert atoms.device.type == DEVICE
    assert evaluate(molecules, workers=1).n_molecules == 6


def test_energies(strict):
    flow, energy = make_flow("particles-2d").to(DEVICE), DoubleWell()
    x = torch.randn(6, 4, 3, dtype=torch.float64, device=DEVICE)
    strict()
    assert LennardJones(4).energy(x).isfinite().all()
    log_w = log_weights(energy, *flow.sample_and_log_prob(6, seed=0))
    assert effective_sample_size(log_w) > 0
    assert len(resample(x, torch.zeros(6, device=DEVICE), 4, seed=0)) == 4
    assert len(independent_metropolis(energy, flow.sample_and_log_prob, 4, n_chains=2, seed=0, n_burn_in=2).x) == 4


def test_comparisons_of_samples(strict):
    a, b = torch.randn(2, 60, 3, device=DEVICE)
    strict()
    assert mmd(a, b) < mmd(a, b + 1)


def test_the_laws_of_networks(strict):
    flow = make_flow("particles-3d").to(DEVICE)
    x = torch.randn(4, 4, 3, dtype=torch.float64, device=DEVICE)
    mask = torch.ones(4, 4, dtype=torch.bool, device=DEVICE)
    strict()
    assert_equivariant(flow.encoder, x, x[..., :0], mask)


def test_a_solver_names_the_time_of_a_failure(strict):
    flow = make_flow("particles-continuous").to(DEVICE)
    flow.solver = FixedStepSolver(method="euler", n_steps=2)
    x = torch.full((1, 4, 2), 1e300, dtype=torch.float64, device=DEVICE)
    x[0, 0] = -1e300
    strict()
    with pytest.raises(Exception, match="not finite at time"):
        flow.log_prob(x)
