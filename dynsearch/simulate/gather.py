"""The outcome of a simulation from its figures: what they stand for, and the memory."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace

import numpy as np
from numpy.typing import NDArray

from dynsearch.simulate.assumptions import PARAMETRIC
from dynsearch.simulate.experts import Loads
from dynsearch.simulate.leaving import Leaving
from dynsearch.simulate.ledger import Prices
from dynsearch.simulate.memory import peak
from dynsearch.simulate.outcome import COUNTED, Outcome
from dynsearch.simulate.setting import Setting
from search_spaces.validity import input_independent

F64 = NDArray[np.float64]


def gather(
    setting: Setting,
    leaving: Leaving,
    *,
    prices: Prices,
    latencies: F64,
    mean_s: float,
    worst_s: float,
    energy_j: float,
    flops_ideal: float,
    flops_executed: float,
    tokens: F64,
    experts: Mapping[int, Loads],
    inexact: tuple[str, ...] = (),
    new_tokens: int = 0,
) -> Outcome:
    """Figures of one input, with where they come from.

    Args:
        setting: What was asked.
        leaving: Where inputs or tokens leave.
        prices: Of the stages: origin, error, warnings.
        latencies: Of simulated inputs [S].
        mean_s: As in `Outcome`, and so below.
        worst_s: Seconds.
        energy_j: Joules.
        flops_ideal: What the method asks for.
        flops_executed: What runs.
        tokens: E[n] and E[n^2] by layer [L, 2].
        experts: Loads by layer.
        inexact: Why a replay is an estimate.
        new_tokens: That are written, for the cache.
    """
    candidate = setting.candidate
    load = replace(setting.workload, batch=setting.serving.batch)
    held = candidate
    if candidate.exit_batching == "serial" and load.batch > 1:
        held = replace(candidate, exit_batching="wait_all")
    held_bytes = peak(held, workload=load, num_classes=setting.num_classes, new_tokens=new_tokens)
    activity = PARAMETRIC if setting.trace is None else "trace"
    exits = candidate.exits
    return Outcome(
        latencies=latencies,
        mean_s=mean_s,
        worst_s=worst_s,
        energy_j=energy_j,
        flops_ideal=flops_ideal,
        flops_executed=flops_executed,
        peak_bytes=held_bytes,
        log_sd=prices.log_sd,
        origin=prices.origin,
        activity=COUNTED if input_independent(candidate) else activity,
        exits=leaving.law,
        early=() if exits is None else exits.layers,
        tokens=tokens,
        experts=experts,
        accuracy=leaving.accuracy,
        inexact=inexact,
        warnings=prices.warnings + _too_large(setting, held_bytes),
    )


def _too_large(setting: Setting, size: float) -> tuple[str, ...]:
    room = setting.device.capacity_bytes
    if not size > room:
        return ()
    return (
        f"needs {size / 1e9:.3g} GB and {setting.device.name} has {room / 1e9:.3g} GB: "
        "times hold for a device with room for it",
    )
