"""Simulations from a user's simulator, and a posterior trained on them."""

import logging
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor
from torch.distributions import Distribution

from molflow.config import OneOf, parse
from molflow.data.simulators import sample_prior
from molflow.errors import MolflowError
from molflow.flows.base import FlowConfig
from molflow.flows.registry import FLOWS
from molflow.flows.storage import load, read_model_config
from molflow.nn import MLPConfig, NetworkConfig
from molflow.sbi.posterior import Posterior
from molflow.sbi.preparation import Bounds, Observations
from molflow.training.config import ExperimentConfig
from molflow.training.loop import train as train_flow

log = logging.getLogger("molflow")

FEWEST = 20
"""Simulations that training needs at least."""

_LEARNING_RATE = 2e-3
_VALIDATIONS = 40  # in a training
_VALIDATED = 1000  # held-out simulations, at most


def simulate(
    simulator: Callable[[Tensor], Any], prior: Distribution, n: int, *, seed: int = 0, batch_size: int = 1000
) -> tuple[Tensor, Tensor]:
    """Draw parameters from a prior and simulate an observation of each.

    Args:
        simulator: parameters (n, F) -> observations (n, C), a tensor or an array; values may be NaN where it fails.
        prior: of one parameter vector; `torch.distributions.Independent(..., 1)` makes one of independent parameters.
        n: number of simulations.
        seed: of torch's global generator while the prior and the simulator draw.
        batch_size: parameters that the simulator gets at a time.

    Returns:
        theta (n, F) and x (n, C), float32; failed simulations are still among them, and `train` drops them.

    Raises:
        MolflowError: a simulator that does not return one observation for each parameter vector.

    Example:
        >>> prior = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
        >>> theta, x = molflow.sbi.simulate(lambda theta: theta + 0.1 * torch.randn_like(theta), prior, 100, seed=0)
        >>> theta.shape, x.shape
        (torch.Size([100, 2]), torch.Size([100, 2]))
    """
    theta = sample_prior(prior, n, torch.Generator().manual_seed(seed)).float()
    parts = []
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        for batch in theta.split(batch_size):
            x = torch.as_tensor(simulator(batch.clone())).detach().float()  # a simulator may change what it gets
            if x.ndim != 2 or len(x) != len(batch):
                raise MolflowError(f"expected observations ({len(batch)}, C) of the simulator, got {tuple(x.shape)}")
            parts.append(x)
    if len(widths := {x.shape[1] for x in parts}) > 1:
        raise MolflowError(f"expected observations of one length, got {', '.join(map(str, sorted(widths)))} numbers")
    return theta, torch.cat(parts)


def train(
    theta: Any,
    x: Any,
    *,
    prior: Distribution | None = None,
    names: Sequence[str] | None = None,
    flow: str | Mapping[str, Any] | FlowConfig = "free_form",
    folder: str | Path | None = None,
    seed: int = 0,
    epochs: int = 200,
    overrides: Mapping[str, Mapping[str, Any]] | None = None,
) -> Posterior:
    """Train a flow on simulations: the posterior of their parameters for any observation.

    Parameters are mapped to all real numbers by the bounds of the prior, and both sides are standardised, so any units
    will do. Simulations with an observation that is not finite are dropped and counted: the posterior is then that of
    parameters with a valid simulation. A tenth of the simulations is held out, and the weights that do best on them are
    kept.

    Args:
        theta: (n, F), drawn from the prior.
        x: (n, C), one observation of each.
        prior: its support bounds the parameters; None if they have no bounds.
        names: of the parameters.
        flow: a kind of flow, or a table or configuration of one; experiments/README.md compares them. The most precise
            of one evaluation is "continuous" with `Posterior.unrolled`.
        folder: for the run and the model, which `molflow.sbi.load` reads; None keeps no files.
        seed: of weights and training.
        epochs: passes over the simulations.
        overrides: tables of the experiment with other values, such as {"training": {"batch_size": 256}}.

    Raises:
        MolflowError: theta and x of different number, parameters that are not finite or outside of the prior, too many
            failed simulations, or a flow that cannot be.

    Example:
        >>> prior = torch.distributions.Independent(torch.distributions.Uniform(torch.zeros(2), torch.ones(2)), 1)
        >>> theta, x = molflow.sbi.simulate(lambda theta: theta + 0.1 * torch.randn_like(theta), prior, 100, seed=0)
        >>> posterior = molflow.sbi.train(theta, x, prior=prior, epochs=1)
        >>> posterior.sample((5,), x=[0.5, 0.5]).shape
        torch.Size([5, 2])
    """
    theta, x = _valid(torch.as_tensor(theta), torch.as_tensor(x))
    names = [f"theta{k + 1}" for k in range(theta.shape[1])] if names is None else list(names)
    if len(names) != theta.shape[1]:
        raise MolflowError(f"expected {theta.shape[1]} names of parameters, got {len(names)}")
    bounds, observations = Bounds.of(prior, theta.shape[1]), Observations.of(x)
    if not observations.kept.any():
        raise MolflowError("x: all observations are the same, which says nothing about the parameters")
    if "model" in (overrides or {}):
        raise MolflowError("overrides: the model is given as flow=...")
    inside = bounds.contain(theta)
    if not inside.all():
        raise MolflowError(f"theta, row {int((~inside).long().argmax())}: outside of the support of the prior")
    with tempfile.TemporaryDirectory() as scratch:
        run = Path(folder or scratch)
        u, features = bounds.free(theta)[0], observations.features(x)
        config = _experiment(flow, features.shape, seed, epochs, overrides or {})
        train_flow(config, run, data=(u.float(), features.float()))
        posterior = Posterior(load(run), bounds, observations, names, read_model_config(run))
        posterior.save_beside(run)
    return posterior


