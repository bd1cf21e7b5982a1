"""The task of molecules on real QM9: the model fitted to its data, and runs of the objectives that warm it up."""

import hashlib
import json
import math
import re
from collections import Counter
from itertools import pairwise
from pathlib import Path

import pytest
import torch

from molflow import load, train
from molflow.data import EqualSizeBatches, MixedSizeBatches, load_qm9
from molflow.distributions import composition_model
from molflow.errors import MolflowError
from molflow.flows.storage import CARD, WEIGHTS
from molflow.training import loop
from molflow.training.config import load_experiment, read_experiment
from molflow.training.tasks import load_splits
from molflow.training.tasks.base import Splits
from molflow.training.tasks.molecules import MoleculeSplits, MoleculesTask
from molflow.training.tasks.sampling import SamplingOptions

TINY = Path(__file__).parents[1] / "tiny.toml"
UNITED_TYPES = ("C", "CH", "CH2", "CH3", "CH4", "N", "NH", "NH2", "NH3", "O", "OH", "OH2", "F")
COMPOSED = 'model.domain={kind = "composed_molecules", representation = "united-atom"}'
SMALL = 'model.decoder={kind = "transformer", hidden = 8, n_vectors = 2, pair_hidden = 4, n_heads = 2, n_blocks = 1}'
MEAN_FLOW = (COMPOSED, SMALL, "model.average_velocity=true", 'objective={kind = "mean_flow"}', "training.batch_size=16")


def tiny(*overrides):
    return load_experiment(TINY, overrides)


@pytest.fixture(scope="module")
def composed():
    return load_splits(tiny(COMPOSED))


# ---- what is filled in -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("representation", "types", "largest"),
    [("all-atom", ("H", "C", "N", "O", "F"), 29), ("united-atom", UNITED_TYPES, 9)],
)
def test_generated_types(representation, types, largest):
    data = load_splits(tiny(f"model.domain.representation={representation}"))
    domain = data.config.model.domain
    assert domain.types == types
    assert sum(domain.atom_counts) == len(data.training) == 100_000
    assert len(domain.atom_counts) == largest + 1
    assert domain.atom_counts[largest] == (data.training.n_atoms == largest).sum()
    assert data.compositions is None
    assert (data.training.hydrogens is None) == (data.validation.hydrogens is None) == (representation == "all-atom")
    flow = data.config.model.build()
    data.fit(flow.domain)  # nothing to do
    assert flow.log_prob(data.validation.batch([0, 1])).isfinite().all()


def test_given_types(composed):
    domain = composed.config.model.domain
    table, counts = composed.compositions
    assert domain.types == UNITED_TYPES
    assert domain.n_compositions == len(table) == len(counts)
    assert table.shape[1] == len(UNITED_TYPES)
    assert int(counts.sum()) == len(composed.training) == 100_000
    assert len(table.unique(dim=0)) == len(table)
    assert counts.min() >= 1
    assert table.sum(1).max() == 9


def test_compositions_are_those_counted_by_hand(composed):
    """In the 100,000 training molecules, from their heavy atoms with their hydrogens."""
    molecules = composed.training
    keys = molecules.atomic_numbers.astype(int) * 256 + molecules.hydrogens
    by_molecule = Counter(tuple(sorted(keys[a:b].tolist())) for a, b in pairwise(molecules.offsets.tolist()))
    numbers = {6: "C", 7: "N", 8: "O", 9: "F"}
    found = {}
    for row, count in zip(*(t.tolist() for t in composed.compositions), strict=True):
        names = [name for name, k in zip(UNITED_TYPES, row, strict=True) for _ in range(k)]
        found[tuple(sorted(names))] = count

    def name(key):
        number, hydrogens = divmod(key, 256)
        return numbers[number] + ("H" * (hydrogens > 0)) + (str(hydrogens) if hydrogens > 1 else "")

    assert found == {tuple(sorted(map(name, key))): count for key, count in by_molecule.items()}


