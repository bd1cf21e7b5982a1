"""Options that several commands share, how commands refuse some of them, and the flow of a model."""

import textwrap
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from typer.core import TyperCommand

from molflow.errors import MolflowError
from molflow.pretrained import DEFAULT_REFERENCE, model_names
from molflow.registry import known_names
from molflow.templates import experiment_file

if TYPE_CHECKING:
    from molflow.data import DataSetConfig
    from molflow.evaluation import TrainingReference
    from molflow.flows import Flow

# typer carries its own copy of click in some versions, so click's name is reached through typer's.
UsageError: Any = typer.BadParameter.__bases__[0]


def completing(names: Callable[[], Iterable[str]]) -> Callable[[str], list[str]]:
    """A function that gives the shell the names that begin with what is typed."""
    return lambda incomplete: [name for name in names() if name.startswith(incomplete)]


Model = Annotated[
    str,
    typer.Option(
        "--model",
        "-m",
        help=f"A shipped model ({', '.join(model_names())}) or the folder of a model.",
        autocompletion=completing(model_names),
    ),
]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file; - is standard output.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples drawn at a time.")]
Workers = Annotated[
    int | None, typer.Option(min=1, help="Molecules: processes that run RDKit; by default one for each core.")
]
Evaluations = Annotated[
    int | None,
    typer.Option(
        "--evaluations",
        "-k",
        min=1,
        help="Network evaluations for each sample; by default those the model was made for.",
    ),
]

Compile = Annotated[
    bool | None,
    typer.Option(
        "--compile/--no-compile",
        help="Molecules and particles: compile the networks for this CPU, which needs a C++ compiler and takes about a "
        "minute the first time. By default sample does so for so many samples that it pays, and benchmark does not. "
        "Samples change by less than 0.0001 Å, but for one in hundreds that amplifies any rounding.",
    ),
]
Precision = Annotated[
    Literal["float32", "bfloat16"],
    typer.Option(
        help="Molecules and particles: precision of the products of matrices in the networks. bfloat16 with --compile "
        "is faster on processors that have instructions for it. It gives other molecules, of which as many are stable: "
        "of 2,000, 89.5 % instead of 89.2 % (qm9-environment in one pass)."
    ),
]


def _path_of_energy(value: str | None) -> str | None:
    """Raise a usage error for what is not the path of an energy."""
    if value is not None:
        from molflow.energies.own import split_path

        with usage():
            split_path(value)
    return value


Energy = Annotated[
    str | None,
    typer.Option(
        callback=_path_of_energy,
        help="Particles: an energy of your own, as package.module:function, looked for in the current folder as well. "
        "It takes configurations (n, N, D) or one (N, D), and gives energies, by torch with its gradients, or a pair "
        "(energies, forces).",
        metavar="MODULE:FUNCTION",
    ),
]
ThermalEnergy = Annotated[
    float,
    typer.Option(
        "--kT",
        min=1e-12,
        help="Particles: the thermal energy in the unit of the energy; another than a model was trained "
        "at is reached by --correct.",
    ),
]

_TASKS_OF = {
    "only": ("molecules",),
    "novelty": ("molecules",),
    "training": ("molecules",),
    "strain": ("molecules",),
    "posebusters": ("molecules",),
    "posebusters_energy": ("molecules",),
    "details": ("molecules",),
    "workers": ("molecules",),
    "bonds": ("molecules",),
    "charge": ("molecules",),
    "unit": ("molecules",),
    "add_hydrogens": ("molecules",),
    "n_atoms": ("molecules",),
    "formula": ("molecules",),
    "scaffold": ("molecules",),
    "composition": ("molecules",),
    "elements": ("molecules",),
    "correct": ("particles",),
    "energy": ("particles",),
    "no_density": ("particles", "vectors"),
    "compile": ("molecules", "particles"),
    "precision": ("molecules", "particles"),
}
"""Options that only some tasks take."""


def listing(names: Callable[[], dict[str, Iterable[str]]]) -> type[TyperCommand]:
    """A command whose --help ends with lists of names, by title; they are looked up only then."""

    class Listing(TyperCommand):
        def format_epilog(self, ctx: Any, formatter: Any) -> None:
            for title, known in names().items():
                with formatter.section(title):
                    width, indent = formatter.width, formatter.current_indent * " "
                    lines = textwrap.wrap(
                        ", ".join(known), width, initial_indent=indent, subsequent_indent=indent, break_on_hyphens=False
                    )
                    formatter.write("\n".join(lines) + "\n")

    return Listing


def data_sets() -> dict[str, Iterable[str]]:
    """The data sets that molflow can prepare, for --help."""
    from molflow.data.registry import prepared_names

    return {"Data sets": prepared_names()}


def known_data_set(name: str | None) -> str | None:
    """Raise a usage error for a name that is not among `data_sets`."""
    known = () if name is None else data_sets()["Data sets"]
    if name is not None and name not in known:
        raise typer.BadParameter(f"{name!r} is not a data set{known_names(name, list(known))}")
    return name


def data_set_or_file(name: str) -> str:
    """Raise a usage error for a name that is neither among `data_sets` nor looks like a file."""
    return name if "." in name or "/" in name or Path(name).exists() else known_data_set(name) or name


