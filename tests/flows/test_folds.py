"""Densities where a decoder maps two latents to one point: both count."""

import math

import pytest
import torch
from torch import nn

import molflow
from molflow.flows import FreeFormFlow
from molflow.flows.folds import far_latents
from molflow.flows.sampling import latents
from molflow.geometry import Points


class LogCosh(nn.Module):
    """Even, so that z and -z have one image."""

    def forward(self, z):
        return z.abs() + (-2 * z.abs()).exp().log1p() - math.log(2)


class Acosh(nn.Module):
    """The positive latent of an image."""

    def forward(self, x):
        return x.exp().clamp(min=1 + 1e-9).acosh()


@pytest.mark.parametrize("temperature", [1.0, 1.5])
def test_the_density_of_a_fold_is_that_of_both_sides(temperature):
    flow = FreeFormFlow(Acosh(), LogCosh(), features=1)
    ((z, context, log_p),) = latents(flow, 20, None, flow.generator(0), temperature, 20)
    with torch.no_grad():
        _, own = flow.decode_with_log_det(z, context)
        x, log_det = flow.sampled_with_log_det(z, context, temperature)
    torch.testing.assert_close(x, LogCosh()(z))
    torch.testing.assert_close(own, z.tanh().abs().log().squeeze(1), atol=1e-4, rtol=0)
    known, other = z.squeeze(1) > 0, z.squeeze(1) < -0.1
    torch.testing.assert_close(log_det[known], own[known])  # the encoder leads back to these
    torch.testing.assert_close((log_p - log_det)[other], (log_p - own)[other] + math.log(2), atol=1e-4, rtol=0)


def test_maps_that_do_not_invert_each_other_have_no_folds():
    z = torch.zeros(200, 6)
    back = z.clone()
    back[:20] = 0.05  # root mean square over degrees of freedom
    dof = torch.full((200,), 6)
    assert far_latents(z, back, dof).tolist() == list(range(20))
    assert far_latents(z, back * 0.7, dof).tolist() == []
    back[20] = 0.05
    assert far_latents(z, back, dof).tolist() == []


@pytest.mark.parametrize(
    ("own", "both", "z"),
    [
        (
            -15.512,
            -11.143,
            [[0.970272, -0.744821], [-0.243844, 0.032225], [-0.253190, 0.031275], [-0.473238, 0.681321]],
        ),
        (
            -20.317,
            -14.806,
            [[0.217469, -0.593725], [-0.666140, 1.822689], [0.255194, -0.617555], [0.193477, -0.611409]],
        ),
    ],
)
def test_rare_heavy_samples_of_dw4_are_folds(own, both, z):
    """Two of 50,000 samples, of seeds 1 and 3, which halved the effective sample size of 10,000."""
    flow = molflow.load_pretrained("dw4").double()
    ((latent, context, _),) = latents(flow, 1, None, flow.generator(0), 1.0, 1)
    latent = Points(torch.tensor([z], dtype=torch.float64), latent.h)
    log_p = flow.domain.space(context.mask).log_normal(latent) + flow.domain.log_unit(context.mask, flow.dtype)
    with torch.no_grad():
        assert float(log_p - flow.decode_with_log_det(latent, context)[1]) == pytest.approx(own, abs=0.1)
        assert float(log_p - flow.sampled_with_log_det(latent, context, 1.0)[1]) == pytest.approx(both, abs=0.1)
