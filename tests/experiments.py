"""Model folders of experiments, without training."""

from molflow.flows.storage import save_model


def save_experiment(folder, config, flow=None, card=None):
    """Save a flow, by default with fresh weights, as training under this configuration would."""
    experiment = config.model_dump(mode="json", exclude={"model"})
    save_model(folder, config.model, config.model.build() if flow is None else flow, dict(card or {}), experiment)
