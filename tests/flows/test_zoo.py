"""Flows by bijections: inverses, invertibility constraints, starts from data, estimates, training by an experiment."""

import json
import math
import subprocess
import sys

import numpy as np
import pytest
import torch
from laws import CONDITIONS, VECTOR_FLOWS, ZOO, asked, bijective, make_flow, random_data, randomize
from torch.distributions import Normal

import molflow
from molflow.errors import MolflowError, NumericalError
from molflow.flows import FLOWS, save_model
from molflow.flows.domains import MoleculesConfig, ParticlesConfig, VectorsConfig
from molflow.flows.zoo import (
    ActNorm,
    Bijection,
    Conditioner,
    InvertibleLinear,
    LogisticMixture,
    Planar,
    Radial,
    ResidualBlock,
    invert_increasing,
)
from molflow.flows.zoo.iresnet import spectral_norm_bound

NAMES = [name for name in VECTOR_FLOWS if VECTOR_FLOWS[name].kind in ZOO]
INVERSE_ERROR = 1e-8
NEAR_AND_FAR = torch.tensor([0.1, 1.0, 3.0]).double().repeat_interleave(50).unsqueeze(1)


def close(a, b, atol=1e-10):
    torch.testing.assert_close(a, b, atol=atol, rtol=0)


def noise(*shape, seed=0):
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def jacobians(function, x):
    return torch.autograd.functional.jacobian(lambda p: function(p).sum(0), x).transpose(0, 1)


# ---- laws of all families --------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NAMES)
def test_decoder_and_encoder_are_inverses(name):
    """In both directions, with opposite log-determinants."""
    flow, x = make_flow(name), NEAR_AND_FAR * noise(150, 3)
    condition = None if flow.conditions is None else noise(150, 2, seed=1)
    _, context, _ = flow.to_points(x, None, condition)
    maps = flow.encode_with_log_det, flow.decode_with_log_det
    for first, second in (maps, maps[::-1]):
        image, log_det = first(x, context)
        back, inverse_log_det = second(image, context)
        close(back, x, INVERSE_ERROR)
        close(inverse_log_det, -log_det, INVERSE_ERROR)
        assert (image - x).abs().max() > 0.1


@pytest.mark.parametrize("name", NAMES)
def test_samples_have_the_density_of_log_prob(name):
    """One density, whichever map computes it."""
    flow = make_flow(name)
    given = asked(flow, 8)
    x, log_q = flow.sample_and_log_prob(8, seed=0, **given)
    for which in ("encoder", "decoder"):
        close(flow.log_prob(x, which=which, **given), log_q, INVERSE_ERROR)
    assert flow.likelihood(x, **given).reconstruction_error.max() < INVERSE_ERROR


@pytest.mark.parametrize("kind", ZOO)
def test_defaults_are_precise_in_float32(kind):
    flow = FLOWS[kind](domain={"kind": "vectors", "n_features": 4}).build()
    x = noise(50, 4).float()
    flow.nll(x)
    assert flow.likelihood(x).reconstruction_error.max() < 1e-3
    assert flow.sample(3, seed=0).dtype == torch.float32


@pytest.mark.parametrize("kind", ZOO)
@pytest.mark.parametrize(
    "domain", [ParticlesConfig(n_particles=3, dim=2), MoleculesConfig(types=("C",), atom_counts=(0, 0, 1))], ids=str
)
def test_point_clouds_are_refused(kind, domain):
    config = FLOWS[kind](domain=domain)
    with pytest.raises(
        ValueError, match=f"the flow {kind} acts on vectors, the domain {domain.kind} is of points; take "
    ):
        config.build()


def test_flows_of_bijections_are_trained_by_likelihood(tmp_path):
    with pytest.raises(MolflowError, match=r"a BijectiveFlow can be trained by: likelihood$"):
        train(tmp_path, "glow", 'objective={kind="free_form"}')
    with pytest.raises(MolflowError, match="the likelihood of a BijectiveFlow takes no divergence; leave it out"):
        train(tmp_path, "glow", 'objective={kind="likelihood", divergence="exact"}')


