"""Sampling into a folder of shards, in this process or as tasks of Ray."""

from collections import Counter
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, fields, replace
from functools import cache
from pathlib import Path
from typing import Any, NamedTuple

import torch

from molflow.batch import MoleculeBatch
from molflow.checksums import fingerprint, sha256
from molflow.cli.options import UsageError, data_of, load_flow
from molflow.cli.output import Record, console, show
from molflow.errors import MolflowError
from molflow.evaluation.throughput import conditions
from molflow.extras import import_extra
from molflow.files import atomic_path
from molflow.flows.base import Flow
from molflow.flows.storage import CONFIG, WEIGHTS
from molflow.pretrained import folder_of
from molflow.progress import progress_bar
from molflow.threads import limited_threads
from molflow.training.tasks import task_of
from molflow.training.tasks.sampling import Samples, SamplingOptions
from molflow.training.tasks.shards import Entry, ShardFolder, ShardPlan, processor, shard_seed

SIZE = 100_000
"""Samples in a shard by default."""


@dataclass(frozen=True)
class ShardJob:
    """All that a process needs to make any shard of a run.

    Attributes:
        folder: of the shards.
        plan: the division into shards.
        options: of the whole run.
        guidance: weight of the conditions, as in `Flow.guided`.
        threads: that torch uses for a shard.
        scored: whether samples are scored.
    """

    folder: Path
    plan: ShardPlan
    options: SamplingOptions
    guidance: float | None
    threads: int
    scored: bool

    def settings(self) -> Record:
        """All that the bytes of the shards depend on, apart from the kind of processor."""
        from molflow import __version__

        model = folder_of(self.options.model)
        apart = ("model", "progress")
        options = {each.name: getattr(self.options, each.name) for each in fields(self.options)}
        options["device"] = torch.device(self.options.device).type
        options["ask"] = {name: _plain(value) for name, value in self.options.ask.items()}
        return {
            "model": self.options.model,
            "model_sha256": fingerprint({"config": model / CONFIG, "weights": model / WEIGHTS}),
            **{name: value for name, value in options.items() if name not in apart},
            "guidance": self.guidance,
            "shard_size": self.plan.size,
            "file_format": self.plan.format,
            "threads": self.threads,
            "scored": self.scored,
            "molflow": __version__,
            "torch": torch.__version__,
        }


def part_of(shard: str | None) -> tuple[int, int]:
    """The numbers I and K of --shard I/K; raises a usage error for others."""
    i, slash, k = (shard or "1/1").partition("/")
    if not (slash and i.isdecimal() and k.isdecimal() and 1 <= int(i) <= int(k)):
        raise UsageError(f"--shard {shard}: expected I/K with I from 1 to K, such as 1/4")
    return int(i), int(k)


def shard_folder(out: Path | None) -> Path:
    """The folder of --out; raises a usage error for a file."""
    if out is None:
        raise UsageError("shards need a folder; name it with --out")
    if (out.exists() and not out.is_dir()) or out.suffix in (".sdf", ".sd", ".xyz", ".npz", ".parquet", ".gz"):
        raise UsageError(f"--out {out}: shards go into a folder, not into a file")
    return out


class Made(NamedTuple):
    """A new shard: its entry in the manifest, and the seconds in which its samples were drawn."""

    entry: Entry
    seconds: float


def sample_shards(
    job: ShardJob, part: tuple[int, int], flow: Flow[Any], *, resume: bool, force: bool, ray: bool
) -> Record:
    """Make the shards of process i of k that are not finished, and show the scores of all finished shards.

    Args:
        job: of the shards.
        part: i and k.
        flow: the model.
        resume: go on with the shards that are there.
        force: delete the shards that are there.
        ray: make shards as tasks of Ray.
    """
    numbers = job.plan.part(*part)
    folder = ShardFolder(job.folder, job.plan, job.settings())
    if force:
        folder.clear()
    elif not resume and folder.holds(numbers):
        raise UsageError(f"{job.folder} holds shards: --resume goes on with them, --force deletes them")
    folder.begin()
    todo = folder.unfinished(numbers)
    total = sum(map(job.plan.samples, todo))
    seconds, n_drawn, n_made = 0.0, 0, 0
    with progress_bar(total=total, desc="sampling", unit="sample") as bar:
        try:
            for made in make_with_ray(job, todo) if ray else make_here(job, flow, todo, bar.update):
                folder.add(made.entry)
                n_made, n_drawn, seconds = n_made + 1, n_drawn + made.entry["n_drawn"], seconds + made.seconds
                bar.update(made.entry["n"] if ray else 0)
        except (KeyboardInterrupt, MolflowError) as error:
            kept = f"{job.folder} keeps the {n_made} shards that this run made, and --resume goes on with the next"
            raise MolflowError(f"{str(error) or 'interrupted'}; {kept}") from error
    record = _record(job, folder.entries().values()) | {"n": n_drawn}
    record |= {"ms_per_sample": 1e3 * seconds / n_drawn if n_drawn else None, "ray": ray}
    return record | conditions(job.options.device, job.options.batch_size) | {"threads": job.threads}


