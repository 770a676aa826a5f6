"""The Optuna study of a run: one trial is one forward pass.

Parameters are the outer knobs. The three values stand for the front that a pass yields: the mean
over devices of the lowest `error_bound` within all budgets at three anchor costs. The storage is
the truth for trials; only the driver writes to it.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import optuna
from optuna.samplers import RandomSampler
from optuna.storages import BaseStorage, InMemoryStorage, JournalStorage
from optuna.storages.journal import JournalFileBackend
from optuna.storages.journal._file import get_lock_file
from optuna.study import Study, StudyDirection
from optuna.trial import FrozenTrial, Trial, TrialState, create_trial

from dynsearch.redact import redact_logs
from dynsearch.search.database import of_this_run, open_database
from dynsearch.search.encoding import SpaceCodec, full_setting
from dynsearch.search.runs import Run
from dynsearch.search.types import NUM_ANCHORS, Params, PassFronts, SearchProblem
from search_spaces.errors import InputError

SCHEMA_VERSION = 1
_PROBLEM = "problem"  # study attribute: what the study was begun for
_RETRY = "retry_of"  # trial attribute: the trial that was given up for this one
_DIRECTIONS = [StudyDirection.MINIMIZE] * NUM_ANCHORS


class _Journal(JournalFileBackend):
    """A journal that waits for the disk where it matters: at new studies and at tells.

    What comes between them reaches the file at once, so that killing the process loses nothing;
    after a power cut the last trials may be missing parameters, and run again.
    """

    _WAITS = frozenset({0, 6})  # operations of the file format: a new study, the state of a trial

    def append_logs(self, logs: list[dict[str, Any]]) -> None:
        """Append operations."""
        if any(log["op_code"] in self._WAITS for log in logs):
            super().append_logs(logs)
            return
        lines = "".join(json.dumps(log, separators=(",", ":")) + "\n" for log in logs)
        with get_lock_file(self._lock), Path(self._file_path).open("ab") as file:
            file.write(lines.encode())

    def wait_for_disk(self) -> None:
        """Return once all that was appended would survive a power cut."""
        with Path(self._file_path).open("rb") as file:
            os.fsync(file.fileno())


@dataclass(frozen=True, slots=True, kw_only=True)
class Book:
    """An open study. With storage "memory", `copy` is the journal that outlives the process."""

    study: Study
    codec: SpaceCodec
    copy: Study | None = None

    @property
    def lasting(self) -> Study:
        """The study that is on disk or in a database."""
        return self.copy or self.study

    def trials(self, *states: TrialState) -> list[FrozenTrial]:
        """Trials in these states (all by default), not to be changed."""
        return self.study.get_trials(deepcopy=False, states=states or None)

    def setting(self, trial: FrozenTrial) -> Params | None:
        """The normalised setting of a trial; None where it was never fully stored."""
        params = trial.system_attrs.get("fixed_params", {}) | trial.params
        return self.codec.decode(params) if self.codec.complete(params) else None


def anchor_costs(c_min: float, c_max: float) -> tuple[float, ...]:
    """a_j = c_min (c_max / c_min)^(j/3), j = 1..3, in the unit of the cost.

    Args:
        c_min: Lower bound of the cost of the shallowest legal policy.
        c_max: The cost's budget, or the full network's cost where it has none.

    Raises:
        InputError: when c_max <= c_min: no policy can be within the budget.
    """
    if not 0.0 < c_min < c_max:
        text = f"no policy costs less than {c_min:.4g}; allow more, or a smaller depth"
        raise InputError.one("job", "budgets", f"{c_max:.4g}", text)
    steps = range(1, NUM_ANCHORS + 1)
    return tuple(c_min * (c_max / c_min) ** (j / NUM_ANCHORS) for j in steps)


def trial_values(fronts: PassFronts) -> list[float]:
    """v_j: mean over devices of the pass's anchor values."""
    rows = [front.anchor_values for front in fronts.devices]
    return [math.fsum(float(row[j]) for row in rows) / len(rows) for j in range(NUM_ANCHORS)]


def trial_constraints(
    fronts: PassFronts, budgets: Mapping[str, Mapping[str, float]]
) -> dict[str, float]:
    """Relative excess, value / budget - 1, over each budget, on the device that violates least.

    Args:
        fronts: Fronts of one pass.
        budgets: Limit by device and cost.
    """
    best = min(fronts.devices, key=lambda front: front.violation)
    limits = budgets[best.device]
    return {name: best.budget_values[name] / limit - 1.0 for name, limit in limits.items()}


