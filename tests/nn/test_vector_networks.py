"""Laws of every network on vectors."""

import pytest
import torch
from laws import VECTOR_NETWORKS, random_conditions, randomize
from torch import nn

from molflow.geometry import EuclideanSpace
from molflow.nn import MLP, MLPConfig, ResNet
from molflow.volume import exact_log_det, surrogate_encoder_jvp


def make(name, dtype=torch.float64, seed=0):
    """A network, its input, conditions and times."""
    case = VECTOR_NETWORKS[name]
    network = randomize(case.build(), seed).to(dtype)
    x = torch.randn(5, case.n_features, generator=torch.Generator().manual_seed(1)).to(dtype)
    times = torch.rand(5, case.n_times, generator=torch.Generator().manual_seed(2)).to(dtype)
    return network, x, random_conditions(5, case.n_conditions, dtype), times if case.n_times else None


@pytest.fixture(params=VECTOR_NETWORKS)
def case(request):
    return make(request.param)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=str)
@pytest.mark.parametrize("name", VECTOR_NETWORKS)
def test_shape_and_precision(name, dtype):
    network, x, condition, t = make(name, dtype)
    y = network(x, condition, t)
    assert (y.shape, y.dtype) == (x.shape, dtype)
    assert (y - x).abs().max() > 0.1


def test_vectors_of_a_batch_are_independent(case):
    network, x, condition, t = case
    together = network(x, condition, t)
    for i in range(len(x)):
        alone = network(*(None if v is None else v[i : i + 1] for v in (x, condition, t)))
        torch.testing.assert_close(alone[0], together[i], atol=1e-12, rtol=0)


def test_every_input_matters(case):
    network, x, condition, t = case
    given = network(x, condition, t)
    for which, values in enumerate((x, condition, t)):
        for column in range(0 if values is None else values.shape[1]):
            inputs = [x, condition, t]
            inputs[which] = values.clone()
            inputs[which][1, column] += 1
            change = (network(*inputs) - given).abs().amax(1)
            assert change[1] > 1e-3
            assert not change[[0, 2, 3, 4]].any()


def test_another_number_of_times_or_conditions_is_refused(case):
    network, x, condition, t = case
    for name, values in (("conditions", condition), ("times", t)):
        n = 0 if values is None else values.shape[1]
        more = x.new_zeros(len(x), n + 1)
        for wrong in (more, None if n else more):
            inputs = (x, wrong, t) if name == "conditions" else (x, condition, wrong)
            with pytest.raises(ValueError, match=f"expected {n} {name}, got {0 if wrong is None else n + 1}"):
                network(*inputs)


def test_every_parameter_gets_a_gradient(case):
    network, x, condition, t = case
    network(x, condition, t).square().sum().backward()
    for name, parameter in network.named_parameters():
        assert parameter.grad is not None, name
        assert parameter.grad.abs().max() > 0, name


@pytest.mark.parametrize("name", VECTOR_NETWORKS)
def test_surrogate_gradients_are_those_of_finite_differences(name):
    network, x, condition, t = make(name)
    decoder = make(name, seed=1)[0]

    def f(p):
        return network(p, condition, t)

    (v,) = EuclideanSpace(*x.shape).probes(1, torch.Generator().manual_seed(7), torch.float64)
    z = f(x).detach()
    left = torch.autograd.functional.vjp(lambda p: decoder(p, condition, t), z, v)[1]

    def value():
        return (left * torch.autograd.functional.jvp(f, x, v)[1]).sum()

    *_, terms = surrogate_encoder_jvp(f, lambda p: decoder(p, condition, t), x, [v])
    torch.testing.assert_close(terms.sum(), value())
    parameters = dict(network.named_parameters())
    gradients = torch.autograd.grad(terms.sum(), list(parameters.values()), allow_unused=True)
    for (key, parameter), gradient in zip(parameters.items(), gradients, strict=True):
        direction = torch.randn(parameter.shape, generator=torch.Generator().manual_seed(3)).double()
        with torch.no_grad():
            ends = []
            for shift in (1e-5, -2e-5):
                parameter += shift * direction
                ends.append(value())
            parameter += 1e-5 * direction
        got = torch.zeros(()).double() if gradient is None else (gradient * direction).sum()
        torch.testing.assert_close(
            got, (ends[0] - ends[1]) / 2e-5, atol=1e-6, rtol=1e-6, msg=lambda m, k=key: f"{k}: {m}"
        )


def test_the_log_determinant_is_that_of_autograd(case):
    network, x, condition, t = case
    _, log_det = exact_log_det(lambda p: network(p, condition, t), x, EuclideanSpace(*x.shape))
    jacobian = torch.autograd.functional.jacobian(lambda p: network(p, condition, t).sum(0), x).transpose(0, 1)
    torch.testing.assert_close(log_det, torch.linalg.slogdet(jacobian).logabsdet, atol=1e-10, rtol=0)


@pytest.mark.parametrize("network", [MLP, ResNet])
def test_a_fresh_network_is_near_the_identity(network):
    torch.manual_seed(0)
    x = torch.randn(100, 4)
    change = (network(4)(x) - x).square().mean().sqrt()
    assert 0 < change < 0.2


def test_the_formula_of_a_resnet():
    """x_k = x_(k-1) + W silu(A_k [x_(k-1), t, condition])."""
    network, x, condition, t = make("resnet-time-conditions")
    y = x
    for block in network.blocks:
        y = y + block[2](nn.functional.silu(block[0](torch.cat([y, t, condition], 1))))
    torch.testing.assert_close(network(x, condition, t), y)


def test_the_formula():
    """y = x + W h_K with h_0 = V [x, t, condition] and h_k = h_(k-1) + B_k silu(A_k silu(h_(k-1)))."""
    network, x, condition, t = make("mlp-two-times-conditions")
    h = network.embed(torch.cat([x, t, condition], 1))
    h = h + network.second[0](nn.functional.silu(network.first[0](nn.functional.silu(h))))
    torch.testing.assert_close(network(x, condition, t), x + network.last(h))


def test_labels_are_not_for_vectors():
    assert MLPConfig(hidden=4, n_blocks=2).build(3, n_times=1).n_times == 1
