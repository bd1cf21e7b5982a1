"""molflow benchmark: measure the speed of sampling, of training steps and of evaluations on this machine."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from molflow.cli.computing import computing
from molflow.cli.options import (
    BatchSize,
    Compile,
    Device,
    Evaluations,
    Json,
    Model,
    Precision,
    UsageError,
    Workers,
    data_of,
    label_and_evaluations,
    load_flow,
    refuse_other_tasks,
    training_reference,
)
from molflow.cli.output import Record, check_json, show
from molflow.errors import MolflowError
from molflow.pretrained import DEFAULT_MODEL, DEFAULT_REFERENCE

if TYPE_CHECKING:
    from molflow.chem import Structure
    from molflow.evaluation.options import Scope
    from molflow.flows import Flow
    from molflow.training.tasks.base import Task
    from molflow.training.tasks.sampling import SamplingOptions

benchmark = typer.Typer(help="Measure speed on this machine.", rich_markup_mode=None)


@benchmark.command("sampling")
@computing
def benchmark_sampling(
    models: Annotated[
        str,
        typer.Option(
            "--models",
            "--model",
            "-m",
            help="A model, or several to compare, separated by commas; NAME@K is one with K evaluations.",
        ),
    ] = DEFAULT_MODEL,
    n: Annotated[int, typer.Option("-n", min=1, help="Samples in each repeat.")] = 1000,
    evaluations: Evaluations = None,
    batch_size: BatchSize = 1024,
    device: Device = "cpu",
    compile: Compile = None,
    precision: Precision = "float32",
    json: Json = None,
) -> None:
    """Time sampling, and its cost for each stable, each new molecule or effective sample: the median of three runs.

    A warm-up comes first. Models that are compared take turns. A new molecule is valid, connected, distinct and not in
    QM9's training split, where that is available. For particles and vectors the exact density is timed too, of as many
    samples as take about a minute. With --compile or --precision each model is timed without and with them; the time
    that compiling takes is not counted.
    """
    from molflow.flows.acceleration import check
    from molflow.training.tasks.sampling import SamplingOptions

    check_json(json)
    plain = [
        SamplingOptions(name, n, batch_size, device, k or evaluations)
        for name, k in map(label_and_evaluations, models.split(","))
    ]
    flows = [load_flow(options.model, device, options.evaluations) for options in plain]
    chosen = plain
    if compile or precision != "float32":
        chosen = [each for o in plain for each in (o, replace(o, compile=compile, precision=precision))]
        for flow in flows:
            check(flow, compile, precision)
        flows = [flow for flow in flows for _ in range(2)]
    show(_measure_sampling(flows, chosen), json)


@benchmark.command("training")
@computing
def benchmark_training(
    model: Model = DEFAULT_MODEL,
    n_atoms: Annotated[
        int | None, typer.Option(min=2, help="Points of each molecule, its atoms or its heavy atoms; by default 18.")
    ] = None,
    batch_size: BatchSize = 64,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Back-propagate this many at a time.")] = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Time a training step of a model's networks, on random molecules of one size, random particles or vectors."""
    from molflow.evaluation.throughput import training_throughput
    from molflow.training.tasks import task_of

    check_json(json)
    flow = load_flow(model, device)
    task = task_of(flow, data_of(model))
    refuse_other_tasks(task.name, f"{model} is a model of {task.name}", n_atoms=n_atoms)
    data, shape = task.random_data(flow, batch_size, n_atoms)
    step = _training_step(flow, task, model, data, micro_batch)
    record = training_throughput(model, step, batch_size=batch_size, device=device, progress=True)
    record = {task.rate_key if key == "molecules_per_s" else key: value for key, value in record.items()}
    show([record | shape], json)


@benchmark.command("evaluation")
@computing
def benchmark_evaluation(
    n: Annotated[int, typer.Option("-n", min=1, help="Test molecules of QM9, at most 13,083.")] = 1000,
    workers: Workers = None,
    json: Json = None,
) -> None:
    """Time evaluations: the scope stability on all of QM9, which also gives its ceiling, and the other scopes."""
    from molflow.data import load_qm9
    from molflow.evaluation.options import SCOPES

    check_json(json)
    test = list(load_qm9("test").structures())
    few = test if n >= len(test) else test[:n]
    records = []
    for scope in SCOPES:
        structures = list(load_qm9("all").structures()) if scope == "stability" else few
        records.append(_evaluation_record(structures, scope, workers))
    show(records, json)