def open_storage(run: Run, storage: str) -> BaseStorage:
    """Optuna's storage of a run.

    Args:
        run: The run folder.
        storage: "journal" or "memory" (both use the folder's journal), or a database URL.

    Raises:
        InputError: when the journal is damaged or the database cannot be opened.
    """
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    redact_logs("optuna")
    if storage in ("journal", "memory"):
        try:
            return JournalStorage(_Journal(str(run.journal)))
        except (ValueError, KeyError) as error:
            text = f"is damaged ({error}); restore it from a copy or start anew with --fresh"
            raise InputError.one(run.journal, "", None, text) from None
    if "://" not in storage:
        text = 'is no storage; write "journal", "memory" or the URL of a database'
        raise InputError.one("job", "search.storage", storage, text)
    return open_database(storage)


def open_book(run: Run, storage: str, codec: SpaceCodec, problem: SearchProblem) -> Book:
    """Open the run's study, or create it with the full network as trial 0.

    Raises:
        InputError: when the study is of a newer schema, was begun for another space, other
            devices, budgets, objectives or costs, or belongs to another run folder.
    """
    record = _record(codec, problem)
    lasting = _create(open_storage(run, storage), run.study_name)
    of_this_run(lasting, run, storage)
    _check_problem(run, lasting, record)
    book = Book(study=lasting, codec=codec)
    if storage == "memory":
        live = _create(InMemoryStorage(), run.study_name)
        for key, value in lasting.user_attrs.items():
            live.set_user_attr(key, value)
        live.add_trials(lasting.get_trials(deepcopy=False))
        book = Book(study=live, codec=codec, copy=lasting)
    if not book.trials():
        enqueue(book, full_setting(codec))
    return book


def _create(storage: BaseStorage, name: str) -> Study:
    return optuna.create_study(
        storage=storage,
        study_name=name,
        directions=_DIRECTIONS,
        sampler=RandomSampler(),
        load_if_exists=True,
    )


def _record(codec: SpaceCodec, problem: SearchProblem) -> dict[str, Any]:
    return {
        "schema_version": SCHEMA_VERSION,
        "devices": list(problem.devices),
        "objectives": list(problem.objectives),
        "budgets": {name: dict(limits) for name, limits in problem.budgets.items()},
        "anchors": {name: list(costs) for name, costs in problem.anchors.items()},
        "full_cost": problem.full_cost,
        "knobs": codec.describe(),
    }


def _check_problem(run: Run, study: Study, record: dict[str, Any]) -> None:
    found = study.user_attrs.get(_PROBLEM)
    if found is None:
        study.set_user_attr(_PROBLEM, record)
        return
    version = found.get("schema_version")
    if not isinstance(version, int) or version > SCHEMA_VERSION:
        text = f"newer schema: this dynsearch reads up to {SCHEMA_VERSION}; upgrade dynsearch"
        raise InputError.one(run.path, "schema_version", version, text)
    for key, value in record.items():
        if not _equal(found.get(key), value):
            text = "differs from what the run began with; start anew with --fresh"
            raise InputError.one(run.path, f"study.{key}", value, text)


def _equal(a: Any, b: Any) -> bool:
    if isinstance(a, dict) and isinstance(b, dict):
        return a.keys() == b.keys() and all(_equal(a[key], b[key]) for key in a)
    if isinstance(a, list) and isinstance(b, list):
        return len(a) == len(b) and all(_equal(x, y) for x, y in zip(a, b, strict=True))
    if isinstance(a, int | float) and isinstance(b, int | float):
        return math.isclose(a, b, rel_tol=1e-9)
    return bool(a == b)


def enqueue(book: Book, setting: Params, retry_of: FrozenTrial | None = None) -> None:
    """Let a setting be tried before the sampler is asked again."""
    attrs: dict[str, Any] = {"fixed_params": book.codec.encode(setting)}
    user: dict[str, Any] = {}
    if retry_of is not None:
        user[_RETRY] = retry_of.number
        # NSGA-II counts a trial as a parent only with its generation.
        attrs |= {k: v for k, v in retry_of.system_attrs.items() if k.endswith(":generation")}
    waiting = create_trial(state=TrialState.WAITING, system_attrs=attrs, user_attrs=user)
    book.study.add_trial(waiting)


