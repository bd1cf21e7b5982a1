"""Bulk sampling that is killed at random moments against the same run left alone: equal bytes, flat memory.

    python experiments/shards.py -n 20000 --shard-size 1000 --kills 10

It samples N molecules twice into folders of shards, kills one of the runs with SIGKILL at random moments and resumes it
each time, compares all files, and prints for both runs the wall time, and the peak of the memory, its size at half the
time and at the end. With --ray it also makes the shards as tasks of a local Ray and compares them.
"""

import argparse
import json
import os
import random
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, field
from pathlib import Path


@dataclass
class Run:
    """A run in one or more processes: its seconds, and its resident memory in MB every tenth of a second."""

    seconds: float = 0.0
    memory: list[float] = field(default_factory=list)
    kills: int = 0

    def figures(self) -> dict[str, float]:
        return {
            "wall_s": round(self.seconds, 1),
            "kills": self.kills,
            "peak_mb": round(max(self.memory)),
            "mb_at_half_time": round(self.memory[len(self.memory) // 2]),
            "mb_at_the_end": round(self.memory[-1]),
        }


def resident_mb(process: int) -> float:
    """Resident memory of a process, 0 once it has ended; Linux."""
    try:
        pages = int(Path(f"/proc/{process}/statm").read_text().split()[1])
    except FileNotFoundError:
        return 0.0
    return pages * os.sysconf("SC_PAGE_SIZE") / 1e6


def follow(command: list[str], run: Run, kill_after: float | None = None) -> bool:
    """Run a command to its end, or kill it; returns whether it ended by itself."""
    begin = time.monotonic()
    with subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE) as process:
        while process.poll() is None:
            if kill_after is not None and time.monotonic() - begin > kill_after:
                process.kill()
                run.kills += 1
                break
            if memory := resident_mb(process.pid):
                run.memory.append(memory)
            time.sleep(0.1)
        _, errors = process.communicate()
    run.seconds += time.monotonic() - begin
    if process.returncode not in (0, -9):
        raise SystemExit(errors.decode())
    return process.returncode == 0


def differing(a: Path, b: Path) -> list[str]:
    """Names of files that are not the same in both folders; nothing else may lie there."""
    names = {path.name for folder in (a, b) for path in folder.iterdir()}
    return sorted(n for n in names if not ((a / n).is_file() and (b / n).is_file()) or differ(a / n, b / n))


def differ(a: Path, b: Path) -> bool:
    return a.read_bytes() != b.read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("-n", type=int, default=20_000)
    parser.add_argument("--shard-size", type=int, default=1000)
    parser.add_argument("--kills", type=int, default=10)
    parser.add_argument("--model", default="qm9-steps")
    parser.add_argument("--format", default="sdf.gz")
    parser.add_argument("--seed", type=int, default=0, help="of the moments of the kills")
    parser.add_argument("--no-score", action="store_true")
    parser.add_argument("--ray", action="store_true", help="also compare with shards made by Ray")
    parser.add_argument("--json", type=Path)
    ask = parser.parse_args()
    moments = random.Random(ask.seed)
    with tempfile.TemporaryDirectory() as place:
        undisturbed, killed, by_ray = (Path(place) / name for name in ("undisturbed", "killed", "ray"))

        def command(folder: Path, *words: str) -> list[str]:
            asked = ["-m", ask.model, "-n", str(ask.n), "--shard-size", str(ask.shard_size), "--format", ask.format]
            scored = ["--no-score"] if ask.no_score else []
            start = [sys.executable, "-m", "molflow.cli", "sample"]
            return [*start, *asked, *scored, "-o", str(folder), *words]

        left_alone, disturbed = Run(), Run()
        follow(command(undisturbed), left_alone)
        longest = 2 * left_alone.seconds / (ask.kills + 1)
        while not follow(command(killed, "--resume"), disturbed, moments.uniform(0, longest)):
            if disturbed.kills == ask.kills:
                follow(command(killed, "--resume"), disturbed)
                break
        different = {"killed": differing(undisturbed, killed)}
        figures = {"undisturbed": left_alone.figures(), "killed": disturbed.figures()}
        if ask.ray:
            run = Run()
            follow(command(by_ray, "--ray"), run)
            different["ray"] = differing(undisturbed, by_ray)
            figures["ray"] = {"wall_s": round(run.seconds, 1)}
        size = sum(path.stat().st_size for path in undisturbed.iterdir())
    about = {"n": ask.n, "model": ask.model, "format": ask.format, "bytes_per_molecule": round(size / ask.n)}
    record = about | figures | {"different_files": different}
    text = json.dumps(record, indent=1)
    print(text)  # noqa: T201
    if ask.json is not None:
        ask.json.write_text(text + "\n", encoding="utf-8")
    if any(different.values()):
        raise SystemExit("the bytes differ")


if __name__ == "__main__":
    main()