# ---- roots -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "function",
    [
        lambda x: (x, torch.ones_like(x)),
        lambda x: (x**3, 3 * x**2),
        lambda x: (x.sinh(), x.cosh()),
        lambda x: (x.asinh(), 1 / (1 + x**2).sqrt()),
        lambda x: (x + 0.999 * x.sin(), 1 + 0.999 * x.cos()),
        lambda x: (1e-3 * x + (1e3 * x).tanh(), 1e-3 + 1e3 * (1 - (1e3 * x).tanh() ** 2)),
    ],
)
def test_roots_of_increasing_functions(function):
    y = torch.cat([torch.linspace(-3, 3, 100), torch.tensor([-20.0, 1e-9, 1.0, 20.0])]).double()
    x = invert_increasing(function, y)
    close(function(x)[0], y, 1e-9)


def test_a_root_that_is_not_finite_ends():
    y = torch.tensor([torch.nan, torch.inf, 2.0]).double()
    assert invert_increasing(lambda x: (x**3 + x, 3 * x**2 + 1), y)[2] == 1


def test_a_root_where_the_function_is_flat():
    """In float32 the values between two steep rises are equal, as those of a mixture of narrow logistics are."""

    def function(x):
        rises = [(20 * (x - place)).tanh() for place in (-3.0, 3.0)]
        return 1e-9 * x + rises[0] + rises[1], 1e-9 + 40 - 20 * (rises[0] ** 2 + rises[1] ** 2)

    y = torch.tensor([-1.9, -1e-7, 0.0, 1e-7, 1e-3, 1.9])
    close(function(invert_increasing(function, y))[0], y, 1e-6)


def test_roots_have_derivatives():
    """x^3 + a x = y: dx/dy = 1 / (3 x^2 + a) and dx/da = -x / (3 x^2 + a)."""
    a, y = torch.tensor(0.5).double().requires_grad_(), torch.tensor([3.0, -1.0]).double().requires_grad_()
    x = invert_increasing(lambda x: (x**3 + a * x, 3 * x**2 + a), y)
    slope = 3 * x**2 + a
    of_a, of_y = torch.autograd.grad(x.sum(), (a, y))
    close(of_y, 1 / slope)
    close(of_a, -(x / slope).sum())


# ---- bijections that are written here --------------------------------------------------------------------------------


@pytest.mark.parametrize("bijection", [Planar, Radial])
def test_constraints_keep_maps_one_to_one(bijection):
    """Parameters that would fold space without the constraint."""
    x = 3 * noise(300, 3)
    for seed in range(20):
        torch.manual_seed(seed)
        layer = bijection(3).double()
        with torch.no_grad():
            layer.conditioner.offset *= 6
        y, log_det = layer(x)
        back, _ = layer(y, inverse=True)
        close(back, x, INVERSE_ERROR)
        close(log_det.exp(), torch.linalg.det(jacobians(lambda p, layer=layer: layer(p)[0], x)), 1e-8)
        assert log_det.isfinite().all()


@pytest.mark.parametrize("kind", ZOO)
def test_a_density_that_is_no_number_is_refused(kind):
    flow = make_flow(f"vectors-{kind}", torch.float32)
    far = 1e20 * random_data(flow, torch.float32)
    try:
        log_p = flow.log_prob(far, **asked(flow))
    except NumericalError:
        return
    assert (log_p < -1000).all()


def test_a_radial_map_at_its_centre():
    layer = Radial(3).double()
    centre = layer.conditioner.offset[:3].detach().expand(2, -1)
    x = centre.clone().requires_grad_()
    y, log_det = layer(x)
    close(y, centre)
    close(layer(centre, inverse=True)[0], centre)
    (gradient,) = torch.autograd.grad(y.sum() + log_det.sum(), x)
    assert gradient.isfinite().all()


def test_one_logistic_is_affine():
    """logit(sigmoid((x - m) / e^l)) = (x - m) / e^l."""
    x = 100 * noise(50, 1)
    scale, shift, mean, log_width = 0.3, -1.0, 2.0, 0.5
    parameters = torch.tensor([scale, shift, 0.7, mean, log_width], dtype=torch.float64).expand(50, 1, -1)
    y, log_slope = LogisticMixture(1)(x, parameters)
    factor, width = (math.exp(5 * math.tanh(value / 5)) for value in (scale, log_width))
    close(y, factor * (0.999 * (x - mean) / width + 0.001 * x) + shift)
    close(log_slope, torch.full_like(x, math.log(factor * (0.999 / width + 0.001))))
    identity = LogisticMixture(1).start.double().expand(50, 1, -1)
    close(LogisticMixture(1)(x, identity)[0], x)


