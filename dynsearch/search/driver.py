"""The search: asks the study for settings, has passes run, writes down what they yield.

The driver is the only process that writes. For each pass it stores the trace under a temporary
name, flushes, renames, and only then tells the study; so after a crash at any point a pass is
either finished, finished from its trace, or run again, and never lost or counted twice.

With one pass under way, our sampler, random, TPE and NSGA-II propose the same sequence whether or
not the run was interrupted: every ask makes its sampler anew from (seed, finished passes, passes
under way) and the study; ours keeps only caches that can be made again. With several under way the
order in which they end decides. The GP sampler warm-starts its kernel in long runs of its own
loop; made anew it is slower and repeatable.
"""

from __future__ import annotations

import contextlib
import logging
import math
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from types import FrameType

import numpy as np
from optuna.trial import FrozenTrial, Trial, TrialState

from dynsearch.errors import DynsearchError
from dynsearch.export.records import HypervolumeStep
from dynsearch.quality.trace import Trace, load_trace
from dynsearch.search import runs
from dynsearch.search.cost_aware import CostAwareSampler
from dynsearch.search.database import close_database, storage_may_be_lost
from dynsearch.search.encoding import first_settings, make_codec, setting_key
from dynsearch.search.front_study import write_front_study
from dynsearch.search.fronts import MergedFront
from dynsearch.search.ledger import (
    Ledger,
    open_ledger,
    rebuild,
    stored_trace,
    to_rebuild,
    trace_of_stale,
)
from dynsearch.search.runs import Run
from dynsearch.search.sampler import OWN, Gate, Screen, ask_sampler, own_sampler
from dynsearch.search.stagnation import stands_still
from dynsearch.search.study import (
    Book,
    counts,
    enqueue,
    mend_queue,
    open_book,
    running,
    set_attr,
    settings_of,
    stopped_shares,
    tell_failed,
)
from dynsearch.search.types import (
    F64,
    OuterSpace,
    Params,
    QualitySource,
    SearchProblem,
    build_depth,
)
from dynsearch.search.warm import Offers, WarmStart
from dynsearch.search.workers import Executor, Outcome, PassTask, Stopped, open_executor

_LOG = logging.getLogger(__name__)
_REJECTED = "rejected_proposals"  # study attribute: proposals that the free check turned away


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchOptions:
    """How long and with what a search runs."""

    trials: int = 64  # forward passes in all, those of earlier sessions included
    workers: int = 1  # Ray actors; 0 runs passes in this process
    seed: int = 0
    sampler: str = OWN
    storage: str = "journal"  # journal, memory, or the URL of a database
    max_failures: int = 8  # the search gives up when more passes than this fail in one session
    timeout_s: float | None = None  # no new pass after so many seconds of this session
    patience: int | None = None  # no new pass once so many have hardly added hypervolume
    gpu_share: float = 0.0  # of a GPU that each Ray actor holds, where there is one
    screen_rows: int | None = None  # rows after which a hopeless pass is stopped; None: none is


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchState:
    """Where a search stands."""

    done: int
    running: int
    failed: int
    total: int
    front_size: int  # points of all devices together
    hypervolume: float  # mean over devices, 0..1
    eta_s: float | None


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchResult:
    """What a search leaves."""

    stopped: str  # trials, exhausted, interrupted, timeout, stagnation or failures
    passes: int  # complete
    reused: int  # settings whose pass an earlier run made
    failed: int
    screened: int  # passes that were stopped after their first rows
    spent: float  # passes, those by their share of rows
    rejected: dict[str, int]  # proposals that never became trials, by reason
    reference: Trace | None  # of the full network; None where it has not run
    history: tuple[HypervolumeStep, ...]
    fronts: tuple[MergedFront, ...]  # one per device with a finished pass, in the job's order
    settings: dict[int, Params]  # outer setting by number of a complete trial
    reason: str = ""  # why the last pass that failed did