def _record(job: ShardJob, entries: Iterable[Entry]) -> Record:
    """Figures of all finished shards; scores are sums of counts, not means of shards."""
    counts, of, n_samples, n_shards = Counter[str](), Counter[str](), 0, 0
    for entry in entries:
        n_samples, n_shards = n_samples + entry["n"], n_shards + 1
        for name, (count, total) in entry.get("scores", {}).items():
            counts[name] += count
            of[name] += total
    scores = {name: counts[name] / of[name] if of[name] else None for name in of}
    shards = {"n_samples": n_samples, "n_shards": n_shards, "n_shards_planned": len(job.plan)}
    return {"model": job.options.model, "file": str(job.folder), **shards, **scores}


def make_here(
    job: ShardJob, flow: Flow[Any], numbers: Iterable[int], update: Callable[[int], object]
) -> Iterator[Made]:
    """Make shards one after the other; `update` gets the number of samples of each batch."""
    for number in numbers:
        yield make_shard(job, flow, number, update)


def make_shard(job: ShardJob, flow: Flow[Any], number: int, update: Callable[[int], object]) -> Made:
    """Make a shard. It depends on the job and its number alone, and appears when it is whole."""
    plan, path = job.plan, job.folder / job.plan.name(number)
    options = replace(job.options, n=plan.samples(number), seed=shard_seed(job.options.seed, number), progress=False)
    task = task_of(flow, data_of(options.model))
    sampling = task.sampling(flow, options)

    def watched() -> Iterator[Samples[Any]]:
        for samples in sampling:
            yield samples
            update(len(samples.data))

    with limited_threads(job.threads), atomic_path(path) as temporary:
        counts = task.write_shard(temporary, plan.format, watched(), job.scored)
        if not counts["n"]:
            raise MolflowError(f"{path}: {sampling.none_left()}")
        about = {"bytes": temporary.stat().st_size, "sha256": sha256(temporary), "processor": processor(flow.device)}
    return Made({"file": path.name, "n_drawn": sampling.n_drawn, **counts, **about}, sampling.seconds)


def make_with_ray(job: ShardJob, numbers: Iterable[int]) -> Iterator[Made]:
    """Make shards as tasks of Ray, in any order: on the cluster that RAY_ADDRESS names, else on this machine.

    All machines must see the folders of the shards and of the model under the same names.
    """
    ray = import_extra("ray", "cluster", "--ray")
    ray.init(log_to_driver=False, include_dashboard=False)
    try:
        task, shared = ray.remote(num_cpus=job.threads)(_make_remotely), ray.put(job)
        waiting = [task.remote(shared, number) for number in numbers]
        while waiting:
            done, waiting = ray.wait(waiting)
            yield from ray.get(done)
    except ray.exceptions.RayTaskError as error:
        raise error.cause from error
    finally:
        ray.shutdown()


def _make_remotely(job: ShardJob, number: int) -> Made:
    flow = _flow_of(job.options.model, job.options.device, job.options.evaluations, job.guidance)
    return make_shard(job, flow, number, lambda n: None)


def _plain(value: Any) -> Any:
    """What samples must have, as values for JSON; a scaffold as its elements and positions."""
    return [value.atomic_numbers.tolist(), value.positions.tolist()] if isinstance(value, MoleculeBatch) else value


@cache
def _flow_of(model: str, device: str, evaluations: int | None, guidance: float | None) -> Flow[Any]:
    """The model of a worker process, which is loaded once."""
    flow = load_flow(model, device, evaluations)
    return flow if guidance is None else flow.guided(guidance)


def show_shards(record: Record, json: Path | None) -> None:
    """Show the figures of shards and write them to a JSON file."""
    show([record], json)
    left = record["n_shards_planned"] - record["n_shards"]
    more = f", {left:,} shards are missing" if left else ""
    console.print(f"{record['n_samples']:,} samples are in {record['n_shards']:,} shards in {record['file']}{more}")
