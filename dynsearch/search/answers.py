"""What a user's `quality` answers, row by row: a point, a ragged front, or why there is none."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.search.fronts import thin
from dynsearch.search.pareto import non_dominated
from dynsearch.search.types import F64

OUTER = "outer"  # key of a ragged answer: which row of the batch a point belongs to
_POINTS = 64  # of a ragged front, kept in the study


@dataclass(frozen=True, slots=True, kw_only=True)
class Answer:
    """What one evaluation yielded."""

    values: tuple[float, ...] = ()  # [M]; of a ragged front its point with the largest box
    budgeted: Mapping[str, float] = field(default_factory=dict)  # at that point
    inner: Mapping[str, Any] = field(default_factory=dict)  # its inner knobs
    front: Mapping[str, Any] | None = None  # {"points": [K][M], "inner": name -> [K]}, plain
    reason: str = ""  # why there is no value; empty where there is one


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked of every evaluation."""

    objectives: tuple[str, ...]
    budgets: Mapping[str, float]
    reference: tuple[float, ...] | None


def read_answer(
    question: Question, answer: Mapping[str, Any], costs: Mapping[str, F64], n: int
) -> list[Answer]:
    """The answer to a batch of n rows.

    Args:
        question: What was asked.
        answer: Arrays by name, [n] or, with the key "outer", [K].
        costs: Free quantities of the rows [n] by name; they go before those of `answer`.
        n: Rows.

    Raises:
        ValueError: when the answer does not fit the question.
    """
    length = n
    if OUTER in answer:
        outer = np.asarray(answer[OUTER])
        length = outer.size
        if length and not (outer.min() >= 0 and outer.max() < n):
            raise ValueError(f"quality: {OUTER} must be rows of the batch, 0 to {n - 1}")
    columns = {name: np.asarray(values) for name, values in answer.items() if name != OUTER}
    for name, values in columns.items():
        if values.shape != (length,):
            text = f"quality: {name} has shape {values.shape}, expected ({length},)"
            raise ValueError(text)
    if OUTER not in answer:
        columns |= costs
        _check_names(question, columns)
        return [_point(question, columns, i) for i in range(n)]
    if question.reference is None:
        raise ValueError("a ragged quality needs ref_point, which its fronts are measured by")
    columns |= {name: values[outer] for name, values in costs.items()}
    _check_names(question, columns)
    return [_front(question, columns, np.flatnonzero(outer == i), costs) for i in range(n)]


def _check_names(question: Question, columns: Mapping[str, Any]) -> None:
    for name in (*question.objectives, *question.budgets):
        if name not in columns:
            raise ValueError(f"neither quality nor cost gives {name}; they give {list(columns)}")


def _point(question: Question, columns: Mapping[str, NDArray[Any]], i: int) -> Answer:
    values = {name: float(columns[name][i]) for name in question.objectives}
    budgeted = {name: float(columns[name][i]) for name in question.budgets}
    for name, value in (values | budgeted).items():
        if not math.isfinite(value):
            return Answer(reason=f"quality gave {name} = {value}")
    return Answer(values=tuple(values.values()), budgeted=budgeted)


def _front(
    question: Question,
    columns: Mapping[str, NDArray[Any]],
    rows: NDArray[np.int64],
    costs: Mapping[str, F64],
) -> Answer:
    """The non-dominated points of one row within the budgets; one that breaks them, if none is."""
    points = _matrix(columns, question.objectives, rows)
    budgeted = _matrix(columns, tuple(question.budgets), rows)
    finite = np.isfinite(points).all(axis=1) & np.isfinite(budgeted).all(axis=1)
    if not finite.any():
        return Answer(reason="quality gave no finite point")
    rows, points, budgeted = rows[finite], points[finite], budgeted[finite]
    limits = np.array(list(question.budgets.values()))
    excess = np.maximum(0.0, budgeted / limits - 1.0).sum(axis=1) if limits.size else 0.0 * rows
    inner = [n for n in columns if n not in (*question.objectives, *question.budgets, *costs)]
    legal = np.flatnonzero(excess <= 0.0)
    kept = legal[non_dominated(points[legal])]
    kept = kept[thin(points[kept], _POINTS)] if kept.size else kept
    shown = kept if kept.size else np.array([int(excess.argmin())])
    gaps = np.maximum(np.asarray(question.reference) - points[shown], 0.0)
    best = int(shown[int(gaps.prod(axis=1).argmax())])
    return Answer(
        values=tuple(points[best].tolist()),
        budgeted=dict(zip(question.budgets, budgeted[best].tolist(), strict=True)),
        inner={name: columns[name][rows[best]].item() for name in inner},
        front={
            "points": points[kept].tolist(),
            "inner": {name: columns[name][rows[kept]].tolist() for name in inner},
        },
    )


def _matrix(columns: Mapping[str, NDArray[Any]], names: Sequence[str], rows: Any) -> F64:
    found = [np.asarray(columns[name][rows], dtype=np.float64) for name in names]
    return np.stack(found, axis=1) if found else np.empty((rows.size, 0))
