"""The command line: parse, call, show, exit code 0 (done), 1 (failed) or 2 (bad usage)."""

import logging
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer
from rich.console import Console
from rich.table import Table
from tqdm import tqdm

import molflow
from molflow.chem import StructureWriter, read_structures
from molflow.chem.io import check_writable as check_structure_file
from molflow.errors import MolflowError
from molflow.files import check_writable
from molflow.interrupts import held_interrupts

if TYPE_CHECKING:
    from molflow.evaluation import TrainingReference

app = typer.Typer(
    help="Generate molecules with E(n)-equivariant free-form flows, train such flows, and score molecules.",
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
    context_settings={"help_option_names": ["-h", "--help"]},
)
benchmark = typer.Typer(help="Measure speed on this machine.", rich_markup_mode=None)
app.add_typer(benchmark, name="benchmark")
console = Console(highlight=False, soft_wrap=True)

# typer carries its own copy of click in some versions, so click's name is reached through typer's.
UsageError: Any = typer.BadParameter.__bases__[0]

Model = Annotated[str, typer.Option("--model", "-m", help="A shipped model (see `molflow models`) or a folder.")]
Json = Annotated[Path | None, typer.Option("--json", help="Also write the figures to this file.")]
Device = Annotated[str, typer.Option(help="cpu, cuda or cuda:N.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Molecules made at a time.")]
Evaluations = Annotated[
    int,
    typer.Option("--evaluations", "-k", min=1, help="Network evaluations a molecule; more where a model can use them."),
]
_GIVE_UP = 20_000  # molecules drawn without a stable one
_AGAINST_TRAINING = "Compare with the training split of QM9, prepared on first use in under a minute"


def main(arguments: Sequence[str] | None = None) -> None:
    """Entry point: run a command and exit with its code; errors are one line on stderr."""
    logging.basicConfig(format="%(levelname)s: %(message)s", stream=sys.stderr)
    try:
        words = list(sys.argv[1:] if arguments is None else arguments)
        code = app(words or ["--help"], prog_name="molflow", standalone_mode=False)
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
    name: Annotated[Literal["qm9"], typer.Argument(help="The data set.")],
    source: Annotated[
        Literal["wheel", "pyg"], typer.Option(help="The qm9pack wheel, or PyTorch Geometric's download.")
    ] = "wheel",
    force: Annotated[bool, typer.Option("--force", help="Prepare it again.")] = False,
    json: Json = None,
) -> None:
    """Prepare a data set: read its source, check it, and keep it in the cache."""
    from molflow.data import MoleculeSet, prepare_qm9

    _check_json(json)
    path = prepare_qm9(source, force=force)
    molecules = MoleculeSet.load(path)
    sizes = molecules.n_atoms
    record = {
        "name": name,
        "file": str(path),
        "n_molecules": len(molecules),
        "n_atoms": int(sizes.sum()),
        "smallest": int(sizes.min()),
        "largest": int(sizes.max()),
    }
    _show([record], json)


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
    from molflow.training.checkpoint import CARD, STATE, read_json

    _check_json(json)
    experiment = molflow.load_experiment(config, set_ or ())
    folder = out or Path("runs") / experiment.name
    try:
        molflow.train(experiment, folder, resume=resume, start_from=start_from)
    except KeyboardInterrupt as error:
        if not (folder / STATE).exists():
            raise
        raise MolflowError(f"interrupted; continue with --resume (checkpoint in {folder})") from error
    _write_json(json, read_json(folder / CARD))
    console.print(f"The model is in {folder}; sample it with: molflow sample --model {folder}")


