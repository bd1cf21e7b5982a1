"""Data to points and back: the names of types, both representations, and what a domain refuses."""

import dataclasses
import math

import pytest
import torch
from laws import ALL_ATOM, BONDS, FLOWS, MEANING, MOLECULE_FLOWS, UNITED, asked, make_flow, random_data

from molflow.batch import MoleculeBatch
from molflow.chem import SYMBOLS
from molflow.distributions import AtomCounts, CompositionTable
from molflow.errors import MolflowError
from molflow.flows import ComposedMoleculeDomain, MoleculeDomain, ParticleDomain
from molflow.flows.dequantization import ArgmaxDequantizer
from molflow.flows.domains import bond_ends, code_name, type_codes, type_name
from molflow.geometry import Context, Points, project

COMPOSED = [name for name in MOLECULE_FLOWS if name.startswith("composed")]
UNITED_FLOWS = [name for name in MOLECULE_FLOWS if "united" in name]
ENVIRONMENT_FLOWS = [name for name in MOLECULE_FLOWS if "environment" in name]


def united(*types):
    return composed(types, "united-atom")


def composed(types, representation, scale=1.5):
    return ComposedMoleculeDomain(types, representation, scale, CompositionTable(len(types)))


# ---- names of types --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "hydrogens", "name"),
    [
        (6, 0, "C"),
        (6, 1, "CH"),
        (6, 4, "CH4"),
        (1, 0, "H"),
        (17, 0, "Cl"),
        (14, 3, "SiH3"),
        (80, 1, "HgH"),
        (2, 0, "He"),
    ],
)
def test_a_type_has_one_name(number, hydrogens, name):
    assert type_name(number, hydrogens) == name
    domain = united(name)
    assert (domain.type_numbers.tolist(), domain.type_hydrogens.tolist()) == ([number], [hydrogens])


def test_all_types_come_back_from_their_names():
    pairs = [(number, hydrogens) for number in range(1, len(SYMBOLS) + 1) for hydrogens in range(8)]
    domain = united(*(type_name(*pair) for pair in pairs))
    assert list(zip(domain.type_numbers.tolist(), domain.type_hydrogens.tolist(), strict=True)) == pairs


@pytest.mark.parametrize(
    "name", ["", "H2O", "CH1", "CH0", "CH8", "CH25", "CH3x", "C2", "c", "3", "CH ", "CHH", "carbon"]
)
def test_an_invalid_type_is_named(name):
    with pytest.raises(ValueError, match=f"'{name}' is not a type; expected an element, or one with its hydrogens"):
        united("C", name)


def test_an_unknown_element_is_named():
    with pytest.raises(ValueError, match="unknown element 'Xx'"):
        united("C", "XxH2")


def test_types_must_be_given_and_fit_the_representation():
    with pytest.raises(ValueError, match="at least one, got none"):
        composed((), "united-atom")
    with pytest.raises(ValueError, match="types of the all-atom representation carry no hydrogens"):
        composed(("C", "CH3"), "all-atom")


# ---- there and back --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", FLOWS)
def test_data_come_back(name):
    flow = make_flow(name)
    data = random_data(flow)
    points, context, _ = flow.to_points(data, flow.generator(0), **asked(flow))
    again = flow.domain.from_points(points, context)
    x = data.positions if isinstance(data, MoleculeBatch) else data
    centred = x - x.sum(1, keepdim=True) / context.mask.sum(1)[:, None, None] * context.mask.unsqueeze(-1)
    n = context.mask.shape[1]
    if isinstance(data, MoleculeBatch):
        drawn = data.mask  # in which a completed molecule keeps its order
        assert torch.equal(again.atomic_numbers[:, :n][drawn], data.atomic_numbers[drawn])
        torch.testing.assert_close(again.positions[:, :n][drawn], centred[drawn], atol=1e-12, rtol=0)
        n_hydrogens = 0 if data.hydrogens is None else data.hydrogens.sum(1)
        assert torch.equal(again.n_atoms, data.n_atoms + n_hydrogens)
        assert again.hydrogens is None
    else:
        torch.testing.assert_close(again, centred, atol=1e-12, rtol=0)


@pytest.mark.parametrize("name", UNITED_FLOWS + ENVIRONMENT_FLOWS)
def test_molecules_with_all_atoms_are_united_first(name):
    flow = make_flow(name)
    data = random_data(flow)
    data = dataclasses.replace(data, positions=5 * data.positions)  # so far apart that each keeps its hydrogens
    complete = data.with_hydrogens()
    assert complete.mask.sum() > data.mask.sum()
    torch.testing.assert_close(
        flow.log_prob(complete, **asked(flow)), flow.log_prob(data, **asked(flow)), atol=1e-8, rtol=0
    )