def _valid(theta: Tensor, x: Tensor) -> tuple[Tensor, Tensor]:
    """Simulations (n, F) and (n, C) without those that failed."""
    if theta.ndim != 2 or x.ndim != 2 or len(theta) != len(x) or not theta.shape[1] or not x.shape[1]:
        raise MolflowError(f"expected theta (n, F) and x (n, C), got {tuple(theta.shape)} and {tuple(x.shape)}")
    if not (finite := theta.isfinite().all(1)).all():
        raise MolflowError(f"theta, row {int((~finite).long().argmax())}: expected finite parameters")
    valid = x.isfinite().all(1)
    failed = int((~valid).sum())
    if len(x) - failed < max(FEWEST, len(x) / 2):
        raise MolflowError(
            f"{failed:,} of {len(x):,} simulations are not finite; training needs at least half of them finite, and "
            f"{FEWEST} or more"
        )
    if failed:
        log.warning("%d of %d simulations are not finite and were dropped", failed, len(x))
    return theta[valid], x[valid]


def _experiment(
    flow: str | Mapping[str, Any] | FlowConfig,
    shape: Sequence[int],
    seed: int,
    epochs: int,
    overrides: Mapping[str, Mapping[str, Any]],
) -> ExperimentConfig:
    """The experiment that trains on arrays."""
    n, n_conditions = shape
    batch_size = min(128, n // 2)
    model = flow if isinstance(flow, FlowConfig) else _model({"kind": flow} if isinstance(flow, str) else flow)
    tables: dict[str, Any] = {
        "name": "posterior",
        "seed": seed,
        "data": {
            "name": "simulations",
            "file": "vectors.npz",
            "condition": [f"x{k + 1}" for k in range(n_conditions)],
        },
        "objective": _objective(model),
        "optimizer": {"learning_rate": _LEARNING_RATE},
        "training": {
            "epochs": epochs,
            "batch_size": batch_size,
            "validate_every": max(1, epochs * n // batch_size // _VALIDATIONS),
            "validation_molecules": min(_VALIDATED, max(1, n // 10)),
            "patience": _VALIDATIONS,  # so it runs to its end, and the best weights are kept
            "checkpoint_every": 2000,
        },
    }
    for name, table in overrides.items():
        tables[name] = {**tables.get(name, {}), **table}
    return parse(ExperimentConfig, {**tables, "model": model}, "molflow.sbi.train")


def _model(table: Mapping[str, Any]) -> FlowConfig:
    """A flow on vectors; a network that is left out is a residual MLP."""
    kind = OneOf(FLOWS, default="free_form").class_of(table)
    if kind is None:
        raise MolflowError(f"flow: {FLOWS.unknown(table.get('kind'))}")
    fields: dict[str, Any] = {
        name: MLPConfig()
        for name, field in kind.model_fields.items()
        if isinstance(field.default, NetworkConfig) and field.default.acts_on != "vectors"
    }
    return parse(kind, {**fields, "domain": {"kind": "vectors"}, **table}, "flow")  # type: ignore[return-value]


def _objective(model: FlowConfig) -> dict[str, Any]:
    """How a kind of flow is trained by default."""
    settings: dict[str, dict[str, Any]] = {
        "free_form": {"first_beta": 5.0, "beta": 200.0},
        "flow_matching": {"pairing": "none", "log_uniform_fraction": 0.5},
    }
    return {"kind": model.trained_by, **settings.get(model.trained_by, {})}
