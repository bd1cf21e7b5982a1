"""molflow sample: draw samples of a flow, write them to a file, and score them."""

from contextlib import ExitStack
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from molflow.cli.asking import conditions, requested
from molflow.cli.options import (
    BatchSize,
    Compile,
    Device,
    Energy,
    Evaluations,
    Json,
    Model,
    Precision,
    ThermalEnergy,
    UsageError,
    data_of,
    load_flow,
    own_training_reference,
    refuse,
    refuse_other_tasks,
    training_reference,
    usage,
)
from molflow.cli.output import check_json, console, show, write_json
from molflow.errors import MolflowError
from molflow.extras import import_extra
from molflow.files import STANDARD_STREAM
from molflow.pretrained import DEFAULT_MODEL

if TYPE_CHECKING:
    from molflow.training.tasks.sampling import SampleWriter, Sampling, Scoring


def sample(
    n: Annotated[int, typer.Option("-n", min=1, help="Number of samples.")] = 1000,
    out: Annotated[
        Path | None,
        typer.Option(
            "--out",
            "-o",
            help="Molecules: .sdf, .xyz, .npz, .parquet, .sdf.gz or .xyz.gz, by default molecules.sdf or the next free "
            "name, or - for standard output. Particles and vectors: .npz, by default particles.npz or vectors.npz. For "
            "shards a folder.",
        ),
    ] = None,
    force: Annotated[
        bool, typer.Option("--force", help="Overwrite an existing file, or delete the shards in the folder.")
    ] = False,
    shard_size: Annotated[
        int | None,
        typer.Option(
            min=1,
            help="Write shards, files of so many samples each (100,000 if only another option of shards is given), and "
            "manifest.json. Each depends on the settings and its number alone.",
        ),
    ] = None,
    shard: Annotated[
        str | None,
        typer.Option(help="I/K: only the shards of process I of K, from 1. All processes may write to one folder."),
    ] = None,
    format: Annotated[
        str | None,
        typer.Option(
            help="Format of shards. Molecules: sdf.gz (by default), xyz.gz, npz, parquet, sdf or xyz; scored molecules "
            "carry SMILES and scores in sdf and parquet. Particles and vectors: npz."
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Keep the shards that are whole, and make the others.")
    ] = False,
    threads: Annotated[
        int | None,
        typer.Option(min=1, help="Threads that torch computes with: for shards 1 by default, else one for each core."),
    ] = None,
    ray: Annotated[
        bool,
        typer.Option(
            "--ray",
            help="Make shards as tasks of Ray: on all cores of this machine, or on the cluster that RAY_ADDRESS names.",
        ),
    ] = False,
    model: Model = DEFAULT_MODEL,
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same samples.")] = 0,
    temperature: Annotated[float, typer.Option(min=1e-6, max=1e6, help="Standard deviation of the latent.")] = 1.0,
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
        Literal["metropolis", "importance", "annealing"] | None,
        typer.Option(
            help="Particles: turn samples into samples of the target, by a Metropolis chain, by resampling with "
            "importance weights, or by annealing: resampling and Hamiltonian moves, which evaluate the energy."
        ),
    ] = None,
    energy: Energy = None,
    kT: ThermalEnergy = 1.0,
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
            help="Molecules: compare with the training molecules: those of the model's own file, else those of QM9, "
            "prepared on first use in under a minute.",
        ),
    ] = False,
    score: Annotated[bool, typer.Option("--score/--no-score", help="Score the samples.")] = True,
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
    from molflow.chem.writing import format_of
    from molflow.cli.scores import show_samples
    from molflow.cli.shards import SIZE, ShardJob, part_of, sample_shards, shard_folder, show_shards
    from molflow.energies import at_temperature, own_system
    from molflow.evaluation import EvaluationOptions
    from molflow.flows.acceleration import check
    from molflow.training.tasks import task_of
    from molflow.training.tasks.particles import ParticlesTask
    from molflow.training.tasks.sampling import SamplingOptions
    from molflow.training.tasks.shards import ShardPlan
    from molflow.workers import default_workers

    check_json(json)
    streamed = str(out) == STANDARD_STREAM
    if streamed:
        console.stderr = True
        refuse("- is where the samples go", json=str(json) == STANDARD_STREAM)
    sharded = resume or ray or (shard or shard_size) is not None or (format is not None and not streamed)
    part = part_of(shard)
    if sharded:
        out = shard_folder(out)
        if ray:
            import_extra("ray", "cluster", "--ray")
        refuse("is not for shards", correct=correct, novelty=novelty, workers=workers, energy=energy)
        refuse("would delete the shards of other processes; use --resume", force=force and shard is not None)
    elif out is not None:
        if out.is_dir():
            raise MolflowError(f"{out}: is a directory; expected a file, or shards in it with --shard-size")
        if format is None:
            with usage():
                format_of(out)
        check_writable(out, format)
    flow = load_flow(model, device, evaluations)
    values = conditions(cond or ())
    ask = requested(formula, n_atoms, composition, elements, scaffold)
    with usage():
        if guidance is not None:
            flow = flow.guided(guidance)
        condition = flow.standardized(values or None, 1)
    task = task_of(flow, data_of(model))
    refuse_other_tasks(
        task.name,
        f"{model} is a model of {task.name}",
        only=only,
        novelty=novelty,
        correct=correct,
        energy=energy,
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
    if energy is not None:
        task = ParticlesTask(task.data, own_system(energy, flow.sample(4, seed=0).cpu(), kT))
    elif kT != 1 and isinstance(task, ParticlesTask) and task.system is not None:
        task = ParticlesTask(task.data, at_temperature(task.system, kT))
    if ask:  # refuse what cannot be before the work starts
        with usage():
            asked = flow.request(**ask)
            flow.domain.sample_context(1, flow.generator(0), flow.device, flow.dtype, asked, condition)
    if format is not None and format not in task.formats:
        raise UsageError(f"--format {format}: {task.name} have {', '.join(task.formats)}")
    if out is None:
        out = _free(Path(task.default_output), force)
        task.check_output(out, format)
    elif not sharded:
        with usage():  # that its folder can be written to is known
            task.check_output(out, format)
    check(flow, compile, precision)
    if workers is None:
        workers = min(1, default_workers()) if n > batch_size else 0
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
        bool(compile) if sharded else compile,  # by default all shards are made in the same way, the last one included
        precision,
        ask,
    )
    sampling = task.sampling(flow, options)
    if correct and not sampling.with_density:
        raise UsageError("--correct needs the density of samples: leave out --no-density and --evaluations")
    if sampling.with_density and (compile or precision != "float32"):
        raise UsageError("--compile and --precision are for samples without their density: add --no-density")
    if sharded:
        plan = ShardPlan(n, shard_size or SIZE, format or task.formats[0])
        job = ShardJob(out, plan, options, guidance, threads or 1, score)
        show_shards(sample_shards(job, part, flow, resume=resume, force=force, ray=ray), json)
        return
    if out.is_file() and not force:
        raise UsageError(f"{out} exists: --force overwrites it; or give another --out")
    training = (own_training_reference(model) if novelty else None) or training_reference(novelty)
    scoring = EvaluationOptions(scope="lookup", training=training, workers=workers)
    kept = f"{n:,} {task.noun} are in {'standard output' if streamed else out}"
    with ExitStack() as stack:
        scores = stack.enter_context(task.scoring(flow, scoring)) if score else None
        _write(task.writer(out, format), task.noun, sampling, scores, out)
        try:
            record = (scores.record() if scores else {}) | sampling.figures() | {"file": str(out)}
        except (KeyboardInterrupt, MolflowError) as error:  # a reference that is drawn now takes minutes
            raise MolflowError(f"{str(error) or 'interrupted'}; {kept}, without scores") from error
    write_json(json, record)
    if score:
        show_samples(task.name, {model: record})
    else:
        show([record])
    for note in sampling.notes():
        console.print(note)
    if ask:
        probability = float(flow.domain.log_prob_of(**ask).exp())
        console.print(f"Without being asked, {model} makes such samples with probability {probability:.3g}.")
    console.print(kept)


def _free(path: Path, force: bool) -> Path:
    """The path, or with a number if it exists and is not to be overwritten."""
    number, free = 1, path
    while free.exists() and not force:
        number += 1
        free = path.with_stem(f"{path.stem}-{number}")
    return free


def _write(
    writer: "SampleWriter[Any]", noun: str, sampling: "Sampling[Any]", scoring: "Scoring[Any] | None", out: Path
) -> None:
    """Write samples to a file and pass them on to be scored, as they are drawn."""
    try:
        with writer:
            for samples in sampling:
                writer.write(samples)
                if scoring is not None:
                    scoring.add(samples)
    except KeyboardInterrupt as error:
        if not writer.count:
            raise
        raise MolflowError(f"interrupted; {out} keeps the {writer.count} {noun} that were finished") from error
    except BrokenPipeError:
        raise
    except OSError as error:
        cause = f"{error.strerror or error}; its first {writer.whole:,} {noun} are whole"
        raise MolflowError(f"{out}: cannot be written: {cause}") from error
    if not writer.count:
        if out.is_file():
            out.unlink()
        raise MolflowError(sampling.none_left())