@app.command()
def sample(
    n: Annotated[int, typer.Option("-n", min=1, help="How many molecules.")] = 1000,
    out: Annotated[Path, typer.Option("--out", "-o", help=".sdf, .xyz or .npz file.")] = Path("molecules.sdf"),
    model: Model = "qm9",
    seed: Annotated[int, typer.Option(min=0, max=2**63 - 1, help="The same seed gives the same molecules.")] = 0,
    temperature: Annotated[float, typer.Option(min=1e-6, help="Standard deviation of the latent.")] = 1.0,
    evaluations: Evaluations = 1,
    only: Annotated[
        Literal["stable"] | None, typer.Option(help="Draw until N molecules are stable, and keep those alone.")
    ] = None,
    batch_size: BatchSize = 1024,
    device: Device = "cpu",
    novelty: Annotated[bool, typer.Option("--novelty", help=f"{_AGAINST_TRAINING}.")] = False,
    json: Json = None,
) -> None:
    """Generate molecules, write them to a file, and score them."""
    from molflow.batch import MoleculeBatch
    from molflow.chem import stability
    from molflow.evaluation.throughput import sampling_record

    _check_json(json)
    check_structure_file(out)
    flow = _load(model, device, evaluations)
    training = _training_reference(novelty)
    kept: list[MoleculeBatch] = []
    n_drawn = n_stable = 0
    elapsed, before = 0.0, time.perf_counter()
    with StructureWriter(out) as writer, tqdm(total=n, desc="sampling", unit="molecule", dynamic_ncols=True) as bar:
        try:
            for batch in flow.iter_samples(sys.maxsize if only else n, seed, temperature, evaluations, batch_size):
                made = batch.to("cpu")
                elapsed += time.perf_counter() - before
                stable = stability(made.positions, made.atomic_numbers, made.mask)[1]
                n_drawn, n_stable = n_drawn + len(made), n_stable + int(stable.sum())
                kept.append((made[stable] if only else made)[: n - writer.count])
                for structure in kept[-1].structures():
                    with held_interrupts() as interrupted:  # else the file could hold one more than is counted
                        writer.write(structure)
                    if interrupted():
                        raise KeyboardInterrupt
                    bar.update()
                if writer.count == n or (not writer.count and n_drawn >= _GIVE_UP):
                    break
                before = time.perf_counter()
        except KeyboardInterrupt as error:
            raise MolflowError(f"interrupted; {out} keeps the {writer.count} molecules that were finished") from error
    molecules = MoleculeBatch.concatenate(kept)
    if not len(molecules):
        out.unlink()
        raise MolflowError(f"none of {n_drawn:,} molecules is stable: this model needs more training")
    scores = molflow.evaluate(molecules, reference="qm9", training=training, progress=True).to_dict()
    speed = sampling_record(model, n_drawn, n_stable, elapsed, device, batch_size)
    settings = {"seed": seed, "temperature": temperature, "evaluations": evaluations, "only": only, "file": str(out)}
    _show_scores({model: scores | speed | settings}, json)
    if only:
        share = f"{100 * n_stable / n_drawn:.1f} %"
        console.print(f"{n_drawn:,} molecules were drawn, {share} of them stable; times count them all.")
    console.print(f"{n:,} molecules are in {out}")


@app.command()
def evaluate(
    files: Annotated[list[Path], typer.Argument(help="SDF, XYZ or NPZ files of molecules.")],
    reference: Annotated[
        Literal["qm9"] | None, typer.Option(help="A data set whose own scores are set beside these.")
    ] = None,
    novelty: Annotated[
        bool | None,
        typer.Option(help=f"{_AGAINST_TRAINING}; by default with --reference qm9, where QM9 can be had."),
    ] = None,
    json: Json = None,
) -> None:
    """Score the molecules in files."""
    _check_json(json)
    inputs = {str(file): read_structures(file) for file in files}
    training = _training_reference(novelty, wanted=reference == "qm9")
    records = {}
    for file, structures in inputs.items():
        try:
            scores = molflow.evaluate(structures, reference=reference, training=training, progress=True)
        except MolflowError as error:
            raise MolflowError(f"{file}: {error}") from error
        records[file] = scores.to_dict()
    _show_scores(records, json)


def _training_reference(novelty: bool | None, wanted: bool = False) -> "TrainingReference | None":
    """What novelty is measured against; where it was wanted but not asked for, a line says why it cannot be had."""
    from molflow.evaluation import qm9_training_reference

    if not (wanted if novelty is None else novelty):
        return None
    try:
        return qm9_training_reference(progress=True)
    except MolflowError as error:
        if novelty:
            raise
        typer.echo(f"molflow: novelty is not computed: {' '.join(str(error).split())}", err=True)
        return None


@app.command()
def models(json: Json = None) -> None:
    """List the shipped models with their measured scores."""
    from molflow.pretrained import model_cards

    _check_json(json)
    cards = model_cards()
    _show([_summary(name, card) for name, card in cards.items()])
    _write_json(json, cards)


