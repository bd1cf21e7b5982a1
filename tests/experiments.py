"""Model folders of experiments, without training."""

from pathlib import Path

import torch

from molflow.flows.storage import save_model
from molflow.training.config import load_experiment

TINY = Path(__file__).parent / "training" / "tiny.toml"
TYPES = 'model.domain.types=["H", "C", "N", "O", "F"]'


def save_experiment(folder, config, flow=None, card=None):
    """Save a flow, by default with fresh weights, as training under this configuration would."""
    experiment = config.model_dump(mode="json", exclude={"model"})
    save_model(folder, config.model, config.model.build() if flow is None else flow, dict(card or {}), experiment)


def save_small_molecules(folder):
    """Save a flow of molecules of up to six atoms with fresh weights."""
    config = load_experiment(TINY, [TYPES, "model.domain.atom_counts=[0, 0, 1, 2, 0, 3, 5]"])
    torch.manual_seed(0)
    save_experiment(folder, config, card={"data": "nothing", "steps": 0})
    return folder
