"""Hold back or ignore Ctrl-C, and end processes together with their parent."""

import ctypes
import signal
import sys
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


@contextmanager
def ignored_interrupts() -> Iterator[None]:
    """Ignore Ctrl-C within a block. Processes started in the block always ignore it."""
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is None:
        yield
        return
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, before)


@contextmanager
def held_interrupts() -> Iterator[Callable[[], bool]]:
    """Hold back Ctrl-C within a block. Yields a function that returns whether Ctrl-C was pressed.

    A second Ctrl-C interrupts immediately. If another handler is installed, or outside the main thread, nothing is held
    back.
    """
    default = signal.default_int_handler
    if threading.current_thread() is not threading.main_thread() or signal.getsignal(signal.SIGINT) is not default:
        yield lambda: False
        return
    signals: list[int] = []

    def note(number: int, frame: Any) -> None:
        signals.append(number)
        signal.signal(signal.SIGINT, default)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(signals)
    finally:
        signal.signal(signal.SIGINT, default)


def end_with_parent() -> None:
    """End this process when its parent is killed. Works on Linux only; elsewhere the process must notice by itself."""
    if sys.platform.startswith("linux"):
        set_parent_death_signal = 1  # PR_SET_PDEATHSIG of prctl, <sys/prctl.h>
        ctypes.CDLL(None).prctl(ctypes.c_int(set_parent_death_signal), ctypes.c_ulong(signal.SIGKILL))
