"""What the C library does with memory that is freed, where it is glibc; elsewhere nothing."""

from __future__ import annotations

import ctypes

TRIM_THRESHOLD, MMAP_MAX = -1, -4  # of mallopt, glibc's malloc.h


def keep_freed_memory() -> None:
    """Let this process keep what it frees.

    Training frees and asks for the same hundreds of megabytes in every step; given back in
    between, every page of them would fault in again.
    """
    mallopt = _glibc("mallopt")
    if mallopt is not None:
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
