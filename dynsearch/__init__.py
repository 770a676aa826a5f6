"""Hardware-aware simulation and architecture search for dynamic transformers.

The library call: `optimize(SearchSpace({...}), quality=..., cost=..., ...)`. An exported model:
`load(FOLDER)`. Names load when they are used, so that importing the package stays light.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from pathlib import Path

    from dynsearch.export.runner import Model
    from dynsearch.search.optimize import Evaluation, OptimizeResult, optimize
    from search_spaces.domains import Choice, FloatRange, IntRange
    from search_spaces.knobs import KnobSpace as SearchSpace

_HOMES = {
    "optimize": ("dynsearch.search.optimize", "optimize"),
    "OptimizeResult": ("dynsearch.search.optimize", "OptimizeResult"),
    "Evaluation": ("dynsearch.search.optimize", "Evaluation"),
    "SearchSpace": ("search_spaces.knobs", "KnobSpace"),
    "Choice": ("search_spaces.domains", "Choice"),
    "IntRange": ("search_spaces.domains", "IntRange"),
    "FloatRange": ("search_spaces.domains", "FloatRange"),
}

__all__ = [
    "Choice",
    "Evaluation",
    "FloatRange",
    "IntRange",
    "OptimizeResult",
    "SearchSpace",
    "load",
    "optimize",
]


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, attribute = _HOMES[name]
    return getattr(import_module(module), attribute)


def load(folder: str | Path, *, threads: int | None = None, runtime: str | None = None) -> Model:
    """A model that `dynsearch export` wrote, torch or ONNX: `load(FOLDER).classify([...])`.

    Args:
        folder: The folder of one configuration.
        threads: Of the runtime; None: one for onnxruntime, torch as it is set.
        runtime: Of ONNX graphs: "onnxruntime" (also None) or "openvino".

    Raises:
        InputError: a file that is missing, changed or of another export.
    """
    from dynsearch.export.runner import load as load_export

    return load_export(folder, threads=threads, runtime=runtime)
