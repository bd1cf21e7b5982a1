"""molflow models: list the shipped models, or show the card of one."""

from typing import Annotated

import typer

from molflow.cli.options import Json, completing, usage
from molflow.cli.output import Record, check_json, write_json
from molflow.pretrained import folder_of, model_cards, model_names


def models(
    name: Annotated[
        str | None,
        typer.Argument(
            help="A shipped model or the folder of a model; by default all shipped ones.",
            show_default=False,
            autocompletion=completing(model_names),
        ),
    ] = None,
    json: Json = None,
) -> None:
    """List the shipped models with their scores, or show what one is for, how it was made and how it can mislead."""
    from molflow.cli.output import show_card, show_models

    check_json(json)
    if name is None:
        cards = model_cards()
        write_json(json, cards)
        show_models(cards)
    else:
        card = _card(name)
        write_json(json, card)
        show_card(name, card)


def _card(name: str) -> Record:
    if name in model_names():
        card: Record = model_cards()[name]
        return card
    with usage():
        folder = folder_of(name)
    from molflow.flows.storage import read_card

    return read_card(folder)
