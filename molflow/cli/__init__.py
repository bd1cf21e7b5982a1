"""The command line: parse, call, show, exit code 0 (done), 1 (failed) or 2 (bad usage).

Each command has a file of its own, and imports what it needs when it runs.
"""

import logging
import os
import sys
from collections.abc import Sequence
from typing import Annotated

import typer

from molflow.cli.benchmark import benchmark
from molflow.cli.computing import computing
from molflow.cli.data import data
from molflow.cli.evaluate import evaluate, references_and_metrics
from molflow.cli.models import models
from molflow.cli.options import UsageError, data_sets, listing
from molflow.cli.sample import sample
from molflow.cli.templates import templates
from molflow.cli.train import choices, train
from molflow.errors import MolflowError
from molflow.interrupts import interrupt_on_termination
from molflow.memory import keep_freed_memory

app = typer.Typer(
    help="Generate molecules, systems of particles or vectors with E(n)-equivariant free-form flows, train such flows, "
    "and score their samples.",
    epilog="Exit codes: 0 done, 1 failed, 2 bad usage.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
app.command(cls=listing(data_sets))(computing(data))
app.command(cls=listing(choices))(computing(train))
app.command()(computing(sample))
app.command(cls=listing(references_and_metrics))(computing(evaluate))
app.command()(models)
app.command()(templates)
app.add_typer(benchmark, name="benchmark")

_INTERRUPTED = 130  # typer's exit code after KeyboardInterrupt


def _show_version(asked: bool) -> None:
    if asked:
        from molflow import __version__

        typer.echo(f"molflow {__version__}")
        raise typer.Exit


@app.callback()
def _global_options(
    version: Annotated[
        bool, typer.Option("--version", help="Print the version.", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    """Options that stand before the command."""


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command and exit with its code; errors are one line on stderr."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    logging.getLogger("molflow").setLevel(logging.INFO)
    keep_freed_memory()
    interrupt_on_termination()
    # OpenMP's threads spin while they wait, which on a busy machine takes the cores from those that work.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")  # read when torch is imported, which commands do
    if sys.stdout is None or sys.stderr is None:  # files that are opened would take their places
        sys.exit("molflow: error: standard output or standard error is closed; send it to /dev/null to have none")
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        code = app(words or ["--help"], prog_name="molflow", standalone_mode=False)
        if code == _INTERRUPTED:
            code = _complain("interrupted", 1)
    except MolflowError as error:
        code = _complain(str(error), 1)
    except UsageError as error:
        code = _complain(error.format_message().replace("Value error, ", ""), 2)  # typer shows pydantic's words
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # for what is flushed at the end
        code = 1
    except OSError as error:
        code = _complain(f"{error.filename or 'writing failed'}: {error.strerror or error}", 1)
    except (KeyboardInterrupt, typer.Abort):
        code = _complain("interrupted", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, code: int) -> int:
    typer.echo(f"molflow: error: {' '.join(message.split())}", err=True)
    return code