def _epochs(card: dict[str, Any]) -> float:
    """Of a run and of those that it started from, as far as their cards are known."""
    origin = (card.get("started_from") or {}).get("card")
    return round(float(card.get("epochs") or 0) + (_epochs(origin) if origin else 0), 3)


def _summary(name: str, card: dict[str, Any]) -> dict[str, Any]:
    scores = card.get("scores") or {}
    return {
        "model": name,
        **{key: card.get(key) for key in ("data", "representation")},
        "epochs": _epochs(card),
        "molecules sampled": scores.get("n_molecules"),
        "atom stability": _percent(scores, "atom_stability"),
        "molecule stability": _percent(scores, "molecule_stability"),
        "evaluations": scores.get("evaluations", 1),
        "test NLL, nats: encoder": scores.get("test_nll_encoder"),
        "decoder": scores.get("test_nll_decoder"),
    }


@benchmark.command("sampling")
def benchmark_sampling(
    model: Model = "qm9",
    n: Annotated[int, typer.Option("-n", min=1, help="Molecules in each repeat.")] = 1000,
    evaluations: Evaluations = 1,
    batch_size: BatchSize = 1024,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Time sampling, raw and for each stable molecule: the median of three runs after a warm-up."""
    from molflow.evaluation.throughput import sampling_throughput

    _check_json(json)
    flow = _load(model, device, evaluations)

    def draw(count: int, seed: int) -> Any:
        return flow.sample(count, seed=seed, n_evaluations=evaluations, batch_size=batch_size)

    record = sampling_throughput(model, draw, n, batch_size=batch_size, device=device, progress=True)
    _show([record | {"evaluations": evaluations}], json)


@benchmark.command("training")
def benchmark_training(
    model: Model = "qm9",
    n_atoms: Annotated[int, typer.Option(min=2, help="Points of each molecule: its atoms, or its heavy atoms.")] = 18,
    batch_size: BatchSize = 64,
    micro_batch: Annotated[int | None, typer.Option(min=1, help="Back-propagate so many at a time.")] = None,
    device: Device = "cpu",
    json: Json = None,
) -> None:
    """Time a training step of a model's networks, on random molecules of one size."""
    from molflow.evaluation.throughput import training_throughput

    _check_json(json)
    step = _training_step(model, n_atoms, batch_size, micro_batch, device)
    _show(
        [training_throughput(model, step, batch_size=batch_size, device=device, progress=True) | {"n_atoms": n_atoms}],
        json,
    )


@benchmark.command("evaluation")
def benchmark_evaluation(json: Json = None) -> None:
    """Time the stability look-up on all of QM9, which also gives the ceiling of the metric."""
    from molflow.data import load_qm9
    from molflow.evaluation.throughput import conditions, seconds

    _check_json(json)
    structures = list(load_qm9("all").structures())
    scores: list[Any] = []
    elapsed = seconds(lambda: scores.append(molflow.evaluate(structures, rdkit=False)))
    record = {
        "n_molecules": scores[0].n_molecules,
        "n_atoms": scores[0].n_atoms,
        "molecule_stability": scores[0].molecule_stability,
        "atom_stability": scores[0].atom_stability,
        "molecules_per_s": len(structures) / elapsed,
    }
    _show([record | {"threads": conditions("cpu", 0)["threads"]}], json)


def _training_step(
    model: str, n_atoms: int, batch_size: int, micro_batch: int | None, device: str
) -> Callable[[], None]:
    import torch

    from molflow.batch import MoleculeBatch
    from molflow.flows import ComposedMoleculeDomain, MoleculeDomain
    from molflow.pretrained import folder_of
    from molflow.training.checkpoint import read_config
    from molflow.training.objectives import accumulate_gradients, build_objective

    flow = _load(model, device)
    domain = flow.domain
    assert isinstance(flow, molflow.FreeFormFlow)
    assert isinstance(domain, MoleculeDomain | ComposedMoleculeDomain)
    generator = flow.generator(0)
    mask = torch.ones(batch_size, n_atoms, dtype=torch.bool, device=device)
    positions = domain.space(mask).randn(generator).x * domain.scale
    types = torch.randint(len(domain.types), mask.shape, generator=generator, device=device)
    hydrogens = domain.type_hydrogens[types] if domain.representation == "united" else None
    molecules = MoleculeBatch(positions, domain.type_numbers[types], mask, hydrogens)
    try:
        objective = build_objective(flow, read_config(folder_of(model)).objective)
    except ValueError as error:
        raise MolflowError(f"{model}: {error}") from error
    optimizer = torch.optim.AdamW(objective.parameters(), lr=1e-5)

    def step() -> None:
        optimizer.zero_grad()
        accumulate_gradients(objective, molecules, generator, micro_batch)
        optimizer.step()

    return step


def _load(model: str, device: str, evaluations: int = 1) -> molflow.Flow:
    import torch

    from molflow.flows import ParticleDomain
    from molflow.pretrained import load_named

    try:
        chosen = torch.device(device)
    except RuntimeError as error:
        raise typer.BadParameter(f"unknown device {device!r}; expected cpu, cuda or cuda:N") from error
    if chosen.type not in ("cpu", "cuda"):
        raise typer.BadParameter(f"device {device!r} is not supported; expected cpu, cuda or cuda:N")
    if chosen.type == "cuda" and (chosen.index or 0) >= torch.cuda.device_count():
        raise MolflowError(f"--device {device}: torch finds {torch.cuda.device_count()} CUDA devices here")
    flow = load_named(model, chosen)
    if isinstance(flow.domain, ParticleDomain):
        raise MolflowError(f"{model}: expected a flow of molecules")
    if evaluations > 1 and not (isinstance(flow, molflow.FreeFormFlow) and flow.has_average_velocity):
        raise MolflowError(f"{model}: made for one evaluation of the network, cannot use {evaluations}")
    return flow


def _check_json(path: Path | None) -> None:
    if path is not None:
        check_writable(path)


def _write_json(path: Path | None, content: Any) -> None:
    from molflow.training.checkpoint import write_json

    if path is not None:
        write_json(path, content)


def _show(records: list[dict[str, Any]], json: Path | None = None) -> None:
    """One line for each figure, one column for each record."""
    table = Table(box=None, show_header=False)
    for key in records[0] if records else ():
        table.add_row(key.replace("_", " "), *(_text(record.get(key)) for record in records))
    console.print(table)
    _write_json(json, records[0] if len(records) == 1 else records)


_PERCENTAGES = (
    "atom_stability", "molecule_stability", "validity", "connected_validity", "uniqueness", "validity_x_uniqueness",
    "novelty", "novel_compositions",
)  # fmt: skip
_SIMILARITY = "nearest_training_similarity"
_SPEEDS = ("ms_per_molecule", "ms_per_stable_molecule")


def _show_scores(records: dict[str, dict[str, Any]], json: Path | None) -> None:
    """Scores of one or more sets of molecules beside those of the reference."""
    first = next(iter(records.values()))
    reference = first["reference_scores"]
    table = Table(box=None, padding=(0, 2, 0, 0))
    table.add_column("")
    for name in records:
        table.add_column(name, justify="right")
    if reference:
        table.add_column(f"{reference['name']} itself", justify="right")
    columns = [*records.values(), *([reference] if reference else [])]
    table.add_row("molecules", *(f"{c['n_molecules']:,}" for c in columns))
    for key in _PERCENTAGES:
        if any(c.get(key) is not None for c in columns):
            table.add_row(key.replace("_", " "), *(_percent(c, key) for c in columns))
    if any(c.get(_SIMILARITY) is not None for c in columns):
        table.add_row(_SIMILARITY.replace("_", " "), *(_mean_and_median(c, _SIMILARITY) for c in columns))
    for key in _SPEEDS:
        if key in first:
            table.add_row(key.replace("_", " "), *(_text(c[key]) if key in c else "" for c in columns))
    console.print(table)
    console.print(f"Bonds by {first['protocol']}; in brackets the 95 % interval.")
    if first["training"]:
        console.print(f"Novelty and similarity against {first['training']}.")
    _write_json(json, first if len(records) == 1 else records)


def _percent(scores: dict[str, Any], key: str) -> str:
    if scores.get(key) is None:
        return "-"
    interval = scores.get(f"{key}_interval")
    text = f"{100 * scores[key]:.2f} %"
    return text if interval is None else f"{text} [{100 * interval[0]:.2f}, {100 * interval[1]:.2f}]"


def _mean_and_median(scores: dict[str, Any], key: str) -> str:
    return "-" if scores.get(key) is None else f"{scores[key]:.3f} (median {scores[f'{key}_median']:.3f})"


def _text(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, bool | str):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:,.4g}"


if __name__ == "__main__":
    main()