def test_a_fresh_flow_gets_the_table(composed):
    flow = composed.config.model.build()
    with pytest.raises(MolflowError, match="no compositions yet"):
        flow.sample(1, seed=0)
    composed.fit(flow.domain)
    log_p = flow.log_prob(composed.training.batch(range(64)))
    assert log_p.isfinite().all()
    assert 0.98 < len(composed.validation) / 17_748 < 1
    assert flow.log_prob(composed.validation.batch(range(200))).isfinite().all()  # the rest was left out
    known = flow.log_prob(load_qm9("test").batch(range(200))).isfinite().double().mean()
    assert 0.9 < known < 1
    samples = flow.sample(20, seed=0)
    assert set(samples.n_atoms.tolist()) <= set(load_qm9("train").n_atoms.tolist())


def test_all_atoms_can_be_composed_too():
    data = load_splits(tiny("model.domain.kind=composed_molecules"))
    assert data.config.model.domain.types == ("H", "C", "N", "O", "F")
    table, counts = data.compositions
    assert int((table.sum(1) * counts).sum()) == int(data.training.n_atoms.sum())


def test_filling_in_twice_changes_nothing(composed):
    again = load_splits(composed.config)
    assert again.config == composed.config
    assert all(torch.equal(a, b) for a, b in zip(again.compositions, composed.compositions, strict=True))


def test_other_types_of_compositions_are_refused():
    types = 'model.domain={kind = "composed_molecules", types = ["C", "H", "N", "O", "F"]}'
    with pytest.raises(MolflowError, match=r"model\.domain\.types: leave it out, or give those of the data, H, C, N"):
        load_splits(tiny(types))


@pytest.mark.parametrize(("compositions", "share"), [("table", 0.93), ("model", 1.0)])
def test_environment_types(compositions, share, monkeypatch):
    """46 types; training has the compositions of 93 % of the validation molecules."""
    monkeypatch.setattr(composition_model, "_STEPS", 3)
    domain = (
        f'model.domain={{kind = "composed_molecules", representation = "environment", compositions = "{compositions}"}}'
    )
    data = load_splits(tiny(domain))
    types = data.config.model.domain.types
    assert len(types) == 46
    assert {"CH.110", "CH3.100", "F.100", "O.010", "N.001"} <= set(types)
    assert len(data.validation) / 17_748 == pytest.approx(share, abs=0.005)
    assert len(data.compositions[0]) == 18_746
    found = data.config.model.domain
    assert (found.n_compositions, found.max_points) == ((18_746, 0) if compositions == "table" else (0, 9))
    flow = data.config.model.build()
    data.fit(flow.domain)
    assert flow.log_prob(data.validation.batch(range(50))).isfinite().all()
    figures = data.sample_figures(flow, 8, 0)
    assert figures.keys() == {"atom_stability", "molecule_stability", "realised"}
    options = SamplingOptions("model", 8, 4, "cpu")
    sampling = MoleculesTask().sampling(flow, options)
    realised = sum(int(samples.data.realised().sum()) for samples in sampling)
    assert sampling.figures()["realised"] == realised / 8
    assert "have the bonds between heavy atoms that their types say" in sampling.notes()[0]
    random, _ = MoleculesTask().random_data(flow, 3)
    assert flow.domain.types_of(random).min() >= 0


def test_batches(composed):
    assert isinstance(composed.batches(), EqualSizeBatches)
    mixed = load_splits(tiny(COMPOSED, "training.batches=mixed_size")).batches()
    assert isinstance(mixed, MixedSizeBatches)
    assert (mixed.n_molecules, mixed.batch_size) == (100_000, 128)


# ---- runs ------------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def warmed_up(tmp_path_factory):
    """A mean_flow run of 24 steps."""
    return train(tiny(*MEAN_FLOW), tmp_path_factory.mktemp("runs") / "mean_flow")


def lines(folder):
    found = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
    return [{key: value for key, value in line.items() if key != "steps_per_s"} for line in found]


def test_a_mean_flow_run_saves_its_model(warmed_up):
    found = lines(warmed_up)
    training = [line for line in found if "loss" in line]
    assert [line["step"] for line in training] == list(range(2, 25, 2))
    assert all(line.keys() >= {"average_velocity", "flow_matching", "gradient_norm"} for line in training)
    assert all(math.isfinite(value) for line in found for value in line.values())
    assert found[-1].keys() == {
        "step", "validation_loss",
        *(f"{what}_stability{k}" for what in ("atom", "molecule") for k in ("", "_4_evaluations", "_16_evaluations")),
    }  # fmt: skip
    card = json.loads((warmed_up / CARD).read_text())
    assert (card["representation"], card["steps"]) == ("united-atom", 24)
    config = read_experiment(warmed_up)
    assert config.model.domain.n_compositions > 5000
    flow = load(warmed_up)
    assert int(flow.domain.compositions.counts.sum()) == 100_000
    assert flow.sample(5, seed=0, n_evaluations=3).mask.any(1).all()


