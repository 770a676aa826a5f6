"""The library call: minimise some objectives of a black box within budgets, in few evaluations.

`quality` is what costs an evaluation; `cost` is cheap and is asked about thousands of candidates,
so that no evaluation is spent on what breaks a budget. The Optuna study is the truth: result,
models and random numbers are made from it, so that a call on the storage of an earlier one that
was cut off goes on where that stopped.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import FIRST_COMPLETED, Executor, Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import optuna
from numpy.typing import NDArray
from optuna.storages import BaseStorage
from optuna.study import Study
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from dynsearch.errors import DynsearchError, InputError, Problem
from dynsearch.search.answers import Answer, Question, read_answer
from dynsearch.search.columns import Columns, make_columns
from dynsearch.search.cost_aware import CostAwareSampler
from dynsearch.search.encoding import SpaceCodec, make_codec
from dynsearch.search.free import FreeChecks
from dynsearch.search.results import Evaluation, OptimizeResult, read_result
from dynsearch.search.sampler import OWN, SAMPLERS, Gate, ask_sampler
from dynsearch.search.types import F64, Params
from search_spaces.knobs import Knobs, KnobSpace, as_array

__all__ = ["Evaluation", "OptimizeResult", "optimize"]

_LOG = logging.getLogger(__name__)
_PROBLEM = "problem"  # study attribute: what the study was begun for

Answers = Mapping[str, NDArray[Any]]


def optimize(
    space: KnobSpace,
    *,
    quality: Callable[[Knobs], Mapping[str, Any]],
    objectives: Sequence[str],
    cost: Callable[[Knobs], Mapping[str, Any]] | None = None,
    budgets: Mapping[str, float] | None = None,
    ref_point: Sequence[float] | None = None,
    n_trials: int = 100,
    batch: int = 1,
    seed: int = 0,
    workers: int = 1,
    sampler: str = OWN,
    max_failures: int = 8,
    storage: str | BaseStorage | None = None,
    study_name: str = "optimize",
) -> OptimizeResult:
    """Search a space for the front of some objectives, all minimised.

    Args:
        space: Named knobs.
        quality: Evaluates a batch: arrays by knob [B] -> arrays by objective (and budget) [B]; or
            a ragged front: arrays [K] with the key "outer", the row of the batch that a point
            belongs to, objectives, and inner knobs under names of their own.
        objectives: Names of what is minimised.
        cost: Cheap and deterministic: arrays by knob [B] -> arrays by name [B]. It may give
            budgeted quantities, objectives (which are then taken from it) and anything else that
            tells candidates apart: models see all of it.
        budgets: Upper limits, above 0, on quantities that `cost` or `quality` gives.
        ref_point: Upper end of each objective of interest; needed for ragged fronts.
        n_trials: Complete evaluations in all, those of an earlier call included.
        batch: Rows that one call of `quality` gets.
        seed: Equal seeds with one worker propose alike.
        workers: Calls of `quality` at a time, each in a thread.
        sampler: One of `SAMPLERS`; all get the same free check of budgets.
        max_failures: Evaluations that may raise or give no finite value before the search stops.
        storage: Of the study, as Optuna takes it; None: in memory.
        study_name: Its name there.

    Raises:
        InputError: when arguments do not fit together, nothing in the space keeps the budgets, or
            the storage holds a study of something else.
        DynsearchError: when not a single evaluation succeeded.
    """
    budgets = dict(budgets or {})
    reference = None if ref_point is None else tuple(float(r) for r in ref_point)
    question = Question(tuple(objectives), budgets, reference)
    _check(question, n_trials, batch, workers, sampler)
    problem = _problem(space, cost, question)
    study = _open(storage, study_name, question, problem.codec)
    session = _Session(
        problem=problem,
        study=study,
        quality=quality,
        limits=_Limits(n_trials, batch, workers, max_failures),
        seed=seed,
        kind=sampler,
    )
    session.run()
    result = read_result(study, question.objectives, session.stopped)
    if session.stopped == "failures" and not any(e.objectives for e in result.evaluations):
        raise DynsearchError(f"no evaluation succeeded; the last one: {session.reason}")
    return result


@dataclass(frozen=True, slots=True, kw_only=True)
class _Problem:
    """A space with what is asked of it, in values and in Optuna's parameters."""

    question: Question
    codec: SpaceCodec
    columns: Columns
    checks: FreeChecks  # in parameters
    cost: Callable[[Knobs], Mapping[str, Any]] | None  # in values
    cost_names: frozenset[str]

    def costs(self, knobs: Knobs) -> dict[str, F64]:
        """Free quantities [B] by name."""
        if self.cost is None:
            return {}
        return {name: np.asarray(v, dtype=np.float64) for name, v in self.cost(knobs).items()}

    def breaks_budget(self, settings: Sequence[Params]) -> NDArray[np.bool_]:
        """Which readable settings provably break a budget [B]."""
        rows = np.stack([self.columns.rows(self.codec.encode(s)) for s in settings])
        costs = self.checks.costs(self.columns, rows)
        return np.asarray(self.checks.excess(costs, len(settings)) > 0.0)


