"""Which outer knobs made the difference between passes, by PED-ANOVA as Optuna has it.

PED-ANOVA (Watanabe, Bansal, Hutter, IJCAI 2023) asks which knobs are distributed otherwise among
the better passes than among all of them. "Better" is asked several times: by the hypervolume of
the front that a pass yields, and by each of its three anchor values (`search.study`): the lowest
error at a small, a middle and the whole allowed cost.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import numpy as np
from optuna.study import Study
from optuna.trial import FrozenTrial, TrialState

from dynsearch.errors import InputError
from dynsearch.search.ledger import REFERENCE_POINT
from dynsearch.search.pareto import hypervolume
from dynsearch.search.runs import Run
from dynsearch.search.study import open_storage
from dynsearch.search.types import NUM_ANCHORS

FEWEST = 12  # complete passes below which shares would be noise
Importances = dict[str, dict[str, float]]  # what is asked -> knob -> share


def open_study(run: Run) -> Study | str:
    """The study of a run whose storage is its journal, or why there is none."""
    if not run.journal.is_file() or run.journal.stat().st_size == 0:
        return "The study of the search is kept elsewhere, in a database."
    import optuna

    try:
        storage = open_storage(run, "journal")
        return optuna.load_study(study_name=run.study_name, storage=storage)
    except InputError as error:
        return f"The study cannot be read: {error.problems[0].message}."
    except KeyError:
        return "The study of the search is kept elsewhere, in a database."


def importances(study: Study) -> tuple[Importances, str]:
    """Shares by question and knob, largest first, and why there are none (empty where there are).

    Args:
        study: Of a run, one complete trial a pass.
    """
    done = study.get_trials(deepcopy=False, states=(TrialState.COMPLETE,))
    if len(done) < FEWEST:
        return {}, f"{len(done)} passes are too few to say; {FEWEST} or more would tell."
    reference = study.user_attrs.get(REFERENCE_POINT, {})
    asked: dict[str, Callable[[FrozenTrial], float]] = {
        "mean of anchors": lambda trial: sum(trial.values) / NUM_ANCHORS,
    }
    if reference:  # the ledger keeps it, beside the fronts of passes
        asked["hypervolume"] = lambda trial: -pass_hypervolume(trial, reference)
    asked |= {f"anchor {j + 1}": _anchor(j) for j in range(NUM_ANCHORS)}
    found = {name: _shares(study, target) for name, target in asked.items()}
    return found, ""


def _anchor(j: int) -> Callable[[FrozenTrial], float]:
    return lambda trial: float(trial.values[j])


def pass_hypervolume(trial: FrozenTrial, reference: dict[str, Any]) -> float:
    """Hypervolume of the front that one pass yielded, mean over devices."""
    fronts = trial.user_attrs["front"]
    volumes = []
    for device, upper in reference.items():
        points = np.array(fronts[device]["points"]).reshape(-1, len(upper))
        volumes.append(hypervolume(points, upper))
    return float(np.mean(volumes)) if volumes else 0.0


def _shares(study: Study, target: Callable[[FrozenTrial], float]) -> dict[str, float]:
    from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances

    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an experimental class says so each time
        shares = get_param_importances(
            study, evaluator=PedAnovaImportanceEvaluator(), target=target
        )
    return {name: float(share) for name, share in shares.items() if share > 0}
