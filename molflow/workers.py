"""Apply a function to many items in worker processes that may hang or die; only the item at fault fails.

Pools of the standard library cannot end a task, and pools that can end one lose its whole chunk. Here a worker answers
item by item, so that the item at fault is known, and another worker gets the rest of its chunk. Functions are sent by
name, items and results as JSON, so that no process runs code that another sends.
"""

import json
import os
import signal
import subprocess
import sys
import time
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from contextlib import suppress
from importlib import import_module
from multiprocessing.connection import Connection, Pipe, wait
from typing import Any, NamedTuple

from molflow.errors import MolflowError
from molflow.interrupts import end_with_parent, ignored_interrupts

CHUNK = 16
"""Number of items that are sent to a worker at a time."""

AHEAD = 2048
"""Number of items that may be taken before the oldest of them is finished; it bounds the memory."""

MEMORY = 4 << 30
"""Limit of a worker's memory in bytes, if the system can limit it; an item that needs more fails."""

PATIENCE = 30
"""An item may take this many times its limit of processor time on the clock, in case it waits instead of working."""

LONGEST = 1e6
"""Largest limit of processor time in seconds."""

_STARTS_WITHIN = 600.0  # seconds in which a worker must load its libraries, even on a busy machine
_MAIN = "from molflow.workers import _serve; _serve({})"


class _Job(NamedTuple):
    function: str
    options: dict[str, Any]
    prepare: str | None
    seconds: float


class Failure(NamedTuple):
    """Result of an item that failed.

    Attributes:
        status: "timed out" or "crashed".
        reason: the cause in words.
    """

    status: str
    reason: str


def outcomes(
    function: Callable[..., Any],
    items: Iterable[Any],
    *,
    workers: int,
    seconds: float,
    options: dict[str, Any] | None = None,
    prepare: Callable[..., Any] | None = None,
    lighter: Callable[[Any], Any] | None = None,
) -> Generator[Any | Failure]:
    """Yield function(item, **options) for each item, in order; the same for any number of workers.

    Workers are new Python processes that import the module of the function. They do not run the main script. They end
    with this process, and when the iterator is closed. An item that raises an exception or ends its process has a
    `Failure` as its result.

    Args:
        function: function that can be imported by its name; it takes and returns values for JSON.
        items: values for JSON; a bounded number of them is taken ahead of the results.
        workers: number of processes. 0 runs the function in this process, where an item that hangs cannot be stopped.
        seconds: limit of processor time for one item, at most a million. A busy machine changes no result.
        options: keyword arguments of the function, values for JSON.
        prepare: function that each worker calls with the options before time counts, to load libraries.
        lighter: returns an item with less work that is tried in place of one that failed, or None.

    Raises:
        MolflowError: an impossible number of workers or seconds, or a worker that could not be started.
    """
    if workers < 0 or not 0 < seconds <= LONGEST:
        raise MolflowError(
            f"expected 0 or more workers and a limit of up to {LONGEST:,.0f} seconds, got {workers} and {seconds}"
        )
    options = options or {}
    if not workers:
        for item in items:
            result = _attempt(function, item, options)
            if isinstance(result, Failure) and lighter and (less := lighter(item)) is not None:
                result = _attempt(function, less, options)
            yield result
        return
    crew = _Crew(_Job(name_of(function), options, prepare and name_of(prepare), seconds), workers, lighter)
    try:
        yield from crew.run(items)
    finally:
        crew.dismiss()


def default_workers() -> int:
    """One for each core that this process may use; none where there are no POSIX signals to end one by."""
    if os.name != "posix":
        return 0
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def name_of(function: Callable[..., Any]) -> str:
    """The name of a function in a module, for `named`."""
    return f"{function.__module__}:{function.__qualname__}"


def named(name: str) -> Callable[..., Any]:
    """The function with this name."""
    module, _, path = name.partition(":")
    function: Any = import_module(module)
    for part in path.split("."):
        function = getattr(function, part)
    found: Callable[..., Any] = function
    return found


def _attempt(function: Callable[..., Any], item: Any, options: dict[str, Any]) -> Any | Failure:
    try:
        result = function(item, **options)
        json.dumps(result)  # fail here, with or without a worker process
        return result
    except Exception as error:
        return Failure("crashed", " ".join(f"{type(error).__name__}: {error}".split())[:200])


