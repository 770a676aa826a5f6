"""The derived studies NAME/front/DEVICE: final policies as trials, for Optuna's own tools.

Pareto plots, importances and optuna-dashboard see every knob there, outer and inner. They are
written in one batch when a search stops and are never read back by the search.
"""

from __future__ import annotations

import warnings

import numpy as np
import optuna
from optuna.distributions import (
    BaseDistribution,
    CategoricalDistribution,
    FloatDistribution,
    IntDistribution,
)
from optuna.samplers import RandomSampler
from optuna.trial import create_trial

from dynsearch.search.fronts import MergedFront, policy_hash, thin
from dynsearch.search.study import Book
from dynsearch.search.types import Params
from search_spaces.candidate import EXIT_BATCHING, RUNNABLE_CRITERIA, PolicyBatch

MAX_POINTS = 200
_SCORES = (-16.0, 1.0)  # range of recorded thresholds; unused ones are at its upper end


def write_front_study(
    book: Book, front: MergedFront, objectives: tuple[str, ...], traces: dict[int, str]
) -> int:
    """Add the points of a front that are not there yet.

    Args:
        book: The open study; its storage takes the derived one.
        front: Merged front of one device.
        objectives: The trial's values, in this order; "error" is the plain estimate.
        traces: Trace hash by trial number.

    Returns:
        Number of points added, at most `MAX_POINTS`.
    """
    study = optuna.create_study(
        storage=book.lasting._storage,
        study_name=f"{book.study.study_name}/front/{front.device}",
        directions=["minimize"] * len(objectives),
        sampler=RandomSampler(),
        load_if_exists=True,
    )
    present = {t.user_attrs.get("key") for t in study.get_trials(deepcopy=False)}
    settings = {t.number: book.setting(t) for t in book.trials()}
    added = []
    for i in thin(front.points(objectives), MAX_POINTS).tolist():
        trial = int(front.trial[i])
        key = f"{traces[trial]}:{policy_hash(front.policies, i)}"
        setting = settings[trial]
        if key in present or setting is None:
            continue
        inner, distributions = inner_knobs(front.policies, i)
        costs = {name: float(cost[i]) for name, cost in front.costs.items()}
        plain: Params = costs | {"error": float(front.error[i])}
        added.append(
            create_trial(
                values=[plain[name] for name in objectives],
                params=book.codec.encode(setting) | inner,
                distributions=book.codec.distributions | distributions,
                user_attrs={
                    "outer_trial": trial,
                    "fidelity": "replay",
                    "key": key,
                    "setting": setting,
                    "error_bound": float(front.error_bound[i]),
                    "costs": costs,
                    "heuristic": bool(front.heuristic[i]),
                },
            )
        )
    study.add_trials(added)
    study.set_user_attr("objectives", list(objectives))
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # an experimental method says so each time
        study.set_metric_names(list(objectives))
    return len(added)


def inner_knobs(policies: PolicyBatch, i: int) -> tuple[Params, dict[str, BaseDistribution]]:
    """Policy i as parameters, with their distributions; exit flags are integers 0 and 1."""
    layers = policies.exit_on.shape[1]
    low, high = _SCORES
    thresholds = np.clip(np.where(policies.exit_on[i], policies.thresholds[i], high), low, high)
    params: Params = {
        "depth": int(policies.depth[i]),
        "criterion": RUNNABLE_CRITERIA[int(policies.criterion[i])],
        "patience": int(policies.patience[i]),
        "temperature": float(policies.temperature[i]),
        "exit_batching": EXIT_BATCHING[int(policies.exit_batching[i])],
    }
    distributions: dict[str, BaseDistribution] = {
        "depth": IntDistribution(1, layers),
        "criterion": CategoricalDistribution(RUNNABLE_CRITERIA),
        "patience": IntDistribution(0, layers),
        "temperature": FloatDistribution(1e-3, 1e3, log=True),
        "exit_batching": CategoricalDistribution(EXIT_BATCHING),
    }
    for column in range(layers - 1):
        params[f"exit_{column + 1}"] = int(policies.exit_on[i, column])
        params[f"threshold_{column + 1}"] = float(thresholds[column])
        distributions[f"exit_{column + 1}"] = IntDistribution(0, 1)
        distributions[f"threshold_{column + 1}"] = FloatDistribution(low, high)
    return params, distributions
