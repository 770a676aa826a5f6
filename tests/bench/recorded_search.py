"""How many forward passes a search needs on the recorded table, by method.

Run: python tests/bench/recorded_search.py [--seeds 5]; needs `recorded_table.py --record`. One
pass yields a front of exit policies in the two-loop search (`replay`, asked and told as a job
does), and one configuration in a black-box search over outer and inner knobs together (`box`).
What is not in the table cannot be tried. Worst case and memory are free and budgeted for all;
error (its bound) and mean latency cost a pass each time. Prints one JSON object a method and
seed: hypervolume in % of the exact front's after some numbers of passes (`hv@`), and, where rows
that no search sees were recorded, that of the points found, with their errors on those rows, in %
of what the exact front has there (`unseen@`). `--table FILES` sums up such rows made with
`--history`, with the passes that reach what random box search has after 200 and random replay
after 40. `--switch` asks what a finished search on another device is worth.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import optuna
from recorded_table import LAYERS, MIN_DEPTH, SHARES, THRESHOLDS, load_table, policies, space_of

from dynsearch import Choice, IntRange, optimize
from dynsearch.search.encoding import full_setting, make_codec, setting_key
from dynsearch.search.pareto import hypervolume, non_dominated
from dynsearch.search.sampler import OWN, Gate, ask_sampler, own_sampler
from dynsearch.search.study import anchor_costs
from search_spaces.backbones import load_backbone
from search_spaces.knobs import Knobs, KnobSpace

# name -> sampler, whether a pass yields a front, passes
METHODS = {
    "dynsearch, replay": ("dynsearch", True, 40),
    "TPE, replay": ("tpe", True, 40),
    "NSGA-II, replay": ("nsga2", True, 40),
    "random, replay": ("random", True, 40),
    "dynsearch, box": ("dynsearch", False, 200),
    "TPE, box": ("tpe", False, 200),
    "NSGA-II, box": ("nsga2", False, 200),
    "random, box": ("random", False, 200),
    "GPSampler, box": ("gp", False, 60),
}
QUICK = "dynsearch, replay; TPE, replay; random, replay; random, box"
CHECKPOINTS = (3, 5, 8, 10, 15, 20, 30, 40, 60, 100, 150, 200)
NO_ANSWER = 0.5  # error of always answering the most frequent of two classes


class BoxSpace(KnobSpace):
    """Outer and inner knobs together, equal networks as equal settings."""

    def __init__(self, outer: Mapping[str, Any]) -> None:
        knobs = dict(outer)
        knobs |= {f"exit_{i}": IntRange(0, 1) for i in range(1, LAYERS)}
        knobs |= {"depth": IntRange(MIN_DEPTH, LAYERS), "tau": Choice(THRESHOLDS.tolist())}
        rules: dict[str, Any] = {
            f"exit_{i}": lambda k, i=i: np.asarray(k["depth"] > i)
            for i in range(MIN_DEPTH, LAYERS)
        }
        groups = [name.removeprefix("experts_") for name in knobs if name.startswith("experts_")]
        rules |= {f"active_{g}": lambda k, g=g: np.asarray(k[f"experts_{g}"] > 1) for g in groups}
        rules["granularity"] = lambda k: np.any([k[f"experts_{g}"] > 1 for g in groups], axis=0)
        rules["tau"] = lambda k: exits_of(k).any(axis=1)
        # `depth` stands after the exits that its rule concerns: canonical() reads it as proposed.
        super().__init__(knobs, active=rules)

    def canonical(self, values: Mapping[str, Any]) -> Knobs:
        """As the base class; tokens once lost stay lost."""
        found = dict(values)
        found["keep_after_3"] = np.minimum(found["keep_after_1"], found["keep_after_3"])
        return super().canonical(found)


def exits_of(knobs: Mapping[str, Any]) -> np.ndarray:
    """Early exits below the depth [B, L]."""
    depth = np.asarray(knobs["depth"])
    on = np.zeros((depth.size, LAYERS), dtype=bool)
    for i in range(1, LAYERS):
        on[:, i - 1] = (np.asarray(knobs[f"exit_{i}"]) == 1) & (depth > i)
    return on


def _unions(parts: Sequence[np.ndarray]) -> Iterator[np.ndarray]:
    """What the search rows leave non-dominated of all parts so far, after each [K, 3]."""
    union = np.empty((0, 3))
    for points in parts:
        union = np.concatenate([union, points])
        union = union[non_dominated(union[:, :2])]
        yield union


def _as_told(union: np.ndarray) -> np.ndarray:
    """Non-dominated by the error on unseen rows and the latency [K, 2]."""
    points = union[:, [2, 1]]
    return points[non_dominated(points)]


class Recorded:
    """The table as something to search on one device."""

    def __init__(self, device: int) -> None:
        table = load_table()
        assert table is not None
        self.table, self.d = table, device
        self.space = space_of(load_backbone("minilm-l6"))
        self.codec = make_codec(self.space)
        self.number = {setting_key(s): i for i, s in enumerate(table.settings)}
        batch, level = policies()
        self.bare = np.flatnonzero(~batch.exit_on.any(axis=1))  # by depth, from MIN_DEPTH
        self.policy = {
            (int(d), on.tobytes(), int(t)): i
            for i, (d, on, t) in enumerate(zip(batch.depth, batch.exit_on, level, strict=True))
        }
        self.inside = table.feasible(device)
        self.reference = table.reference(device)
        self.exact = table.exact(device)
        shallow = float(table.latency_s[device, :, self.bare[0]].min())
        self.anchors = anchor_costs(0.999 * shallow, float(self.reference[1]))

    def deepest(self) -> np.ndarray:
        """Layers that policies within the budgets may reach [S]: what a pass records."""
        fits = self.inside[:, self.bare] * np.arange(MIN_DEPTH, LAYERS + 1)
        return np.maximum(fits.max(axis=1), MIN_DEPTH)

    def points(self, s: Any, p: Any) -> np.ndarray:
        """Error, mean latency, error on rows that no search sees (nan: not recorded) [K, 3]."""
        table = self.table
        error = table.error[s, p]
        unseen = np.full(error.shape, np.nan) if table.confirmed is None else table.confirmed[s, p]
        return np.stack([error, table.latency_s[self.d, s, p], unseen], axis=1)

    def front(self, s: int) -> np.ndarray:
        """Non-dominated points of a setting within the budgets [K, 2]."""
        return self.told(s)[:, :2]

    def told(self, s: int) -> np.ndarray:
        """The same with their errors on rows that no search sees [K, 3]."""
        points = self.points(s, np.flatnonzero(self.inside[s]))
        return points[non_dominated(points[:, :2])]

    def share(self, parts: Sequence[np.ndarray]) -> list[float]:
        """Hypervolume of the union of passes after each, in % of the exact one."""
        return [
            100.0 * hypervolume(union[:, :2], self.reference) / self.exact
            for union in _unions(parts)
        ]

    def unseen_share(self, parts: Sequence[np.ndarray]) -> list[float]:
        """The same with the points that search rows choose and errors on rows that none sees.

        In % of what the exact front of the search rows has there, so it may be above 100.
        """
        table = self.table
        if table.confirmed is None:
            return []
        margin = self.reference[0] - table.error[0, table.full]
        reference = np.array([table.confirmed[0, table.full] + margin, self.reference[1]])
        every = self.points(*np.nonzero(self.inside))
        *_, exact = _unions([every])
        held = hypervolume(_as_told(exact), reference)
        return [100.0 * hypervolume(_as_told(u), reference) / held for u in _unions(parts)]

    def replay(
        self, kind: str, passes: int, seed: int, reused: Sequence[int] = ()
    ) -> tuple[list[np.ndarray], list[int]]:
        """Fronts and settings of a two-loop search; `reused` settings cost no pass.

        The fronts of reused settings are the first of the list.
        """

        def hopeless(outer: list[Any]) -> np.ndarray:
            rows = [self.number.get(setting_key(self.space.encode(c))) for c in outer]
            return np.array([s is None or not self.inside[s].any() for s in rows])

        gate, codec = Gate(codec=self.codec, screen=hopeless), self.codec
        study = optuna.create_study(directions=["minimize"] * 3)
        own = own_sampler(gate, seed, lambda t: [np.array(t.user_attrs["front"]).reshape(-1, 2)])
        first = [self.table.settings[s] for s in reused] or [full_setting(codec)]
        fronts, tried = [], []
        for n in range(len(reused) + passes):
            if n < len(first):
                study.enqueue_trial(codec.encode(first[n]))
            else:
                words = (seed, n, 0)
                reserve = gate.reserve(np.random.default_rng([*words, 0]))
                assert reserve is not None
                mine = own if kind == OWN else None
                study.sampler = ask_sampler(kind, gate, reserve, words, mine)
            trial = study.ask(codec.distributions)
            setting = codec.decode(trial.params)
            gate.add([setting])
            s = self.number[setting_key(setting)]
            points = self.told(s)
            trial.set_user_attr("front", (points[:, :2] / self.reference).tolist())
            reached = [points[points[:, 1] <= a, 0].min(initial=np.inf) for a in self.anchors]
            study.tell(trial, [v if np.isfinite(v) else NO_ANSWER for v in reached])
            fronts.append(points)
            tried.append(s)
        return fronts, tried

    def box(self, kind: str, passes: int, seed: int) -> list[np.ndarray]:
        """Points of a black-box search."""
        table, d, full = self.table, self.d, self.table.full
        names = [name for name in self.codec.distributions if name != "dtype"]
        domains = self.space.outer_domains()
        told: list[np.ndarray] = []

        def at(knobs: Mapping[str, Any]) -> tuple[np.ndarray, np.ndarray]:
            rows = zip(*(np.asarray(knobs[name]).tolist() for name in names), strict=True)
            ones = [{"dtype": "fp32", **dict(zip(names, row, strict=True))} for row in rows]
            s = [self.number.get(setting_key(self.space.normalise(one)), -1) for one in ones]
            on = exits_of(knobs)
            level = np.abs(THRESHOLDS - np.asarray(knobs["tau"])[:, None]).argmin(axis=1)
            level = np.where(on.any(axis=1), level, 0)
            keys = zip(knobs["depth"], on, level, strict=True)
            p = [self.policy[int(a), b.tobytes(), int(c)] for a, b, c in keys]
            return np.array(s), np.array(p)

        def quality(knobs: Mapping[str, Any]) -> dict[str, np.ndarray]:
            s, p = at(knobs)
            found = self.points(s, p)
            told.extend(found[:, None])
            return {"error": found[:, 0], "latency_mean_s": found[:, 1]}

        def cost(knobs: Mapping[str, Any]) -> dict[str, np.ndarray]:
            s, p = at(knobs)
            worst = table.worst_s[d, s, p] / table.worst_s[d, 0, full]
            peak = table.peak_bytes[s, p] / table.peak_bytes[0, full]
            return {"latency_worst_s": worst, "peak_bytes": peak, "not_recorded": 1.0 * (s < 0)}

        optimize(
            BoxSpace({name: domains[name] for name in names}),
            quality=quality,
            cost=cost,
            objectives=("error", "latency_mean_s"),
            budgets={**SHARES, "not_recorded": 0.5},
            ref_point=tuple(self.reference),
            n_trials=passes,
            seed=seed,
            sampler=kind,
        )
        return told


def runs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a method and seed."""
    recorded = Recorded(args.device)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for name in METHODS if args.methods == "all" else args.methods.split("; "):
            kind, replay, passes = METHODS[name]
            start = time.process_time()
            if replay:
                parts, _ = recorded.replay(kind, passes, seed)
            else:
                parts = recorded.box(kind, passes, seed)
            used_s = time.process_time() - start
            shares, unseen = recorded.share(parts), recorded.unseen_share(parts)
            row = {"device": recorded.table.devices[args.device], "method": name, "seed": seed}
            row |= {"ms_per_pass": round(1e3 * used_s / passes, 1)}
            row |= {f"hv@{n}": round(shares[n - 1], 2) for n in CHECKPOINTS if n <= passes}
            row |= {
                f"unseen@{n}": round(unseen[n - 1], 2) for n in CHECKPOINTS if n <= len(unseen)
            }
            yield row | ({"history": [round(x, 3) for x in shares]} if args.history else {})