def killed_and_resumed(monkeypatch, folder, config, **start):
    """Train, be killed in the twelfth step, and resume."""
    calls = []

    def ends_in_step_12(*arguments):
        calls.append(arguments)
        if len(calls) == 12:
            raise RuntimeError("killed")
        return accumulate_gradients(*arguments)

    accumulate_gradients = loop.accumulate_gradients
    monkeypatch.setattr(loop, "accumulate_gradients", ends_in_step_12)
    with pytest.raises(RuntimeError, match="killed"):
        train(config, folder, **start)
    monkeypatch.undo()
    assert lines(folder)[-1]["step"] > 7  # the last checkpoint, so some steps are done again
    train(config, folder, resume=True)


def test_a_mean_flow_run_resumes_exactly(warmed_up, tmp_path, monkeypatch):
    killed_and_resumed(monkeypatch, tmp_path, tiny(*MEAN_FLOW))
    assert lines(tmp_path) == lines(warmed_up)
    assert (tmp_path / WEIGHTS).read_bytes() == (warmed_up / WEIGHTS).read_bytes()
    assert (tmp_path / CARD).read_bytes() == (warmed_up / CARD).read_bytes()


def test_a_lagrangian_run_resumes_with_its_teacher(warmed_up, tmp_path, monkeypatch):
    config = tiny(*MEAN_FLOW, "objective.target=lagrangian")
    with pytest.raises(MolflowError, match="lagrangian has a teacher: start from weights learned by flow matching"):
        train(config, tmp_path / "whole")
    train(config, tmp_path / "whole", start_from=warmed_up / WEIGHTS)
    killed_and_resumed(monkeypatch, tmp_path / "killed", config, start_from=warmed_up / WEIGHTS)
    whole, killed = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "killed"))
    assert whole == killed != (warmed_up / WEIGHTS).read_bytes()


def test_inversion_starts_from_a_mean_flow_run_and_keeps_its_decoder(warmed_up, tmp_path):
    inversion = (
        *MEAN_FLOW[:3],
        'objective={kind = "inversion"}',
        "training.batch_size=16",
        "optimizer.weight_decay=0.1",
    )
    train(tiny(*inversion), tmp_path, start_from=warmed_up / WEIGHTS)
    before, after = load(warmed_up).state_dict(), load(tmp_path).state_dict()
    for name, tensor in before.items():
        assert torch.equal(tensor, after[name]) == (not name.startswith("encoder")), name
    training = [line["loss"] for line in lines(tmp_path) if "loss" in line]
    assert training[-1] < training[0]


def test_a_regression_run_resumes_with_its_teacher(warmed_up, tmp_path, monkeypatch):
    options = *MEAN_FLOW[:3], f'objective={{kind = "regression", teacher = "{warmed_up}", evaluations = 2}}'
    config = tiny(*options)
    train(config, tmp_path / "whole")
    killed_and_resumed(monkeypatch, tmp_path / "killed", config)
    whole, killed = ((tmp_path / name / WEIGHTS).read_bytes() for name in ("whole", "killed"))
    assert whole == killed
    training = [line["loss"] for line in lines(tmp_path / "whole") if "loss" in line]
    assert training[-1] < training[0]
    with pytest.raises(MolflowError, match=f"{warmed_up}: its model.domain differs from that of the experiment"):
        train(tiny(*options, "model.domain.scale=2.0"), tmp_path / "scaled")


def test_a_free_form_run_continues_from_it(warmed_up, tmp_path):
    free_form = (*MEAN_FLOW[:3], "training.batch_size=16", "training.max_steps=2")
    train(tiny(*free_form), tmp_path, start_from=warmed_up / WEIGHTS)
    assert math.isfinite(lines(tmp_path)[-1]["validation_reconstruction_error"])
    assert load(tmp_path).sample(2, seed=0).mask.any(1).all()


