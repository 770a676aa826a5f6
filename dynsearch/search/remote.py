"""Passes in Ray actors, one per CPU slot: of this machine, or of a cluster that is joined.

Weights, data and the reference travel once per node, through Ray's object store. An actor takes
passes only once it has built its worker, so one that waits for a free CPU holds nothing up. What
an actor was at when it died is given to the next that is free, and another actor is asked for: on
another node where its own is gone, or later, when the cluster has grown again.
"""

from __future__ import annotations

import contextlib
import importlib.metadata
import logging
import os
import secrets
import socket
import sys
import time
from collections import Counter, deque
from collections.abc import Iterator, Mapping
from typing import Any

from cost_models.calibrate.host import usable_cores
from dynsearch.errors import DynsearchError, InputError
from dynsearch.quality.trace import Trace
from dynsearch.search.types import QualitySource, resolve, target_of
from dynsearch.search.workers import (
    Incumbent,
    Outcome,
    PassResult,
    PassTask,
    PassWorker,
    Stopped,
    one_line,
)
from search_spaces.candidate import Candidate

OBJECT_STORE_BYTES = 512 * 2**20
TASK_RETRIES = 3  # of a pass whose worker died; an exception in a pass is not retried
START_RETRIES = 3  # actors that may die one after another before any was ready
WAIT_S = 10.0  # for a cluster to answer
PATIENCE_S = 30.0  # without a free CPU before the user is told
_POLL_S = 0.2  # how often the driver looks up from waiting, for signals
_ADDRESS = "RAY_ADDRESS"

_LOG = logging.getLogger(__name__)


def installed_version() -> str:
    """Version of dynsearch where this runs; workers and driver must have the same."""
    try:
        return importlib.metadata.version("dynsearch")
    except importlib.metadata.PackageNotFoundError:
        return "not installed"


class RemoteWorker:
    """What runs inside a Ray actor."""

    def __init__(self, source: str, split: str) -> None:
        self._source = source
        self._split = split
        self._worker: PassWorker | None = None

    def ready(self, payload: dict[str, Any], spec: Mapping[str, Any]) -> str:
        """Build the worker proper. Returns the version of dynsearch on this node."""
        quality = resolve(self._source).from_payload(payload)
        if _gpus():
            quality = quality.on("cuda")
        self._worker = PassWorker(quality, spec, self._split)
        if "torch" in sys.modules:
            sys.modules["torch"].set_num_threads(1)
        return installed_version()

    def run(
        self,
        outer: Candidate,
        trace: Trace | None,
        reference: Trace | None,
        incumbent: Incumbent | None = None,
    ) -> PassResult | Stopped:
        """As `PassWorker.run`."""
        if self._worker is None:
            raise RuntimeError("the worker was not built")
        return self._worker.run(outer, trace, reference, incumbent)


def _gpus() -> list[str]:
    """GPUs of which this actor holds a share; Ray shows it no others."""
    import ray

    found: list[str] = ray.get_runtime_context().get_accelerator_ids().get("GPU", [])
    return found


