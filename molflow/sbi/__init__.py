"""Simulation-based inference: a flow trained on simulations as the posterior of their parameters.

    theta, x = molflow.sbi.simulate(simulator, prior, 10_000, seed=0)
    posterior = molflow.sbi.train(theta, x, prior=prior)
    samples = posterior.sample((1000,), x=observation)

The objects follow the conventions of the package sbi: `sample((n,), x=...)`, `log_prob(theta, x=...)`, and a prior of
`torch.distributions`.
"""

from typing import TYPE_CHECKING

from molflow.registry import lazy_names

if TYPE_CHECKING:
    from molflow.sbi.posterior import Posterior, load
    from molflow.sbi.training import simulate, train

__all__ = ["Posterior", "load", "simulate", "train"]

__getattr__, __dir__ = lazy_names(__name__, {"posterior": ("Posterior", "load"), "training": ("simulate", "train")})
