"""The command line: parse, call, show, exit code 0 (done), 1 (failed) or 2 (bad usage).

What the commands do is in `molecules`, `particles` and `benchmarks`, loaded when a command runs.
"""

import logging
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Literal

import typer

import molflow
from molflow.cli.options import (
    BatchSize,
    DataSet,
    Device,
    Draw,
    Evaluations,
    Json,
    Model,
    UsageError,
    Workers,
    load_flow,
    named,
    of_particles,
    refuse,
)
from molflow.cli.output import check_json, console, show, show_models, write_json
from molflow.errors import MolflowError
from molflow.files import check_apart, check_writable
from molflow.memory import keep_freed_memory

app = typer.Typer(
    help="Generate molecules, or systems of particles, with E(n)-equivariant free-form flows, train such flows, and "
    "score what they make.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
benchmark = typer.Typer(help="Measure speed on this machine.", rich_markup_mode=None)
app.add_typer(benchmark, name="benchmark")

_INTERRUPTED = 130  # what typer makes of KeyboardInterrupt
_AGAINST_TRAINING = "Compare with the training split of QM9, prepared on first use in under a minute"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command and exit with its code; errors are one line on stderr."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    keep_freed_memory()
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        code = app(words or ["--help"], prog_name="molflow", standalone_mode=False)
        if code == _INTERRUPTED:
            code = _complain("interrupted", 1)
    except MolflowError as error:
        code = _complain(str(error), 1)
    except UsageError as error:
        code = _complain(error.format_message(), 2)
    except BrokenPipeError:
        code = 1
    except OSError as error:
        code = _complain(f"{error.filename or 'writing failed'}: {error.strerror or error}", 1)
    except (KeyboardInterrupt, typer.Abort):
        code = _complain("interrupted", 1)
    sys.exit(code if isinstance(code, int) else 0)


def _complain(message: str, code: int) -> int:
    typer.echo(f"molflow: error: {' '.join(message.split())}", err=True)
    return code


@app.command()
def data(
    name: Annotated[DataSet, typer.Argument(help="The data set.")],
    source: Annotated[
        Literal["wheel", "pyg"] | None,
        typer.Option(help="Of qm9: the qm9pack wheel (the default), or PyTorch Geometric's download."),
    ] = None,
    force: Annotated[bool, typer.Option("--force", help="Prepare it again.")] = False,
    json: Json = None,
) -> None:
    """Prepare a data set and keep it in the cache: QM9 from its source, systems of particles by MCMC."""
    if name != "qm9":
        refuse(f"is of qm9 alone; {name} is drawn here", source=source)
    check_json(json)
    if name == "qm9":
        from molflow.cli import molecules

        molecules.prepare(source or "wheel", force, json)
    else:
        from molflow.cli import particles

        particles.prepare(name, force, json)


@app.command()
def train(
    config: Annotated[Path, typer.Argument(help="An experiment file, such as experiments/qm9.toml.")],
    out: Annotated[Path | None, typer.Option(help="Folder of the run; by default runs/NAME.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Override a value, as a.b=c; repeatable.")] = None,
    resume: Annotated[bool, typer.Option("--resume", help="Continue from the last checkpoint.")] = False,
    start_from: Annotated[Path | None, typer.Option(help="Begin with the weights of this model.safetensors.")] = None,
    json: Json = None,
) -> None:
    """Train a flow."""
    from molflow.files import read_json
    from molflow.flows.storage import CARD
    from molflow.training.state import STATE

    check_json(json)
    experiment = molflow.load_experiment(config, set_ or ())
    folder = out or Path("runs") / experiment.name
    try:
        molflow.train(experiment, folder, resume=resume, start_from=start_from)
    except KeyboardInterrupt as error:
        if not (folder / STATE).exists():
            raise
        raise MolflowError(f"interrupted; continue with --resume (checkpoint in {folder})") from error
    write_json(json, read_json(folder / CARD))
    console.print(f"The model is in {folder}; sample it with: molflow sample --model {folder}")


@app.command()
def sample(
    n: Annotated[int, typer.Option("-n", min=1, help="How many molecules or configurations.")] = 1000,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Molecules: .sdf, .xyz or .npz, by default molecules.sdf. Particles: .npz, by default particles.npz.",
        ),
    ] = None,
    model: Model = "qm9",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same samples.")] = 0,
    temperature: Annotated[float, typer.Option(min=1e-6, help="Standard deviation of the latent.")] = 1.0,
    evaluations: Evaluations = None,
    only: Annotated[
        Literal["stable"] | None, typer.Option(help="Draw until N molecules are stable, and keep those alone.")
    ] = None,
    correct: Annotated[
        Literal["metropolis", "importance"] | None,
        typer.Option(
            help="Particles: turn samples into those of the target, by a Metropolis chain or by resampling with "
            "importance weights."
        ),
    ] = None,
    density: Annotated[
        bool, typer.Option("--density/--no-density", help="Particles: the exact density of each, tens of times slower.")
    ] = True,
    batch_size: BatchSize = 1024,
    device: Device = "cpu",
    novelty: Annotated[bool, typer.Option("--novelty", help=f"{_AGAINST_TRAINING}.")] = False,
    json: Json = None,
) -> None:
    """Generate molecules or configurations of particles, write them to a file, and score them."""
    from molflow.chem.io import check_writable as check_structure_file

    check_json(json)
    if out is not None:
        check_structure_file(out)
    flow = load_flow(model, device, evaluations)
    draw = Draw(model, n, batch_size, device, evaluations, seed, temperature, density)
    if of_particles(flow):
        from molflow.cli import particles

        refuse(f"is for molecules; {model} is a model of particles", only=only, novelty=novelty)
        check_writable(out := out or Path("particles.npz"))
        particles.sample(flow, draw, out, correct, json)
    else:
        from molflow.cli import molecules

        refuse(f"is for particles; {model} is a model of molecules", correct=correct, no_density=not density)
        check_structure_file(out := out or Path("molecules.sdf"))
        molecules.sample(flow, draw, out, only, novelty, json)


