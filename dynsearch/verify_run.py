"""From a finished run to verified speed: its configurations are exported, then measured here."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from dynsearch.errors import InputError
from dynsearch.export.front import FRONT_FILE, read_front
from dynsearch.export.manifest import CONFIG_FILE
from dynsearch.export.onnx_plan import DTYPES as ONNX_DTYPES
from dynsearch.verify import verify
from search_spaces.candidate import DTYPES

EXPORTS = "exports"  # in the run folder, a folder a format
TORCH = "torch"


def is_run(folder: Path) -> bool:
    """Whether a folder is that of a run, not an export."""
    return (folder / FRONT_FILE).is_file() and not (folder / CONFIG_FILE).exists()


def verify_run(
    run_dir: Path,
    ids: tuple[str, ...] = (),
    *,
    data: Path | None = None,
    label: str = "label",
    device: str | None = None,
    rows: int = 400,
    repeats: int = 5,
    on_progress: Callable[[float], None] | None = None,
    runtime: str | None = None,
) -> dict[str, Any]:
    """Export configurations of a run into its folder and measure each on this machine.

    Args:
        run_dir: The run folder.
        ids: Configurations; empty: those named or certified for the device, in a number format
            that the runtime runs.
        data: Texts to run; None: report rows of the run, which go with each export.
        label: Column of the labels in `data`.
        device: Whose prediction and budgets count; None: the first of the run.
        rows: Texts at most.
        repeats: Repeats of the timing.
        on_progress: Gets the share that is done.
        runtime: "torch" (also None), "onnxruntime" or "openvino".

    Returns:
        `verified` (what `verify` says of each), their budgets as `rows`, `passed` and more.

    Raises:
        InputError: no such configuration, none to measure, or what export and verify refuse.
    """
    from dynsearch import main_job
    from dynsearch.export.folder import named_ids

    front = read_front(run_dir)
    device = front.devices[0] if device is None and front.devices else device
    format_ = TORCH if runtime in (None, TORCH) else "onnx"
    dtypes = DTYPES if format_ == TORCH else ONNX_DTYPES
    wanted = ids or tuple(named_ids(front, dtypes, device))
    if not wanted:
        text = "names no configuration that this runtime runs; give ids with --id"
        raise InputError.one(run_dir / FRONT_FILE, "front", device, text)
    out = run_dir / EXPORTS / format_
    texts = 0 if data is not None else rows
    folders = main_job.export(run_dir, format_, out, wanted, rows=texts)["files"]
    found = []
    for n, folder in enumerate(folders):
        found.append(
            verify(
                Path(folder),
                data=data,
                label=label,
                device=device,
                rows=rows,
                repeats=repeats,
                runtime=runtime,
            )
        )
        if on_progress is not None:
            on_progress((n + 1) / len(folders))
    passed = all(one["passed"] for one in found)
    return {
        "status": "done" if passed else "failed",
        "warnings": list(dict.fromkeys(text for one in found for text in one["warnings"])),
        "run": str(run_dir),
        "verified": found,
        "rows": [{"id": one["id"], **row} for one in found for row in one["rows"]],
        "passed": passed,
    }
