"""What would help a configuration most: things wished away one at a time, each priced anew."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass, replace

import numpy as np

from cost_models.device import Device, Quantity
from cost_models.forms import parameters_of
from dynsearch.explain.prices import Account, PriceList, Setting, price_list
from dynsearch.explain.visits import Visits, count_visits
from dynsearch.quality.trace import Trace
from dynsearch.sim.stages import length_grid
from search_spaces.candidate import PolicyBatch

NEGLIGIBLE = 1e-9  # share of the time below which a change changes nothing


@dataclass(frozen=True, slots=True, kw_only=True)
class Help:
    """One thing changed, all else as it is; seconds per input."""

    name: str
    label: str
    seconds: float  # predicted then
    saved_s: float  # less than now; negative where it would cost more
    error_change: float = 0.0  # of the answers on the same rows, as a share of rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Case:
    """One policy replayed on one trace, and what it pays."""

    setting: Setting
    prices: PriceList
    trace: Trace
    policy: PolicyBatch  # one
    visits: Visits
    account: Account


def open_case(
    setting: Setting, trace: Trace, policy: PolicyBatch, prices: PriceList | None = None
) -> Case:
    """Replay and price a policy; `prices` where they are known already (sorting is no part)."""
    prices = prices or price_list(setting)
    visits = count_visits(trace, policy, setting.workload, length_grid(setting.workload.max_len))
    return Case(
        setting=setting,
        prices=prices,
        trace=trace,
        policy=policy,
        visits=visits,
        account=prices.account(visits),
    )


def what_helps(case: Case) -> tuple[Help, ...]:
    """Everything that would change the time, most helpful first."""
    now = case.account.total_s
    found = [h for h in _all(case) if abs(h.saved_s) > NEGLIGIBLE * now]
    return tuple(sorted(found, key=lambda h: -h.saved_s))


def _all(case: Case) -> Iterator[Help]:
    own, setting = case.account, case.setting
    now, extra = own.total_s, own.extra

    def free(name: str, label: str, seconds: float) -> Help:
        return Help(name=name, label=label, seconds=now - seconds, saved_s=seconds)

    yield free("checks_free", "exit checks for nothing", extra["check"])
    yield free("drop_free", "token drop at the price of fused attention", extra["drop"])
    yield free(
        "dispatch_free",
        "routers and expert dispatch for nothing",
        extra["router"] + extra["dispatch"],
    )
    yield free("compaction_free", "smaller batches without a copy", extra["compact"])
    yield free("launch_zero", "operators that start in no time", own.launch_s)
    yield free("call_zero", "no fixed time of a forward pass", own.call_s)
    views = {view: float(terms.sum()) for view, terms in own.core.items()}
    yield free("no_padding", "no padding: rows of one length", views["real"] - views["unpadded"])
    yield free(
        "whole_batches",
        "batches that never shrink or wait, refilled as rows leave",
        views["unpadded"] - views["full"],
    )
    half = price_list(setting, weights=0.5).account(case.visits).total_s
    yield free("half_weights", "weights in half the bytes", now - half)
    packed = prepacked(setting.device)
    if packed is not None:
        ready = price_list(replace(setting, device=packed)).account(case.visits).total_s
        yield free("prepacked", "weights packed once, ahead of time", now - ready)
    load = setting.workload
    if case.visits.batch > 1 and not load.sort:
        other = open_case(
            replace(setting, workload=replace(load, sort=True)),
            case.trace,
            case.policy,
            case.prices,
        )
        yield free("sorted", "batches sorted by length", now - other.account.total_s)
    fewer = _one_exit_fewer(case)
    if fewer is not None:
        yield fewer


def prepacked(device: Device) -> Device | None:
    """The device if packing weights that are cached cost nothing; None where it does not pack."""
    names = [name for name in parameters_of(device.kind) if name.startswith("pack")]
    if not names:
        return None
    free = {
        f"model.{name}": Quantity(
            value=math.inf, dimension="bytes_per_s", source="what if", grade="estimate"
        )
        for name in names
    }
    return replace(device, quantities={**device.quantities, **free})


def _one_exit_fewer(case: Case) -> Help | None:
    """Without the check that pays least; None where there is no early exit."""
    best: Help | None = None
    for layer in np.flatnonzero(case.policy.exit_on[0]):
        on, thresholds = case.policy.exit_on.copy(), case.policy.thresholds.copy()
        on[0, layer], thresholds[0, layer] = False, np.inf
        policy = replace(case.policy, exit_on=on, thresholds=thresholds)
        other = open_case(case.setting, case.trace, policy, case.prices)
        saved = case.account.total_s - other.account.total_s
        if best is None or saved > best.saved_s:
            best = Help(
                name="one_exit_fewer",
                label=f"one exit fewer: none after layer {layer + 1}",
                seconds=other.account.total_s,
                saved_s=saved,
                error_change=_error(other) - _error(case),
            )
    return best


def _error(case: Case) -> float:
    """Share of rows whose own exit answers wrongly."""
    rows = np.arange(case.trace.num_samples)
    answer = case.trace.logits[rows, case.visits.exits].argmax(axis=-1)
    return float((answer != case.trace.labels).mean())
