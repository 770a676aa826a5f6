"""Where passes run: Ray actors, one per CPU slot, or this process.

A worker is a pure function of (payload, setting): it runs the pass and the inner search and
returns trace and fronts. It writes nothing and knows no storage, so a pass that died with its
worker is simply run again.
"""

from __future__ import annotations

import contextlib
import logging
import os
import secrets
import sys
import time
from collections import deque
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np

from dynsearch.quality.trace import Trace
from dynsearch.search.types import (
    PassFronts,
    PassInner,
    QualitySource,
    build_depth,
    build_inner,
    resolve,
    target_of,
)
from dynsearch.threads import all_cores
from search_spaces.candidate import Candidate

OBJECT_STORE_BYTES = 512 * 2**20
TASK_RETRIES = 3  # of a pass whose worker died; an exception in a pass is not retried
_POLL_S = 0.2  # how often the driver looks up from waiting, for signals


@dataclass(frozen=True, slots=True, kw_only=True)
class PassTask:
    """One pass to run, or with `trace` one to replay."""

    number: int  # of the trial
    outer: Candidate
    trace: Trace | None = None
    is_full: bool = False  # the full network: its trace is what others are compared with


@dataclass(frozen=True, slots=True, kw_only=True)
class PassResult:
    """What a pass yields."""

    trace: Trace
    fronts: PassFronts
    pass_s: float  # forward pass; 0 where the trace was given
    inner_s: float  # pricing and inner search


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """A finished task: a result, or why there is none."""

    number: int
    result: PassResult | None = None
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
        self._depth = build_depth(spec)

    def run(self, outer: Candidate, trace: Trace | None, reference: Trace | None) -> PassResult:
        """The pass of one outer setting, without layers that no policy within budgets reaches.

        Args:
            outer: The setting as a candidate.
            trace: Its trace, where it was recorded before.
            reference: The full network's trace; None makes this pass the reference.

        Raises:
            ValueError: when the pass yields figures that are not finite.
        """
        start = time.perf_counter()
        if trace is None and reference is not None and self._depth is not None:
            outer = replace(outer, depth=int(self._depth([outer])[0]))
        recorded = trace
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
            result = self._worker.run(task.outer, task.trace, self._reference)
        except Exception as error:  # one bad pass must not end the search
            return [Outcome(number=task.number, reason=_reason(error))]
        return [Outcome(number=task.number, result=result)]


def _reason(error: BaseException) -> str:
    """One line about an exception: the first of its own, the last of Ray's, which hold it all."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [""]
    from_ray = type(error).__module__.startswith("ray.")
    return f"{type(error).__name__}: {lines[-1 if from_ray else 0]}"[:500]


class RemoteWorker:
    """What runs inside a Ray actor.

    Its constructor takes no objects from the store, so that Ray can restart it at any time; the
    worker proper is built by the first call after that.
    """

    def __init__(self, source: str, split: str) -> None:
        self._source = source
        self._split = split
        self._worker: PassWorker | None = None

    def run(
        self,
        payload: dict[str, Any],
        spec: Mapping[str, Any],
        outer: Candidate,
        trace: Trace | None,
        reference: Trace | None,
    ) -> PassResult:
        """As `PassWorker.run`."""
        if self._worker is None:
            quality = resolve(self._source).from_payload(payload)
            self._worker = PassWorker(quality, spec, self._split)
            if "torch" in sys.modules:
                sys.modules["torch"].set_num_threads(1)
        return self._worker.run(outer, trace, reference)


class RayExecutor:
    """Ray actors with one slot each. Weights, data and the reference travel once per node."""

    def __init__(
        self, quality: QualitySource, spec: Mapping[str, Any], split: str, slots: int
    ) -> None:
        import ray

        self._ray = ray
        self._names = (target_of(type(quality)), split)
        self._objects = (ray.put(quality.payload()), ray.put(dict(spec)))
        self._class: Any = ray.remote(RemoteWorker).options(
            num_cpus=1, max_restarts=-1, max_task_retries=TASK_RETRIES
        )
        self._idle: list[Any] = [self._class.remote(*self._names) for _ in range(slots)]
        self._under_way: dict[Any, tuple[PassTask, Any]] = {}
        self._reference: Any = None

    @property
    def free(self) -> int:
        """Idle actors."""
        return len(self._idle)

    @property
    def busy(self) -> int:
        """Actors at work."""
        return len(self._under_way)

    def set_reference(self, trace: Trace) -> None:
        """The full network's trace, for all tasks submitted from now on."""
        self._reference = self._ray.put(trace)

    def submit(self, task: PassTask) -> None:
        """Give the task to an idle actor."""
        actor: Any = self._idle.pop()
        call = actor.run.remote(*self._objects, task.outer, task.trace, self._reference)
        self._under_way[call] = (task, actor)

    def wait(self) -> list[Outcome]:
        """Tasks that have finished; waits a fraction of a second for the first."""
        done, _ = self._ray.wait(
            list(self._under_way), num_returns=len(self._under_way), timeout=0
        )
        if not done:
            done, _ = self._ray.wait(list(self._under_way), num_returns=1, timeout=_POLL_S)
        return [self._collect(call) for call in done]

    def _collect(self, call: Any) -> Outcome:
        task, actor = self._under_way.pop(call)
        errors = self._ray.exceptions
        try:
            result = self._ray.get(call)
        except errors.ActorDiedError as error:
            actor = self._class.remote(*self._names)
            return Outcome(number=task.number, reason=_reason(error))
        except errors.RayTaskError as error:
            return Outcome(number=task.number, reason=_reason(error.cause or error))
        except errors.RayError as error:
            return Outcome(number=task.number, reason=_reason(error))
        finally:
            self._idle.append(actor)
        return Outcome(number=task.number, result=result)


@contextlib.contextmanager
def open_executor(
    quality: QualitySource, spec: Mapping[str, Any], *, split: str, workers: int
) -> Iterator[Executor]:
    """Where passes run: this process for 0 workers, else Ray, started unless it runs already."""
    if workers == 0:
        yield LocalExecutor(PassWorker(quality, spec, split))
        return
    with open_ray(workers):
        yield RayExecutor(quality, spec, split, workers)


@contextlib.contextmanager
def open_ray(workers: int) -> Iterator[None]:
    """A private local Ray with `workers` CPU slots, or the one that the process has joined."""
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray writes to standard output, which holds results, when a worker dies and is restarted.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    if "RAY_AUTH_MODE" not in os.environ and "RAY_AUTH_TOKEN" not in os.environ:
        # A token of this process alone: none is left in the home folder.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    if ray.is_initialized():
        yield
        return
    ray.init(
        address="local",
        num_cpus=workers,
        include_dashboard=False,
        log_to_driver=False,
        logging_level=logging.ERROR,
        object_store_memory=OBJECT_STORE_BYTES,
    )
    try:
        yield
    finally:
        ray.shutdown()
