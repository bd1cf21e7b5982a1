"""Options of every command that computes: --threads and --quiet."""

import inspect
import logging
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from functools import wraps
from typing import Annotated, Any

import typer

from molflow.cli.output import console

Threads = Annotated[
    int | None,
    typer.Option(min=1, help="Threads that torch computes with; by default one for each core, for small work one."),
]
Quiet = Annotated[
    bool, typer.Option("--quiet", "-q", help="Print errors alone, neither progress nor results; see --json.")
]


def computing(command: Callable[..., None]) -> Callable[..., None]:
    """A command that also has the options --threads, unless it has one of its own, and --quiet."""

    signature, keyword = inspect.signature(command), inspect.Parameter.KEYWORD_ONLY
    takes_threads = "threads" in signature.parameters

    @wraps(command)
    def run(*, quiet: bool, **options: Any) -> None:
        threads = options["threads"] if takes_threads else options.pop("threads")
        with _errors_alone() if quiet else nullcontext(), _threads(threads):
            command(**options)

    added: dict[str, tuple[Any, Any]] = {"quiet": (Quiet, False)}
    if not takes_threads:
        added["threads"] = Threads, None
    parameters = [each.replace(kind=keyword) for each in signature.parameters.values()]
    parameters += [inspect.Parameter(n, keyword, default=d, annotation=a) for n, (a, d) in added.items()]
    run.__signature__ = signature.replace(parameters=parameters)  # type: ignore[attr-defined]
    run.__annotations__ = command.__annotations__ | {name: annotation for name, (annotation, _) in added.items()}
    return run


def _threads(number: int | None) -> AbstractContextManager[None]:
    if number is None:
        return nullcontext()
    from molflow.threads import chosen_threads  # loads torch

    return chosen_threads(number)


@contextmanager
def _errors_alone() -> Iterator[None]:
    """Print errors alone in a block."""
    from molflow.progress import hide_progress

    log = logging.getLogger("molflow")
    level = log.level
    hide_progress(True)
    log.setLevel(logging.ERROR)
    console.quiet = True
    try:
        yield
    finally:
        hide_progress(False)
        log.setLevel(level)
        console.quiet = False
