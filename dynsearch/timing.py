"""`dynsearch bench`: which configurations of a run are timed, and what was predicted for them."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.bench import RUNTIME, Predictions, bench_run
from dynsearch.bench_onnx import onnx_engine, profile_of
from dynsearch.bench_select import (
    MIN_CONFIGS,
    MIN_SPAN,
    REFERENCE_FAMILIES,
    BenchConfig,
    config_of,
    pool_from_front,
)
from dynsearch.evaluate import Scene, blank_trace
from dynsearch.export.onnx_plan import DTYPES
from dynsearch.export.records import Front
from dynsearch.quality.trace import Trace, load_trace
from dynsearch.search.fronts import MergedFront
from dynsearch.sim.layer_cost import LayerCost
from dynsearch.sim.replay import Replayer
from dynsearch.threads import all_cores
from search_spaces.candidate import Candidate, apply_policy, policies_of
from search_spaces.codec import candidate_from_dict, candidate_hash
from search_spaces.errors import InputError
from search_spaces.workload import Workload

if TYPE_CHECKING:
    from pathlib import Path

    from dynsearch.opened import Opened

Z90 = 1.645
PER_PASS = 8  # points of each pass's front that join the pool
WIDER_SETTINGS, WIDER_POLICIES = 5, 8  # drawn where a format's own points lie too close together
F64 = NDArray[np.float64]


def bench_run_folder(
    opened: Opened,
    *,
    front: Front,
    parts: Sequence[MergedFront],
    traces: Mapping[int, Path],
    rows: int,
    configs: int,
    batches: Sequence[int],
    repeats: int,
    on_progress: Callable[[float], None] | None,
    runtime: str = RUNTIME,
) -> dict[str, Any]:
    """Time configurations of a run on this machine and write `bench.json`.

    Raises:
        InputError: the run was not priced for this machine ("local"), no front fits, or a
            runtime that is unknown or not installed.
    """
    engine = None if runtime == RUNTIME else onnx_engine(opened, runtime)
    device = local_device(opened)
    settings = {n: opened.settings[n] for n in traces}
    known = _known(parts, settings, device)
    known |= _certified(front, known)
    full = opened.material.space.full()
    pool = pool_from_front(front, device)
    have = {c.id for c in pool}
    pool += [c for c in _extra(parts, settings, device) if c.id not in have]
    priced = next(d for d in opened.scene.devices if d.name == device)
    if engine is not None:
        priced = profile_of(opened.scene.workload.threads, runtime) or priced
    predictor = _Predictor(
        scene=replace(opened.scene, devices=(priced,)),
        known=dict(known),
        traces={candidate_hash(settings[n]): path for n, path in traces.items()},
        full=full,
        opened=opened,
    )
    for dtype in opened.material.space.table.dtype:
        pool += _wider(opened, predictor, [c for c in pool if c.candidate.dtype == dtype], dtype)
    formats = [d for d in opened.material.space.table.dtype if engine is None or d in DTYPES]
    return bench_run(
        opened.run.path,
        rows=opened.quality.splits["report"].tokens,
        configs=pool,
        full=full,
        encoder=opened.quality.encoder,
        predict=predictor.predict,
        predict_same_rows=predictor.same_rows,
        device=device,
        batches=tuple(batches),
        dtypes=tuple(
            d
            for d in formats
            if any(c.candidate.dtype == d and c.family not in REFERENCE_FAMILIES for c in pool)
        ),
        count=configs,
        num_rows=rows,
        repeats=repeats,
        threads=opened.scene.workload.threads,
        on_progress=on_progress,
        engine=engine,
    )


def local_device(opened: Opened) -> str:
    """Name of this machine among the devices of a run.

    Raises:
        InputError: it is not among them.
    """
    names = [d.name for d in opened.scene.devices]
    for name, device in zip(opened.job.devices, names, strict=True):
        if name == "local":
            return device
    raise InputError.one(
        opened.run.job_file,
        "devices",
        ", ".join(names),
        'no "local" among them: only this machine can be timed; search with devices = ["local"]',
    )


def _known(
    parts: Sequence[MergedFront], settings: Mapping[int, Candidate], device: str
) -> dict[str, Candidate]:
    """Outer setting of every stored policy, by the hash of the whole candidate."""
    out = {}
    for part in parts:
        if part.device != device:
            continue
        for i in range(len(part)):
            outer = settings[int(part.trial[i])]
            out[_key(apply_policy(outer, part.policies, i))] = outer
    return out


def _certified(front: Front, known: Mapping[str, Candidate]) -> dict[str, Candidate]:
    """Outer setting of certified configurations: that of the one they were calibrated from."""
    keys = {p.id: _key(candidate_from_dict(p.candidate)) for p in front.front}
    found = [(p.id, p.certificate.calibrated_from) for p in front.front if p.certificate]
    return {keys[own]: known[keys[origin]] for own, origin in found if keys[origin] in known}


def _wider(
    opened: Opened, predictor: _Predictor, mine: Sequence[BenchConfig], dtype: str
) -> list[BenchConfig]:
    """More configurations of a number format whose own ones lie too close together in latency.

    A format that is slow on this machine leaves few points, all of them shallow. Settings and
    policies are drawn uniformly from the space, without regard to budgets; their passes over
    the search rows are run now.
    """
    dynamic = [c for c in mine if c.family not in REFERENCE_FAMILIES]
    if not dynamic:
        return []
    seconds = predictor.predict([c.candidate for c in dynamic], 1).mean_s
    if seconds.max() >= MIN_SPAN * seconds.min() and len(dynamic) >= MIN_CONFIGS:
        return []
    space, rng = opened.material.space, np.random.default_rng(0)
    drawn = [
        space.normalise({**setting, "dtype": dtype})
        for setting in [space.full_params(), *space.sample_outer(rng, WIDER_SETTINGS)]
    ]
    outers = {candidate_hash(o): o for o in map(space.decode, drawn)}
    out: list[BenchConfig] = []
    for key, outer in outers.items():
        with all_cores():
            predictor.remember(key, opened.quality.record(outer, "search"))
        policies = space.inner.sample(
            rng,
            WIDER_POLICIES,
            num_layers=outer.backbone.num_layers,
            num_classes=opened.scene.num_classes,
        )
        for i in range(len(policies)):
            candidate = apply_policy(outer, policies, i)
            predictor.known[_key(candidate)] = outer
            out.append(config_of(candidate))
    have = {c.id for c in mine}
    return [c for c in out if c.id not in have and c.family not in REFERENCE_FAMILIES]


def _key(candidate: Candidate) -> str:
    """Hash that does not see how batches are formed."""
    return candidate_hash(replace(candidate, exit_batching="serial"))


def _extra(
    parts: Sequence[MergedFront], settings: Mapping[int, Candidate], device: str
) -> list[BenchConfig]:
    """Points of each pass's own front: more skims and experts than the merged front keeps."""
    out = []
    for part in parts:
        if part.device != device or not len(part):
            continue
        rows = np.unique(np.linspace(0, len(part) - 1, PER_PASS).round().astype(int))
        for i in rows:
            out.append(
                config_of(apply_policy(settings[int(part.trial[i])], part.policies, int(i)))
            )
    return out


