"""Functions that worker processes run in tests instead of the real inspection; they import them by name."""

import os
import signal
import sys
import time
from dataclasses import replace

import numpy as np

from molflow.evaluation.inspection import inspect_bonded, inspect_lookup

HANG, SLEEP, EXIT, FAULT, ERROR, MEMORY, NOT_JSON = 111.0, 222.0, 333.0, 444.0, 555.0, 666.0, 777.0
"""First coordinates of molecules that misbehave."""


def treacherous(molecule):
    """Look-up results, unless the first coordinate of the molecule asks for a fault."""
    place = float(molecule.positions[0, 0])
    while place == HANG:
        pass
    if place == SLEEP:
        time.sleep(600)
    if place == EXIT:
        os._exit(3)
    if place == FAULT:
        os.kill(os.getpid(), signal.SIGSEGV)
    if place == ERROR:
        raise RuntimeError("something\nbroke")
    if place == MEMORY:
        bytearray(64 << 30)
    if place == NOT_JSON:
        return replace(inspect_lookup(molecule), fragments=np.int64(1))
    return inspect_lookup(molecule)


def loaded(molecule):
    """Name the large libraries that this process has loaded after an inspection."""
    report = inspect_bonded(molecule)
    found = {"torch", "rdkit", "scipy", "pandas", "molflow.evaluation"} & set(sys.modules)
    return replace(report, reason=" ".join(sorted(found)))


def slow_first(item):
    """The first item takes long, all others no time."""
    if item == 0:
        time.sleep(1.5)
    return item


def burn(item):
    """Use processor time for as many seconds as the item says."""
    end = time.process_time() + item
    while time.process_time() < end:
        pass
    return item


def allocate(item):
    """Take so many bytes of memory, without writing to them."""
    return len(bytearray(item))


def process(item):
    """The id of the process that runs this."""
    time.sleep(0.05)
    return os.getpid()
