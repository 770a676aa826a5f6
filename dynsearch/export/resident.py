"""Memory that an export takes on this machine, measured in a process of its own.

    python -m dynsearch.export.resident FOLDER RUNTIME

Prints bytes that the process grows by while it loads the weights and answers the worst case: a
full batch at the workload's longest input, no exit taken. The interpreter, its libraries and what
they compile are there before and are not in it, as they are not in the prediction.
"""

from __future__ import annotations

import gc
import os
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dynsearch.export.opened import OpenedExport

RUNS = 3
STATUS = Path("/proc/self/status")
CLEAR = Path("/proc/self/clear_refs")  # "5" puts the high-water mark back


def measure(folder: Path, runtime: str) -> float | None:
    """Peak bytes of an export in a fresh process; None where the system does not tell.

    Args:
        folder: An export that was opened before, so that its files are known to be right.
        runtime: What runs it.
    """
    if not CLEAR.exists():
        return None
    command = [sys.executable, "-m", "dynsearch.export.resident", str(folder), runtime]
    # memory that is freed goes back to the system at once, so that what is resident is in use
    environment = os.environ | {"MALLOC_MMAP_THRESHOLD_": "65536", "MALLOC_TRIM_THRESHOLD_": "0"}
    done = subprocess.run(command, capture_output=True, text=True, check=False, env=environment)
    return float(done.stdout) if done.returncode == 0 else None


def grown_by(folder: Path, runtime: str) -> int:
    """Bytes that this process grows by at most, once its libraries have done all of it before."""
    import torch

    from dynsearch.export.opened import open_export

    found = open_export(folder)
    torch.set_num_threads(found.workload.threads)
    _load_and_run(found, runtime)  # library code, compiled kernels
    gc.collect()
    before = _status("VmRSS")
    _load_and_run(found, runtime)
    return _status("VmHWM") - before


def _load_and_run(found: OpenedExport, runtime: str) -> None:
    from dynsearch.export.engines import engine_of, worst_batch

    engine = engine_of(found, runtime)
    gc.collect()
    CLEAR.write_text("5", encoding="utf-8")  # loading holds the weights twice for a moment
    for _ in range(RUNS):
        engine.worst(worst_batch(found))


def _status(key: str) -> int:
    for line in STATUS.read_text(encoding="utf-8").splitlines():
        name, _, value = line.partition(":")
        if name == key:
            return int(value.split()[0]) * 1024
    raise LookupError(key)


if __name__ == "__main__":
    sys.stdout.write(str(grown_by(Path(sys.argv[1]), sys.argv[2])))