def _measure_sampling(flows: "Sequence[Flow[Any]]", chosen: "Sequence[SamplingOptions]") -> list[Record]:
    """Time models in turns. The likelihoods are those of held-out data in the card, where a model has been scored."""
    from molflow.training.tasks import task_of
    from molflow.training.tasks.sampling import Sampler

    data = [data_of(options.model) for options in chosen]
    samplers = {
        options.label: Sampler(flow, options, trained_on)
        for flow, options, trained_on in zip(flows, chosen, data, strict=True)
    }
    if len(samplers) < len(chosen):
        raise UsageError("--models names one of them twice")
    tasks = [task_of(flow, trained_on) for flow, trained_on in zip(flows, data, strict=True)]
    if len({task.name for task in tasks}) > 1:
        raise UsageError(f"--models: {' and '.join(dict.fromkeys(task.name for task in tasks))} cannot be compared")
    first, price = chosen[0], tasks[0].price_key
    settings = {"batch_size": first.batch_size, "device": first.device, "progress": True}
    records = tasks[0].throughput(samplers, first.n, partial(training_reference, None), **settings)
    return [
        {"model": record["model"], "evaluations_per_sample": sampler.evaluations, **record}
        | {"compiled": bool(sampler.options.compile), "precision": sampler.options.precision}
        | {"evaluations": sampler.options.evaluations_of(sampler.flow), **_likelihoods_of_card(sampler.options.model)}
        | ({f"relative_{price}": record[price] / records[0][price]} if len(records) > 1 else {})
        for record, sampler in zip(records, samplers.values(), strict=True)
    ]


def _likelihoods_of_card(model: str) -> Record:
    """Negative log-likelihoods of test data by both maps; None where the card does not have them."""
    from molflow.flows.storage import CARD, read_card
    from molflow.pretrained import folder_of

    folder = folder_of(model)
    scores = (read_card(folder).get("scores") if (folder / CARD).exists() else None) or {}
    maps = ("encoder", "decoder")
    return {f"test_nll_{which}": scores.get(f"test_nll_{which}", scores.get(f"nll_{which}")) for which in maps}


def _evaluation_record(structures: "Sequence[Structure]", scope: "Scope", workers: int | None) -> Record:
    from molflow.evaluation import EvaluationOptions, evaluate
    from molflow.evaluation.throughput import conditions, peak_memory_mb, reset_peak_memory, seconds
    from molflow.workers import default_workers

    scores: list[Any] = []
    reset_peak_memory()
    options = EvaluationOptions(reference=DEFAULT_REFERENCE, scope=scope, workers=workers, progress=scope == "all")
    elapsed = seconds(lambda: scores.append(evaluate(structures, options=options)))
    return {
        "scope": scope,
        "n_molecules": scores[0].n_molecules,
        "n_atoms": scores[0].n_atoms,
        "molecule_stability": scores[0].molecule_stability,
        "atom_stability": scores[0].atom_stability,
        "connected_validity": scores[0].connected_validity,
        "seconds": elapsed,
        "molecules_per_s": len(structures) / elapsed,
        "workers": (workers or default_workers()) if scope == "all" else 0,
        "threads": conditions("cpu", 0)["threads"],
        "peak_memory_mb": peak_memory_mb(),
    }


def _training_step(
    flow: "Flow[Any]", task: "Task[Any]", model: str, data: Any, micro_batch: int | None
) -> Callable[[], None]:
    """A training step of the objective that the model was trained by."""
    import torch

    from molflow.data import Batch
    from molflow.pretrained import folder_of
    from molflow.training.config import read_experiment
    from molflow.training.objectives.accumulation import accumulate_gradients

    try:
        objective = read_experiment(folder_of(model)).objective.build(flow, energy=task.energy)
    except ValueError as error:
        raise MolflowError(f"{model}: {error}") from error
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-5)
    prepare, drawing, generator = objective.preparation(), torch.Generator().manual_seed(1), flow.generator(1)
    batch = Batch(data, task.random_condition(flow, len(data)))

    def step() -> None:
        optimizer.zero_grad()
        prepared = prepare(batch, drawing).to(flow.device)
        accumulate_gradients(objective, prepared, generator, micro_batch)
        optimizer.step()

    return step
