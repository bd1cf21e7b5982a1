"""The convention of Lennard-Jones configurations is detected."""

import pytest
import torch

from molflow.energies import (
    DoubleWell,
    LennardJones,
    Tempering,
    check_convention,
    detect_convention,
    parallel_tempering,
    virial,
)
from molflow.errors import MolflowError


@pytest.fixture(scope="module", params=["ordered", "unordered"])
def sampled(request):
    generator = torch.Generator().manual_seed(0)
    start = 1.5 * torch.randn(400, 13, 3, generator=generator)
    settings = Tempering((1.0,), n_burn_in=70, n_samples=12, thinning=5, n_leapfrog=15)
    energy = LennardJones(13, request.param)
    return request.param, parallel_tempering(energy, start, settings, generator).positions.flatten(0, 1)


def test_the_convention_is_detected(sampled):
    pair_sum, x = sampled
    mean, error = virial(LennardJones(13, pair_sum), x)
    assert abs(mean - 36) < 4 * error
    assert detect_convention(x) == pair_sum


def test_only_the_other_convention_is_refused(sampled):
    pair_sum, x = sampled
    other = "unordered" if pair_sum == "ordered" else "ordered"
    check_convention(x, LennardJones(13, pair_sum), "a.npy")
    check_convention(x, DoubleWell(13, 3), "a.npy")
    with pytest.raises(MolflowError) as error:
        check_convention(x, LennardJones(13, other), "a.npy")
    message = str(error.value)
    assert message.startswith(f"a.npy: obeys the {pair_sum} Lennard-Jones convention, expected the {other} one")
    assert message.endswith("must be 36")


def test_unclear_configurations_are_not_guessed(sampled):
    _, x = sampled
    assert detect_convention(3 * x) is None
    assert detect_convention(x[:3]) is None
    assert detect_convention(x[:1]) is None
    assert detect_convention(torch.zeros(4, 13, 3)) is None
    check_convention(3 * x, LennardJones(13), "a.npy")
    with pytest.raises(MolflowError, match=r"expected configurations \(n, N, 3\), got \(13, 3\)"):
        detect_convention(x[0])
