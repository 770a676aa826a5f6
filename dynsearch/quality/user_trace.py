"""Traces of a user's own model, through a Python file of a few lines.

The file holds one function, which runs the whole model on a batch of texts, no exit taken:

    LABELS = ("negative", "positive")              # names of the classes, in the model's order
    WEIGHTS = "model.safetensors"                  # optional: its hash names the model

    def trace_batch(texts):
        ...                                        # texts: a list of strings, or of pairs
        return {"logits": logits,                  # [B, L, C], of an exit after every layer
                "lengths": lengths}                # [B], tokens of each text, special ones too

More keys say more: "tokens_layer" and "tokens_ffn" [B, L] of a model that drops tokens,
"expert_tokens" [B, L, E] of one with experts, and any name that an exit criterion declares
("learned", "halting", "cosine_previous", "planned_layer", "hash_layer"), each [B, L].
"""

from __future__ import annotations

import hashlib
import importlib.util
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.errors import DynsearchError, InputError, Problem
from dynsearch.quality.data import Examples
from dynsearch.quality.trace import SCHEMA_VERSION, Trace
from dynsearch.quality.trace_checks import trace_problems

Arrays = Mapping[str, Any]

FUNCTION, LABELS, WEIGHTS = "trace_batch", "LABELS", "WEIGHTS"
_OWN = ("logits", "lengths", "tokens_layer", "tokens_ffn", "expert_tokens")


@dataclass(frozen=True, slots=True, kw_only=True)
class Hook:
    """What a user's file holds."""

    file: Path
    trace_batch: Callable[[Sequence[Any]], Arrays]
    labels: tuple[str, ...] | None  # names of the classes, in the model's order
    weights_hash: str  # of the weights that the file names, else of the file itself


def load_hook(path: Path) -> Hook:
    """Import a user's file by its path.

    Raises:
        InputError: no such file, no `trace_batch` in it, or what it names is missing.
        DynsearchError: its own code fails.
    """
    if not path.is_file() or path.suffix != ".py":
        text = "no such file; give a Python file with a function trace_batch(texts)"
        raise InputError.one(path, "MODEL", None, text)
    module = _import(path)
    function = getattr(module, FUNCTION, None)
    if not callable(function):
        text = "has no function trace_batch(texts) that gives logits and lengths"
        raise InputError.one(path, FUNCTION, None, text)
    labels = getattr(module, LABELS, None)
    weights = path.parent / str(getattr(module, WEIGHTS, path.name))
    if not weights.is_file():
        text = "no such file, seen from the folder of this one"
        raise InputError.one(path, WEIGHTS, getattr(module, WEIGHTS), text)
    return Hook(
        file=path,
        trace_batch=function,
        labels=None if labels is None else tuple(str(name) for name in labels),
        weights_hash=hashlib.sha256(weights.read_bytes()).hexdigest(),
    )


def record(hook: Hook, examples: Examples, *, batch: int, dtype: str = "fp32") -> Trace:
    """Run a user's model over labelled texts.

    Args:
        hook: The model.
        examples: Texts with their classes.
        batch: Texts of a call.
        dtype: Number format that the model runs in.

    Raises:
        InputError: what comes back has other shapes, holds no numbers, or labels that the model
            does not know; everything is named.
        DynsearchError: the user's function fails.
    """
    if hook.labels is not None:
        examples = _relabelled(hook, examples)
    parts: list[dict[str, NDArray[Any]]] = []
    for start in range(0, len(examples), batch):
        texts = examples.texts[start : start + batch]
        parts.append(_call(hook, texts, start, parts[0] if parts else None))
    arrays = {name: np.concatenate([part[name] for part in parts]) for name in parts[0]}
    return _checked(hook, examples, arrays, dtype)


def _import(path: Path) -> ModuleType:
    spec = importlib.util.spec_from_file_location(f"dynsearch_hook_{path.stem}", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    try:
        spec.loader.exec_module(module)
    except Exception as error:
        raise DynsearchError(f"{path}: {type(error).__name__}: {error}") from error
    return module


def _relabelled(hook: Hook, examples: Examples) -> Examples:
    assert hook.labels is not None
    unknown = [name for name in examples.labels if name not in hook.labels]
    if unknown:
        text = f"the data has it, the model names {', '.join(hook.labels)}"
        raise InputError([Problem(str(hook.file), LABELS, name, text) for name in unknown])
    return examples.relabelled(hook.labels)


def _call(
    hook: Hook, texts: Sequence[Any], start: int, first: Mapping[str, NDArray[Any]] | None
) -> dict[str, NDArray[Any]]:
    """One batch; its keys and layers must be those of the first one."""
    place = f"rows {start + 1} to {start + len(texts)}"
    try:
        found = hook.trace_batch(list(texts))
        arrays = {str(name): np.asarray(values) for name, values in dict(found).items()}
    except Exception as error:
        text = f"{hook.file}: {FUNCTION} on {place}: {type(error).__name__}: {error}"
        raise DynsearchError(text) from error
    missing = [name for name in ("logits", "lengths") if name not in arrays]
    if missing:
        text = f"is missing from what {FUNCTION} gives for {place}"
        raise InputError.one(hook.file, ", ".join(missing), None, text)
    problems = []
    for name, array in arrays.items():
        like = None if first is None else first.get(name)
        wanted = (len(texts), *(() if like is None else like.shape[1:]))
        if array.shape[: len(wanted)] != wanted or (first is not None and like is None):
            text = f"must have shape [{', '.join(map(str, wanted))}, ...] for {place}"
            problems.append(Problem(str(hook.file), name, str(list(array.shape)), text))
    if first is not None and set(first) - set(arrays):
        lost = ", ".join(sorted(set(first) - set(arrays)))
        text = f"was given for the first rows and not for {place}"
        problems.append(Problem(str(hook.file), lost, "", text))
    if problems:
        raise InputError(problems)
    return arrays


def _checked(
    hook: Hook, examples: Examples, arrays: Mapping[str, NDArray[Any]], dtype: str
) -> Trace:
    logits = np.asarray(arrays["logits"], dtype=np.float32)
    size, layers = logits.shape[:2] if logits.ndim == 3 else (len(examples), 1)
    lengths = np.asarray(arrays["lengths"])
    if lengths.ndim == 1 and lengths.dtype.kind in "iuf":
        lengths = lengths.astype(np.int64)
    whole = np.repeat(lengths.reshape(size, -1)[:, :1], layers, axis=1)
    none = np.zeros((size, layers, 1))
    aux = {name: array.astype(np.float32) for name, array in arrays.items() if name not in _OWN}
    entering = arrays.get("tokens_layer", whole).astype(np.int32)
    trace = Trace(
        logits=logits,
        labels=np.asarray(examples.classes, dtype=np.int64),
        lengths=lengths,
        tokens_layer=entering,
        tokens_ffn=arrays.get("tokens_ffn", entering).astype(np.int32),
        expert_tokens=arrays.get("expert_tokens", none).astype(np.int32),
        aux=aux,
        header={
            "schema_version": SCHEMA_VERSION,
            "model": hook.file.name,
            "weights_hash": hook.weights_hash,
            "split": "data",
            "split_hash": examples.sha256(),
            "labels": list(examples.labels),
            "dtype": dtype,
            "depth": layers,
        },
    )
    problems = trace_problems(trace, hook.file)
    if problems:
        raise InputError(problems)
    return trace
