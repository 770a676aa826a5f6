"""Hardware-aware simulation and architecture search for dynamic transformers."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from pathlib import Path

    from dynsearch.export.runner import Model


def load(folder: str | Path, *, threads: int | None = None) -> Model:
    """A model that `dynsearch export` wrote, torch or ONNX: `load(FOLDER).classify([...])`.

    Args:
        folder: The folder of one configuration.
        threads: Of the runtime; None: one for onnxruntime, torch as it is set.

    Raises:
        InputError: a file that is missing, changed or of another export.
    """
    from dynsearch.export.runner import load as load_export

    return load_export(folder, threads=threads)
