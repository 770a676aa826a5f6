"""From a frozen front to certified configurations: the one step that opens the calibration rows.

The named configurations, chosen on search rows, each become a path of exit policies. The rows of
the split *calibrate*, which nothing has read so far, say how far along its path each may go.
Whoever then picks one of M certified configurations picks with those rows, which is paid for: each
is tested at delta / M (bonferroni); or half of the rows picks one configuration, and the other
half certifies that one alone at the whole delta (split).
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.evaluate import Scene
from dynsearch.export.records import Front, FrontPoint, family_of
from dynsearch.front_points import Chosen, FullNetwork, flag_dominated, make_points
from dynsearch.job_tables import RiskTable
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.trace import Trace
from dynsearch.risk.bounds import rows_needed
from dynsearch.risk.certificate import ALONE, ANY_BATCH, Certificate, sealed
from dynsearch.risk.control import AVERAGE, Decision, certify_path
from dynsearch.risk.losses import MEANING, row_losses
from dynsearch.risk.path import Path, answers_of, path_of
from dynsearch.threads import all_cores, one_core_each
from search_spaces.candidate import CRITERIA, EXIT_BATCHING
from search_spaces.codec import candidate_hash

SPLIT = "calibrate"
F64 = NDArray[np.float64]
Traces = Mapping[str, tuple[Trace, Trace]]  # outer hash -> search rows, calibration rows


@dataclass(frozen=True, slots=True, kw_only=True)
class Certified:
    """What calibration found."""

    done: list[tuple[Chosen, Certificate]]
    uncertified: dict[str, str]  # id -> why it has no certificate


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """A configuration that is to be certified, with its losses on the calibration rows."""

    id: str
    chosen: Chosen
    path: Path
    losses: F64  # [T, N] rows in the order of the test
    time_s: Callable[[int], float]  # predicted time a sample of a policy of the path


def risk_record(risk: RiskTable | None) -> dict[str, Any] | None:
    """The job's [risk] as a front keeps it."""
    return None if risk is None else risk.model_dump(mode="json")


def certify_front(
    front: Front,
    chosen: Sequence[Chosen],
    risk: RiskTable,
    *,
    scene: Scene,
    full: FullNetwork,
    quality: SupernetQuality,
    search_trace: Callable[[Chosen, int], Trace],
) -> tuple[Front, list[Chosen]]:
    """A frozen front with its certified configurations, and what all its points stand for.

    Args:
        front: The frozen front.
        chosen: What its points stand for.
        risk: What is to be certified.
        scene: Devices and workload.
        full: The full network.
        quality: Gives passes over the calibration rows.
        search_trace: Trace of the search rows for an outer setting, down to a depth.
    """
    wanted = named_for(risk, front.front, chosen)
    full_outer = full.outer[str(full.trace.header["dtype"])]
    with all_cores():
        full_calibrate = quality.record(full_outer, SPLIT)

    def passes(group: list[Chosen]) -> tuple[Trace, Trace]:
        depth = max(int(one.policies.depth[0]) for one in group)
        setting = replace(group[0].outer, depth=depth)
        same = setting == full_outer
        calibrate = full_calibrate if same else quality.record(setting, SPLIT)
        return search_trace(group[0], depth), calibrate

    groups: dict[str, list[Chosen]] = {}
    for one in wanted.values():
        groups.setdefault(candidate_hash(one.outer), []).append(one)
    traces = dict(zip(groups, one_core_each(passes, groups.values()), strict=True))
    found = certify(risk, wanted, traces, full_calibrate, scene=scene, full=full)
    have = {p.id for p in front.front}
    new = {candidate_hash(one.candidate)[:8]: one for one, _ in found.done}
    added = [one for key, one in new.items() if key not in have]
    made = make_points(
        added,
        scene=scene,
        full=full,
        objectives=front.objectives,
        budgets=front.budgets,
        search_trace=search_trace,
    )
    by_id = {c.candidate_sha256[:8]: c for _, c in reversed(found.done)}
    points = [
        replace(p, certificate=by_id.get(p.id))
        for p in (*front.front, *(replace(q, named=()) for q in made))
    ]
    certified = replace(
        front,
        front=flag_dominated(points),
        risk=risk_record(risk),
        uncertified=found.uncertified,
    )
    return certified, [*chosen, *added]


def named_for(
    risk: RiskTable, points: Sequence[FrontPoint], chosen: Sequence[Chosen]
) -> dict[str, Chosen]:
    """Named configurations of the levels asked for, by id; the full network needs none."""
    by_id = {candidate_hash(one.candidate)[:8]: one for one in chosen}
    return {
        p.id: by_id[p.id]
        for p in points
        if p.family != "full" and any(risk.levels is None or x in risk.levels for x in p.named)
    }


