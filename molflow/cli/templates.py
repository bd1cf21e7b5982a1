"""molflow templates: list, show and copy the experiments that come with molflow."""

from pathlib import Path
from typing import Annotated

import typer

from molflow.cli.options import Json, UsageError, completing, refuse, usage
from molflow.cli.output import check_json, show_lines, write_json
from molflow.files import check_writable
from molflow.templates import summary, template_names, template_text


def templates(
    show: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="Print a template.", autocompletion=completing(template_names)),
    ] = None,
    copy: Annotated[
        tuple[str, Path] | None, typer.Option(metavar="NAME FILE", help="Copy a template to a new file, to edit it.")
    ] = None,
    json: Json = None,
) -> None:
    """List the experiments that come with molflow: molflow train NAME."""
    if show is not None and copy is not None:
        raise UsageError("--show and --copy exclude each other")
    if show is not None or copy is not None:
        refuse("is for the list of templates", json=json)
    check_json(json)
    if show is not None:
        typer.echo(_text(show), nl=False)
    elif copy is not None:
        _copy(*copy)
    else:
        summaries = {name: summary(name) for name in template_names()}
        write_json(json, summaries)
        show_lines(list(summaries.items()))


def _text(name: str) -> str:
    with usage():
        return template_text(name)


def _copy(name: str, path: Path) -> None:
    text = _text(name)
    if path.exists():
        raise UsageError(f"{path} exists already; expected the name of a new file")
    check_writable(path)
    path.write_text(text, encoding="utf-8")
    typer.echo(f"{path} is written; train it with: molflow train {path}")