@dataclass(frozen=True, slots=True)
class _Limits:
    trials: int
    batch: int
    workers: int
    failures: int


@dataclass(slots=True, kw_only=True)
class _Session:
    """One call."""

    problem: _Problem
    study: Study
    quality: Callable[[Knobs], Mapping[str, Any]]
    limits: _Limits
    seed: int
    kind: str
    own: CostAwareSampler | None = None
    gate: Gate | None = None
    done: int = 0  # complete evaluations, earlier calls included
    failed: int = 0
    failures: int = 0  # of this call
    in_flight: int = 0
    stopped: str = "trials"
    reason: str = ""
    running: dict[Future[list[Answer]], list[Trial]] = field(default_factory=dict)

    def run(self) -> None:
        """Ask, evaluate and tell until nothing is left to do."""
        self._recover()
        if self.kind == OWN:
            self.own = _own_sampler(self.problem, self.seed)
            self.study.sampler = self.own
        else:
            self.gate = Gate(codec=self.problem.codec, screen=self.problem.breaks_budget)
            tried = self._trials(TrialState.COMPLETE, TrialState.FAIL)
            self.gate.add([t.user_attrs["setting"] for t in tried if "setting" in t.user_attrs])
        with _pool(self.limits.workers) as pool:
            while True:
                while len(self.running) < self.limits.workers and (asked := self._ask_batch()):
                    self.running[pool.submit(self._evaluate, asked)] = asked
                if not self.running:
                    return
                for future in wait(self.running, return_when=FIRST_COMPLETED).done:
                    self._tell(self.running.pop(future), future.result())

    def _trials(self, *states: TrialState) -> list[FrozenTrial]:
        return self.study.get_trials(deepcopy=False, states=states or None)

    def _recover(self) -> None:
        """Count what is there; queue again what an earlier call left running."""
        self.done = len(self._trials(TrialState.COMPLETE))
        failed = self._trials(TrialState.FAIL)
        self.failed = sum(not t.user_attrs.get("stale") for t in failed)
        retried = {t.user_attrs.get("retry_of") for t in self._trials()}
        for stale in self._trials(TrialState.RUNNING):
            whole = all(name in stale.params for name in self.problem.columns.distributions)
            if whole and stale.number not in retried:
                again = create_trial(
                    state=TrialState.WAITING,
                    system_attrs={"fixed_params": stale.params},
                    user_attrs={"retry_of": stale.number},
                )
                self.study.add_trial(again)
            trial = Trial(self.study, stale._trial_id)
            trial.set_user_attr("stale", True)
            self.study.tell(trial, state=TrialState.FAIL)

    def _ask_batch(self) -> list[Trial]:
        asked: list[Trial] = []
        while len(asked) < self.limits.batch and (trial := self._ask()) is not None:
            asked.append(trial)
        return asked

    def _ask(self) -> Trial | None:
        if self.done + self.in_flight >= self.limits.trials:
            return None
        if self.failures > self.limits.failures:
            self.stopped = "failures"
            return None
        if not self._trials(TrialState.WAITING) and not self._prepared():
            self.stopped = "exhausted"
            return None
        trial = self.study.ask(dict(self.problem.columns.distributions))
        setting = self.problem.codec.decode(trial.params)
        trial.set_user_attr("setting", setting)
        if self.gate is not None:
            self.gate.add([setting])
        self.in_flight += 1
        return trial

    def _prepared(self) -> bool:
        """Whether there is something to propose; sets up the sampler of the next ask."""
        if self.own is not None:
            return self.own.propose(self.study, self.problem.columns.distributions) is not None
        assert self.gate is not None
        seed = (self.seed, self.done + self.failed, self.in_flight)
        reserve = self.gate.reserve(np.random.default_rng([*seed, 0]))
        if reserve is None:
            # Raises where it is the budgets that leave nothing.
            self.problem.checks.draw(self.problem.columns, np.random.default_rng(seed), 1)
            return False
        self.study.sampler = ask_sampler(self.kind, self.gate, reserve, seed)
        return True

    def _evaluate(self, asked: list[Trial]) -> list[Answer]:
        """Answers to a batch; where it fails as a whole, row by row."""
        settings = [self.problem.codec.decode(trial.params) for trial in asked]
        names = [knob.name for knob in self.problem.codec.knobs]
        knobs = {name: as_array([s[name] for s in settings]) for name in names}
        try:
            costs = self.problem.costs(knobs)
            return read_answer(self.problem.question, self.quality(knobs), costs, len(asked))
        except Exception as error:  # a user's code raises what it likes
            if len(asked) > 1:
                return [answer for trial in asked for answer in self._evaluate([trial])]
            return [Answer(reason=f"{type(error).__name__}: {error}")]

    def _tell(self, asked: list[Trial], answers: list[Answer]) -> None:
        for trial, answer in zip(asked, answers, strict=True):
            self.in_flight -= 1
            if answer.reason:
                trial.set_user_attr("reason", answer.reason)
                self.study.tell(trial, state=TrialState.FAIL)
                _LOG.warning("evaluation %d failed: %s", trial.number, answer.reason)
                self.failed, self.failures = self.failed + 1, self.failures + 1
                self.reason = answer.reason
                continue
            trial.set_user_attr("budgeted", dict(answer.budgeted))
            if answer.front is not None:
                trial.set_user_attr("inner", dict(answer.inner))
                trial.set_user_attr("front", dict(answer.front))
            for name, limit in self.problem.question.budgets.items():
                trial.set_constraint(name, answer.budgeted[name] / limit - 1.0)
            self.study.tell(trial, list(answer.values))
            self.done += 1


