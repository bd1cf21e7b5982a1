"""Freed tensors stay resident in the process until they are released."""

import subprocess
import sys

import pytest

FREED = """
import torch
from molflow.memory import keep_freed_memory, release_freed_memory
if {keep}:
    assert keep_freed_memory()
def resident():
    with open("/proc/self/statm") as file:
        return int(file.read().split()[1]) * 4096
before = resident()
tensors = [torch.ones(5_000_000) for _ in range(10)]
del tensors
kept = resident() - before
assert release_freed_memory() >= {keep}
print(kept, resident() - before)
"""


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs glibc")
def test_freed_tensors_stay_with_the_process():
    kept, released = {}, {}
    for keep in (False, True):
        out = subprocess.run([sys.executable, "-c", FREED.format(keep=keep)], capture_output=True, check=True).stdout
        kept[keep], released[keep] = map(int, out.split())
    assert kept[False] < 20e6 < 150e6 < kept[True]
    assert max(released.values()) < 20e6
