"""Writing result files so that a reader never meets half of one, under names that are safe."""

from __future__ import annotations

import io
import os
import re
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")
_PLAIN_BYTES = 2**15  # arrays of at most so many are written faster than they are compressed


def npz_bytes(arrays: Mapping[str, NDArray[Any]]) -> bytes:
    """What an npz file of named arrays holds; compressed where they are not small."""
    buffer = io.BytesIO()
    small = sum(array.nbytes for array in arrays.values()) <= _PLAIN_BYTES
    (np.savez if small else np.savez_compressed)(buffer, allow_pickle=False, **arrays)
    return buffer.getvalue()


def write_atomic(path: Path, data: str | bytes, *, lasting: bool = True) -> Path:
    """Write `data` to a temporary name beside `path`, flush it to disk, rename.

    Args:
        path: Where the file shall be; its folder is made when it is missing.
        data: Text (stored as UTF-8 with newlines unchanged) or bytes.
        lasting: Wait for the disk. A file that can be made again needs no wait: half of it may
            be found after a power cut, never after the end of a process.

    Returns:
        `path`.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    raw = data.encode() if isinstance(data, str) else data
    handle, temporary = tempfile.mkstemp(prefix=f".{path.name[:40]}.", dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(raw)
            file.flush()
            if lasting:
                os.fsync(file.fileno())
        Path(temporary).chmod(0o644)
        Path(temporary).replace(path)
    except BaseException:
        Path(temporary).unlink(missing_ok=True)
        raise
    return path


def safe_name(text: str, *, limit: int = 80) -> str:
    """`text` as one file-name component: no separators, no leading dots, never empty."""
    name = _UNSAFE.sub("-", text).strip("-.")
    return name[:limit] or "unnamed"
