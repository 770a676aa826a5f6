"""Optimisers that are no part of the product, for search_methods.py.

pymoo's NSGA-II (`make bench` installs it and BoTorch) and LINAS as we read its paper (Cummings et
al. 2022, arXiv 2202.12954): populations of 50; from the second on, cheap predictors of every
objective, trained on all that was evaluated, are searched by NSGA-II, and the best new settings of
that are evaluated. And BoTorch's qLogNEHVI with its own models and settings, one evaluation at a
time after ten random ones. And Optuna's GPSampler as a study of its own has it: kept from ask to
ask, on the numbers of the problem as they are, with both budgets told as constraints. All get the
free budget check: what breaks a budget is not evaluated and does not count. Only GPSampler is run
without it, too: then budgets are learned, and what breaks one is an evaluation that is lost.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import optuna
from optuna.distributions import FloatDistribution, IntDistribution

from dynsearch.search.pareto import non_dominated
from dynsearch.search.screened_gp import ScreenedGPSampler

POPULATION = 50
STARTUP = 10  # random evaluations of qLogNEHVI and GPSampler
CANDIDATES = 512  # settings of each kind that qLogNEHVI looks at
_BAD = 1e3  # stands for the objectives of what breaks a budget


def pymoo_nsga2(problem: Any, evaluations: int, seed: int) -> np.ndarray:
    """Points in the order of evaluation [n, 2]."""
    points: list[np.ndarray] = []

    def evaluate(X: np.ndarray) -> np.ndarray:
        found = problem.evaluate(X)
        points.extend(found)
        return found

    _nsga2(problem, evaluate, lambda: len(points) < evaluations, POPULATION, seed)
    return np.array(points[:evaluations])


def pooled_front(problem: Any, runs: int) -> np.ndarray:
    """Best points known of a problem without an exact front: long runs of NSGA-II, pooled."""
    pools = []
    for seed in range(runs):
        generations = iter(range(500))
        found = _nsga2(
            problem, problem.evaluate, lambda g=generations: next(g, None) is not None, 200, seed
        )
        pools.append(problem.evaluate(found))
    points = np.concatenate(pools)
    return points[non_dominated(points)]


def linas(problem: Any, evaluations: int, seed: int) -> np.ndarray:
    """Points in the order of evaluation [n, 2]."""
    rng = np.random.default_rng(seed)
    X = _feasible(problem, rng, POPULATION)
    F = problem.evaluate(X)
    while len(F) < evaluations:
        predict = _ridge(problem, X, F)
        generations = iter(range(60))
        found = _nsga2(
            problem, predict, lambda g=generations: next(g, None) is not None, POPULATION, seed
        )
        known = {row.tobytes() for row in X}
        new = np.array([row for row in found if row.tobytes() not in known])
        if len(new) < POPULATION:
            more = _feasible(problem, rng, POPULATION - len(new))
            new = np.concatenate([new.reshape(-1, X.shape[1]), more])
        X, F = np.concatenate([X, new]), np.concatenate([F, problem.evaluate(new)])
    return F[:evaluations]


def qlognehvi(problem: Any, evaluations: int, seed: int) -> np.ndarray:
    """Points in the order of evaluation [n, 2].

    The acquisition is looked at on legal settings alone: random ones, and neighbours of the front.
    """
    import torch
    from botorch.acquisition.multi_objective.logei import (
        qLogNoisyExpectedHypervolumeImprovement,
    )
    from botorch.fit import fit_gpytorch_mll
    from botorch.models import ModelListGP, SingleTaskGP
    from botorch.sampling import SobolQMCNormalSampler
    from gpytorch.mlls import SumMarginalLogLikelihood

    torch.manual_seed(seed)
    rng = np.random.default_rng(seed)
    X = _feasible(problem, rng, STARTUP)
    F = problem.evaluate(X)
    span = problem.high - problem.low

    def scaled(rows: np.ndarray) -> torch.Tensor:
        return torch.tensor((rows - problem.low) / span)

    while len(F) < evaluations:
        Y = torch.tensor(-np.log(F))
        mean, sd = Y.mean(dim=0), Y.std(dim=0)
        Z, reference = (Y - mean) / sd, (torch.tensor(-np.log(problem.reference)) - mean) / sd
        model = ModelListGP(*(SingleTaskGP(scaled(X), Z[:, [m]]) for m in range(2)))
        fit_gpytorch_mll(SumMarginalLogLikelihood(model.likelihood, model))
        acquisition = qLogNoisyExpectedHypervolumeImprovement(
            model=model,
            ref_point=reference.tolist(),
            X_baseline=scaled(X),
            prune_baseline=True,
            sampler=SobolQMCNormalSampler(torch.Size([128]), seed=seed),
        )
        known = {row.tobytes() for row in X}
        offered = np.concatenate(
            [_feasible(problem, rng, CANDIDATES), _near(problem, rng, X[non_dominated(F)])]
        )
        offered = np.array([row for row in offered if row.tobytes() not in known])
        with torch.no_grad():
            parts = scaled(offered)[:, None].split(256)
            gains = torch.cat([acquisition(part) for part in parts])
        best = offered[[int(gains.argmax())]]
        X, F = np.concatenate([X, best]), np.concatenate([F, problem.evaluate(best)])
    return F


def gpsampler(problem: Any, evaluations: int, seed: int) -> np.ndarray:
    """Points in the order of evaluation [n, 2]."""
    known: set[bytes] = set()

    def allowed(params: Sequence[dict[str, Any]]) -> list[bool]:
        rows = np.array([[one[f"x{i}"] for i in range(len(one))] for one in params], dtype=float)
        fits = (problem.budgets(rows) <= 1.0).all(axis=1)
        return [ok and row.tobytes() not in known for ok, row in zip(fits, rows, strict=True)]

    sampler = ScreenedGPSampler(seed=seed, allowed=allowed)
    first = _feasible(problem, np.random.default_rng(seed), STARTUP)
    points = []
    for row, point, fits in _gp_study(problem, sampler, first):
        assert fits, "a proposal broke a budget"
        assert row.tobytes() not in known, "a setting was evaluated twice"
        known.add(row.tobytes())
        points.append(point)
        if len(points) == evaluations:
            break
    return np.array(points)


def gpsampler_alone(problem: Any, evaluations: int, seed: int) -> np.ndarray:
    """Points in the order of evaluation [n, 2], those beyond a budget infinitely bad.

    Without the free check: budgets are learned, and what breaks one costs an evaluation.
    """
    study = _gp_study(problem, optuna.samplers.GPSampler(seed=seed), np.empty((0, 0)))
    found = itertools.islice(study, evaluations)
    return np.array([point if fits else np.full(2, _BAD) for _, point, fits in found])


def _gp_study(
    problem: Any, sampler: optuna.samplers.GPSampler, first: np.ndarray
) -> Iterator[tuple[np.ndarray, np.ndarray, bool]]:
    """Rows [G] in the order of evaluation, their points [2], whether they keep the budgets."""
    limits = zip(problem.low.tolist(), problem.high.tolist(), problem.is_float, strict=True)
    space = {
        f"x{i}": FloatDistribution(a, b) if real else IntDistribution(int(a), int(b))
        for i, (a, b, real) in enumerate(limits)
    }
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    study = optuna.create_study(directions=["minimize"] * 2, sampler=sampler)
    for row in first.tolist():
        study.enqueue_trial(dict(zip(space, row, strict=True)))
    while True:
        trial = study.ask(space)
        row = np.array([[trial.params[name] for name in space]], dtype=float)
        shares, point = problem.budgets(row)[0], problem.evaluate(row)[0]
        for name, share in zip(("memory", "worst"), shares.tolist(), strict=True):
            trial.set_constraint(name, share - 1.0)
        study.tell(trial, point.tolist())
        yield row[0], point, bool((shares <= 1.0).all())


def _near(problem: Any, rng: np.random.Generator, front: np.ndarray) -> np.ndarray:
    """Feasible settings with one to three knobs of a front's drawn anew."""
    parents = front[rng.integers(len(front), size=4 * CANDIDATES)]
    changed = rng.random(parents.shape) < rng.integers(1, 4, (len(parents), 1)) / parents.shape[1]
    rows = np.where(changed, problem.draw(rng, len(parents)), parents)
    return rows[(problem.budgets(rows) <= 1.0).all(axis=1)][:CANDIDATES]


