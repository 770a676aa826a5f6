"""What any exit file must hold, the project's own or a user's: called by its tests.

Each suite draws small random cases from a seed, tries one claim after another and raises
`AssertionError` with the claims that broke; a file that passes can be replayed, simulated and
exported as every other.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from search_spaces.exits.base import Aggregator, Evidence, ExitCriterion
from search_spaces.parts import Exits

F64 = NDArray[np.float64]
Claim = Callable[[], str | None]  # what is wrong, None where nothing is

CLOSE = 1e-9  # sums of another order may differ so much


class DeclaredOnly(Mapping[str, NDArray[Any]]):
    """Trace arrays that a criterion declared; another name is a fault of the criterion."""

    def __init__(self, arrays: Mapping[str, NDArray[Any]]) -> None:
        self._arrays = arrays

    def __getitem__(self, name: str) -> NDArray[Any]:
        if name not in self._arrays:
            raise AssertionError(f"reads the array {name!r}, which it does not declare")
        return self._arrays[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._arrays)

    def __len__(self) -> int:
        return len(self._arrays)


def check_criterion(criterion: ExitCriterion, *, seed: int = 0, rows: int = 40) -> None:
    """Prove an exit criterion.

    Scores are float64 of shape [N, X], finite (but for a first exit that has nothing to be
    compared with) and inside the declared range; a row scores the same alone, in any order and
    beside any others; an exit scores the same whatever comes after it; no array beyond those
    declared is read; inputs are left as they were; certain and unanimous exits score at least as
    much as any others; scores rise or fall with a declared array, not both; `score` and `trail`
    agree where both are given.

    Raises:
        AssertionError: lists each claim that broke.
    """
    rng = np.random.default_rng(seed)
    faults: list[str] = []
    for classes in (2, 3, 7):
        exits = sample_exits(criterion, 4)
        seen = sample_evidence(criterion, exits, rng, rows=rows, classes=classes)
        faults += _criterion_faults(criterion, exits, seen, classes)
    report(f"criterion {criterion.kind}", faults)


def check_aggregator(aggregator: Aggregator, *, seed: int = 0, rows: int = 40) -> None:
    """Prove an aggregator of exits.

    Logits are finite and keep their shape; the first exit names what it names alone; what stands
    at an exit depends on it and those before it, and on its own row, alone; inputs are left as
    they were.

    Raises:
        AssertionError: lists each claim that broke.
    """
    rng = np.random.default_rng(seed)
    exits = Exits(layers=(1, 2, 4, 5), aggregator=aggregator.kind)
    layers = np.array([*exits.layers, 6])
    logits = frozen(rng.normal(size=(rows, layers.size, 4)) * 3.0 + 1.0)
    together = aggregator.combine(logits, layers, 6, exits)
    faults = []
    if together.shape != logits.shape or together.dtype != np.float64:
        faults.append(f"answers have shape {together.shape} and type {together.dtype}")
    if not np.isfinite(together).all():
        faults.append("answers are not finite")
    positive = (logits[:, 0] > 0.0).any(axis=1)
    if (together[:, 0].argmax(-1) != logits[:, 0].argmax(-1))[positive].any():
        faults.append("the first exit does not answer what it names alone")
    for count in range(1, layers.size):
        first = aggregator.combine(logits[:, :count], layers[:count], 6, exits)
        if not np.allclose(first, together[:, :count], atol=CLOSE):
            faults.append(f"what exit {count} answers depends on exits after it")
    alone = np.concatenate(
        [aggregator.combine(logits[i : i + 1], layers, 6, exits) for i in range(rows)]
    )
    if not np.allclose(alone, together, atol=CLOSE):
        faults.append("a row answers otherwise alone")
    report(f"aggregator {aggregator.kind}", faults)


def sample_exits(criterion: ExitCriterion, count: int) -> Exits:
    """A legal policy of a criterion with `count` exits at layers 1, 3, 5, ..."""
    layers = tuple(range(1, 2 * count, 2))
    fields = dict(criterion.fields)
    if "schedule" in fields:
        fields |= {"schedule": layers[::-1], "schedule_length": 4 * count}
    return Exits(
        layers=layers,
        criterion=criterion.kind,
        thresholds=(0.5,) * count if criterion.has_thresholds else (),
        patience=1 if criterion.counts else None,
        **fields,
    )


def sample_evidence(
    criterion: ExitCriterion,
    exits: Exits,
    rng: np.random.Generator,
    *,
    rows: int,
    classes: int,
) -> Evidence:
    """Random evidence with the declared arrays and no others."""
    size = (rows, len(exits.layers))
    logits = frozen(rng.normal(size=(*size, classes)) * 2.0)
    draws: dict[str, Callable[[], NDArray[Any]]] = {
        "position": lambda: np.repeat(rng.integers(0, 40, (rows, 1)), size[1], axis=1),
        "planned_layer": lambda: np.repeat(rng.integers(1, 9, (rows, 1)), size[1], axis=1),
        "hash_layer": lambda: np.repeat(rng.integers(1, 9, (rows, 1)), size[1], axis=1),
        "correct": lambda: rng.integers(0, 2, size),
    }
    arrays = {name: draws.get(name, lambda: rng.random(size))() for name in criterion.aux}
    return Evidence(
        logits=logits,
        votes=np.asarray(logits.argmax(axis=-1), dtype=np.int64),
        layers=np.array(exits.layers, dtype=np.int64),
        temperature=np.ones(size[1]),
        aux=DeclaredOnly({k: frozen(v.astype(np.float64)) for k, v in arrays.items()}),
    )


def take_evidence(seen: Evidence, rows: Any, exits: int | None = None) -> Evidence:
    """The evidence of some rows, and of the first exits."""
    return Evidence(
        logits=seen.logits[rows, :exits],
        votes=seen.votes[rows, :exits],
        layers=seen.layers[:exits],
        temperature=seen.temperature[:exits],
        aux=DeclaredOnly({name: array[rows, :exits] for name, array in seen.aux.items()}),
    )


def _criterion_faults(
    criterion: ExitCriterion, exits: Exits, seen: Evidence, classes: int
) -> list[str]:
    faults: list[str] = []
    together = criterion.scores(exits, seen)
    shape = seen.logits.shape[:2]
    if together.shape != shape or together.dtype != np.float64:
        return [f"scores have shape {together.shape} and type {together.dtype}, not {shape}"]
    told = together[:, 1:] if criterion.compares else together
    if not np.isfinite(told).all():
        faults.append("scores are not finite")
    legal = criterion.legal_range(classes)
    if legal is not None and criterion.first_scores is None:
        inside = (told >= legal[0] - CLOSE) & (told <= legal[1] + CLOSE)
        # an empty set, or its like, may score below what always exits: it never does
        if (~inside & (told > legal[1])).any() or (not criterion.fields and not inside.all()):
            faults.append(f"scores leave the declared range {legal}")
    order = np.random.default_rng(1).permutation(shape[0])
    alone = np.concatenate(
        [criterion.scores(exits, take_evidence(seen, slice(i, i + 1))) for i in range(shape[0])]
    )
    if not _same(alone, together):
        faults.append("a row scores otherwise alone")
    if not _same(criterion.scores(exits, take_evidence(seen, order)), together[order]):
        faults.append("scores depend on the order of rows")
    for count in range(1, shape[1]):
        fewer = replace(exits, layers=exits.layers[:count], thresholds=exits.thresholds[:count])
        first = criterion.scores(fewer, take_evidence(seen, slice(None), count))
        if not _same(first, together[:, :count]):
            faults.append(f"exit {count} scores otherwise where others come after it")
    if criterion.score is not None and not _same(criterion.score(seen.logits, 1.0), together):
        faults.append("score and trail differ")
    return faults + _sureness_faults(criterion, exits, seen, together)


def _sureness_faults(
    criterion: ExitCriterion, exits: Exits, seen: Evidence, together: F64
) -> list[str]:
    faults: list[str] = []
    if criterion.needs_classes:
        logits = np.zeros(seen.logits.shape)
        logits[..., 0] = 60.0
        votes = np.zeros(seen.votes.shape, dtype=np.int64)
        certain = criterion.scores(exits, replace(seen, logits=frozen(logits), votes=votes))
        if (certain < together - CLOSE).any():
            faults.append("certain and unanimous exits score below others")
    for name in criterion.aux:
        arrays = dict(seen.aux)
        old = arrays[name]
        arrays[name] = frozen(np.minimum(old + 0.25, 1.0) if old.max() <= 1.0 else old + 1.0)
        moved = criterion.scores(exits, replace(seen, aux=DeclaredOnly(arrays))) - together
        if (moved > CLOSE).any() and (moved < -CLOSE).any():
            faults.append(f"scores rise here and fall there with the array {name!r}")
    return faults


def _same(a: F64, b: F64) -> bool:
    """Equal up to the order of sums; infinities must match."""
    return bool(np.allclose(a, b, rtol=CLOSE, atol=CLOSE))


def frozen(array: NDArray[Any]) -> NDArray[Any]:
    """An array that nobody can write to: a rule that tries is at fault."""
    array.setflags(write=False)
    return array


def report(what: str, faults: list[str]) -> None:
    """Raise `AssertionError` with the claims that broke, each once; nothing where none did."""
    if faults:
        lines = "".join(f"\n  - {fault}" for fault in dict.fromkeys(faults))
        raise AssertionError(f"{what} does not conform:{lines}")