def switches(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """What a finished search on another device is worth, one row a pair of devices and seed.

    A trace holds the layers that the budgets of its own device reach; one that lacks layers of
    the new device is not used.
    """
    table = load_table()
    assert table is not None
    every = [Recorded(d) for d in range(len(table.devices))]
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        cold = [one.replay(OWN, 40, seed) for one in every]
        finals = [one.share(fronts) for one, (fronts, _) in zip(every, cold, strict=True)]
        for a, before in enumerate(every):
            for b, here in enumerate(every):
                if a == b:
                    continue
                enough = before.deepest() >= here.deepest()
                kept = [s for s in cold[a][1] if enough[s] and here.inside[s].any()]
                fronts, _ = here.replay(OWN, 20, seed, reused=kept)
                shares = here.share(fronts)
                after = shares[len(kept) - 1 :] if kept else [0.0, *shares]
                goal = 0.95 * finals[b][-1]
                reached = next((n for n, x in enumerate(after) if x >= goal), None)
                yield {
                    "from": table.devices[a],
                    "to": table.devices[b],
                    "seed": seed,
                    "reused": len(kept),
                    "cold_passes_to_95%": next(n for n, x in enumerate(finals[b], 1) if x >= goal),
                    "warm_passes_to_95%": reached,
                    "warm@0": round(100.0 * after[0] / finals[b][-1], 1),
                    "warm@20": round(100.0 * after[-1] / finals[b][-1], 1),
                }


def table_of(files: list[Path]) -> Iterator[str]:
    """Medians and worst runs by method as Markdown."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    rows = [row for row in rows if "history" in row]
    by_method: dict[str, list[dict[str, Any]]] = {}
    for row in rows:
        by_method.setdefault(row["method"], []).append(row)
    at = [n for n in CHECKPOINTS if any(f"hv@{n}" in row for row in rows)]
    levels = [
        float(np.median([row[key] for row in by_method[name]]))
        for name, key in (("random, box", "hv@200"), ("random, replay", "hv@40"))
    ]
    heads = [f"to {level:.1f}" for level in levels]
    yield "| method | seeds | " + " | ".join(map(str, at)) + f" | {' | '.join(heads)} | ms |"
    yield "|---" * (len(at) + 5) + "|"
    for name, mine in by_method.items():
        cells = [_cell(mine, f"hv@{n}") for n in at]
        for level in levels:
            first = [
                next((n for n, x in enumerate(row["history"], 1) if x >= level), np.inf)
                for row in mine
            ]
            middle, worst = np.median(first), max(first)
            cells.append(" ".join(_shown(x) for x in (middle, worst)).replace(" ", " (", 1) + ")")
        ms = np.median([row["ms_per_pass"] for row in mine])
        yield f"| {name} | {len(mine)} | " + " | ".join(cells) + f" | {ms:.0f} |"
    if any(f"unseen@{n}" in row for row in rows for n in at):
        yield "\nOn rows that no search saw:\n"
        yield "| method | seeds | " + " | ".join(map(str, at)) + " |"
        yield "|---" * (len(at) + 2) + "|"
        for name, mine in by_method.items():
            cells = [_cell(mine, f"unseen@{n}") for n in at]
            yield f"| {name} | {len(mine)} | " + " | ".join(cells) + " |"


def _cell(rows: list[dict[str, Any]], key: str) -> str:
    """Median and worst; nothing where no row has the key."""
    found = [row[key] for row in rows if key in row]
    return f"{np.median(found):.1f} ({min(found):.1f})" if found else ""


def _shown(passes: float) -> str:
    return f"{passes:.0f}" if np.isfinite(passes) else "never"


def main() -> None:
    """Write one JSON object a run."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--device", type=int, default=0, help="its number in the table")
    parser.add_argument("--methods", default=QUICK, help='"all", or some with "; " between')
    parser.add_argument("--history", action="store_true", help="after every pass, for --table")
    parser.add_argument("--switch", action="store_true", help="warm starts between devices")
    parser.add_argument("--table", type=Path, nargs="*", help="only sum up files of such rows")
    args = parser.parse_args()
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if args.table:
        sys.stdout.write("\n".join(table_of(args.table)) + "\n")
        return
    if load_table() is None:
        sys.stdout.write("nothing recorded: see recorded_table.py --record\n")
        return
    for row in switches(args) if args.switch else runs(args):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
