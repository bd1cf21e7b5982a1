"""molflow models: list the shipped models."""

from molflow.cli.options import Json
from molflow.cli.output import check_json, write_json


def models(json: Json = None) -> None:
    """List the shipped models with their measured scores."""
    from molflow.cli.output import show_models
    from molflow.pretrained import model_cards

    check_json(json)
    cards = model_cards()
    show_models(cards)
    write_json(json, cards)
