"""Self-speculative decoding: drafts by the lower layers, checked by the whole network.

A cycle drafts d tokens with the layers below an exit, each by the one before, then runs the rest
of the network once over all of them; the answers are those of the whole network (Elhoushi et al.
2024, "LayerSkip"). What a cycle yields is `search_spaces.activity.tokens_per_cycle`.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import ArrayLike, NDArray
from scipy.optimize import brentq

from search_spaces.activity import tokens_per_cycle
from search_spaces.errors import InputError

F64 = NDArray[np.float64]
I64 = NDArray[np.int64]


def cycle_s(draft_s: ArrayLike, verify_s: ArrayLike, drafted: ArrayLike) -> F64:
    """Seconds of a cycle.

    Args:
        draft_s: One drafted token: the layers below the exit and its head.
        verify_s: The pass over d + 1 tokens: the layers above the exit where its keys and queries
            are shared, else all layers.
        drafted: d.
    """
    seconds: F64 = np.asarray(drafted) * np.asarray(draft_s, np.float64) + np.asarray(verify_s)
    return seconds


def shares_of_a_step(
    exit_layer: ArrayLike, num_layers: ArrayLike, *, cache_shared: bool
) -> tuple[F64, F64]:
    """`draft_s` and `verify_s` in units of one step of the whole network, heads left out.

    Time is taken as that of reading the weights, so that d + 1 tokens take as long as one.

    Args:
        exit_layer: Layers below the exit E.
        num_layers: L.
        cache_shared: Verification goes on from the draft's states, else it starts anew.
    """
    share = np.asarray(exit_layer, np.float64) / np.asarray(num_layers)
    return share, 1.0 - share if cache_shared else np.ones_like(share)


def acceptance_from_speed_up(speed_up: float, draft: float, verify: float, drafted: int) -> float:
    """Acceptance rate at which a row of its own is `speed_up` times as fast as plain decoding.

    Args:
        speed_up: Measured.
        draft: Seconds of a drafted token, in units of a plain step.
        verify: Seconds of verification, in the same.
        drafted: d.

    Raises:
        InputError: no acceptance rate gives that speed-up.
    """
    wanted = speed_up * float(cycle_s(draft, verify, drafted))
    if not 1.0 <= wanted <= drafted + 1:
        text = f"such a cycle is {1 / (wanted / speed_up):.3f} to "
        text += f"{(drafted + 1) / (wanted / speed_up):.3f} times as fast as plain decoding"
        raise InputError.one("arguments", "speed_up", speed_up, text)
    return float(brentq(lambda a: float(tokens_per_cycle(a, drafted)) - wanted, 0.0, 1.0))


def draw_yields(
    rng: np.random.Generator, acceptance: float, drafted: int, batch: int, cycles: int
) -> I64:
    """Tokens that each cycle adds to each of its rows [cycles], rows in step."""
    agreed = rng.random((cycles, batch, drafted)) < acceptance
    run: I64 = np.cumprod(agreed, axis=2).sum(axis=2).min(axis=1)
    return run + 1


def draw_generations(
    rng: np.random.Generator,
    acceptance: float,
    drafted: int,
    batch: int,
    length: int,
    draws: int,
) -> I64:
    """Cycles needed for `length` tokens of every row [draws]: times `cycle_s` is the latency."""
    yields = draw_yields(rng, acceptance, drafted, batch, draws * length).reshape(draws, length)
    cycles: I64 = (np.cumsum(yields, axis=1) < length).sum(axis=1) + 1
    return cycles