def test_a_mixture_of_logistics_keeps_both_tails():
    mixture, x = LogisticMixture(4), torch.linspace(-300, 300, 601).double().unsqueeze(1)
    parameters = noise(601, 1, 14)
    y, log_slope = mixture(x, parameters)
    close(mixture.inverse(y, parameters), x, INVERSE_ERROR)
    assert log_slope.isfinite().all()


def test_the_invertible_matrix_is_a_rotation_at_first():
    torch.manual_seed(0)
    layer = InvertibleLinear(5).double()
    matrix = layer(torch.eye(5).double())[0].detach()
    close(matrix @ matrix.T, torch.eye(5).double(), 1e-5)  # float32 decomposed it
    with torch.no_grad():
        for parameter in layer.parameters():
            parameter += 0.3 * noise(*parameter.shape)
    matrix = layer(torch.eye(5).double())[0]
    close(layer(torch.eye(5).double())[1][0], torch.linalg.slogdet(matrix).logabsdet)


def test_additive_couplings_keep_the_volume():
    """NICE has one log-determinant everywhere; RealNVP has not."""
    spreads = {}
    for kind in ("nice", "realnvp"):
        flow = make_flow(f"vectors-{kind}")
        points, context, _ = flow.to_points(noise(50, 3), None)
        spreads[kind] = float(flow.encode_with_log_det(points, context)[1].std())
    assert spreads["nice"] < 1e-12
    assert spreads["realnvp"] > 0.1


def test_an_inverse_autoregressive_flow_is_a_masked_one_turned_round():
    maf, iaf = make_flow("vectors-maf-conditional"), make_flow("vectors-iaf-conditional")
    weights = {f"bijection.transform.{key}": value for key, value in maf.bijection.transform.state_dict().items()}
    iaf.load_state_dict(
        {key.replace("transform.", "transform.transform.", 1): v for key, v in weights.items()}
        | {"initialized": maf.initialized}
    )
    x = random_data(maf)
    points, context, _ = maf.to_points(x, None, **asked(maf))
    for one, other in ("encode", "decode"), ("decode", "encode"):
        pairs = zip(
            getattr(maf, f"{one}_with_log_det")(points, context),
            getattr(iaf, f"{other}_with_log_det")(points, context),
            strict=True,
        )
        for a, b in pairs:
            close(a, b)


def test_a_conditioner_without_inputs_is_its_offset():
    start = torch.arange(3.0)
    assert Conditioner(0, start, 8, 1)(torch.zeros(4, 0)).tolist() == [[0, 1, 2]] * 4
    assert Conditioner(2, start, 8, 1)(torch.zeros(4, 2)).shape == (4, 3)


# ---- residual networks -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("shape", [(5, 5), (8, 3), (3, 8), (1, 4), (64, 64)], ids=str)
def test_the_bound_of_the_spectral_norm(shape):
    """Never below the norm, and at most rank^(1/128) times as large."""
    for seed, scale in enumerate((1.0, 1e-3, 1e4)):
        weight = scale * noise(*shape, seed=seed)
        ratio = spectral_norm_bound(weight) / torch.linalg.matrix_norm(weight, 2)
        assert 1 - 1e-12 <= ratio <= min(shape) ** (1 / 128) + 1e-12


def test_residual_networks_are_contractions():
    """Whatever the weights and the condition, |g(x) - g(y)| <= c |x - y|."""
    torch.manual_seed(0)
    block = ResidualBlock(3, 2, hidden=16, n_layers=2, lipschitz=0.7)
    randomize(block, strength=30.0).double()
    g = block.contraction(5 * noise(500, 2, seed=1))
    x = 3 * noise(500, 3)
    norms = torch.linalg.matrix_norm(jacobians(g, x), 2)
    assert norms.max() <= 0.7
    assert norms.max() > 0.05
    close(g.with_jacobian(x)[1].mT, jacobians(g, x))
    close(g.with_jacobian(x)[0], g(x))


@pytest.fixture(scope="module")
def estimates():
    """Log-determinant and gradient of one block, exactly and estimated many times."""
    torch.manual_seed(0)
    block = randomize(ResidualBlock(3, 1, hidden=8, n_layers=1, lipschitz=0.8), strength=3.0).double()
    n, x, condition = 200, noise(1, 3), noise(1, 1)
    weight = block.layers[0].weight

    def both(log_det):
        return log_det.detach(), torch.autograd.grad(log_det.mean(), weight)[0].flatten()

    exact = both(block(x, condition)[1])
    block.exact = False
    generator = torch.Generator().manual_seed(0)
    parts = [both(block.estimate(x.expand(n, -1), condition.expand(n, -1), generator)[1]) for _ in range(100)]
    return exact, torch.stack([p[0].mean() for p in parts]), torch.stack([p[1] for p in parts])