class RayExecutor:
    """Ray actors with one slot each.

    Args:
        quality: The model with its data.
        spec: `SearchProblem.inner_spec` with "majority_error".
        split: Rows to run over.
        slots: Actors wanted; those that find no free CPU start later.
        gpu_share: Of a GPU that each actor holds, where Ray has one; else passes run on
            processors, which the log says.

    Raises:
        DynsearchError: workers cannot start.
    """

    def __init__(
        self,
        quality: QualitySource,
        spec: Mapping[str, Any],
        split: str,
        slots: int,
        gpu_share: float = 0.0,
    ) -> None:
        import ray

        self._ray = ray
        self._names = (target_of(type(quality)), split)
        self._objects = (ray.put(quality.payload()), ray.put(dict(spec)))
        resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
        held = gpu_share if resources.get("GPU", 0.0) > 0.0 else 0.0
        if gpu_share > held:
            _LOG.info("Ray has no GPU: passes run on processors")
        self._class: Any = ray.remote(RemoteWorker).options(num_cpus=1, num_gpus=held)
        self._starting: dict[Any, Any] = {}  # actor by the call that it is ready after
        self._idle: list[Any] = []
        self._under_way: dict[Any, tuple[PassTask, Any]] = {}
        self._waiting: deque[PassTask] = deque()  # whose actor died
        self._deaths: Counter[int] = Counter()  # by number of the task
        self._failed_starts = 0
        self._reference: Any = None
        for _ in range(slots):
            self._start()
        self._until_one_is_ready()

    @property
    def free(self) -> int:
        """Idle actors that no interrupted task waits for."""
        return max(0, len(self._idle) - len(self._waiting))

    @property
    def busy(self) -> int:
        """Tasks at work, or waiting because their actor died."""
        return len(self._under_way) + len(self._waiting)

    def set_reference(self, trace: Trace) -> None:
        """The full network's trace, for all tasks submitted from now on."""
        self._reference = self._ray.put(trace)

    def submit(self, task: PassTask) -> None:
        """Give the task to an idle actor."""
        actor: Any = self._idle.pop()
        call = actor.run.remote(task.outer, task.trace, self._reference, task.incumbent)
        self._under_way[call] = (task, actor)

    def wait(self) -> list[Outcome]:
        """Tasks that have finished; waits a fraction of a second for the first.

        Raises:
            DynsearchError: workers cannot start any more.
        """
        calls = [*self._under_way, *self._starting]
        done, _ = self._ray.wait(calls, num_returns=len(calls), timeout=0)
        if not done:
            done, _ = self._ray.wait(calls, num_returns=1, timeout=_POLL_S)
        for call in [call for call in done if call in self._starting]:
            self._begin(call)
        found = [self._collect(call) for call in done if call in self._under_way]
        while self._waiting and self._idle:
            self.submit(self._waiting.popleft())
        if not self._under_way and not self._idle:
            self._until_one_is_ready()
        return [outcome for outcome in found if outcome is not None]

    def _start(self) -> None:
        actor = self._class.remote(*self._names)
        self._starting[actor.ready.remote(*self._objects)] = actor

    def _begin(self, call: Any) -> None:
        """Take in an actor that is ready, or ask for another where it died before.

        Raises:
            DynsearchError: it could not build its worker, has another version, or one after
                another died.
        """
        actor = self._starting.pop(call)
        try:
            version = self._ray.get(call)
        except self._ray.exceptions.RayTaskError as error:
            text = f"a worker cannot start: {one_line(error.cause or error)}"
            raise DynsearchError(f"{text}; is all it needs installed on every node?") from None
        except self._ray.exceptions.RayError as error:
            self._failed_starts += 1
            if self._failed_starts > START_RETRIES:
                text = f"workers die before they have started: {one_line(error)}"
                raise DynsearchError(f"{text}; is dynsearch installed on every node?") from None
            self._start()
            return
        if version != installed_version():
            text = f"a node has dynsearch {version}, the driver {installed_version()}"
            raise DynsearchError(f"{text}; install the same version on every node")
        self._failed_starts = 0
        self._idle.append(actor)

    def _until_one_is_ready(self) -> None:
        begun, told = time.monotonic(), False
        while not self._idle:
            calls = list(self._starting)
            done, _ = self._ray.wait(calls, num_returns=1, timeout=_POLL_S)
            for call in done:
                self._begin(call)
            if not told and time.monotonic() - begun > PATIENCE_S:
                told = True
                _LOG.warning("no worker has started yet: they wait for a free CPU of the cluster")

    def _collect(self, call: Any) -> Outcome | None:
        """The outcome of a call; None where its actor died and the task waits for another."""
        task, actor = self._under_way.pop(call)
        errors = self._ray.exceptions
        try:
            result = self._ray.get(call)
        except errors.RayTaskError as error:
            self._idle.append(actor)
            return Outcome(number=task.number, reason=one_line(error.cause or error))
        except errors.RayError as error:  # the actor, its node, or the result with them
            self._ray.kill(actor)
            self._start()
            self._deaths[task.number] += 1
            if self._deaths[task.number] > TASK_RETRIES:
                return Outcome(number=task.number, reason=one_line(error))
            self._waiting.append(task)
            return None
        self._idle.append(actor)
        return Outcome(number=task.number, result=result)


