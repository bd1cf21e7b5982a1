"""Turn signals that end a program into Ctrl-C, hold them back or ignore them, and end processes with their parent."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

_TERMINATIONS = tuple(getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name))
_SIGNALS = (signal.SIGINT, *_TERMINATIONS)


def interrupt_on_termination() -> None:
    """Let SIGTERM and SIGHUP raise KeyboardInterrupt, as Ctrl-C does; not those that are ignored, as under nohup.

    Only the first one counts. Clusters and `timeout` send several, which must not disturb the saving that the first one
    begins.
    """
    for number in _TERMINATIONS:
        if _in_main_thread() and signal.getsignal(number) is signal.SIG_DFL:
            signal.signal(number, _terminate)


def _terminate(number: int, frame: Any) -> None:
    _ignore_terminations()
    raise KeyboardInterrupt


def _in_main_thread() -> bool:
    """Whether this is the thread that may set handlers."""
    return threading.current_thread() is threading.main_thread()


def _ignore_terminations() -> None:
    for number in _TERMINATIONS:
        signal.signal(number, signal.SIG_IGN)


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C, SIGTERM and SIGHUP within a block. Processes started in the block always ignore them."""
    handled = [number for number in _SIGNALS if _in_main_thread() and signal.getsignal(number) is not None]
    before = {number: signal.signal(number, signal.SIG_IGN) for number in handled}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C within a block, and the signals of `interrupt_on_termination`.

    Yields a function that returns whether one of them arrived. A second Ctrl-C interrupts immediately. If another
    handler is installed, or outside the main thread, nothing is held back.
    """
    handlers = {number: signal.getsignal(number) for number in _SIGNALS if _in_main_thread()}
    held = {n: handler for n, handler in handlers.items() if handler in (signal.default_int_handler, _terminate)}
    signals: list[int] = []

    def note(number: int, frame: Any) -> None:
        signals.append(number)
        if number == signal.SIGINT:
            signal.signal(number, signal.default_int_handler)
        else:
            _ignore_terminations()

    for number in held:
        signal.signal(number, note)
    try:
        yield lambda: bool(signals)
    finally:
        for number, handler in held.items():
            if signal.getsignal(number) is note:
                signal.signal(number, handler)


def end_with_parent() -> None:
    """End this process when its parent is killed. Works on Linux only; elsewhere the process must notice by itself."""
    if sys.platform.startswith("linux"):
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl, <sys/prctl.h>
        ctypes.CDLL(None).prctl(ctypes.c_int(set_parent_death_signal), ctypes.c_ulong(signal.SIGKILL))
