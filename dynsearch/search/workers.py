"""Where passes run: this process, or Ray actors, one per CPU slot (`remote.py`).

A worker is a pure function of (payload, setting): it runs the pass and the inner search and
returns trace and fronts. It writes nothing and knows no storage, so a pass that died with its
worker is simply run again.
"""

from __future__ import annotations

import contextlib
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from dynsearch.quality.trace import Trace
from dynsearch.search import fidelity
from dynsearch.search.types import (
    F64,
    PassFronts,
    PassInner,
    PassScreen,
    QualitySource,
    build_depth,
    build_inner,
    build_screen,
)
from dynsearch.threads import all_cores, one_thread
from search_spaces.candidate import Candidate


@dataclass(frozen=True, slots=True, kw_only=True)
class Incumbent:
    """What a search has found so far, which a pass must add to."""

    points: Mapping[str, F64]  # [K, M] by device
    references: Mapping[str, tuple[float, ...]]  # upper end of each objective, by device


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTask:
    """One pass to run, or with `trace` one to replay."""

    number: int  # of the trial
    outer: Candidate
    trace: Trace | None = None
    is_full: bool = False  # the full network: its trace is what others are compared with
    incumbent: Incumbent | None = None  # for a pass that may be stopped after its first rows


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What a pass yields."""

    trace: Trace
    fronts: PassFronts
    pass_s: float  # forward pass; 0 where the trace was given
    inner_s: float  # pricing and inner search


@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped:
    """A pass that was stopped: even what its first rows allow at best adds nothing."""

    rows: int
    of: int
    bounds: Mapping[str, F64]  # points [K, M] by device: lower bounds of what it would yield
    pass_s: float

    @property
    def share(self) -> float:
        """Of a whole pass that was run."""
        return self.rows / self.of


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished task: a result, or why there is none."""

    number: int
    result: PassResult | Stopped | None = None
    reason: str = ""


class Executor(Protocol):
    """Runs tasks, each in a slot of its own."""

    @property
    def free(self) -> int:
        """Slots without a task."""

    @property
    def busy(self) -> int:
        """Tasks that were submitted and not yet returned."""

    def set_reference(self, trace: Trace) -> None:
        """The full network's trace, for all tasks submitted from now on."""

    def submit(self, task: PassTask) -> None:
        """Start a task. There must be a free slot."""

    def wait(self) -> list[Outcome]:
        """Finished tasks; after a fraction of a second perhaps none."""


class PassWorker:
    """Runs passes one after another. The inner search is built once, when first needed.

    Args:
        quality: The model with its data.
        spec: `SearchProblem.inner_spec` with "majority_error".
        split: Rows to run over.
    """

    def __init__(self, quality: QualitySource, spec: Mapping[str, Any], split: str) -> None:
        self._quality = quality
        self._spec = spec
        self._split = split
        self._inner: PassInner | None = None
        self._screen: PassScreen | None = None
        self._depth = build_depth(spec)

    def run(
        self,
        outer: Candidate,
        trace: Trace | None,
        reference: Trace | None,
        incumbent: Incumbent | None = None,
    ) -> PassResult | Stopped:
        """The pass of one outer setting, without layers that no policy within budgets reaches.

        Args:
            outer: The setting as a candidate.
            trace: Its trace, where it was recorded before.
            reference: The full network's trace; None makes this pass the reference.
            incumbent: What the pass must be able to add to after its first rows, or it is
                stopped; None: it is run whole.

        Raises:
            ValueError: when the pass yields figures that are not finite.
        """
        start = time.perf_counter()
        if trace is None and reference is not None and self._depth is not None:
            outer = replace(outer, depth=int(self._depth([outer])[0]))
        recorded = trace
        if recorded is None and reference is not None and incumbent is not None:
            screened = self._screened(outer, reference, incumbent, start)
            if isinstance(screened, Stopped):
                return screened
            recorded = screened
        if recorded is None:
            with contextlib.nullcontext() if reference is not None else all_cores():
                recorded = self._quality.record(outer, self._split)  # the reference runs alone
        passed = time.perf_counter()
        if self._inner is None:
            self._inner = build_inner({"reference_trace": reference or recorded, **self._spec})
        fronts = self._inner(outer, recorded)
        _check_finite(fronts)
        done = time.perf_counter()
        return PassResult(
            trace=recorded, fronts=fronts, pass_s=passed - start, inner_s=done - passed
        )

    def _screened(
        self, outer: Candidate, reference: Trace, incumbent: Incumbent, start: float
    ) -> Trace | Stopped | None:
        """The first rows, then the others unless these cannot matter; None: there is no screen."""
        if self._screen is None:
            self._screen = build_screen({"reference_trace": reference, **self._spec})
        if self._screen is None:
            return None
        known, total = int(self._spec["screen_rows"]), reference.num_samples
        if known >= total:
            return None
        first = self._quality.rows(self._split, 0, known).record(outer, self._split)
        bounds = self._screen(outer, first)
        if not fidelity.adds(bounds, incumbent.points, incumbent.references):
            passed = time.perf_counter() - start
            return Stopped(rows=known, of=total, bounds=bounds, pass_s=passed)
        rest = self._quality.rows(self._split, known).record(outer, self._split)
        return fidelity.join(first, rest, reference)