class _Worker:
    """A process, and the items that were sent to it and not answered yet."""

    def __init__(self, job: _Job):
        self.connection, theirs = Pipe()
        environment = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path), "OMP_NUM_THREADS": "1"}
        with theirs, ignored_interrupts():  # Ctrl-C reaches children too; this process ends them
            try:
                self.process = subprocess.Popen(
                    [sys.executable, "-P", "-c", _MAIN.format(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    env=environment,
                    stdin=subprocess.DEVNULL,
                    stdout=subprocess.DEVNULL,
                    stderr=subprocess.DEVNULL,
                )
            except OSError as error:
                self.connection.close()
                raise MolflowError(f"a worker process did not start ({error}); use no workers") from error
        self.seconds = job.seconds
        _send(self.connection, job)
        self.ready = False
        self.todo: deque[tuple[int, Any]] = deque()
        self.deadline = time.monotonic() + _STARTS_WITHIN

    def give(self, chunk: list[tuple[int, Any]]) -> None:
        self.todo.extend(chunk)
        if self.ready:
            self.wait_longer()
        with suppress(OSError):  # it died while it was idle, which is noticed when it is read from
            _send(self.connection, [item for _, item in chunk])

    def wait_longer(self) -> None:
        self.deadline = time.monotonic() + PATIENCE * self.seconds

    def end(self, patience: float = 0.0) -> int:
        """Wait `patience` seconds, then end the process. Return its exit code, or minus the signal that ended it."""
        self.connection.close()
        with suppress(subprocess.TimeoutExpired):
            return self.process.wait(patience)
        self.process.kill()
        return self.process.wait()


class _Crew:
    """Workers, their items, and results that wait for their turn."""

    def __init__(self, job: _Job, workers: int, lighter: Callable[[Any], Any] | None):
        self.job, self.size, self.lighter = job, workers, lighter
        self.workers: list[_Worker] = []
        self.again: deque[tuple[int, Any]] = deque()  # lighter ones, or sent to a worker that ended before them
        self.done: dict[int, Any] = {}
        self.failure: Exception | None = (
            None  # error of the source of items, raised after the results of the items before it
        )

    def run(self, items: Iterable[Any]) -> Iterator[Any | Failure]:
        source = enumerate(items)
        oldest = taken = 0
        while True:
            for worker in self._idle():
                room = min(CHUNK, AHEAD - (taken - oldest))
                chunk = [self.again.popleft() for _ in range(min(CHUNK, len(self.again)))]
                if not chunk:
                    chunk = self._take(source, room)
                    taken += len(chunk)
                if not chunk:
                    break
                if worker is None:
                    worker = _Worker(self.job)
                    self.workers.append(worker)
                worker.give(chunk)
            if not any(worker.todo for worker in self.workers):
                if self.failure is not None:
                    raise self.failure
                return
            self._collect()
            while oldest in self.done:
                yield self.done.pop(oldest)
                oldest += 1

    def _take(self, source: Iterator[tuple[int, Any]], room: int) -> list[tuple[int, Any]]:
        chunk: list[tuple[int, Any]] = []
        try:
            while self.failure is None and len(chunk) < room:
                chunk.append(next(source))
        except StopIteration:
            pass
        except Exception as error:
            self.failure = error
        return chunk

    def _idle(self) -> list[_Worker | None]:
        """Idle workers, and None for each that can still be started."""
        idle: list[_Worker | None] = [worker for worker in self.workers if not worker.todo]
        return idle + [None] * (self.size - len(self.workers))

    def _collect(self) -> None:
        """Wait for results; drop workers that ended or whose time is over."""
        busy = [worker for worker in self.workers if worker.todo]
        left = min(worker.deadline for worker in busy) - time.monotonic()
        ready = wait([worker.connection for worker in busy], max(0.0, left))
        for worker in busy:
            if worker.connection in ready:
                self._receive(worker)
            elif time.monotonic() >= worker.deadline:
                self._drop(worker)

    def _receive(self, worker: _Worker) -> None:
        try:
            while worker.connection.poll():
                answer = _received(worker.connection)
                worker.wait_longer()
                if worker.ready:
                    result, failure = answer
                    self._finish(*worker.todo.popleft(), Failure(*failure) if failure else result)
                worker.ready = True
        except (EOFError, OSError, ValueError, TypeError):  # it ended, or its answer is not one
            self._drop(worker)

    def _drop(self, worker: _Worker) -> None:
        self.workers.remove(worker)
        late = time.monotonic() >= worker.deadline
        code = worker.end(0.0 if late else 1.0)
        if not worker.ready:
            raise MolflowError(
                f"a worker process did not start (exit code {code}); use no workers, or see what it lacks"
            )
        if not worker.todo:
            return
        if code == -signal.SIGPROF:
            failure = Failure("timed out", f"not finished within {worker.seconds:g} s")
        elif late:
            failure = Failure("timed out", f"not finished within {PATIENCE * worker.seconds:g} s on the clock")
        else:
            ending = f"was ended by signal {-code}" if code < 0 else f"ended with exit code {code}"
            failure = Failure("crashed", f"its worker process {ending}")
        self._finish(*worker.todo.popleft(), failure)
        self.again.extend(worker.todo)

    def _finish(self, place: int, item: Any, result: Any | Failure) -> None:
        """Keep the result of an item, or try a lighter one."""
        if isinstance(result, Failure) and self.lighter and (less := self.lighter(item)) is not None:
            self.again.append((place, less))
        else:
            self.done[place] = result

    def dismiss(self) -> None:
        for worker in self.workers:
            worker.end()
        self.workers.clear()


def _send(connection: Connection, content: Any) -> None:
    connection.send_bytes(json.dumps(content, separators=(",", ":")).encode())


def _received(connection: Connection) -> Any:
    return json.loads(connection.recv_bytes())


def _serve(handle: int) -> None:
    """Main loop of a worker: read a job, then answer items until the pipe is closed."""
    end_with_parent()
    _limit_memory()
    connection = Connection(handle)
    job = _Job(*_received(connection))
    function = named(job.function)
    if job.prepare is not None:
        named(job.prepare)(**job.options)
    _send(connection, None)  # ready: from now on time counts
    while True:
        try:
            items = _received(connection)
        except EOFError:
            return
        for item in items:
            signal.setitimer(signal.ITIMER_PROF, job.seconds)  # then SIGPROF ends the process, even inside C code
            result = _attempt(function, item, job.options)
            signal.setitimer(signal.ITIMER_PROF, 0)
            _send(connection, [None, result] if isinstance(result, Failure) else [result, None])


def _limit_memory() -> None:
    try:
        import resource

        resource.setrlimit(resource.RLIMIT_DATA, (MEMORY, resource.getrlimit(resource.RLIMIT_DATA)[1]))
    except (ImportError, OSError, ValueError):  # no such limit here, or a lower one is set already
        return
