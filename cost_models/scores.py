"""How well predictions agree with measurements: the columns of the validation table."""

from __future__ import annotations

from dataclasses import asdict, dataclass, field
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import kendalltau

from cost_models.price import Z90

F64 = NDArray[np.float64]
FEWEST_TAU = 3  # rows below which a rank correlation says nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Score:
    """One row of the validation table; shares, not percent.

    Attributes:
        source: Files that the rows are from.
        device: Device, or how many devices where rows of all are pooled.
        runtime: What ran them.
        family: As in `measured.FAMILIES`.
        dtype: Number format.
        level: "operator", or "model" for whole networks.
        training: Whether the rows are steps of training.
        known_device: Whether the fit had seen rows of the device beyond `rows_seen`.
        protocol: What was left out, in words.
        rows_seen: Rows of an unknown device that the fit was given.
        n: Rows scored.
        mape: Mean |predicted / measured - 1|.
        median_ape: Median of the same.
        within_10: Share of rows within 10 %.
        kendall: Rank correlation tau-b; None where fewer than three rows.
        coverage: Share of rows inside their 90 % interval.
        width: Geometric mean of upper over lower end, minus 1.
        roofline_mape: MAPE of the plain datasheet roofline on the same rows.
        peer_mape: MAPE of other predictors on the rows that they speak of, by name.
    """

    source: str
    device: str
    runtime: str
    family: str
    dtype: str
    level: str
    training: bool
    known_device: bool
    protocol: str
    rows_seen: int
    n: int
    mape: float
    median_ape: float
    within_10: float
    kendall: float | None
    coverage: float
    width: float
    roofline_mape: float
    peer_mape: dict[str, float] = field(default_factory=dict)

    def to_dict(self) -> dict[str, Any]:
        """For JSON."""
        return asdict(self)


def agreement(predicted: F64, measured: F64, log_sd: F64) -> dict[str, Any]:
    """n, mape, median_ape, within_10, kendall, coverage and width of N rows.

    Args:
        predicted: Seconds [N].
        measured: Seconds [N].
        log_sd: Claimed standard deviation of log(measured / predicted) [N].
    """
    ape = np.abs(predicted / measured - 1)
    inside = np.abs(np.log(measured / predicted)) <= Z90 * log_sd
    tau = None
    if measured.size >= FEWEST_TAU:
        found = float(kendalltau(predicted, measured).statistic)
        tau = found if np.isfinite(found) else None
    return {
        "n": int(measured.size),
        "mape": float(ape.mean()),
        "median_ape": float(np.median(ape)),
        "within_10": float(np.mean(ape <= 0.10)),
        "kendall": tau,
        "coverage": float(inside.mean()),
        "width": float(np.expm1(np.mean(2 * Z90 * log_sd))),
    }


def mape(predicted: F64, measured: F64) -> float:
    """Mean |predicted / measured - 1| over the rows where there is a prediction, NaN without."""
    there = np.isfinite(predicted) & (predicted > 0)
    if not there.any():
        return float("nan")
    return float(np.mean(np.abs(predicted[there] / measured[there] - 1)))
