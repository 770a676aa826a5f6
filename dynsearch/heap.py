"""What the C library does with memory that is freed, where it is glibc; elsewhere nothing."""

from __future__ import annotations

import ctypes
import os

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt, glibc's malloc.h
OWN = ("MALLOC_TRIM_THRESHOLD_", "MALLOC_MMAP_MAX_", "MALLOC_MMAP_THRESHOLD_", "GLIBC_TUNABLES")


def keep_freed_memory() -> None:
    """Let this process keep what it frees, unless its environment says what to do with it (`OWN`).

    A step of training or a batch frees what the next one asks for again; given back in between,
    every page of it faults in anew. A 6 x 384 network takes 675 ms for 8 texts of 230 tokens in
    fp32 and 604 so, half of the tokens 99 and 101 (2 layers; Zen 4 without AVX-512, one thread; on
    another day 700 and 658, 130 and 126, by tests/bench/network_choices.py).
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None and not any(name in os.environ for name in OWN):
        mallopt(TRIM_THRESHOLD, -1)
        mallopt(MMAP_MAX, 0)


def give_freed_memory_back() -> None:
    """Give the system what this process has freed.

    A pass asks for arrays of a thousand sizes and leaves holes between those that stay: processes
    that ran many passes over long texts came to hold 5 to 10 GB.
    """
    trim = _glibc("malloc_trim")
    if trim is not None:
        trim(0)


def _glibc(name: str) -> ctypes._NamedFuncPointer | None:
    """A function of the C library, where it is glibc."""
    try:
        library = ctypes.CDLL(None)
        library.gnu_get_libc_version  # noqa: B018
        found: ctypes._NamedFuncPointer = getattr(library, name)
    except (AttributeError, OSError, TypeError):
        return None
    return found