@app.command()
def evaluate(
    files: Annotated[
        list[Path],
        typer.Argument(
            help="Molecules: SDF, XYZ (both also .gz) or NPZ files, folders of them, or - for standard input. "
            "Particles: NPZ or NPY files."
        ),
    ],
    reference: Annotated[
        DataSet | None,
        typer.Option(
            help="Molecules: a data set whose own scores are set beside these. Particles: the system they are samples "
            "of, unless the files name it."
        ),
    ] = None,
    novelty: Annotated[
        bool | None,
        typer.Option(help=f"{_AGAINST_TRAINING}; by default with --reference qm9, where QM9 can be had."),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(
            "--model",
            "-m",
            help="Particles: also the likelihood of test configurations under this model, by both of its maps; of as "
            "many as take about a minute, at most 10,000.",
        ),
    ] = None,
    scope: Annotated[
        Literal["stability", "lookup", "all"],
        typer.Option(
            help="Molecules: how much is computed. stability alone is fastest; lookup adds validity, uniqueness and "
            "novelty by the same bonds; all adds perceived bonds, shapes and descriptors."
        ),
    ] = "all",
    strain: Annotated[
        Literal["mmff94", "gfn2-xtb"] | None,
        typer.Option(help="Molecules: also relax each one; gfn2-xtb needs the extra xtb."),
    ] = None,
    posebusters: Annotated[
        bool, typer.Option("--posebusters", help="Molecules: also run PoseBusters' checks, an extra.")
    ] = False,
    details: Annotated[
        list[Path] | None,
        typer.Option(
            help="Molecules: also write the status of each one, why it failed, and its descriptors, to this .csv, "
            ".parquet or .sdf file; repeatable."
        ),
    ] = None,
    report: Annotated[
        Path | None,
        typer.Option(help="Also write a page, .html: figures and histograms, and molecules to turn and look at."),
    ] = None,
    workers: Workers = None,
    seconds: Annotated[
        float,
        typer.Option(min=0.01, max=1e6, help="Molecules: processor time that one may take before it is given up."),
    ] = 10.0,
    json: Json = None,
) -> None:
    """Score the molecules or configurations of particles in files."""
    from molflow.cli.configurations import system_of_files

    check_json(json)
    files = list(dict.fromkeys(files))
    check_apart(files, [path for path in (*(details or ()), report, json) if path is not None])
    system = system_of_files(files, reference)
    if system is None:
        from molflow.cli import molecules

        refuse("is for particles; name their system with --reference", model=model)
        if scope == "stability":
            refuse("needs more than --scope stability", details=details, report=report)
        if scope != "all":
            refuse("needs --scope all", strain=strain, posebusters=posebusters, workers=workers)
        asked = molecules.Evaluation(reference, novelty, scope, strain, posebusters, workers, seconds)
        molecules.evaluate(files, asked, details or [], report, json)
    else:
        from molflow.cli import particles

        if len(files) > 1:
            refuse("of particles is for one file at a time", report=report)
        refuse(
            f"is for molecules; {system} is a system of particles",
            novelty=novelty,
            strain=strain,
            posebusters=posebusters,
            details=details,
            workers=workers,
        )
        particles.evaluate(files, system, model, report, json)