def mend_queue(book: Book, stale: Sequence[FrozenTrial], *, full_first: bool) -> None:
    """Give up trials whose driver died, and have their settings tried in the order they had.

    What waited behind them waits behind them again. Settings are queued anew before the old
    trials are given up, and only once, so that a driver that dies here too loses nothing.

    Args:
        book: The open study.
        stale: Trials in state RUNNING that left no trace.
        full_first: Whether the full network must come first: no pass of it is complete.
    """
    full, waiting = full_setting(book.codec), book.trials(TrialState.WAITING)
    retries = {t.number: t.user_attrs[_RETRY] for t in book.trials() if _RETRY in t.user_attrs}

    def place(trial: FrozenTrial) -> int:
        number = trial.number
        while number in retries:
            number = retries[number]
        return number

    old = sorted([*stale, *waiting], key=place)
    left = [t for t in old if t.number not in retries.values()]
    queue: list[tuple[Params, FrozenTrial | None]]
    queue = [(setting, t) for t in left if (setting := book.setting(t)) is not None]
    queue.sort(key=lambda pair: full_first and pair[0] != full)
    if full_first and full not in [setting for setting, _ in queue]:
        queue.insert(0, (full, None))
    wanted = [t.number if t else None for _, t in queue]
    if wanted == [t.number for t in waiting if t.number in wanted]:
        old = [t for t in old if t.number not in wanted]  # they wait in this order already
    else:
        for setting, trial in queue:
            enqueue(book, setting, retry_of=trial)
    for trial in old:
        if trial.state is TrialState.WAITING:
            book.study._storage.set_trial_state_values(trial._trial_id, TrialState.RUNNING)
        tell_failed(book, running(book, trial), "the driver ended before the pass did", stale=True)


def running(book: Book, trial: FrozenTrial) -> Trial:
    """A trial in state RUNNING, to be told."""
    return Trial(book.study, trial._trial_id)


def tell_failed(book: Book, trial: Trial, reason: str, *, stale: bool = False) -> None:
    """Finish a trial without values."""
    trial.set_user_attr("reason", reason)
    if stale:
        trial.set_user_attr("stale", True)
    _mirror(book, book.study.tell(trial, state=TrialState.FAIL))


def tell_stopped(book: Book, trial: Trial, attrs: Mapping[str, Any]) -> None:
    """Finish a trial whose pass was stopped after its first rows: PRUNED, without values."""
    for key, value in attrs.items():
        trial.set_user_attr(key, value)
    _mirror(book, book.study.tell(trial, state=TrialState.PRUNED))


def stopped_shares(book: Book) -> list[float]:
    """What was run of each pass that was stopped, as shares of whole passes."""
    return [t.user_attrs["screened"]["share"] for t in book.trials(TrialState.PRUNED)]


def tell_complete(
    book: Book,
    trial: Trial,
    *,
    values: Sequence[float],
    constraints: Mapping[str, float],
    attrs: Mapping[str, Any],
) -> None:
    """Finish a trial. A constraint that an earlier driver already stored stays."""
    for key, value in attrs.items():
        trial.set_user_attr(key, value)
    for key, value in constraints.items():
        if key not in trial.constraints:
            trial.set_constraint(key, value)
    _mirror(book, book.study.tell(trial, list(values)))


def set_attr(book: Book, key: str, value: Any) -> None:
    """Store a study attribute, in the lasting copy too."""
    book.study.set_user_attr(key, value)
    if book.copy is not None:
        book.copy.set_user_attr(key, value)


def _mirror(book: Book, trial: FrozenTrial) -> None:
    if book.copy is None:
        return
    book.copy.add_trial(trial)
    storage = book.copy._storage
    if isinstance(storage, JournalStorage) and isinstance(storage._backend, _Journal):
        storage._backend.wait_for_disk()


def counts(book: Book) -> tuple[int, int]:
    """Passes that ended: `(complete, failed)`.

    Trials that were given up as stale do not count, nor those whose pass an earlier run made.
    """
    complete = [t for t in book.trials(TrialState.COMPLETE) if not t.user_attrs.get("reused")]
    failed = [t for t in book.trials(TrialState.FAIL) if not t.user_attrs.get("stale")]
    return len(complete), len(failed)


def settings_of(book: Book) -> list[Params]:
    """All settings that are or were trials, whatever became of them."""
    settings = (book.setting(trial) for trial in book.trials())
    return [setting for setting in settings if setting is not None]