class _Inline(Executor):
    """Calls at once, in this thread: an interrupt reaches the caller."""

    def submit(self, fn: Callable[..., Any], /, *args: Any, **kwargs: Any) -> Future[Any]:
        """A future that is done."""
        future: Future[Any] = Future()
        future.set_result(fn(*args, **kwargs))
        return future


def _pool(workers: int) -> Executor:
    return _Inline() if workers == 1 else ThreadPoolExecutor(workers)


def _check(question: Question, n_trials: int, batch: int, workers: int, sampler: str) -> None:
    problems = [
        Problem("arguments", name, str(value), "must be 1 or more")
        for name, value in (("n_trials", n_trials), ("batch", batch), ("workers", workers))
        if value < 1
    ]
    problems += [
        Problem("arguments", f"budgets.{name}", str(limit), "must be a finite number above 0")
        for name, limit in question.budgets.items()
        if not 0.0 < limit < math.inf
    ]
    if not question.objectives:
        problems.append(Problem("arguments", "objectives", "", "name at least one"))
    if question.reference is not None and len(question.reference) != len(question.objectives):
        text = f"needs one number per objective, {len(question.objectives)}"
        problems.append(Problem("arguments", "ref_point", str(question.reference), text))
    if sampler not in SAMPLERS:
        text = f"is no sampler; choose one of {', '.join(SAMPLERS)}"
        problems.append(Problem("arguments", "sampler", sampler, text))
    if problems:
        raise InputError(problems)


def _problem(
    space: KnobSpace, cost: Callable[[Knobs], Mapping[str, Any]] | None, question: Question
) -> _Problem:
    """Translate a space and its free checks from readable values to Optuna's parameters."""
    codec = make_codec(space)
    columns = make_columns(codec.distributions)

    names: frozenset[str] = frozenset()
    if cost is not None:
        one = {name: as_array([v]) for name, v in space.full_params().items()}
        names = frozenset(cost(one))
    checks = FreeChecks(
        cost=None if cost is None else lambda batch: cost(codec.decode_all(batch)),
        budgets={name: limit for name, limit in question.budgets.items() if name in names},
        objectives={m: name for m, name in enumerate(question.objectives) if name in names},
        canonical=codec.canonical if space.active else None,
    )
    return _Problem(
        question=question,
        codec=codec,
        columns=columns,
        checks=checks,
        cost=cost,
        cost_names=names,
    )


def _open(
    storage: str | BaseStorage | None, name: str, question: Question, codec: SpaceCodec
) -> Study:
    """The study, new or begun for the same problem.

    Raises:
        InputError: when it was begun for another one.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(
        storage=storage,
        study_name=name,
        directions=["minimize"] * len(question.objectives),
        load_if_exists=True,
    )
    record = {
        "objectives": list(question.objectives),
        "budgets": dict(question.budgets),
        "ref_point": None if question.reference is None else list(question.reference),
        "knobs": codec.describe(),
    }
    found = study.user_attrs.get(_PROBLEM)
    if found is None:
        study.set_user_attr(_PROBLEM, record)
    for key, value in record.items():
        if found is not None and found.get(key) != value:
            text = "differs from what the study began with; choose another study_name"
            raise InputError.one(f"study {name}", key, value, text)
    return study


def _own_sampler(problem: _Problem, seed: int) -> CostAwareSampler:
    reference = problem.question.reference

    def fronts(trial: FrozenTrial) -> list[F64] | None:
        """The ragged front with its axes scaled so that the reference point is 1."""
        front = trial.user_attrs.get("front")
        if front is None or reference is None:
            return None
        at = np.array(reference)
        points = np.array(front["points"], dtype=np.float64).reshape(-1, at.size)
        return [1.0 - (at - points) / np.where(at == 0.0, 1.0, np.abs(at))]

    return CostAwareSampler(
        seed=seed,
        space=problem.columns.distributions,
        checks=problem.checks,
        free_constraints=tuple(problem.cost_names),
        reference=reference,
        read_fronts=fronts,
    )