@pytest.mark.parametrize(
    ("overrides", "message"),
    [
        (
            ['objective={kind = "mean_flow"}'],
            "objective: the mean_flow objective needs a flow with has_average_velocity (model.kind = 'free_form' and "
            "model.average_velocity = true)",
        ),
        (
            ["training.compile=true", "training.batches=mixed_size"],
            "objective: only the surrogate decoder_jvp can be compiled; set it, or training.compile = false",
        ),
        ([COMPOSED, SMALL, "model.decoder.hidden=9"], "model: hidden (9) must be a multiple of n_heads (2)"),
    ],
)
def test_settings_that_contradict_are_named(tmp_path, overrides, message):
    with pytest.raises(MolflowError, match=re.escape(message)):
        train(tiny(*overrides), tmp_path)
    assert not (tmp_path / CARD).exists()


def test_resuming_with_another_kind_of_objective_is_refused(warmed_up):
    with pytest.raises(MolflowError, match=r"its run has another objective\.kind"):
        train(tiny(*MEAN_FLOW[:3], "training.batch_size=16"), warmed_up, resume=True)


def test_the_card_says_where_the_run_started(warmed_up, tmp_path):
    train(tiny(*MEAN_FLOW, "training.max_steps=1"), tmp_path, start_from=warmed_up / WEIGHTS)
    card = json.loads((tmp_path / CARD).read_text())
    assert card["started_from"]["card"] == json.loads((warmed_up / CARD).read_text())
    assert card["started_from"]["sha256"] == hashlib.sha256((warmed_up / WEIGHTS).read_bytes()).hexdigest()
    assert card["started_from"]["card"]["started_from"] is None


def test_mixed_sizes_are_one_shape():
    data = load_splits(tiny("training.batches=mixed_size"))
    assert {data.batch(batch).data.mask.shape for batch in data.batches().epoch(0)[:20]} == {(128, 29)}


# ---- conditions ------------------------------------------------------------------------------------------------------


def test_a_conditional_model_is_trained_and_validated(tmp_path):
    """The statistics of the conditions are those of the training data; batches carry theirs; a resumed run agrees."""
    conditional = (COMPOSED, 'data.condition=["gap", "dipole"]', "training.batch_size=16", "training.max_steps=9")
    splits = load_splits(tiny(*conditional))
    training = load_qm9("train").properties
    fitted = splits.config.model.conditions
    assert fitted.names == ("gap", "dipole")
    assert fitted.mean == pytest.approx([training[name].mean() for name in fitted.names], rel=1e-5)
    assert fitted.std == pytest.approx([training[name].std() for name in fitted.names], rel=1e-4)
    indices = splits.batches().epoch(0)[0]
    batch = splits.batch(indices)
    assert batch.condition[:, 0].tolist() == pytest.approx(training["gap"][indices].tolist(), rel=1e-6)
    assert len(splits.held_out(5).condition) == 5
    train(tiny(*conditional), tmp_path)
    assert lines(tmp_path)[-1].keys() >= {"validation_nll_encoder", "molecule_stability"}
    flow = load(tmp_path)
    with pytest.raises(MolflowError, match="this model needs a condition: gap, dipole"):
        flow.sample(2, seed=0)
    assert len(flow.sample(2, seed=0, condition={"gap": 0.25, "dipole": 1.0})) == 2
    assert flow.log_prob(batch.data[:2], condition=batch.condition[:2]).isfinite().all()


def test_a_condition_that_does_not_vary_is_refused():
    loaded = load_splits(tiny()).config.data.load("validation")
    with pytest.raises(MolflowError, match=r"data\.condition: gap is the same for all training data"):
        Splits.__init__(
            object.__new__(MoleculeSplits), None, tiny('data.condition=["gap"]'),
            loaded._replace(condition=torch.ones(5, 1)), loaded,
        )  # fmt: skip


# ---- elements outside the look-up tables -----------------------------------------------------------------------------


def test_an_element_outside_the_tables_does_not_end_validation():
    """EDM's tables have no gold: such molecules count as not stable."""
    splits = load_splits(tiny())
    domain = splits.config.model.domain.model_copy(update={"types": ("H", "Au")})
    flow = splits.config.model.model_copy(update={"domain": domain}).build()
    assert set(flow.sample(8, seed=0).atomic_numbers.unique().tolist()) <= {0, 1, 79}
    figures = splits.sample_figures(flow, 8, 0)
    assert 0 <= float(figures["atom_stability"]) <= 1
    assert float(figures["molecule_stability"]) == 0