def cluster_address() -> str | None:
    """Address of the running Ray that the environment names; None: there is none to join."""
    address = os.environ.get(_ADDRESS, "")
    return None if address in ("", "local") or address.startswith("http") else address


def slots(workers: int) -> int:
    """Ray workers for a job that asks for `workers`; 0: its passes run in this process.

    A job that asks for none in particular gets one for each CPU, of the cluster that the
    environment names or else of this machine. One worker of this machine needs no Ray.

    Raises:
        InputError: the cluster does not answer.
    """
    address = cluster_address()
    if address is None:
        wanted = workers or usable_cores()
        return 0 if wanted == 1 else wanted
    if workers:
        return workers
    import ray

    if not ray.is_initialized():
        _join(address)
    resources: dict[str, float] = ray.cluster_resources()  # type: ignore[no-untyped-call]
    return max(1, int(resources.get("CPU", 1)))


@contextlib.contextmanager
def open_ray(workers: int) -> Iterator[None]:
    """The cluster that the environment names, else a private Ray with `workers` CPU slots.

    Raises:
        InputError: the cluster does not answer.
    """
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    # Ray writes to standard output, which holds results, when a worker dies and is restarted.
    os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")
    address = cluster_address()
    if (
        address is None
        and "RAY_AUTH_MODE" not in os.environ
        and "RAY_AUTH_TOKEN" not in os.environ
        and "ray" not in sys.modules  # which reads the mode when it is imported, and only then
    ):
        # A token of this process alone: none is left in the home folder.
        os.environ["RAY_AUTH_MODE"] = "token"
        os.environ["RAY_AUTH_TOKEN"] = secrets.token_hex(32)
    import ray

    if ray.is_initialized():
        yield
        return
    if address is None:
        _start_private(workers)
    else:
        _join(address)
    try:
        yield
    finally:
        ray.shutdown()


def _start_private(workers: int) -> None:
    """Start a Ray on this machine that ends with this process.

    Raises:
        DynsearchError: it does not start.
    """
    import ray

    try:
        ray.init(
            address="local",
            num_cpus=workers,
            include_dashboard=False,
            log_to_driver=False,
            logging_level=logging.ERROR,
            object_store_memory=OBJECT_STORE_BYTES,
        )
    except Exception as error:  # Ray raises bare ones here
        text = f"Ray does not start on this machine: {one_line(error)}"
        raise DynsearchError(f"{text}; try again, or search in one process: --workers 1") from None


def _join(address: str) -> None:
    """Connect this process to a running cluster.

    Raises:
        InputError: it does not answer within `WAIT_S`, or refuses the token.
    """
    _knock(address)
    import ray

    try:
        ray.init(address=address, log_to_driver=False, logging_level=logging.ERROR)
    except (ConnectionError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
        text = f"no Ray cluster can be joined there ({one_line(error)}); start it, give its token"
        text += " (RAY_AUTH_MODE=token with RAY_AUTH_TOKEN or RAY_AUTH_TOKEN_PATH), or unset it"
        raise InputError.one("environment", _ADDRESS, address, text) from None


def _knock(address: str) -> None:
    """Wait until something listens there; Ray itself would wait for minutes, and say nothing.

    Raises:
        InputError: nothing does within `WAIT_S`.
    """
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return  # "auto" and the like, which Ray resolves
    deadline = time.monotonic() + WAIT_S
    while True:
        try:
            left = max(0.1, deadline - time.monotonic())
            socket.create_connection((host, int(port)), timeout=left).close()
        except OSError as error:
            if time.monotonic() + _POLL_S > deadline:
                text = f"no Ray cluster answered within {WAIT_S:g} s ({one_line(error)})"
                text += "; start it, or unset the variable"
                raise InputError.one("environment", _ADDRESS, address, text) from None
            time.sleep(_POLL_S)
        else:
            return