@app.command()
def models(json: Json = None) -> None:
    """List the shipped models with their measured scores."""
    from molflow.pretrained import model_cards

    check_json(json)
    cards = model_cards()
    show_models(cards)
    write_json(json, cards)


@benchmark.command("sampling")
def benchmark_sampling(
    models: Annotated[
        str,
        typer.Option(
            "--models",
            "--model",
            "-m",
            help="A model, or several to compare, separated by commas; NAME@K is one with K evaluations.",
        ),
    ] = "qm9",
    n: Annotated[int, typer.Option("-n", min=1, help="Molecules or configurations in each repeat.")] = 1000,
    evaluations: Evaluations = None,
    batch_size: BatchSize = 1024,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Time sampling, raw and for each stable, each new molecule or effective sample: the median of three runs.

    A warm-up comes before. Models that are compared take turns. A new molecule is valid, connected, distinct and not
    in QM9's training split, where that can be had. For particles also the exact density of samples, of as many as take
    about a minute.
    """
    check_json(json)
    draws = [Draw(name, n, batch_size, device, k or evaluations) for name, k in map(named, models.split(","))]
    flows = [load_flow(draw.model, device, draw.evaluations) for draw in draws]
    from molflow.cli.benchmarks import benchmark_sampling as measure

    show(measure(flows, draws), json)


@benchmark.command("training")
def benchmark_training(
    model: Model = "qm9",
    n_atoms: Annotated[
        int | None, typer.Option(min=2, help="Points of each molecule, its atoms or its heavy atoms; by default 18.")
    ] = None,
    batch_size: BatchSize = 64,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Back-propagate so many at a time.")] = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Time a training step of a model's networks, on random molecules of one size or random particles."""
    from molflow.cli.benchmarks import benchmark_training as measure

    check_json(json)
    flow = load_flow(model, device)
    show([measure(flow, model, n_atoms, batch_size, micro_batch, device)], json)


@benchmark.command("evaluation")
def benchmark_evaluation(
    n: Annotated[int, typer.Option("-n", min=1, help="Test molecules of QM9, at most 13,083.")] = 1000,
    workers: Workers = None,
    json: Json = None,
) -> None:
    """Time evaluations: stability alone on all of QM9, which also gives its ceiling, and the other scopes."""
    from molflow.cli.benchmarks import benchmark_evaluation as measure

    check_json(json)
    measure(n, workers, json)
