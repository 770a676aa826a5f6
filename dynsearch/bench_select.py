"""Which configurations a bench times: spread over predicted latency, enough of each family."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.export.records import Front, family_of
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_from_dict, candidate_hash

REFERENCE_FAMILIES = ("full", "truncated")
MIN_CONFIGS = 24
MIN_OF_FAMILY = 6
MIN_SPAN = 3.0  # largest over smallest predicted latency


@dataclass(frozen=True, slots=True, kw_only=True)
class BenchConfig:
    """One configuration to time."""

    id: str
    family: str
    candidate: Candidate
    must: bool = False  # timed whatever the spread asks for, such as a named point


def config_of(candidate: Candidate, *, must: bool = False) -> BenchConfig:
    """`candidate` under the id that the front gives it."""
    return BenchConfig(
        id=candidate_hash(candidate)[:8],
        family=family_of(candidate),
        candidate=candidate,
        must=must,
    )


def pool_from_front(front: Front, device: str) -> list[BenchConfig]:
    """The points of `device` as a pool; named and certified ones must be timed."""
    return [
        BenchConfig(
            id=p.id,
            family=p.family,
            candidate=candidate_from_dict(p.candidate),
            must=bool(p.named or p.certificate),
        )
        for p in front.front
        if p.device == device
    ]


def references(full: Candidate, layers: Sequence[int] = (2, 3, 4)) -> list[BenchConfig]:
    """The full network and its static truncations to the first k layers, no exit checks."""
    static = replace(full, exits=None, moe=None, skim=(), cascade=None)
    depths = [full.backbone.num_layers, *(k for k in layers if k < full.backbone.num_layers)]
    return [config_of(replace(static, depth=depth)) for depth in depths]


def for_batch(candidate: Candidate, batch: int) -> Candidate:
    """`candidate` as it runs in batches: "serial" means batch 1, larger ones compact."""
    if batch > 1 and candidate.exit_batching == "serial":
        return replace(candidate, exit_batching="compact")
    return candidate


def select_configs(
    pool: Sequence[BenchConfig], predicted_s: NDArray[np.float64], *, count: int = MIN_CONFIGS
) -> tuple[list[int], list[str]]:
    """Rows of `pool` to time, and what could not be had.

    Those that must be timed come first, then skimming and expert configurations up to their
    minimum, then whatever lies farthest (in log latency) from all chosen so far.

    Args:
        pool: Configurations; references and repeated ids are passed over.
        predicted_s: Predicted mean latency [len(pool)], seconds.
        count: How many to choose.

    Returns:
        Chosen rows, ascending in latency, and warnings about what the pool lacks.
    """
    first = {c.id: i for i, c in reversed(list(enumerate(pool)))}
    open_rows = [i for i in sorted(first.values()) if pool[i].family not in REFERENCE_FAMILIES]
    place = np.log(np.asarray(predicted_s, dtype=np.float64))
    chosen = [i for i in open_rows if pool[i].must][:count]
    for part in ("skim", "experts"):
        have = [i for i in chosen if part in pool[i].family]
        mine = [i for i in open_rows if part in pool[i].family]
        wanted = min(MIN_OF_FAMILY - len(have), count - len(chosen))
        chosen += _spread(mine, place, wanted, taken=chosen)
    chosen += _spread(open_rows, place, count - len(chosen), taken=chosen)
    chosen.sort(key=lambda i: (place[i], pool[i].id))
    return chosen, _shortfalls(pool, place, chosen, count)


def _spread(
    rows: Sequence[int], place: NDArray[np.float64], wanted: int, *, taken: Sequence[int]
) -> list[int]:
    """Up to `wanted` of `rows`, each the farthest from all taken before it; ends first."""
    left = [i for i in rows if i not in set(taken)]
    near = list(taken)
    out: list[int] = []
    while left and len(out) < wanted:
        if near:
            gaps = [min(abs(place[i] - place[j]) for j in near) for i in left]
            pick = left[int(np.argmax(gaps))]
        else:
            pick = min(left, key=lambda i: place[i])
        left.remove(pick)
        near.append(pick)
        out.append(pick)
    return out


def _shortfalls(
    pool: Sequence[BenchConfig], place: NDArray[np.float64], chosen: Sequence[int], count: int
) -> list[str]:
    out = []
    if len(chosen) < count:
        out.append(f"only {len(chosen)} configurations could be chosen, {count} were asked for")
    for part in ("skim", "experts"):
        have = sum(part in pool[i].family for i in chosen)
        if have < min(MIN_OF_FAMILY, count):
            out.append(f"only {have} configurations with {part}, {MIN_OF_FAMILY} are wanted")
    if len(chosen) > 1:
        span = float(np.exp(place[chosen[-1]] - place[chosen[0]]))
        if span < MIN_SPAN:
            out.append(f"predicted latency spans {span:.2f}x only, {MIN_SPAN:g}x are wanted")
    return out