@dataclass(slots=True, kw_only=True)
class _Session:
    """What one call of `run_search` remembers while it runs."""

    book: Book
    ledger: Ledger
    gate: Gate
    options: SearchOptions
    own: CostAwareSampler | None = None  # our sampler keeps caches from ask to ask
    progress: Callable[[SearchState], None]
    should_stop: Callable[[], bool]
    begun: float = field(default_factory=time.monotonic)
    done: int = 0  # passes, in all sessions
    failed: int = 0
    screened: list[float] = field(default_factory=list)  # shares of passes that were stopped
    passed: int = 0  # in this session
    failures: int = 0
    stopped: str = "trials"
    reason: str = ""
    tasks: deque[PassTask] = field(default_factory=deque)  # left by an earlier driver
    under_way: dict[int, Trial] = field(default_factory=dict)
    from_trace: set[int] = field(default_factory=set)  # trials whose trace is on disk already
    offers: Offers  # settings that an earlier run recorded
    reused: set[int] = field(default_factory=set)  # trials under way that are such
    rebuilding: dict[int, FrozenTrial] = field(default_factory=dict)

    @property
    def spent(self) -> float:
        """Passes that were run, stopped ones by their share."""
        return self.done + sum(self.screened)

    @property
    def elapsed_s(self) -> float:
        """Seconds that the search has run, earlier sessions included."""
        return self.ledger.elapsed_s + time.monotonic() - self.begun


def run_search(
    run: Run,
    *,
    space: OuterSpace,
    quality: QualitySource,
    problem: SearchProblem,
    options: SearchOptions,
    screen: Screen | None = None,
    warm: WarmStart | None = None,
    progress: Callable[[SearchState], None] | None = None,
    should_stop: Callable[[], bool] | None = None,
) -> SearchResult:
    """Search until `options.trials` passes are complete; continues a run that was begun.

    The first SIGINT lets the passes under way finish, the second stops at once.

    Args:
        run: The run folder, from `runs.create_run` or `runs.open_run`.
        space: The outer knobs.
        quality: Runs the passes.
        problem: Objectives, budgets, devices and the inner search.
        options: How long and with what.
        screen: Which candidates break a budget on every device, see `screen.make_screen`.
        warm: What earlier runs left. Their traces are replayed and are no passes.
        progress: Called with the state when it changes.
        should_stop: Asked between passes; True has the effect of one SIGINT.

    Raises:
        InputError: when another driver holds the run, or the run does not fit the arguments.
        DynsearchError: when the pass of the full network fails: nothing can be ranked without;
            when workers cannot start, or a database goes away.
    """
    with contextlib.ExitStack() as stack:
        stack.enter_context(runs.lock(run.lock_file))
        stack.enter_context(storage_may_be_lost(options.storage))
        runs.mend_journal(run)
        book = open_book(run, options.storage, make_codec(space), problem)
        stack.callback(close_database, book.lasting)
        interrupted = stack.enter_context(_sigint())
        gate = Gate(codec=book.codec, screen=screen, deepest=build_depth(problem.inner_spec))
        gate.add(settings_of(book))
        if book.copy or len(book.trials()) == len(book.trials(TrialState.WAITING)):
            # Nothing has begun, or a study in memory, whose copy does not hold what waits.
            first = [*first_settings(book.codec), *(warm.first if warm else ())]
            for setting in gate.free(first):
                enqueue(book, setting)
                gate.add([setting])
        ledger = open_ledger(run, book, problem, quality.weights_hash)
        session = _Session(
            book=book,
            ledger=ledger,
            gate=gate,
            options=options,
            offers=Offers(warm or WarmStart(), gate, ledger.full_key),
            progress=progress or (lambda state: None),
            should_stop=lambda: interrupted() or (should_stop is not None and should_stop()),
        )
        _recover(session)
        left = len(session.tasks) + math.ceil(options.trials - session.spent)
        if left > 0:
            spec = {
                "majority_error": quality.majority_error(problem.split),
                "screen_rows": options.screen_rows,
                **problem.inner_spec,
            }
            workers = min(options.workers, left)
            _loop(
                session,
                stack.enter_context(
                    open_executor(
                        quality,
                        spec,
                        split=problem.split,
                        workers=workers,
                        gpu_share=options.gpu_share,
                    )
                ),
            )
        return _result(session)