@dataclass(slots=True)
class _Predictor:
    """Prices candidates with the activity of recorded rows."""

    scene: Scene
    known: dict[str, Candidate]
    traces: Mapping[str, Path]  # search traces by hash of the outer setting
    full: Candidate
    opened: Opened
    _loaded: dict[tuple[str, int, bool], Trace] = field(default_factory=dict)

    def remember(self, key: str, trace: Trace) -> None:
        """Use `trace` of the search rows for the outer setting whose hash is `key`."""
        self._loaded[(key, 0, False)] = trace

    def predict(self, candidates: Sequence[Candidate], batch: int) -> Predictions:
        """Mean latency with the activity of the search rows."""
        mean, log_sd = self._price(candidates, batch, None)
        spread = np.exp(Z90 * log_sd)
        return Predictions(mean_s=mean, low_s=mean / spread, high_s=mean * spread)

    def same_rows(self, candidates: Sequence[Candidate], batch: int, n: int) -> F64:
        """Mean latency with the activity of the first `n` report rows."""
        return self._price(candidates, batch, n)[0]

    def _price(
        self, candidates: Sequence[Candidate], batch: int, n: int | None
    ) -> tuple[F64, F64]:
        mean, log_sd = np.zeros(len(candidates)), np.zeros(len(candidates))
        groups: dict[tuple[str, bool], list[int]] = {}
        outers: dict[str, Candidate] = {}
        for i, candidate in enumerate(candidates):
            outer = self._outer(candidate)
            key = candidate_hash(outer)
            outers[key] = outer
            groups.setdefault((key, candidate.exits is None), []).append(i)
        for (key, static), members in groups.items():
            group = [candidates[i] for i in members]
            found, sd = self._price_group(outers[key], group, batch, n, static=static)
            mean[members], log_sd[members] = found, sd
        return mean, log_sd

    def _price_group(
        self,
        outer: Candidate,
        group: Sequence[Candidate],
        batch: int,
        n: int | None,
        *,
        static: bool,
    ) -> tuple[F64, float]:
        workload = self.scene.workload.at_batch(batch)
        cost = self._layer_cost(outer, workload)
        trace = self._trace(outer, n, static=static)
        replayer = Replayer(
            trace,
            cost,
            workloads=[workload],
            correct_full=np.ones(trace.num_samples, dtype=bool),
        )
        replayed = replayer.run(policies_of(list(group)), ["latency_mean_s"])
        return replayed.cost("latency_mean_s")[0], float(cost.log_sd[0])

    def _layer_cost(self, outer: Candidate, workload: Workload) -> LayerCost:
        return replace(self.scene, workload=workload).layer_cost(outer)

    def _outer(self, candidate: Candidate) -> Candidate:
        found = self.known.get(_key(candidate))
        if found is None:  # a static network: its own layers, no exit
            found = replace(self.full, dtype=candidate.dtype)
        return found

    def _trace(self, outer: Candidate, n: int | None, *, static: bool) -> Trace:
        key = (candidate_hash(outer), n or 0, static)
        if key not in self._loaded:
            self._loaded[key] = self._read(outer, n, static=static)
        return self._loaded[key]

    def _read(self, outer: Candidate, n: int | None, *, static: bool) -> Trace:
        quality = self.opened.quality
        split = "search" if n is None else "report"
        if static:  # costs what its texts' lengths say; a trace may end above its depth
            lengths = quality.splits[split].tokens.lengths[:n]
            return blank_trace(outer, lengths, self.scene.num_classes)
        if n is None:
            return load_trace(self.traces[candidate_hash(outer)], quality.weights_hash)
        return quality.first_rows(split, n).record(outer, split)