@pytest.mark.parametrize("name", COMPOSED)
def test_labels_are_the_types(name):
    flow = make_flow(name)
    data = random_data(flow)
    points, context, _ = flow.to_points(data, None, **asked(flow))
    assert points.h.shape == (*data.mask.shape, 0)
    assert context.labels.dtype == flow.dtype
    hydrogens = torch.zeros_like(data.atomic_numbers) if data.hydrogens is None else data.hydrogens
    for b, i in data.mask.nonzero().tolist():
        pair = MEANING[flow.domain.types[int(context.labels[b, i].argmax())]]
        assert pair == (int(data.atomic_numbers[b, i]), int(hydrogens[b, i]))
    assert torch.equal(context.labels.sum(-1), data.mask.to(flow.dtype))


@pytest.mark.parametrize("name", FLOWS)
def test_context_that_is_drawn_is_context_that_data_have(name):
    """Same shapes and dtypes, and one that has a probability."""
    flow = make_flow(name)
    drawn = flow.domain.sample_context(30, flow.generator(0), flow.device, flow.dtype)
    _, given, _ = flow.to_points(random_data(flow), None, **asked(flow))
    assert drawn.labels.dtype == given.labels.dtype == flow.dtype
    assert drawn.labels.shape == (*drawn.mask.shape, flow.domain.n_labels)
    assert not drawn.labels[~drawn.mask].any()
    assert flow.domain.log_prob_context(drawn).isfinite().all()


def test_a_composition_that_training_did_not_have_has_no_probability():
    flow = make_flow("composed-all-atom")
    data = random_data(flow)
    swapped = torch.where(data.atomic_numbers == 7, 9, data.atomic_numbers)  # the first molecule alone has nitrogen
    log_p = flow.log_prob(dataclasses.replace(data, atomic_numbers=swapped))
    assert log_p.isfinite().tolist() == [False, True, True, True]
    assert log_p[0] == -math.inf


def test_a_composition_is_independent_of_the_order_of_atoms():
    flow = make_flow("composed-united-average-velocity")
    data = random_data(flow)
    order = torch.tensor([1, 0, 2, 3, 4])
    moved = MoleculeBatch(*(t[:, order] for t in (data.positions, data.atomic_numbers, data.mask, data.hydrogens)))
    torch.testing.assert_close(flow.log_prob(moved), flow.log_prob(data), atol=1e-10, rtol=0)


# ---- what is refused -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", [name for name in MOLECULE_FLOWS if name not in UNITED_FLOWS + ENVIRONMENT_FLOWS])
def test_united_atoms_are_refused_where_all_atoms_are_points(name):
    flow = make_flow(name)
    data = random_data(flow)
    united = dataclasses.replace(data, hydrogens=torch.zeros_like(data.atomic_numbers))
    with pytest.raises(MolflowError, match=r"takes molecules with all their atoms; call with_hydrogens\(\) first"):
        flow.log_prob(united, **asked(flow))


@pytest.mark.parametrize("name", UNITED_FLOWS)
@pytest.mark.parametrize(("hydrogens", "unknown"), [(2, "CH2"), (7, "CH7"), (9, "CH9")])
def test_unknown_hydrogens_are_named(name, hydrogens, unknown):
    flow = make_flow(name)
    data = random_data(flow)
    data.hydrogens[0, 0] = hydrogens  # of a carbon
    with pytest.raises(MolflowError, match=f"{unknown} is not a type this model knows: C, CH, CH3, NH2, O"):
        flow.log_prob(data, **asked(flow))


def test_particles_of_another_number_are_refused():
    domain = ParticleDomain(3, 2)
    with pytest.raises(MolflowError, match=r"expected configurations \(B, 3, 2\), got \(5, 4, 2\)"):
        domain.to_points(torch.zeros(5, 4, 2), None)


@pytest.mark.parametrize("types", [ALL_ATOM, UNITED])
def test_quantised_features_are_types(types):
    """A united molecule whose types are generated reads each point as the type of its largest feature."""
    representation = "all-atom" if types is ALL_ATOM else "united-atom"
    domain = MoleculeDomain(types, representation, 1.5, AtomCounts([0] * 5 + [1]), ArgmaxDequantizer(5))
    context = domain.sample_context(1, None, torch.device("cpu"), torch.float32)
    x = domain.space(context.mask).randn(torch.Generator().manual_seed(0)).x * 5
    made = domain.from_points(Points(x, torch.eye(5).unsqueeze(0)), context)
    meant = [MEANING[name] for name in types]
    assert made.atomic_numbers[0, :5].tolist() == [number for number, _ in meant]
    assert made.n_atoms.tolist() == [5 + sum(hydrogens for _, hydrogens in meant)]
    torch.testing.assert_close(made.positions[:, :5], 1.5 * x)


def test_probabilities_of_ordered_types_add_up_to_one():
    flow = make_flow("composed-all-atom")
    domain = flow.domain
    total = 0.0
    for n in (2, 3, 4, 5):
        types = torch.cartesian_prod(*[torch.arange(5)] * n)
        labels = torch.nn.functional.one_hot(types, 5).double()
        total += domain.log_prob_context(Context(torch.ones_like(types).bool(), labels)).exp().sum()
    torch.testing.assert_close(total, torch.ones((), dtype=torch.float64))


