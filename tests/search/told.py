"""What a search of the toy problem has told its study, and whether it is true."""

from __future__ import annotations

from collections import Counter

import optuna
from optuna.trial import FrozenTrial, TrialState
from toy_problem import ToyQuality, toy_problem, toy_space

from dynsearch.search import runs
from dynsearch.search.database import close_database
from dynsearch.search.encoding import setting_key
from dynsearch.search.study import open_storage, trial_values
from dynsearch.search.workers import PassWorker

Finished = list[tuple[str, tuple[float, ...]]]


def complete(run: runs.Run, storage: str = "journal") -> list[FrozenTrial]:
    """Trials that have ended well, in the order in which they were asked for."""
    study = optuna.load_study(study_name=run.study_name, storage=open_storage(run, storage))
    found = study.get_trials(states=(TrialState.COMPLETE,))
    close_database(study)
    return found


def finished(run: runs.Run, storage: str = "journal") -> Finished:
    """Setting and values of the trials that have ended well."""
    done = complete(run, storage)
    return [(setting_key(t.user_attrs["setting"]), tuple(t.values)) for t in done]


def check_none_lost_twice_or_mispaired(
    run: runs.Run, trials: int, storage: str = "journal"
) -> None:
    """As many trials as asked for, each setting once, each with what it yields when run here."""
    done = complete(run, storage)
    assert len(done) == trials
    assert max(Counter(setting_key(t.user_attrs["setting"]) for t in done).values()) == 1
    quality, space = ToyQuality(), toy_space()
    spec = {**toy_problem().inner_spec, "majority_error": quality.majority_error("search")}
    worker = PassWorker(quality, spec, "search")
    reference = worker.run(space.full(), None, None).trace
    for trial in done:
        outer = space.decode(trial.user_attrs["setting"])
        assert trial.values == trial_values(worker.run(outer, None, reference).fronts)
