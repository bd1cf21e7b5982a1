"""molflow train: train a flow as an experiment describes."""

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from molflow.cli.options import Energy, Json, ThermalEnergy, UsageError, completing, known_template, usage
from molflow.cli.output import check_json, console, write_json
from molflow.errors import MolflowError
from molflow.templates import template_names

if TYPE_CHECKING:
    from molflow.training import ExperimentConfig


def choices() -> dict[str, Iterable[str]]:
    """The templates, and the kinds that an experiment file can name."""
    from molflow.data import DATASETS
    from molflow.flows import DOMAINS, FLOWS
    from molflow.nn import NETWORKS
    from molflow.training.objectives import OBJECTIVES

    return {
        "Templates": template_names(),
        "Data sets": DATASETS,
        "Flows": FLOWS,
        "Domains": DOMAINS,
        "Networks": NETWORKS,
        "Objectives": OBJECTIVES,
    }


def train(
    config: Annotated[
        str | None,
        typer.Argument(
            help="A template (molflow templates), or a file: an experiment in TOML, or the config.json of a model.",
            show_default=False,
            callback=known_template,
            autocompletion=completing(template_names),
        ),
    ] = None,
    init: Annotated[
        Path | None,
        typer.Option(
            help="Print a commented experiment for this file of molecules, and train nothing.", metavar="FILE"
        ),
    ] = None,
    smiles_column: Annotated[str, typer.Option(help="With --init: the column of a .csv file with SMILES.")] = "smiles",
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/NAME.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value, as a.b=c; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    start_from: Annotated[
        str | None,
        typer.Option(help="Begin with these weights: a model.safetensors, a shipped model or the folder of a model."),
    ] = None,
    energy: Energy = None,
    kT: ThermalEnergy = 1.0,
    json: Json = None,
) -> None:
    """Train a flow.

    Several processes share each batch under: torchrun --nproc-per-node G -m molflow train ...
    """
    if init is not None:
        _print_experiment(init, smiles_column, config is not None)
        return
    if config is None:
        raise UsageError("Missing argument 'CONFIG': a template, an experiment file, or --init FILE to make one")
    if resume and start_from is not None:
        raise UsageError("--resume continues with the weights of the run; leave out --start-from")
    import molflow
    from molflow.files import read_json
    from molflow.flows.storage import CARD
    from molflow.training.distributed import is_leader
    from molflow.training.state import STATE

    check_json(json)
    own = [] if energy is None else [f"data.energy={energy!r}", f"data.kT={kT}"]
    experiment = _experiment(config, [*(set_ or ()), *own])
    folder = out or Path("runs") / experiment.name
    weights = None if start_from is None else _weights(start_from)
    try:
        molflow.train(experiment, folder, resume=resume, start_from=weights)
    except KeyboardInterrupt as error:
        if not (folder / STATE).exists():
            raise
        raise MolflowError(f"interrupted; continue with --resume (checkpoint in {folder})") from error
    if not is_leader():
        return
    write_json(json, read_json(folder / CARD))
    console.print(f"The model is in {folder}; sample it with: molflow sample --model {folder}")


def _experiment(config: str, overrides: Sequence[str]) -> "ExperimentConfig":
    """The experiment; wrong overrides of a sound experiment are bad usage."""
    from molflow.training import load_experiment

    try:
        return load_experiment(config, overrides)
    except MolflowError as error:
        if overrides and _is_sound(config):
            raise UsageError(str(error)) from error
        raise


def _is_sound(config: str) -> bool:
    from molflow.training import load_experiment

    try:
        load_experiment(config)
    except MolflowError:
        return False
    return True


def _weights(name_or_file: str) -> Path:
    from molflow.flows.storage import WEIGHTS
    from molflow.pretrained import folder_of

    path = Path(name_or_file)
    if path.is_file() or path.suffix == f".{WEIGHTS.rpartition('.')[2]}":
        return path
    with usage():
        return folder_of(name_or_file) / WEIGHTS


def _print_experiment(file: Path, smiles_column: str, has_config: bool) -> None:
    if has_config:
        raise UsageError("--init prints an experiment and takes no other")
    from molflow.templates.own_data import experiment_for

    typer.echo(experiment_for(file, smiles_column), nl=False)