def test_types_that_repeat_are_refused():
    with pytest.raises(ValueError, match="expected different types of points, at least one, got C, C"):
        composed(("C", "C"), "all-atom")


# ---- environments ----------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("number", "hydrogens", "bonds", "name"),
    [
        (6, 1, (1, 1, 0), "CH.110"),
        (6, 4, (0, 0, 0), "CH4.000"),
        (7, 0, (0, 0, 1), "N.001"),
        (17, 0, (1, 0, 0), "Cl.100"),
    ],
)
def test_an_environment_type_has_one_name(number, hydrogens, bonds, name):
    assert type_name(number, hydrogens, bonds) == name
    domain = composed((name,), "environment")
    assert domain.type_numbers.tolist() == [number]
    assert domain.type_hydrogens.tolist() == [hydrogens]
    assert domain.type_bonds.tolist() == [list(bonds)]
    assert [code_name(code) for code in domain.sorted_codes.tolist()] == [name]


@pytest.mark.parametrize(
    ("types", "representation"),
    [
        (("C", "CH.110"), "united-atom"),
        (("CH.110", "CH3"), "environment"),
        (("C.200",), "all-atom"),
        (("C",), "environment"),
    ],
)
def test_types_with_bonds_are_for_environments_alone(types, representation):
    with pytest.raises(ValueError, match="types of the environment representation, and no others, have bonds"):
        composed(types, representation)


@pytest.mark.parametrize("name", ["C.20", "C.2000", "C.2a0", "C200", "C."])
def test_bonds_are_three_digits(name):
    with pytest.raises(ValueError, match=f"'{name}' is not a type; expected an element, or"):
        composed((name,), "environment")


def test_codes_ascend_with_elements_hydrogens_and_bonds():
    types = ["F.100", "CH.110", "C.400", "CH.101", "C.020", "N.001"]
    domain = composed(types, "environment")
    order = ["C.020", "C.400", "CH.101", "CH.110", "N.001", "F.100"]
    assert [types[i] for i in domain.code_order.tolist()] == order
    assert [code_name(code) for code in domain.sorted_codes.tolist()] == order


def test_bond_ends_of_types():
    assert bond_ends(("CH.110", "O.010")).tolist() == [[1, 1, 0], [0, 1, 0]]
    assert bond_ends(("CH", "OH", "F")).tolist() == [[3], [1], [1]]
    assert bond_ends(ALL_ATOM).tolist() == [[1], [4], [3], [2], [1]]
    assert bond_ends(("C", "S")).shape == (2, 0)
    assert bond_ends(()).shape == (0, 0)


def test_real_molecules_come_back_from_their_environments(qm9):
    molecules = qm9.subset(slice(2000, 3000)).batch(slice(None))
    united = molecules.united_atom()
    codes = type_codes(united.atomic_numbers, united.hydrogens, united.heavy_bonds())
    domain = composed([code_name(code) for code in codes[united.mask].unique().tolist()], "environment", 1.15)
    types = domain.types_of(domain.represented(molecules))
    assert torch.equal(domain.sorted_codes[types[united.mask]], codes[united.mask])
    made = domain.molecules(project(united.positions, united.mask) / 1.15, types.clamp(min=0), united.mask)
    assert made.realised().all()
    assert torch.equal(made.n_atoms, molecules.n_atoms)
    assert (made.stability()[1] == molecules.stability()[1]).double().mean() > 0.995


def test_an_environment_that_the_model_lacks_is_named():
    domain = composed(("C.400", "CH3.100"), "environment")
    x = torch.tensor([[[0.0, 0, 0], [1.33, 0, 0]]])
    ethene = MoleculeBatch(x, torch.tensor([[6, 6]]), torch.ones(1, 2, dtype=torch.bool), torch.tensor([[2, 2]]))
    with pytest.raises(MolflowError, match=r"CH2\.010 is not a type this model knows: C\.400, CH3\.100"):
        domain.types_of(ethene)


@pytest.mark.parametrize("name", ENVIRONMENT_FLOWS)
def test_samples_carry_the_environments_of_their_types(name):
    flow = make_flow(name)
    samples = flow.sample(20, seed=0)
    heavy = samples.atomic_numbers > 1
    meant = {(*MEANING[name], *BONDS[name]) for name in flow.domain.types}
    united = samples.united_atom()
    columns = united.atomic_numbers.unsqueeze(-1), united.hydrogens.unsqueeze(-1), united.environments
    assert {(row[0], *row[2:]) for row in torch.cat(columns, -1)[united.mask].tolist()} <= {
        (each[0], *each[2:]) for each in meant
    }
    assert samples.environments[heavy].any()
    assert samples.realised().shape == (20,)
