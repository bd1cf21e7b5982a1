"""Every registered network stands in the law-suite, and comes back from its configuration as plain values."""

import pytest
import torch
from laws import NETWORKS as POINT_CASES
from laws import VECTOR_NETWORKS as VECTOR_CASES

from molflow.config import Config, parse
from molflow.nn import NETWORKS, Network, NetworkConfig, PointNetwork, VectorNetwork

CASES = POINT_CASES | VECTOR_CASES


class _Holder(Config):
    network: Network


@pytest.mark.parametrize("kind", NETWORKS)
def test_a_registered_network_has_cases_in_the_law_suite(kind):
    """Add them to NETWORKS or VECTOR_NETWORKS of tests/laws.py: without and with times, conditions, and both."""
    config = NETWORKS[kind]
    assert issubclass(config, NetworkConfig)
    cases = [c for c in (POINT_CASES if config.acts_on == "points" else VECTOR_CASES).values() if c.config.kind == kind]
    sizes = {(case.n_times > 0, case.n_conditions > 0) for case in cases}
    assert sizes >= {(False, False), (False, True), (True, True)}


@pytest.mark.parametrize("name", CASES)
def test_a_network_knows_its_sizes(name):
    case = CASES[name]
    network = case.build()
    assert isinstance(network, PointNetwork if case.config.acts_on == "points" else VectorNetwork)
    sizes = (network.n_features, network.n_times, network.n_conditions)
    assert sizes == (case.n_features, case.n_times, case.n_conditions)
    if isinstance(network, PointNetwork):
        assert network.n_labels == case.n_labels
        assert network.n_globals == case.n_times + case.n_conditions


@pytest.mark.parametrize("name", CASES)
def test_a_configuration_comes_back_from_plain_values(name):
    config = CASES[name].config
    holder = _Holder(network=config)
    table = holder.model_dump(mode="json")
    settings = {name: _plain(value) for name, value in config.settings().items()}
    assert table["network"] == {"kind": config.kind, **settings}
    again = parse(_Holder, table, "here")
    assert again == holder
    assert type(again.network) is type(config)


def _plain(value):
    """A value of a configuration as JSON has it: networks in a chain as tables."""
    if isinstance(value, list | tuple):
        return [_plain(entry) for entry in value]
    return {"kind": value.kind, **value.settings()} if isinstance(value, NetworkConfig) else value


@pytest.mark.parametrize("name", CASES)
def test_a_seed_decides_the_weights(name):
    states = []
    for _ in range(2):
        torch.manual_seed(3)
        states.append(CASES[name].build().state_dict())
    assert states[0].keys() == states[1].keys()
    assert all(torch.equal(value, states[1][key]) for key, value in states[0].items())