def _feasible(problem: Any, rng: np.random.Generator, n: int) -> np.ndarray:
    rows = np.empty((0, problem.low.size))
    while len(rows) < n:
        drawn = problem.draw(rng, 512)
        rows = np.concatenate([rows, drawn[(problem.budgets(drawn) <= 1.0).all(axis=1)]])
    return rows[:n]


def _ridge(problem: Any, X: np.ndarray, F: np.ndarray) -> Any:
    """Ridge regression of log objectives on one-hot settings (floats as they are)."""

    def inputs(rows: np.ndarray) -> np.ndarray:
        columns = [np.ones((len(rows), 1))]
        for i, real in enumerate(problem.is_float):
            kinds = np.arange(problem.low[i], problem.high[i] + 1)
            columns.append(rows[:, [i]] if real else (rows[:, [i]] == kinds).astype(float))
        return np.concatenate(columns, axis=1)

    A = inputs(X)
    weights = np.linalg.solve(A.T @ A + 0.1 * np.eye(A.shape[1]), A.T @ np.log(F))
    return lambda rows: inputs(rows) @ weights


def _nsga2(problem: Any, evaluate: Any, goes_on: Any, size: int, seed: int) -> np.ndarray:
    """Feasible settings of the last population [n, G], the front first."""
    from pymoo.algorithms.moo.nsga2 import NSGA2
    from pymoo.core.evaluator import Evaluator
    from pymoo.core.problem import Problem
    from pymoo.core.repair import Repair
    from pymoo.core.termination import NoTermination
    from pymoo.problems.static import StaticProblem

    class Rounded(Repair):
        def _do(self, _: Any, X: np.ndarray, **__: Any) -> np.ndarray:
            return np.where(problem.is_float, X, np.rint(X))

    bounds = {"xl": problem.low, "xu": problem.high}
    asked = Problem(n_var=problem.low.size, n_obj=2, n_ieq_constr=2, **bounds)
    algorithm = NSGA2(pop_size=size, repair=Rounded())
    algorithm.setup(asked, termination=NoTermination(), seed=seed, verbose=False)
    while goes_on():
        population = algorithm.ask()
        X = np.asarray(population.get("X"), dtype=float)
        G = problem.budgets(X) - 1.0
        F = np.full((len(X), 2), _BAD)
        fits = (G <= 0.0).all(axis=1)
        if fits.any():
            F[fits] = evaluate(X[fits])
        Evaluator().eval(StaticProblem(asked, F=F, G=G), population)
        algorithm.tell(infills=population)
    X, F, G = (np.asarray(algorithm.pop.get(name), dtype=float) for name in "XFG")
    X, F = X[(G <= 0.0).all(axis=1)], F[(G <= 0.0).all(axis=1)]
    best = non_dominated(F)
    return np.concatenate([X[best], X[~best]])
