"""Memory that stays with the process."""

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # of mallopt, <malloc.h>
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc refuses more


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep what is freed, in place of returning it to the system and fetching it again.

    Tensors of a few megabytes otherwise cost a page fault for each of their pages every time. It changes the whole
    process, so an application decides it, and molflow's command line does; elsewhere than on glibc nothing happens.

    Returns:
        Whether it was done.
    """
    mallopt = _of_glibc("mallopt")
    if mallopt is None:
        return False
    thresholds = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD}
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in thresholds.items())


def release_freed_memory() -> bool:
    """Return to the system what glibc's malloc keeps; elsewhere nothing happens.

    Returns:
        Whether there was any.
    """
    malloc_trim = _of_glibc("malloc_trim")
    return malloc_trim is not None and malloc_trim(ctypes.c_size_t(0)) == 1


def _of_glibc(name: str) -> Any:
    """A function that only glibc has, if this is glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