def known_template(name: str | None) -> str | None:
    """Raise a usage error for a name that is neither of a template nor of a file, by its ending or a slash."""
    if name is not None:
        with usage():
            experiment_file(name)
    return name


@contextmanager
def usage() -> Iterator[None]:
    """Raise errors in the block as usage errors: it checks the words of the command, and nothing is done yet."""
    try:
        yield
    except MolflowError as error:
        raise UsageError(str(error)) from error


def refuse(why: str, **options: Any) -> None:
    """Raise a usage error for the first of these options that was given: --NAME why."""
    for name, value in options.items():
        if value not in (None, False):
            raise UsageError(f"--{name.replace('_', '-')} {why}")


def check_page(path: Path) -> None:
    """Fail early if a page cannot be written: another suffix than .html, no plotly, or no place for it."""
    from molflow.extras import import_extra
    from molflow.files import check_writable, is_stream

    import_extra("plotly.offline", "report", f"--report {path}")
    check_writable(path)
    if path.suffix.lower() not in (".html", ".htm") and not is_stream(path):
        raise UsageError(f"--report {path}: a page is an .html file")


def refuse_other_tasks(task: str, subject: str, **options: Any) -> None:
    """Raise a usage error for the first of these options that was given and is for other tasks only.

    Args:
        task: name of the task.
        subject: the words for what has this task, such as "lj13 is a system of particles".
        options: names and values.
    """
    for name, value in options.items():
        if task not in _TASKS_OF[name]:
            refuse(f"is for {' and '.join(_TASKS_OF[name])}; {subject}", **{name: value})


def label_and_evaluations(text: str) -> tuple[str, int | None]:
    """A model and, if it is written NAME@K, the number of network evaluations."""
    if not text.strip():
        raise UsageError("--models has an empty name")
    name, _, k = text.strip().rpartition("@")
    return (name, int(k)) if name and k.isdecimal() and int(k) else (text.strip(), None)


def load_flow(model: str, device: str, evaluations: int | None = None) -> "Flow[Any]":
    """The flow of a model by name or folder.

    Raises:
        UsageError: an unknown device, no such model, or a number of evaluations that it cannot use.
        MolflowError: a device that is not there, or a model that cannot be loaded.
    """
    import torch

    from molflow.pretrained import folder_of, load_named

    with usage():
        folder_of(model)
    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise typer.BadParameter(f"unknown device {device!r}; expected cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise typer.BadParameter(f"device {device!r} is not supported; expected cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise MolflowError(f"--device {device}: torch finds {torch.cuda.device_count()} CUDA devices here")
    flow = load_named(model, chosen)
    if (evaluations or 1) > 1 and not flow.takes_evaluations:
        raise UsageError(f"{model}: made for one evaluation of the network, cannot use {evaluations}")
    return flow


def data_of(model: str) -> "type[DataSetConfig] | None":
    """The data set that a model was trained on, if it is a registered one."""
    from molflow.data import DATASETS
    from molflow.flows.storage import read_config
    from molflow.pretrained import folder_of

    experiment = read_config(folder_of(model))["experiment"] or {}
    data = experiment.get("data")
    name = data.get("name") if isinstance(data, dict) else None
    return DATASETS[name] if isinstance(name, str) and name in DATASETS else None


def own_training_reference(model: str) -> "TrainingReference | None":
    """The training molecules of a model that was trained on a user's file; None for other models.

    Raises:
        MolflowError: the file is gone, or was changed so that it cannot be prepared.
    """
    from molflow.config import parse
    from molflow.data import MoleculeFile
    from molflow.evaluation import TrainingReference
    from molflow.flows.storage import read_config
    from molflow.pretrained import folder_of

    if data_of(model) is not MoleculeFile:
        return None
    settings = read_config(folder_of(model))["experiment"]["data"]
    data = parse(MoleculeFile, {key: value for key, value in settings.items() if key != "name"}, model)
    molecules = data.load("train").data
    return TrainingReference.from_set(molecules, name=f"the training split of {data.file.name}", progress=True)


def training_file_reference(file: Path) -> "TrainingReference":
    """All molecules of a file as training molecules."""
    from molflow.data import MoleculeFile, MoleculeSet
    from molflow.evaluation import TrainingReference

    molecules = MoleculeSet.load(MoleculeFile(file=file).prepare())
    return TrainingReference.from_set(molecules, name=file.name, progress=True)


def training_reference(novelty: bool | None, reference: str | None = DEFAULT_REFERENCE) -> "TrainingReference | None":
    """The training molecules that novelty is measured against.

    Args:
        novelty: True: raise if they cannot be had. None: use them if the reference is the data set they are from, and
            write a line to stderr if they cannot be had.
        reference: name of the reference data set.
    """
    from molflow.evaluation import qm9_training_reference

    if not (reference == DEFAULT_REFERENCE if novelty is None else novelty):
        return None
    try:
        return qm9_training_reference(progress=True)
    except MolflowError as error:
        if novelty:
            raise
        typer.echo(f"molflow: novelty is not computed: {' '.join(str(error).split())}", err=True)
        return None
