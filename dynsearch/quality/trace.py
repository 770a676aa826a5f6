"""What one forward pass of an outer setting leaves: everything that exit policies decide on.

A trace is recorded at full depth with no exit taken. Replaying sample-level exits on it is exact
because exits do not feed back into what other samples, or earlier layers, compute.
"""

from __future__ import annotations

import json
import zipfile
import zlib
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.export.files import npz_bytes, write_atomic
from dynsearch.quality.trace_checks import trace_problems
from search_spaces.errors import InputError

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One pass over one split. N samples, L layers, C classes, E experts."""

    logits: NDArray[np.float32]  # [N, L, C] of the exit head after each layer, no temperature
    labels: NDArray[np.int64]  # [N]
    lengths: NDArray[np.int64]  # [N] unpadded tokens, special ones included
    tokens_layer: NDArray[np.int32]  # [N, L] tokens entering layer l
    tokens_ffn: NDArray[np.int32]  # [N, L] tokens entering its feed-forward network
    expert_tokens: NDArray[np.int32]  # [N, L, E] tokens that each expert received, 0 where dense
    aux: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # named [N, L], see below
    header: dict[str, object] = field(default_factory=dict)

    # aux "skim_gap": relative gap between the last kept and the first dropped importance, +inf
    # where nothing is dropped; "router_gap": the same between k-th and next router score;
    # "cosine_previous": of the pooled states before and after a layer; "hash_layer": layer (1 to
    # L) that the deepest of a sample's tokens is hashed to, salt 0. Criteria that need heads of
    # their own ("learned", "halting", "planned_layer") need a model that has them.

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.logits.shape[0])

    @property
    def num_layers(self) -> int:
        """L."""
        return int(self.logits.shape[1])

    @property
    def depth(self) -> int:
        """Layers that were run; those above it hold zeros."""
        depth = self.header.get("depth", self.num_layers)
        return depth if isinstance(depth, int) else self.num_layers

    def take(self, rows: slice | NDArray[np.int64]) -> Trace:
        """Some rows of it, in this order."""
        arrays = {name: getattr(self, name)[rows] for name in ARRAYS}
        aux = {name: values[rows] for name, values in self.aux.items()}
        return replace(self, **arrays, aux=aux)


ARRAYS: tuple[str, ...] = (
    "logits",
    "labels",
    "lengths",
    "tokens_layer",
    "tokens_ffn",
    "expert_tokens",
)
_AUX = "aux."  # prefix of the named arrays inside the file
_HEADER = "header"  # UTF-8 bytes of a JSON object


def save_trace(path: Path, trace: Trace) -> Path:
    """Write a trace as npz with a JSON header; the name appears once the file is complete.

    Raises:
        TypeError: when the header holds what JSON cannot.
    """
    header = {**trace.header, "schema_version": SCHEMA_VERSION}
    text = json.dumps(header, sort_keys=True, allow_nan=False)
    arrays: dict[str, NDArray[Any]] = {name: getattr(trace, name) for name in ARRAYS}
    arrays |= {f"{_AUX}{name}": array for name, array in trace.aux.items()}
    arrays[_HEADER] = np.frombuffer(text.encode(), dtype=np.uint8)
    return write_atomic(path, npz_bytes(arrays))


def load_trace(path: Path, expect_weights_hash: str | None = None) -> Trace:
    """Read a trace back.

    Args:
        path: File that `save_trace` wrote.
        expect_weights_hash: Weights that the trace must come from; None accepts any.

    Raises:
        InputError: when the file is missing, damaged, of a newer schema or of other weights, or
            what it holds is no trace (`trace_problems`).
    """
    arrays, header = _read(path, None)
    aux = {n.removeprefix(_AUX): a for n, a in arrays.items() if n.startswith(_AUX)}
    found = header.get("weights_hash")
    if expect_weights_hash is not None and found != expect_weights_hash:
        text = f"comes from other weights than {expect_weights_hash}; start anew with --fresh"
        raise InputError.one(path, "weights_hash", found, text)
    missing = [name for name in ARRAYS if name not in arrays]
    if missing:
        text = "is incomplete; delete it and `dynsearch resume RUN` runs the pass again"
        raise InputError.one(path, ", ".join(missing), None, text)
    trace = Trace(**{name: arrays[name] for name in ARRAYS}, aux=aux, header=header)
    if problems := trace_problems(trace, path):
        raise InputError(problems)
    return trace


def trace_header(path: Path) -> dict[str, Any]:
    """The header of a trace, without its arrays: which pass left it.

    Raises:
        InputError: when the file is missing, damaged or of a newer schema.
    """
    return _read(path, (_HEADER,))[1]


def _read(
    path: Path, names: tuple[str, ...] | None
) -> tuple[dict[str, NDArray[Any]], dict[str, Any]]:
    """Arrays of a trace file, those named or all, and its header."""
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in names or file.files}
        header: dict[str, Any] = json.loads(bytes(arrays.pop(_HEADER)).decode())
        version = header["schema_version"]
    except FileNotFoundError:
        text = "no such trace; `dynsearch resume RUN` runs the pass again"
        raise InputError.one(path, "", None, text) from None
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        text = "is damaged or no trace; delete it and `dynsearch resume RUN` runs the pass again"
        raise InputError.one(path, "", None, text) from None
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        text = f"newer schema: this dynsearch reads up to {SCHEMA_VERSION}; upgrade dynsearch"
        raise InputError.one(path, "schema_version", version, text)
    return arrays, header