def test_the_roulette_estimate_has_the_mean_of_the_log_determinant(estimates):
    exact, values, gradients = estimates
    assert values.std() > 1e-4
    assert abs(values.mean() - exact[0]) < 4 * values.std() / 10
    error = 5 * gradients.std(0) / 10 + 1e-12
    assert ((gradients.mean(0) - exact[1]).abs() < error).all()
    assert exact[1].abs().max() > 10 * error.max()


def test_high_dimensions_are_trained_by_the_estimate():
    """Its noise comes from the generator; likelihoods stay exact."""
    config = bijective("iresnet", exact_up_to=2)
    flow = randomize(config.build()).double()
    x = random_data(flow)
    flow.nll(x)  # sets the scales
    losses = [flow.nll(x, None, flow.generator(seed)) for seed in (0, 0, 1)]
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert torch.equal(flow.log_prob(x), flow.log_prob(x, seed=1))
    losses[0].mean().backward()
    assert all(p.grad.isfinite().all() and p.grad.any() for p in flow.parameters())


# ---- starts from data ------------------------------------------------------------------------------------------------

STARTING = ["glow", "flowpp", "iresnet", "naf"]


def norms(flow):
    return [module for module in flow.modules() if isinstance(module, ActNorm)]


@pytest.mark.parametrize("conditions", [None, CONDITIONS], ids=["unconditional", "conditional"])
@pytest.mark.parametrize("kind", STARTING)
def test_the_first_training_loss_sets_the_scales(kind, conditions):
    flow = randomize(bijective(kind, conditions=conditions).build()).double()
    x, condition = 5 + noise(100, 3), None if conditions is None else noise(100, 2, seed=1)
    before = flow.log_prob(x, condition=condition)
    with torch.no_grad():
        flow.nll(x, condition)
    flow.eval().nll(x, condition)
    assert torch.equal(flow.log_prob(x, condition=condition), before)  # nothing but training sets them
    outputs = []
    hooks = [norm.register_forward_hook(lambda _, __, output: outputs.append(output[0])) for norm in norms(flow)]
    flow.train().nll(x, condition).sum().backward()
    for output in outputs:
        close(output.mean(0), torch.zeros(3).double())
        close(output.std(0, correction=0), torch.ones(3).double())
    assert len(outputs) >= 2
    assert all(norm.shift.grad.any() and norm.log_scale.grad.any() for norm in norms(flow))
    for hook in hooks:
        hook.remove()
    set_once = [norm.shift.clone() for norm in norms(flow)]
    flow.nll(x + 1, condition)
    assert all(torch.equal(norm.shift, first) for norm, first in zip(norms(flow), set_once, strict=True))


def test_one_vector_has_no_spread():
    flow = bijective("glow").build()
    flow.nll(torch.tensor([[1.0, 2.0, 3.0]])).sum().backward()
    assert all(norm.log_scale.tolist() == [0, 0, 0] for norm in norms(flow))
    assert flow.initialized


def test_the_start_is_saved(tmp_path):
    config = bijective("glow")
    flow, x = config.build(), 4 + noise(20, 3).float()
    for trained in (False, True):
        if trained:
            flow.nll(x)
        save_model(tmp_path, config, flow, {})
        loaded = molflow.load(tmp_path)
        assert bool(loaded.initialized) == trained
        assert torch.equal(loaded.log_prob(x), flow.log_prob(x))
        expected = flow.log_prob(x)
        loaded.train().nll(x)
        assert torch.equal(loaded.log_prob(x), expected) == trained


# ---- experiments -----------------------------------------------------------------------------------------------------

EXPERIMENT = """
name = "zoo"

[data]
name = "vectors"
file = "{file}"
condition = ["y"]

[model]
kind = "{kind}"
domain = {{kind = "vectors"}}
n_transforms = 2

[objective]
kind = "likelihood"

[training]
batch_size = 50
max_steps = {steps}
validation_molecules = 20
validation_samples = 20
device = "cpu"
"""