def _recover(session: _Session) -> None:
    """Take up what an earlier driver left: passes to finish from a trace, to repeat, to rebuild.

    Raises:
        InputError: when a trace that fronts must be rebuilt from is damaged.
    """
    book, ledger = session.book, session.ledger
    session.done, session.failed = counts(book)
    session.screened = stopped_shares(book)
    session.gate.rejected.update(book.study.user_attrs.get(_REJECTED, {}))
    given_up = []
    for stale in book.trials(TrialState.RUNNING):
        setting = book.setting(stale) if book.codec.complete(stale.params) else None
        trace = trace_of_stale(ledger, stale.number, setting) if setting else None
        if setting is None or trace is None:
            given_up.append(stale)
            continue
        session.under_way[stale.number] = running(book, stale)
        session.from_trace.add(stale.number)
        if session.offers.cover(setting):
            session.reused.add(stale.number)
        session.tasks.append(_task(session, stale.number, setting, trace))
    for trial in to_rebuild(ledger):
        path = stored_trace(ledger.run, trial)
        trace = load_trace(path, ledger.weights_hash) if path.exists() else None
        session.rebuilding[trial.number] = trial
        session.tasks.append(_task(session, trial.number, trial.user_attrs["setting"], trace))
    session.tasks = deque(sorted(session.tasks, key=lambda task: not task.is_full))
    recorded = bool(session.tasks) and session.tasks[0].is_full
    mend_queue(book, given_up, full_first=ledger.reference is None and not recorded)


def _task(session: _Session, number: int, setting: Params, trace: Trace | None) -> PassTask:
    screens = session.options.screen_rows is not None and trace is None
    return PassTask(
        number=number,
        outer=session.book.codec.space.decode(setting),
        trace=trace,
        is_full=setting_key(setting) == session.ledger.full_key,
        incumbent=session.ledger.incumbent() if screens else None,
    )


def _loop(session: _Session, executor: Executor) -> None:
    """Keep every slot busy until nothing is left to do, with no barrier between passes."""
    if session.ledger.reference is not None:
        executor.set_reference(session.ledger.reference)
    while True:
        while executor.free and (task := _next(session, executor)) is not None:
            executor.submit(task)
        session.progress(_state(session))
        if not executor.busy:
            return
        for outcome in executor.wait():
            begins = session.ledger.reference is None
            _finish(session, outcome)
            if begins and session.ledger.reference is not None:
                executor.set_reference(session.ledger.reference)


def _next(session: _Session, executor: Executor) -> PassTask | None:
    """The next pass to run; None while there is none or the search shall stop."""
    if session.should_stop():
        session.stopped = "interrupted"
        return None
    if session.ledger.reference is None and executor.busy:
        return None  # every other pass is compared with the full network's
    if session.tasks:
        return session.tasks.popleft()
    options = session.options
    if not session.offers and session.spent + len(session.under_way) >= options.trials:
        return None
    if session.failures > options.max_failures:
        session.stopped = "failures"
        return None
    if options.timeout_s is not None and time.monotonic() - session.begun > options.timeout_s:
        session.stopped = "timeout"
        return None
    if stands_still(session.ledger.history, options.patience):
        session.stopped = "stagnation"
        return None
    return _ask(session)


def _ask(session: _Session) -> PassTask | None:
    book, gate = session.book, session.gate
    offer = None if book.trials(TrialState.WAITING) else session.offers.take()
    if offer is not None:
        enqueue(book, offer)
    elif not book.trials(TrialState.WAITING):
        ended = session.done + session.failed + len(session.screened)
        seed = (session.options.seed, ended, len(session.under_way))
        reserve = gate.reserve(np.random.default_rng([*seed, 0]))
        if reserve is None:
            session.stopped = "exhausted"
            return None
        if session.options.sampler == OWN and session.own is None:
            session.own = own_sampler(gate, session.options.seed, _front_reader(session.ledger))
        kind = session.options.sampler
        book.study.sampler = ask_sampler(kind, gate, reserve, seed, session.own)
    before = gate.rejected.total()
    trial = book.study.ask(book.codec.distributions)
    if gate.rejected.total() > before:
        set_attr(book, _REJECTED, dict(gate.rejected))
    setting = book.codec.decode(trial.params)
    gate.add([setting])
    session.under_way[trial.number] = trial
    trace = session.offers.trace(setting, session.ledger.weights_hash)
    if trace is not None:
        session.reused.add(trial.number)
    return _task(session, trial.number, setting, trace)


