"""molflow sample: draw samples of a flow, write them to a file, and score them."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from molflow.cli.options import (
    BatchSize,
    Compile,
    Device,
    Evaluations,
    Json,
    Model,
    Precision,
    UsageError,
    data_of,
    load_flow,
    refuse_other_tasks,
    training_reference,
)
from molflow.cli.output import check_json, console
from molflow.errors import MolflowError
from molflow.pretrained import DEFAULT_MODEL

if TYPE_CHECKING:
    from molflow.batch import MoleculeBatch
    from molflow.training.tasks.base import Task
    from molflow.training.tasks.sampling import Sampling, Scoring


def sample(
    n: Annotated[int, typer.Option("-n", min=1, help="Number of samples.")] = 1000,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Molecules: .sdf, .xyz or .npz, by default molecules.sdf. Particles and vectors: .npz, by default "
            "particles.npz or vectors.npz.",
        ),
    ] = None,
    model: Model = DEFAULT_MODEL,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same samples.")] = 0,
    temperature: Annotated[float, typer.Option(min=1e-6, help="Standard deviation of the latent.")] = 1.0,
    evaluations: Evaluations = None,
    cond: Annotated[
        list[str] | None,
        typer.Option(help="Conditional models: a condition with its unit, such as gap=5.2eV; repeatable."),
    ] = None,
    guidance: Annotated[
        float | None,
        typer.Option(min=0, help="Conditional models that are velocities: weight of the conditions, above 1 for more."),
    ] = None,
    formula: Annotated[str | None, typer.Option(help="Molecules: of this formula alone, such as C7H10O2.")] = None,
    n_atoms: Annotated[
        int | None, typer.Option(min=1, help="Molecules: of so many atoms alone, hydrogens included.")
    ] = None,
    composition: Annotated[
        str | None, typer.Option(help="Molecules: of these points alone, by the types of the model, as CH3=2,C=1.")
    ] = None,
    elements: Annotated[
        str | None, typer.Option(help="Molecules: of these elements alone, as C,H,O; name hydrogen as well.")
    ] = None,
    scaffold: Annotated[
        Path | None,
        typer.Option(
            help="Molecules, models of a velocity: keep the heavy atoms of the one molecule in this file where they "
            "are, and draw the rest."
        ),
    ] = None,
    only: Annotated[
        Literal["stable"] | None, typer.Option(help="Molecules: draw until N are stable, and keep those alone.")
    ] = None,
    correct: Annotated[
        Literal["metropolis", "importance"] | None,
        typer.Option(
            help="Particles: turn samples into samples of the target, by a Metropolis chain or by resampling with "
            "importance weights."
        ),
    ] = None,
    density: Annotated[
        bool,
        typer.Option(
            "--density/--no-density",
            help="Particles and vectors: compute the exact density of each sample, tens of times slower.",
        ),
    ] = True,
    batch_size: BatchSize = 1024,
    device: Device = "cpu",
    novelty: Annotated[
        bool,
        typer.Option(
            "--novelty",
            help="Molecules: compare with the training split of QM9, prepared on first use in under a minute.",
        ),
    ] = False,
    workers: Annotated[
        int | None,
        typer.Option(
            min=0,
            help="Molecules: processes that score molecules while further ones are drawn; by default one if there are "
            "several batches. The scores do not depend on it.",
        ),
    ] = None,
    compile: Compile = None,
    precision: Precision = "float32",
    json: Json = None,
) -> None:
    """Draw samples of a model, write them to a file, and score them."""
    from molflow.chem.io import check_writable
    from molflow.cli.scores import show_samples
    from molflow.evaluation import EvaluationOptions
    from molflow.flows.acceleration import check
    from molflow.training.tasks import task_of
    from molflow.training.tasks.sampling import SamplingOptions
    from molflow.workers import default_workers

    check_json(json)
    if out is not None:
        check_writable(out)
    flow = load_flow(model, device, evaluations)
    values = _values(cond or ())
    if guidance is not None:
        flow = flow.guided(guidance)
    ask = {
        "formula": formula,
        "n_atoms": n_atoms,
        "composition": composition and _composition(composition),
        "elements": elements and [element.strip() for element in elements.split(",")],
        "scaffold": scaffold and _scaffold(scaffold),
    }
    ask = {name: value for name, value in ask.items() if value is not None}
    flow.standardized(values or None, 1)
    task = task_of(flow, data_of(model))
    refuse_other_tasks(
        task.name,
        f"{model} is a model of {task.name}",
        only=only,
        novelty=novelty,
        correct=correct,
        no_density=not density,
        workers=workers,
        compile=compile,
        precision=precision != "float32" and precision,
        formula=formula,
        n_atoms=n_atoms,
        composition=composition,
        elements=elements,
        scaffold=scaffold,
    )
    if ask:  # refuse what cannot be before the work starts
        asked = flow.request(**ask)
        flow.domain.sample_context(1, flow.generator(0), flow.device, flow.dtype, asked)
    out = out or Path(task.default_output)
    task.check_output(out)
    check(flow, compile, precision)
    if workers is None:
        workers = min(1, default_workers()) if n > batch_size else 0
    scoring = EvaluationOptions(scope="lookup", training=training_reference(novelty), workers=workers)
    options = SamplingOptions(
        model,
        n,
        batch_size,
        device,
        evaluations,
        seed,
        temperature,
        density,
        only,
        correct,
        values or None,
        compile,
        precision,
        ask,
    )
    sampling = task.sampling(flow, options)
    if correct and not sampling.with_density:
        raise UsageError("--correct needs the density of samples: leave out --no-density and --evaluations")
    if sampling.with_density and (compile or precision != "float32"):
        raise UsageError("--compile and --precision are for samples without their density: add --no-density")
    with task.scoring(flow, scoring) as scores:
        _write(task, sampling, scores, out)
        record = scores.record() | sampling.figures() | {"file": str(out)}
    show_samples(task.name, {model: record}, json)
    for note in sampling.notes():
        console.print(note)
    if ask and scaffold is None:
        probability = float(flow.domain.log_prob_of(**ask).exp())
        console.print(f"Without being asked, {model} makes such samples with probability {probability:.3g}.")
    console.print(f"{n:,} {task.noun} are in {out}")


def _values(words: Sequence[str]) -> dict[str, str]:
    """Names and values of conditions."""
    pairs = [word.partition("=") for word in words]
    for word, (name, equals, value) in zip(words, pairs, strict=True):
        if not (name.strip() and equals and value.strip()):
            raise UsageError(f"--cond {word}: expected NAME=VALUE, such as gap=5.2eV")
    return {name.strip(): value.strip() for name, _, value in pairs}


def _composition(text: str) -> dict[str, int]:
    """The number of points of each type."""
    counts = {}
    for part in text.split(","):
        name, _, number = part.partition("=")
        if not number.strip().isdecimal():
            raise UsageError(f"--composition {part}: expected TYPE=NUMBER, such as CH3=2")
        counts[name.strip()] = int(number)
    return counts


def _scaffold(path: Path) -> "MoleculeBatch":
    """The one molecule of a file."""
    from molflow.batch import MoleculeBatch
    from molflow.chem import read_structures

    structures = read_structures(path)
    if len(structures) != 1:
        raise MolflowError(f"{path}: expected one scaffold, got {len(structures)} molecules")
    return MoleculeBatch.from_structures(structures)


def _write(task: "Task[Any]", sampling: "Sampling[Any]", scoring: "Scoring[Any]", out: Path) -> None:
    """Write samples to a file and pass them on to be scored, as they are drawn."""
    with task.writer(out) as writer:
        try:
            for samples in sampling:
                writer.write(samples)
                scoring.add(samples)
        except KeyboardInterrupt as error:
            if not writer.count:
                raise
            message = f"interrupted; {out} keeps the {writer.count} {task.noun} that were finished"
            raise MolflowError(message) from error
    if not writer.count:
        out.unlink()
        raise MolflowError(sampling.none_left())
