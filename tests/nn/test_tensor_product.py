"""The tensor product beside e3nn's own, pair by pair; irreps that are refused; what its constants are."""

import re

import pytest
import torch
from laws import random_points, randomize

from molflow.nn import TensorProductNetwork
from molflow.nn.tensor_product import SolidHarmonics, TensorProduct, dimension_of, parse_irreps

TINY = {"pair_channels": 3, "pair_hidden": 4}


def normal(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def by_degree(harmonics):
    """Of all degrees in one (B, N, N, (lmax + 1)^2)."""
    return torch.cat(harmonics, 1).permute(0, 2, 3, 1)


def test_harmonics_are_those_of_e3nn():
    from e3nn.o3 import spherical_harmonics

    u = normal(2, 4, 4, 3)
    u[0, 0, 0] = 0
    expected = spherical_harmonics([0, 1, 2, 3, 4], u, normalize=False, normalization="component")
    torch.testing.assert_close(by_degree(SolidHarmonics(4).double()(u.permute(0, 3, 1, 2))), expected)


@pytest.fixture
def float64_by_default():
    before = torch.get_default_dtype()
    torch.set_default_dtype(torch.float64)
    yield
    torch.set_default_dtype(before)


@pytest.mark.usefixtures("float64_by_default")
@pytest.mark.parametrize("lmax", [1, 2, 3])
def test_equals_the_tensor_product_of_e3nn(lmax):
    """There every pair is decomposed, with weights of its own, and the sum over neighbours comes last."""
    from e3nn import o3

    inputs, outputs, channels, batch, n = ["0e", "1o", "1e", "2e"], ["0e", "0o", "1o", "2e", "3o"], 3, 2, 4
    tensor_product = TensorProduct(inputs, outputs, lmax)
    features = {name: normal(batch, n, channels, dimension_of(name), seed=i) for i, name in enumerate(inputs)}
    filters, u = normal(batch, channels, lmax + 1, n, n, seed=5), normal(batch, 3, n, n, seed=6)
    harmonics = SolidHarmonics(lmax)(u)
    got = tensor_product(torch.cat(list(features.values()), -1).transpose(1, 2), filters, harmonics)

    harmonic_irreps = o3.Irreps.spherical_harmonics(lmax)
    sent = torch.cat([f.flatten(2) for f in features.values()], -1).unsqueeze(1).expand(-1, n, -1, -1)
    for name in outputs:
        paths = [
            (i, degree)
            for i, first in enumerate(inputs)
            for degree, (_, second) in enumerate(harmonic_irreps)
            if o3.Irrep(name) in list(o3.Irrep(first) * second)
        ]
        instructions = [(i, degree, k, "uvu", True) for k, (i, degree) in enumerate(paths)]
        slow = o3.TensorProduct(
            o3.Irreps([(channels, name) for name in inputs]), harmonic_irreps, [(channels, name) for _ in paths],
            instructions, irrep_normalization="component", path_normalization="none",
            shared_weights=False, internal_weights=False,
        )  # fmt: skip
        weights = torch.cat([filters[:, :, degree].permute(0, 2, 3, 1) for _, degree in paths], -1)
        messages = slow(sent, by_degree(harmonics), weights)
        expected = messages.sum(2).unflatten(-1, (len(paths) * channels, -1)).transpose(2, 3)
        assert tensor_product.paths[name] == len(paths)
        torch.testing.assert_close(got[name], expected)
    assert sorted(got) == sorted(outputs)


def test_irreps_are_joined_and_those_that_no_product_contains_are_left_out():
    assert parse_irreps("2x1o + 3x0e + 1o + 0x2e") == {"0e": 3, "1o": 3}
    assert TensorProduct(["0e"], ["0e", "1o", "1e", "2o"], 2).paths == {"0e": 1, "1o": 1}


@pytest.mark.parametrize(
    ("irreps", "message"),
    [
        ("64x0", "irreps must be written as in '64x0e + 16x1o + 8x2e', got '64x0'"),
        ("64", "irreps must be written as in"),
        ("", "irreps must have scalars (0e), got ''"),
        ("8x1o + 4x0o", "irreps must have scalars (0e)"),
        ("8x0e + 0x1o + 4x1e", "irreps must have vectors (1o)"),
    ],
)
def test_irreps_that_are_refused(irreps, message):
    with pytest.raises(ValueError, match=re.escape(message)):
        TensorProductNetwork(0, irreps=irreps)


def test_only_three_coordinates():
    points, mask = random_points(2, 0)
    with pytest.raises(ValueError, match="expected positions of 3 coordinates, got 2"):
        TensorProductNetwork(0, **TINY).double()(*points, mask)


def test_a_fresh_network_changes_little():
    torch.manual_seed(0)
    points, mask = random_points(3, 2)
    changes = torch.cat(TensorProductNetwork(2).double()(*points, mask), -1)
    assert 0 < changes.abs().max() < 0.1


def test_every_irrep_of_a_deeper_network_gets_a_gradient():
    """Pseudoscalars take two products to arise, and none of the last block's uses them."""
    network = TensorProductNetwork(2, irreps="4x0e + 2x0o + 2x1o + 2x1e", n_blocks=4, **TINY)
    points, mask = random_points(3, 2)
    torch.cat(randomize(network).double()(*points, mask), -1).square().sum().backward()
    assert {"0e", "0o", "1o", "1e"} == set(network.blocks[2].sender)
    assert "0o" not in network.blocks[3].sender
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


def test_constants_are_no_weights_and_lose_no_digits():
    points, mask = random_points(3, 0)
    network = randomize(TensorProductNetwork(0, irreps="4x0e + 2x1o", n_blocks=1, **TINY))
    assert set(network.state_dict()) == {name for name, _ in network.named_parameters()}
    expected = network.double()(*points, mask)[0]
    torch.testing.assert_close(network.float().double()(*points, mask)[0], expected, atol=1e-14, rtol=0)
