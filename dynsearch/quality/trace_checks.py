"""What makes arrays no trace: shapes that disagree, values that are no numbers, exits not run."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.errors import Problem

if TYPE_CHECKING:
    from dynsearch.quality.trace import Trace

_AGAIN = "delete it and `dynsearch resume RUN` runs the pass again, or record it anew"


def trace_problems(trace: Trace, file: object) -> list[Problem]:
    """Everything that is wrong with a trace, by array and exit; empty where nothing is.

    Args:
        trace: As read; its arrays may be anything.
        file: What the problems name as their place.
    """
    logits = trace.logits
    if logits.ndim != 3 or 0 in logits.shape or logits.dtype.kind != "f":
        text = f"must be floats [samples, layers, classes], none of them 0; {_AGAIN}"
        found = f"{logits.dtype}{list(logits.shape)}"
        return [Problem(str(file), "logits", found, text)]
    n_layers = trace.tokens_layer.shape[:2]
    if len(n_layers) == 2 and n_layers != logits.shape[:2]:
        text = f"must be [{n_layers[0]}, {n_layers[1]}, classes], as tokens_layer says; {_AGAIN}"
        return [Problem(str(file), "logits", f"{logits.dtype}{list(logits.shape)}", text)]
    found_in = [*_shape_problems(trace), *_exit_problems(trace), *_label_problems(trace)]
    return [Problem(str(file), key, value, f"{text}; {_AGAIN}") for key, value, text in found_in]


def _shape_problems(trace: Trace) -> Iterator[tuple[str, str, str]]:
    n, layers, _ = trace.logits.shape
    wanted: dict[str, tuple[NDArray[Any], str, tuple[int | None, ...]]] = {
        "labels": (trace.labels, "iu", (n,)),
        "lengths": (trace.lengths, "iu", (n,)),
        "tokens_layer": (trace.tokens_layer, "iu", (n, layers)),
        "tokens_ffn": (trace.tokens_ffn, "iu", (n, layers)),
        "expert_tokens": (trace.expert_tokens, "iu", (n, layers, None)),
    }
    wanted |= {f"aux.{name}": (array, "f", (n, layers)) for name, array in trace.aux.items()}
    for name, (array, kinds, shape) in wanted.items():
        same = array.ndim == len(shape) and all(
            size in (None, have) for size, have in zip(shape, array.shape, strict=True)
        )
        if not same or array.dtype.kind not in kinds:
            kind = "floats" if kinds == "f" else "integers"
            axes = ", ".join("any" if size is None else str(size) for size in shape)
            value = f"{array.dtype}{list(array.shape)}"
            yield name, value, f"must be {kind} [{axes}], as the logits say"
        elif array.dtype.kind == "f" and np.isnan(array).any():
            yield name, "", f"{int(np.isnan(array).sum())} values are NaN"


def _exit_problems(trace: Trace) -> Iterator[tuple[str, str, str]]:
    """Exits with logits that are no numbers, and those that no sample ran."""
    depth = trace.depth
    if not 1 <= depth <= trace.num_layers:
        yield "depth", str(depth), f"must lie in 1..{trace.num_layers}, the layers of the logits"
        return
    for layer in range(depth):
        here = trace.logits[:, layer]
        key = f"logits.exit {layer + 1}"
        if not np.isfinite(here).all():
            bad = int((~np.isfinite(here)).any(axis=1).sum())
            yield key, "", f"{bad} of {len(here)} samples have logits that are NaN or infinite"
        elif not here.any():
            yield key, "", f"is missing: all of its logits are 0, though depth says {depth}"


def _label_problems(trace: Trace) -> Iterator[tuple[str, str, str]]:
    labels, classes = trace.labels, trace.logits.shape[2]
    if (
        labels.dtype.kind in "iu"
        and labels.size
        and not 0 <= labels.min() <= labels.max() < classes
    ):
        value = f"{labels.min()}..{labels.max()}"
        yield "labels", value, f"must lie in 0..{classes - 1}, the classes of the logits"
