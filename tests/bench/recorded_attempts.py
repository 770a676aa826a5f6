"""What was tried to need fewer passes on the recorded table than our sampler does.

Run: python tests/bench/recorded_attempts.py [--seeds 10] [--attempts "as it is; startup 5"]; needs
`recorded_table.py --record`. Each attempt changes one thing in the sampler of the two-loop search.
Prints one JSON object an attempt: hypervolume in % of the exact front's after some numbers of
passes, median and worst, passes that reach what random outer settings with replay have after 40,
and a paired test of the hypervolume after 20 against the sampler as it is. Two lines come first:
how few passes the best order of all would need, and how well a model of all settings tells one
that it has not seen (leave-one-out R^2 of reaches).
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import optuna
import recorded_search
from recorded_search import OWN, Recorded
from recorded_table import LAYERS, load_table
from scipy.stats import wilcoxon

from dynsearch.search import acquisition, cost_aware, proposals, sampler, surrogate
from dynsearch.search.improvement import directions, reach
from dynsearch.search.pareto import hypervolume
from search_spaces.candidate import layer_schedule

PASSES, AT = 40, (5, 8, 10, 15, 20, 30, 40)
Patch = tuple[Any, str, Any]  # module or class, name, what stands there instead


@dataclass
class Mixture:
    """Models that are averaged; their disagreement is uncertainty."""

    models: list[Any]

    def predict(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        found = [model.predict(queries) for model in self.models]
        means, sds = (np.stack([one[i] for one in found]) for i in (0, 1))
        return means.mean(axis=0), np.sqrt((sds**2).mean(axis=0) + means.var(axis=0))


@dataclass
class Noisy:
    """A model whose spread holds what it calls noise, too: a pass keeps the draw that it got."""

    gp: Any
    noise: float  # variance over signal variance

    def predict(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        mean, sd = self.gp.predict(queries)
        extra = self.gp.unit**2 * self.gp.signal * self.noise
        return mean, np.sqrt(sd**2 + extra)


def ensemble(history: Any, pending: Any, *, fits: Any) -> Any:
    """Eight models, each with hyperparameters of its own draw of rows."""
    found = acquisition.front_acquisition(history, pending, fits=fits)
    X, Y = history.features, reaches_of(history.fronts)
    rng = np.random.default_rng([fits.seed, len(X)])
    models = []
    for _ in range(8):
        rows = np.unique(rng.integers(len(X), size=len(X)))
        models.append(surrogate.condition(X, Y, surrogate.fit(X[rows], Y[rows], 20)))
    found.gp = Mixture(models)
    return found


@dataclass
class Stacked:
    """Models of some outputs each, side by side."""

    models: list[Any]

    def predict(self, queries: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        means, sds = zip(*(model.predict(queries) for model in self.models), strict=True)
        return np.concatenate(means, axis=1), np.concatenate(sds, axis=1)


def halves(history: Any, pending: Any, *, fits: Any) -> Any:
    """A kernel for each half of the directions instead of one for all."""
    found = acquisition.front_acquisition(history, pending, fits=fits)
    X, Y = history.features, reaches_of(history.fronts)
    parts = np.array_split(Y, 2, axis=1)
    found.gp = Stacked([surrogate.condition(X, y, surrogate.fit(X, y, 30)) for y in parts])
    return found


def widened_later(whitener: np.ndarray, weights: np.ndarray, signal: np.ndarray) -> np.ndarray:
    """Posteriors as they are until there are 15 rows to leave out."""
    return _CALIBRATION(whitener, weights, signal) if len(whitener) >= 15 else np.ones(len(signal))


_CALIBRATION = surrogate._calibration


def noisy(history: Any, pending: Any, *, fits: Any) -> Any:
    """Improvement by what a pass will yield, not by its mean over other rows."""
    found = acquisition.front_acquisition(history, pending, fits=fits)
    (_, theta) = fits._found["fronts"]
    found.gp = Noisy(found.gp, float(np.exp(theta[-1])))
    return found


def reaches_of(fronts: Any) -> np.ndarray:
    """How far fronts reach in each direction [n, J]."""
    along = directions(2, acquisition._DIRECTIONS)
    return np.array(
        [np.concatenate([reach(f, np.ones(2), along) for f in devices]) for devices in fronts]
    )


def physical(recorded: Recorded, *, knobs: bool) -> Callable[..., np.ndarray]:
    """Inputs by what a network does: tokens and active units of each layer, its static latency."""

    def traits(setting: Mapping[str, Any]) -> np.ndarray:
        plan = layer_schedule(recorded.space.decode(setting))
        by_token = plan["num_experts"].max() > 1 and setting.get("granularity") == "token"
        s = recorded.number.get(recorded_search.setting_key(recorded.space.normalise(setting)), 0)
        latency = recorded.table.latency_s[recorded.d, s, recorded.table.full]
        share = latency / recorded.reference[1]
        active = plan["top_k"] / plan["num_experts"]
        return np.array([*plan["keep_rate"], *active, 0.5 * by_token, share])

    plain = proposals.Proposer.describe

    def describe(self: Any, X: np.ndarray, costs: Any = None) -> np.ndarray:
        rows = [traits(recorded.codec.decode(self.columns.params(row))) for row in X]
        found = np.array(rows).reshape(len(X), 2 * LAYERS + 2)
        return np.concatenate([plain(self, X, costs), found[:, -1:]], axis=1) if knobs else found

    return describe


def attempts(recorded: Recorded) -> dict[str, list[Patch]]:
    """What each attempt changes."""
    own = (cost_aware, "front_acquisition")
    return {
        "as it is": [],
        "startup 2": [(cost_aware, "FRONT_STARTUP", 2)],
        "startup 5": [(cost_aware, "FRONT_STARTUP", 5)],
        "startup 10": [(cost_aware, "FRONT_STARTUP", 10)],
        "64 directions": [(acquisition, "_DIRECTIONS", 64)],
        "inputs: knobs and static latency": [
            (proposals.Proposer, "describe", physical(recorded, knobs=True))
        ],
        "inputs: tokens and active units by layer": [
            (proposals.Proposer, "describe", physical(recorded, knobs=False))
        ],
        "ensemble of 8": [(*own, ensemble)],
        "noise counts": [(*own, noisy)],
        "no widening": [(surrogate, "_WIDEST", 1.0)],
        "widening from 15 passes": [(surrogate, "_calibration", widened_later)],
        "a kernel for each half": [(*own, halves)],
    }


def run(recorded: Recorded, patches: list[Patch], kind: str, seed: int) -> list[float]:
    """Hypervolume after each pass in %."""
    before = [(where, name, getattr(where, name)) for where, name, _ in patches]
    for where, name, value in patches:
        setattr(where, name, value)
    try:
        return recorded.share(recorded.replay(kind, PASSES, seed)[0])
    finally:
        for where, name, value in before:
            setattr(where, name, value)


def passes_to(history: list[float], level: float) -> float:
    """Passes after which a level is reached."""
    return next((n for n, x in enumerate(history, 1) if x >= level), np.inf)


def best_order(recorded: Recorded, level: float) -> int:
    """Passes to a level for who knows all fronts and takes what adds most, the full one first."""
    fronts = [recorded.front(s) for s in range(len(recorded.table.settings))]
    union, n = fronts[0], 1
    while 100.0 * hypervolume(union, recorded.reference) / recorded.exact < level:
        gains = [hypervolume(np.concatenate([union, f]), recorded.reference) for f in fronts]
        union, n = np.concatenate([union, fronts[int(np.argmax(gains))]]), n + 1
    return n


def told_apart(recorded: Recorded) -> float:
    """Leave-one-out R^2 of reaches, median over directions, of a model of all settings."""
    fronts = [recorded.front(s) / recorded.reference for s in range(len(recorded.number))]
    gate = sampler.Gate(codec=recorded.codec, screen=None)
    own = sampler.own_sampler(gate, 0, lambda trial: None)
    proposer = own._make_caches(recorded.codec.distributions).proposer
    params = [recorded.codec.encode(s) for s in recorded.table.settings]
    X = proposer.describe(np.stack([proposer.columns.rows(p) for p in params]))
    Y = reaches_of([[front] for front in fronts])
    gp = surrogate.condition(X, Y, surrogate.fit(X, Y))
    precision = np.square(gp.whitener).sum(axis=0)
    residual = gp.unit * gp.weights / precision[:, None]
    return float(np.median(1.0 - np.square(residual).mean(axis=0) / Y.var(axis=0)))


def main() -> None:
    """One JSON object an attempt."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--device", type=int, default=0)
    parser.add_argument("--attempts", default="", help='some, with "; " between')
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if load_table() is None:
        sys.stdout.write("nothing recorded: see recorded_table.py --record\n")
        return
    recorded = Recorded(args.device)
    seeds = range(args.first_seed, args.first_seed + args.seeds)
    random = [run(recorded, [], "random", seed) for seed in seeds]
    level = float(np.median([h[-1] for h in random]))
    first = {"level_%": round(level, 2), "settings": len(recorded.number)}
    first |= {"best_order": best_order(recorded, level)}
    _tell(first | {"random_passes": float(np.median([passes_to(h, level) for h in random]))})
    _tell({"left_out_r2": round(told_apart(recorded), 3)})
    every = attempts(recorded)
    wanted = ["as it is", *filter(None, args.attempts.split("; "))] if args.attempts else [*every]
    base: list[list[float]] = []
    for name in dict.fromkeys(wanted):
        found = [run(recorded, every[name], OWN, seed) for seed in seeds]
        base = base or found
        need = [passes_to(h, level) for h in found]
        gaps = [a[19] - b[19] for a, b in zip(found, base, strict=True)]
        row: dict[str, Any] = {"attempt": name, "passes": _shown(np.median(need))}
        row |= {"worst_passes": _shown(max(need))}
        for n in AT:
            values = [h[n - 1] for h in found]
            row[f"hv@{n}"] = f"{np.median(values):.2f} ({min(values):.2f})"
        p = wilcoxon(gaps, alternative="greater").pvalue if any(gaps) else 1.0
        _tell(row | {"p@20": round(float(p), 3)})


def _shown(passes: float) -> str:
    return f"{passes:g}" if np.isfinite(passes) else f"over {PASSES}"


def _tell(row: Mapping[str, Any]) -> None:
    sys.stdout.write(json.dumps(row) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    main()