def _front_reader(ledger: Ledger) -> Callable[[FrozenTrial], list[F64]]:
    """Reads the fronts of a pass [K, M] per device, divided by the reference point."""
    points = {device: ledger.reference_point(device) for device in ledger.problem.devices}

    def read(trial: FrozenTrial) -> list[F64]:
        fronts = trial.user_attrs["front"]
        found = []
        for device, reference in points.items():
            at = np.array(reference, dtype=np.float64)
            found.append(np.array(fronts[device]["points"]).reshape(-1, at.size) / at)
        return found

    return read


def _finish(session: _Session, outcome: Outcome) -> None:
    """Write down what a task yielded.

    Raises:
        DynsearchError: when the pass of the full network, or one to rebuild, failed.
    """
    number, result = outcome.number, outcome.result
    if number in session.rebuilding:
        if result is None or isinstance(result, Stopped):
            raise DynsearchError(f"pass {number} cannot be rebuilt: {outcome.reason}")
        rebuild(session.ledger, session.rebuilding.pop(number), result)
        return
    trial = session.under_way.pop(number)
    if result is None:
        tell_failed(session.book, trial, outcome.reason)
        _LOG.warning("pass %d failed: %s", number, outcome.reason)
        session.failed += 1
        session.failures += 1
        session.reason = outcome.reason
        if session.ledger.reference is None:
            raise DynsearchError(f"the pass of the full network failed: {outcome.reason}")
        return
    if isinstance(result, Stopped):
        session.ledger.stop(trial, result, elapsed_s=session.elapsed_s)
        session.screened.append(result.share)
        return
    fresh, reused = number not in session.from_trace, number in session.reused
    session.ledger.complete(trial, result, fresh=fresh, elapsed_s=session.elapsed_s, reused=reused)
    session.reused.discard(number)
    session.done += not reused
    session.passed += not reused


def _state(session: _Session) -> SearchState:
    total, history = session.options.trials, session.ledger.history
    left = max(0.0, total - session.spent)
    pace = (time.monotonic() - session.begun) / session.passed if session.passed else None
    return SearchState(
        done=session.done,
        running=len(session.under_way) + len(session.rebuilding),
        failed=session.failed,
        total=total,
        front_size=session.ledger.front_size,
        hypervolume=history[-1].mean if history else 0.0,
        eta_s=None if pace is None else pace * left,
    )


def _result(session: _Session) -> SearchResult:
    """Write the derived studies and sum up."""
    book, ledger, problem = session.book, session.ledger, session.ledger.problem
    fronts = tuple(ledger.merged[name] for name in problem.devices if name in ledger.merged)
    for front in fronts:
        write_front_study(book, front, problem.objectives, ledger.traces)
    settings = {
        trial.number: dict(trial.user_attrs["setting"])
        for trial in book.trials(TrialState.COMPLETE)
    }
    return SearchResult(
        stopped=session.stopped,
        passes=session.done,
        reused=sum(bool(t.user_attrs.get("reused")) for t in book.trials(TrialState.COMPLETE)),
        failed=session.failed,
        screened=len(session.screened),
        spent=session.spent,
        rejected=dict(session.gate.rejected),
        reference=ledger.reference,
        history=tuple(ledger.history),
        fronts=fronts,
        settings=settings,
        reason=session.reason,
    )


@contextlib.contextmanager
def _sigint() -> Iterator[Callable[[], bool]]:
    """Whether SIGINT has come once; the second one raises KeyboardInterrupt.

    Only the main thread may change what a signal does; elsewhere SIGINT stays as it is.
    """
    seen = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield seen.is_set
        return

    def handle(number: int, frame: FrameType | None) -> None:
        if seen.is_set():
            raise KeyboardInterrupt
        seen.set()
        _LOG.warning("stopping when the passes under way have finished; again: stop at once")

    before = signal.signal(signal.SIGINT, handle)
    try:
        yield seen.is_set
    finally:
        signal.signal(signal.SIGINT, before)
