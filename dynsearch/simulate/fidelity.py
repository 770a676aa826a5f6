"""How far a replay is from running for real, where it is an estimate.

A trace recorded without a skim or with other experts says what would have happened to the states
of the whole network; a trace recorded with them says what does. Both hold the same rows.
"""

from __future__ import annotations

from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.errors import InputError
from dynsearch.quality.trace import Trace
from dynsearch.simulate.leaving import replayed
from search_spaces.candidate import Candidate
from search_spaces.lowering.skimmed import Work


def fidelity(candidate: Candidate, trace: Trace, planned: Work, executed: Trace) -> dict[str, Any]:
    """Decisions, answers, tokens and loads of a replay beside those of a real run.

    Args:
        candidate: Whose exits decide in both.
        trace: That is replayed.
        planned: Tokens that the replay takes to enter each layer [N, L].
        executed: Recorded with the candidate's own skims and experts, the same rows.

    Returns:
        `rows`; `same_exit` and `same_answer` as shares of rows; `mean_exit` [replayed, executed]
        in layers; `accuracy` likewise; `tokens` executed over replayed; `load_distance`, half the
        sum of differences of expert shares, the mean over layers with experts (None: none).

    Raises:
        InputError: the traces hold other rows or layers.
    """
    same_rows = np.array_equal(trace.labels, executed.labels) and np.array_equal(
        trace.lengths, executed.lengths
    )
    hashes = trace.header.get("split_hash"), executed.header.get("split_hash")
    if not same_rows or trace.num_layers != executed.num_layers or hashes[0] != hashes[1]:
        text = "holds other rows or layers than the trace that is replayed"
        raise InputError.one("command line", "--against", hashes[1], text)
    depth, rows = candidate.depth, np.arange(trace.num_samples)
    exits = candidate.exits
    last = np.full(rows.size, depth - 1)
    where = [last if exits is None else replayed(t, exits, depth).where for t in (trace, executed)]
    named = [
        t.logits.argmax(axis=-1)[rows, w] for t, w in zip((trace, executed), where, strict=True)
    ]
    tokens = planned.entering[:, :depth].sum()
    return {
        "rows": rows.size,
        "same_exit": float((where[0] == where[1]).mean()),
        "same_answer": float((named[0] == named[1]).mean()),
        "mean_exit": [float(w.mean() + 1) for w in where],
        "accuracy": [float((n == trace.labels).mean()) for n in named],
        "tokens": float(executed.tokens_layer[:, :depth].sum() / max(int(tokens), 1)),
        "load_distance": _load_distance(trace.expert_tokens, executed.expert_tokens),
    }


def _load_distance(a: NDArray[Any], b: NDArray[Any]) -> float | None:
    """Mean over layers of the total variation between shares of experts."""
    most = max(a.shape[2], b.shape[2])
    wide = [np.pad(x.sum(axis=0, dtype=float), ((0, 0), (0, most - x.shape[2]))) for x in (a, b)]
    both = (wide[0].sum(axis=1) > 0) & (wide[1].sum(axis=1) > 0)
    if not both.any():
        return None
    shares = [x[both] / x[both].sum(axis=1, keepdims=True) for x in wide]
    return float(np.abs(shares[0] - shares[1]).sum(axis=1).mean() / 2)