def _check_finite(fronts: PassFronts) -> None:
    for front in fronts.devices:
        named: dict[str, Any] = {
            "error": front.error,
            "error_bound": front.error_bound,
            "anchor_values": front.anchor_values,
            "violation": front.violation,
            **front.costs,
            **front.budget_values,
        }
        for name, values in named.items():
            if not np.isfinite(values).all():
                raise ValueError(f"{name} on {front.device} is not finite")


class LocalExecutor:
    """One slot in this process; a task runs inside `wait`. The order is reproducible."""

    def __init__(self, worker: PassWorker) -> None:
        self._worker = worker
        self._tasks: deque[PassTask] = deque()
        self._reference: Trace | None = None

    @property
    def free(self) -> int:
        """0 or 1."""
        return 1 - len(self._tasks)

    @property
    def busy(self) -> int:
        """0 or 1."""
        return len(self._tasks)

    def set_reference(self, trace: Trace) -> None:
        """The full network's trace, for all tasks submitted from now on."""
        self._reference = trace

    def submit(self, task: PassTask) -> None:
        """Queue the task."""
        self._tasks.append(task)

    def wait(self) -> list[Outcome]:
        """Run the queued task."""
        task = self._tasks.popleft()
        try:
            with one_thread():  # as in a Ray worker, so that both record the same
                result = self._worker.run(task.outer, task.trace, self._reference, task.incumbent)
        except Exception as error:  # one bad pass must not end the search
            return [Outcome(number=task.number, reason=one_line(error))]
        return [Outcome(number=task.number, result=result)]


def one_line(error: BaseException) -> str:
    """One line about an exception: the first of its own, the last of Ray's, which hold it all."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    from_ray = type(error).__module__.startswith("ray.")
    return f"{type(error).__name__}: {lines[-1 if from_ray else 0]}"[:500]


@contextlib.contextmanager
def open_executor(
    quality: QualitySource,
    spec: Mapping[str, Any],
    *,
    split: str,
    workers: int,
    gpu_share: float = 0.0,
) -> Iterator[Executor]:
    """Where passes run: this process for 0 workers, else Ray, joined where there is a cluster.

    Args:
        quality: The model with its data.
        spec: `SearchProblem.inner_spec` with "majority_error".
        split: Rows to run over.
        workers: Ray actors; 0: none, passes run in this process, where `quality` runs them.
        gpu_share: Of a GPU that each actor holds, where Ray has one.

    Raises:
        InputError: the cluster that the environment names does not answer.
        DynsearchError: workers cannot start.
    """
    if workers == 0:
        yield LocalExecutor(PassWorker(quality, spec, split))
        return
    from dynsearch.search.remote import RayExecutor, open_ray

    with open_ray(workers):
        yield RayExecutor(quality, spec, split, workers, gpu_share)
