"""Control whether freed memory stays with the process (glibc only)."""

import ctypes
import sys
from typing import Any

_TRIM_THRESHOLD, _MMAP_THRESHOLD = -1, -3  # parameters of mallopt in <malloc.h>
_LARGEST_MMAP_THRESHOLD = 32 << 20  # bytes; glibc refuses more


def keep_freed_memory() -> bool:
    """Let glibc's malloc keep freed memory instead of returning it to the system and requesting it again.

    Otherwise each new tensor of a few megabytes costs a page fault per page. The setting changes the whole process, so
    only an application should call this; molflow's command line does. Without glibc nothing happens.

    Returns:
        Whether the setting was changed.
    """
    mallopt = _glibc_function("mallopt")
    if mallopt is None:
        return False
    thresholds = {_TRIM_THRESHOLD: 2**31 - 1, _MMAP_THRESHOLD: _LARGEST_MMAP_THRESHOLD}
    return all(mallopt(ctypes.c_int(name), ctypes.c_int(value)) == 1 for name, value in thresholds.items())


def release_freed_memory() -> bool:
    """Return the freed memory that glibc's malloc keeps to the system. Without glibc nothing happens.

    Returns:
        Whether memory was returned.
    """
    malloc_trim = _glibc_function("malloc_trim")
    return malloc_trim is not None and malloc_trim(ctypes.c_size_t(0)) == 1


def _glibc_function(name: str) -> Any:
    """A function of glibc by name; None without glibc."""
    return getattr(ctypes.CDLL(None), name, None) if sys.platform.startswith("linux") else None
