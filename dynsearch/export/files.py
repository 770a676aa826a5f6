"""Writing result files so that a reader never meets half of one, under names that are safe."""

from __future__ import annotations

import os
import re
import tempfile
from pathlib import Path

_UNSAFE = re.compile(r"[^A-Za-z0-9._-]+")


def write_atomic(path: Path, data: str | bytes) -> Path:
    """Write `data` to a temporary name beside `path`, flush it to disk, rename.

    Args:
        path: Where the file shall be; its folder is made when it is missing.
        data: Text (stored as UTF-8 with newlines unchanged) or bytes.

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
