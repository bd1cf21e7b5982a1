"""The flow of an experiment before its training, to which other scripts give weights."""

from typing import Any

import torch

from molflow.flows import Flow
from molflow.flows.base import FlowConfig
from molflow.training.config import load_experiment
from molflow.training.tasks import load_splits


def untrained(experiment: str) -> tuple[FlowConfig, Flow[Any]]:
    """The configuration of the flow, with what it takes from the data, and the flow with random weights of seed 0."""
    splits = load_splits(load_experiment(experiment))
    torch.manual_seed(0)
    flow = splits.config.model.build()
    splits.fit(flow.domain)
    return splits.config.model, flow
