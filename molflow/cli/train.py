"""molflow train: train a flow as an experiment file describes."""

from collections.abc import Iterable
from pathlib import Path
from typing import Annotated

import typer

from molflow.cli.options import Energy, Json, ThermalEnergy, UsageError
from molflow.cli.output import check_json, console, write_json
from molflow.errors import MolflowError


def choices() -> dict[str, Iterable[str]]:
    """The kinds that an experiment file can name."""
    from molflow.data import DATASETS
    from molflow.flows import DOMAINS, FLOWS
    from molflow.nn import NETWORKS
    from molflow.training.objectives import OBJECTIVES

    return {
        "Data sets": DATASETS,
        "Flows": FLOWS,
        "Domains": DOMAINS,
        "Networks": NETWORKS,
        "Objectives": OBJECTIVES,
    }


def train(
    config: Annotated[
        Path | None,
        typer.Argument(help="An experiment file in TOML, such as those in experiments/.", show_default=False),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Print a commented experiment for this file of molecules, and train nothing.", metavar="FILE"
        ),
    ] = None,
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/NAME.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value, as a.b=c; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    start_from: Annotated[Path | None, typer.Option(help="Begin with the weights of this model.safetensors.")] = None,
    energy: Energy = None,
    kT: ThermalEnergy = 1.0,
    json: Json = None,
) -> None:
    """Train a flow."""
    if init is not None:
        _print_experiment(init, config is not None)
        return
    if config is None:
        raise UsageError("Missing argument 'CONFIG': an experiment file, or --init FILE to make one")
    import molflow
    from molflow.files import read_json
    from molflow.flows.storage import CARD
    from molflow.training.state import STATE

    check_json(json)
    own = [] if energy is None else [f"data.energy={energy!r}", f"data.kT={kT}"]
    experiment = molflow.load_experiment(config, [*(set_ or ()), *own])
    folder = out or Path("runs") / experiment.name
    try:
        molflow.train(experiment, folder, resume=resume, start_from=start_from)
    except KeyboardInterrupt as error:
        if not (folder / STATE).exists():
            raise
        raise MolflowError(f"interrupted; continue with --resume (checkpoint in {folder})") from error
    write_json(json, read_json(folder / CARD))
    console.print(f"The model is in {folder}; sample it with: molflow sample --model {folder}")


def _print_experiment(file: Path, has_config: bool) -> None:
    if has_config:
        raise UsageError("--init prints an experiment and takes no other")
    from molflow.templates.own_data import experiment_for

    typer.echo(experiment_for(file), nl=False)