def train(folder, kind, *overrides, steps=3, resume=False):
    file = folder / "x.csv"
    if not file.exists():
        rng = np.random.default_rng(0)
        y = rng.normal(size=500)
        x = np.stack([5 + y, 100 - 20 * y], 1) + rng.normal(size=(500, 2)) * [0.1, 2]
        np.savetxt(file, np.column_stack([x, y]), delimiter=",", header="a,b,y", comments="")
    (folder / "zoo.toml").write_text(EXPERIMENT.format(file=file.as_posix(), kind=kind, steps=steps))
    config = molflow.load_experiment(folder / "zoo.toml", overrides)
    return molflow.train(config, folder / "run", resume=resume)


@pytest.mark.parametrize("kind", ZOO)
def test_an_experiment_trains_every_family(kind, tmp_path):
    """From a CSV file, with a condition, through the standard loop; the saved model is the average, with its scales."""
    run = train(tmp_path, kind)
    flow = molflow.load(run)
    assert flow.initialized
    assert all(norm.shift.any() for norm in norms(flow))
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    x, log_q = flow.sample_and_log_prob(20, seed=0, condition={"y": 0.5})
    close(flow.log_prob(x, condition={"y": 0.5}), log_q, 0.01)
    assert last["validation_reconstruction_error"] < 1e-3
    assert np.isfinite(last["validation_nll"])


def test_glow_learns_a_conditional_density(tmp_path):
    """x = (5 + y, 100 - 20 y) with noise (0.1, 2): means, widths and entropy, after a stop in between."""
    settings = (
        "training.epochs=20",
        "training.ema_decay=0.9",
        "optimizer.warmup_steps=5",
        "optimizer.learning_rate=0.01",
    )
    train(tmp_path, "glow", *settings, steps=60)
    run = train(tmp_path, "glow", *settings, steps=120, resume=True)
    last = json.loads((run / "metrics.jsonl").read_text().splitlines()[-1])
    entropy = float(sum(Normal(0.0, width).entropy() for width in torch.tensor([0.1, 2.0])))
    assert entropy - 0.5 < last["validation_nll"] < entropy + 0.5
    samples = molflow.load(run).sample(2000, seed=0, condition={"y": 0.5})
    close(samples.mean(0), torch.tensor([5.5, 90.0]), 1.5)
    assert ((samples.std(0) / torch.tensor([0.1, 2.0])).log().abs() < 0.5).all()


# ---- zuko ------------------------------------------------------------------------------------------------------------

WITHOUT_ZUKO = """
import sys
sys.modules["zuko"] = None
from molflow.errors import MolflowError
from molflow.flows import FLOWS
from molflow.flows.zoo import BijectiveConfig

built = []
for kind, config in FLOWS.items():
    if issubclass(config, BijectiveConfig):
        config = config(domain={"kind": "vectors", "n_features": 2})
        try:
            config.build()
            built.append(kind)
        except MolflowError as error:
            assert str(error) == f"the flow {kind} needs zuko: pip install 'molflow[zoo]'", error
print(*built)
"""
WITH_ZUKO = """
import sys
from torch.distributions import Distribution, Normal
from molflow.flows import FLOWS

config = FLOWS["nsf"](domain={"kind": "vectors", "n_features": 2})
assert "zuko" not in sys.modules
config.build()
assert "zuko" in sys.modules
assert Distribution._validate_args
try:
    Normal(0.0, -1.0)
except ValueError:
    print("refused")
"""


@pytest.mark.parametrize(
    ("script", "said"), [(WITHOUT_ZUKO, "planar radial glow iresnet flowpp"), (WITH_ZUKO, "refused")]
)
def test_zuko_is_imported_when_a_flow_is_built(script, said):
    """Without it, the error names the extra; with it, torch.distributions still checks arguments."""
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=False)
    assert done.stdout.strip() == said, done.stderr


# ---- a bijection of one's own ----------------------------------------------------------------------------------------


def test_a_bijection_of_ones_own_is_a_flow():
    """y = x + 1 with a flow that has nothing to fit."""

    class Shift(Bijection):
        def _forward(self, x, condition):
            return x + 1, x.new_zeros(len(x))

        def _inverse(self, y, condition):
            return y - 1, y.new_zeros(len(y))

    from molflow.flows.zoo import BijectiveFlow

    flow = BijectiveFlow(VectorsConfig(n_features=2).build(), Shift())
    x = noise(5, 2).float()
    close(flow.log_prob(x), Normal(-1.0, 1.0).log_prob(x).sum(1), 1e-5)
    close(flow.sample(5, seed=0), torch.randn(5, 2, generator=flow.generator(0)) - 1, 1e-6)
