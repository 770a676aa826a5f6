"""Whether a recorded trace can be replayed for a candidate; refused by name where not."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from dynsearch.errors import InputError, Problem
from dynsearch.quality.trace import Trace, load_trace
from search_spaces.backbones import backbone_table
from search_spaces.candidate import Candidate

_GEOMETRY = ("num_layers", "hidden_size", "num_heads", "ffn_size", "vocab_size")


def fitting_trace(path: Path, candidate: Candidate, weights_hash: str | None = None) -> Trace:
    """The trace in a file, if a network of the candidate's geometry and format left it.

    Args:
        path: File that `dynsearch trace` or a search wrote.
        candidate: What is to be replayed; its exits, skims and experts may differ.
        weights_hash: Weights that it must come from; None: any.

    Raises:
        InputError: unreadable, no trace, of other weights, or of another network; all is listed.
    """
    trace = load_trace(path, None)
    if problems := misfits(trace, path, candidate, weights_hash):
        raise InputError(problems)
    return trace


def misfits(
    trace: Trace, path: Path, candidate: Candidate, weights_hash: str | None = None
) -> list[Problem]:
    """Why a network of the candidate's geometry and format cannot have left a trace.

    Args:
        trace: Of the file.
        path: Of it, for messages.
        candidate: Its exits, skims and experts may differ.
        weights_hash: As `fitting_trace`.
    """
    header = trace.header
    problems: list[Problem] = []

    def complain(key: str, value: object, message: str) -> None:
        problems.append(Problem(str(path), key, str(value), message))

    found = header.get("weights_hash")
    if weights_hash is not None and found != weights_hash:
        complain("weights_hash", found, f"comes from another model than {weights_hash}")
    layers = candidate.backbone.num_layers
    if trace.num_layers != layers:
        text = f"the candidate's backbone has {layers}"
        complain("logits", f"{trace.num_layers} layers", text)
    elif trace.depth < candidate.depth:
        text = f"exits above it were not run, and the candidate goes to {candidate.depth}"
        complain("depth", trace.depth, text)
    dtype = header.get("dtype", candidate.dtype)
    if dtype != candidate.dtype:
        complain("dtype", dtype, f"the candidate runs in {candidate.dtype}")
    outer = header.get("outer")
    own = outer.get("backbone") if isinstance(outer, Mapping) else None
    if isinstance(own, Mapping):
        mine = backbone_table(candidate.backbone)
        for key in _GEOMETRY:
            if key != "num_layers" and own.get(key) != mine[key]:
                text = f"another model left this trace: the candidate's has {mine[key]}"
                complain(f"outer.backbone.{key}", own.get(key), text)
    return problems