def certify(
    risk: RiskTable,
    wanted: Mapping[str, Chosen],
    traces: Traces,
    full_calibrate: Trace,
    *,
    scene: Scene,
    full: FullNetwork,
) -> Certified:
    """Calibrate configurations on the calibration rows.

    Args:
        risk: What is to be certified.
        wanted: Configurations by id, chosen without these rows.
        traces: Their passes.
        full_calibrate: The full network's pass over the calibration rows.
        scene: Devices and workload, for the split rule's choice and the longest input.
        full: The full network.
    """
    order = np.random.default_rng(risk.seed).permutation(full_calibrate.num_samples)
    subjects = []
    for key, one in wanted.items():
        search, calibrate = traces[candidate_hash(one.outer)]
        path = path_of(one.policies, search)
        answers = answers_of(calibrate, path.policies)
        losses = row_losses(
            risk.risk, answers, full_calibrate.logits[:, -1], full_calibrate.labels
        )
        time_s = _timer(scene, one, path, search, full)
        subjects.append(
            Subject(id=key, chosen=one, path=path, losses=losses[:, order], time_s=time_s)
        )
    fixed = {
        "split_sha256": str(full_calibrate.header["split_hash"]),
        "weights_sha256": str(full_calibrate.header["weights_hash"]),
        "reference": str(full_calibrate.header["outer_hash"]),
        "max_len": scene.workload.max_len,
    }
    found = Certified(done=[], uncertified={})
    for subject, decision, rows, each in decide(risk, subjects):
        reason = _reason(risk, subject, decision, rows, each)
        if reason:
            found.uncertified[subject.id] = reason
            continue
        policy = subject.path.policies.take(np.array([decision.index]))
        certified = replace(subject.chosen, policies=policy)
        record = _record(risk, subject, certified, decision, rows, each, len(subjects), fixed)
        found.done.append((certified, record))
    return found


def decide(
    risk: RiskTable, subjects: Sequence[Subject]
) -> list[tuple[Subject, Decision, int, float]]:
    """Decision, rows and delta of each test, so that any of the subjects may be picked after it.

    Under "split" the one subject that half of the rows picks is tested on the other half.
    """
    if risk.selection == "split" and subjects:
        half = subjects[0].losses.shape[1] // 2
        picked = _fastest(risk, subjects, half)
        subjects = [replace(picked, losses=picked.losses[:, half:])]
    each = risk.delta / max(len(subjects), 1)
    return [
        (
            one,
            certify_path(risk.method, one.losses, epsilon=risk.epsilon, delta=each),
            one.losses.shape[1],
            each,
        )
        for one in subjects
    ]


def _fastest(risk: RiskTable, subjects: Sequence[Subject], rows: int) -> Subject:
    """The subject that the first `rows` rows would certify to be fastest."""

    def seconds(one: Subject) -> float:
        found = certify_path(
            risk.method, one.losses[:, :rows], epsilon=risk.epsilon, delta=risk.delta
        )
        return one.time_s(found.index) if found.index >= 0 else np.inf

    return min(subjects, key=seconds)


def _timer(
    scene: Scene, one: Chosen, path: Path, search: Trace, full: FullNetwork
) -> Callable[[int], float]:
    """Predicted time a sample of a path's policies on the first device, when asked for."""

    def seconds(index: int) -> float:
        replayer = scene.replayer(one.outer, search, full.trace)
        policy = path.policies.take(np.array([index]))
        return float(replayer.run(policy, ["time_per_sample_s"]).cost("time_per_sample_s")[0, 0])

    return seconds


def _reason(risk: RiskTable, one: Subject, found: Decision, rows: int, each: float) -> str:
    """Why a configuration gets no certificate; empty where it does."""
    need = rows_needed(risk.method, risk.epsilon, each)
    if rows < need:
        return (
            f"{rows} calibration rows, at least {need} are needed to test each of these "
            f"configurations at delta = {each:.3g}; name fewer levels or give more rows"
        )
    if found.index < 0:
        return (
            f"even without early exits its {risk.risk} on {rows} calibration rows is "
            f"{found.mean:.4f}, too close to epsilon = {risk.epsilon:g} or above it"
        )
    if found.index == 0 and family_of(replace(one.chosen.candidate, exits=None)) == "full":
        return f"no early exit keeps {risk.risk} <= {risk.epsilon:g} on {rows} calibration rows"
    return ""


def _record(
    risk: RiskTable,
    one: Subject,
    certified: Chosen,
    found: Decision,
    rows: int,
    each: float,
    among: int,
    fixed: dict[str, Any],
) -> Certificate:
    """The certificate; `fixed` holds what all certificates of the run share."""
    candidate = certified.candidate
    average = risk.method in AVERAGE
    exits = candidate.exits
    policy = one.chosen.policies
    patience = CRITERIA[int(policy.criterion[0])] == "patience"
    certificate = Certificate(
        method=risk.method,
        guarantee="average" if average else "probability",
        risk=risk.risk,
        meaning=MEANING[risk.risk],
        loss_bound=1.0,
        epsilon=risk.epsilon,
        delta=None if average else risk.delta,
        delta_each=None if average else each,
        configurations=among,
        selection=risk.selection,
        rows=rows,
        split=SPLIT,
        seed=risk.seed,
        calibrated_from=one.id,
        candidate_sha256=candidate_hash(candidate),
        knob="none" if len(one.path.knob) == 1 else "patience" if patience else "shift",
        grid=one.path.knob,
        chosen=found.index,
        thresholds=() if exits is None else tuple(exits.thresholds),
        empirical=found.mean,
        upper=found.upper,
        p_value=found.p_value,
        exit_batching=EXIT_BATCHING[int(policy.exit_batching[0])],
        batches=ALONE if candidate.dtype == "int8" else ANY_BATCH,
        dtype=candidate.dtype,
        **fixed,
    )
    return sealed(certificate)
