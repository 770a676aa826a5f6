"""Hypervolume per evaluation: our sampler against others, all with the same free budget check.

Run: python tests/bench/search_methods.py [FOLDER] [--problem DJ-12 --evaluations 500 ...], with
the folder of joint_problems.py (default ../shared/bench beside the checkout). Two problems:
DJ-enum (524,288 settings, exact front by enumeration) and DJ-12 (46 knobs). Memory and worst case
are free, error and mean latency cost an evaluation. `--constants SEED` draws other constants.
Prints one JSON object a method and seed: hypervolume at some numbers of evaluations, processor
milliseconds of the method per evaluation (without the problem's own). Asserts nothing on time.
"""

from __future__ import annotations

import argparse
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
from search_rivals import gpsampler, gpsampler_alone, linas, pooled_front, pymoo_nsga2, qlognehvi

from dynsearch import Choice, FloatRange, IntRange, SearchSpace, optimize

HERE = Path(__file__).resolve()
FOLDER = HERE.parents[3] / "shared" / "bench"
REFERENCE = {"DJ-enum": (0.16, 3.0), "DJ-12": (0.25, 6.0)}
CHECKPOINTS = (30, 40, 50, 60, 80, 100, 150, 200, 300, 400, 500)
QUICK = ("dynsearch", "random", "nsga2", "tpe")  # and, where pymoo is installed:
OF_PYMOO = ("pymoo-nsga2", "linas")
LIBRARY = ("dynsearch", "random", "nsga2", "tpe", "gp")
RIVALS = {
    "pymoo-nsga2": pymoo_nsga2,
    "linas": linas,
    "gpsampler": gpsampler,
    "gpsampler-alone": gpsampler_alone,
    "qlognehvi": qlognehvi,
}
# Constants of the physics that --constants multiplies by 0.78 to 1.28.
CONSTANTS = (
    r"u \*\* (0\.8)", r"(4\.5) \* cumkeep", r"(0\.16) \* lg", r"(0\.05) \* \(topk",
    r"(0\.22) \* starved", r"1\.25 - (0\.9) \* pos", r"(0\.012) \* nex", r"(0\.025) \* adj",
    r"-(2\.6) \* cap", r"_sig\((9\.0) \*", r"_sig\((10\.0) \*", r"/ (2\.0e12)", r"/ (2\.5e10)",
)  # fmt: skip


def load(folder: Path, constants: int | None, grid: int = 48) -> ModuleType:
    """The module of the problems, with other constants or another grid of difficulties."""
    text = (folder / "joint_problems.py").read_text(encoding="utf-8")
    rng = np.random.default_rng(constants)
    for pattern in CONSTANTS if constants is not None else ():
        factor = float(np.exp(rng.uniform(-0.25, 0.25)))
        text, found = re.subn(pattern, lambda m, f=factor: _scaled(m, f), text, count=1)
        assert found, pattern
    fine = r"np\.arange\(48\) \+ 0\.5\) / 48\.0"
    text, found = re.subn(fine, f"np.arange({grid}) + 0.5) / {grid}.0", text)
    assert found
    module = ModuleType("joint_problems")
    exec(compile(text, "joint_problems.py", "exec"), module.__dict__)
    return module


def _scaled(match: re.Match[str], factor: float) -> str:
    return match[0].replace(match[1], repr(float(match[1]) * factor))


class Problem:
    """One of the problems as knobs, quality and cost, and as a matrix of numbers."""

    def __init__(self, folder: Path, name: str, constants: int | None) -> None:
        self.name = name
        module = load(folder, constants)
        self.raw = module.PROBLEMS[name]()
        # Memory and worst case do not depend on the grid of difficulties: one is cheaper than 48.
        self.cheap = load(folder, constants, grid=1).PROBLEMS[name]()
        self.reference = np.array(REFERENCE[name])
        self.hypervolume = module.hv2
        self.low, self.high = np.asarray(self.raw.lo, float), np.asarray(self.raw.hi, float)
        self.is_float = np.array([kind == "float" for kind in self.raw.kinds])
        self.spent_s = 0.0

    def evaluate(self, X: np.ndarray) -> np.ndarray:
        """Error and mean latency [B, 2] of rows [B, G]: these cost an evaluation each."""
        start = time.process_time()
        points = self.raw.evaluate(X)[0]
        self.spent_s += time.process_time() - start
        return points

    def budgets(self, X: np.ndarray) -> np.ndarray:
        """Memory and worst case [B, 2] of rows [B, G], divided by their budgets; free."""
        start = time.process_time()
        shares = self.cheap.evaluate(X)[1] + 1.0
        self.spent_s += time.process_time() - start
        return shares

    def draw(self, rng: np.random.Generator, n: int) -> np.ndarray:
        """Rows drawn uniformly [n, G]."""
        U = rng.random((n, self.low.size))
        steps = np.floor(self.low + (self.high - self.low + 1) * U)
        return np.where(self.is_float, self.low + (self.high - self.low) * U, steps)

    def exact(self) -> float:
        """Hypervolume of the exact front, by enumeration."""
        parts = []
        for rows in np.array_split(self.raw.all(), 64):
            parts.append(self.raw.evaluate(rows[(self.budgets(rows) <= 1.0).all(axis=1)])[0])
        return float(self.hypervolume(np.concatenate(parts), self.reference))

    def space(self) -> SearchSpace:
        """Named knobs."""
        return enum_space(self.raw) if self.name == "DJ-enum" else twelve_space(self.raw)

    def rows(self, knobs: dict[str, np.ndarray]) -> np.ndarray:
        """Rows [B, G] of values by knob name."""
        columns = []
        for name, values in knobs.items():
            kind = name.split("_")[0]
            table = {
                "tau": getattr(self.raw, "TAU", None),
                "experts": self.raw.EXP,
                "keep": getattr(self.raw, "KEEP", KEEP),
            }
            known = None if self.is_float[len(columns)] else table.get(kind)
            columns.append(values if known is None else _places(np.asarray(known), values))
        return np.stack(columns, axis=1).astype(float)


KEEP = np.array([1.0, 0.9, 0.8, 0.7, 0.6, 0.5, 0.4, 0.3])


def _places(table: np.ndarray, values: np.ndarray) -> np.ndarray:
    return np.abs(table[None] - values[:, None]).argmin(axis=1)


def enum_space(raw: Any) -> SearchSpace:
    """DJ-enum: five exits, one threshold, experts and keep rates of three pairs of blocks."""
    exits = {f"exit_{i}": IntRange(0, 1) for i in range(5)}
    knobs: dict[str, Any] = {**exits, "tau": Choice(raw.TAU.tolist())}
    knobs |= {f"experts_{i}": Choice(raw.EXP.tolist()) for i in range(3)}
    knobs |= {f"keep_{i}": Choice(raw.KEEP.tolist()) for i in range(3)}
    return SearchSpace(knobs, active={"tau": lambda k: sum(k[name] for name in exits) > 0})


def twelve_space(raw: Any) -> SearchSpace:
    """DJ-12: an exit and its threshold after 11 blocks, experts of six, keep rates of all."""
    knobs: dict[str, Any] = {f"exit_{i}": IntRange(0, 1) for i in range(11)}
    knobs |= {f"tau_{i}": FloatRange(0.5, 0.99) for i in range(11)}
    knobs |= {f"experts_{i}": Choice(raw.EXP.tolist()) for i in range(6)}
    knobs |= {f"top_{i}": IntRange(0, 1) for i in range(6)}
    knobs |= {f"keep_{i}": Choice(KEEP.tolist()) for i in range(12)}
    rules = {f"tau_{i}": lambda k, i=i: k[f"exit_{i}"] == 1 for i in range(11)}
    rules |= {f"top_{i}": lambda k, i=i: k[f"experts_{i}"] > 1 for i in range(6)}
    return SearchSpace(knobs, active=rules)


def library(problem: Problem, sampler: str, evaluations: int, seed: int) -> np.ndarray:
    """Points in the order of evaluation [n, 2], by the library call."""

    def quality(knobs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        points = problem.evaluate(problem.rows(knobs))
        return {"error": points[:, 0], "latency_mean_ms": points[:, 1]}

    def cost(knobs: dict[str, np.ndarray]) -> dict[str, np.ndarray]:
        shares = problem.budgets(problem.rows(knobs))
        return {"peak_share": shares[:, 0], "worst_share": shares[:, 1]}

    result = optimize(
        problem.space(),
        quality=quality,
        cost=cost,
        objectives=("error", "latency_mean_ms"),
        budgets={"peak_share": 1.0, "worst_share": 1.0},
        ref_point=tuple(problem.reference),
        n_trials=evaluations,
        seed=seed,
        sampler=sampler,
    )
    rows = problem.rows(
        {n: np.array([e.knobs[n] for e in result.evaluations]) for n in problem.space().knobs}
    )
    assert (problem.raw.evaluate(rows)[1] <= 0.0).all(), "a proposal broke a budget"
    assert len({row.tobytes() for row in rows}) == len(rows), "a setting was evaluated twice"
    return np.array([list(e.objectives.values()) for e in result.evaluations])


def runs(args: argparse.Namespace) -> Iterator[dict[str, Any]]:
    """One row a method and seed."""
    problem = Problem(args.folder, args.problem, args.constants)
    methods = args.methods.split(",")
    if methods == ["quick"]:
        methods = [*QUICK, *(OF_PYMOO if find_spec("pymoo") else ())]
    best = args.best or (problem.exact() if args.problem == "DJ-enum" else None)
    for seed in range(args.first_seed, args.first_seed + args.seeds):
        for method in methods:
            problem.spent_s, start = 0.0, time.process_time()
            run: Callable[..., np.ndarray] = RIVALS.get(method, library)
            extra = () if method in RIVALS else (method,)
            points = run(problem, *extra, args.evaluations, seed)
            used_s = time.process_time() - start - problem.spent_s
            row = {"problem": args.problem, "constants": args.constants, "method": method}
            row |= {"seed": seed, "ms_per_evaluation": round(1e3 * used_s / len(points), 1)}
            for n in (c for c in CHECKPOINTS if c <= args.evaluations):
                volume = problem.hypervolume(points[:n], problem.reference)
                row[f"hv@{n}"] = round(volume if best is None else 100.0 * volume / best, 3)
            yield row


def table(files: list[Path]) -> Iterator[str]:
    """Medians and worst runs by method as Markdown, with paired tests against our sampler."""
    rows = [json.loads(line) for file in files for line in file.read_text().splitlines()]
    problems = dict.fromkeys((row["problem"], row["constants"]) for row in rows)
    for name, constants in problems:
        mine = [row for row in rows if (row["problem"], row["constants"]) == (name, constants)]
        unit = "%" if max(v for v in mine[0].values() if isinstance(v, float)) > 1.0 else "volume"
        other = "" if constants is None else f", other constants ({constants})"
        yield f"{name}{other}: hypervolume in {unit} after so many evaluations, median (worst)\n"
        yield from _summary(mine)
        yield ""


def _summary(rows: list[dict[str, Any]]) -> Iterator[str]:
    """One problem's methods."""
    at = [f"hv@{n}" for n in CHECKPOINTS if any(f"hv@{n}" in row for row in rows)]
    yield "| method | seeds | " + " | ".join(key[3:] for key in at) + " | ms | p |"
    yield "|---" * (len(at) + 4) + "|"
    ours = {row["seed"]: row for row in rows if row["method"] == "dynsearch"}
    for method in dict.fromkeys(row["method"] for row in rows):
        mine = [row for row in rows if row["method"] == method]
        cells = []
        for key in at:
            found = [row[key] for row in mine if key in row]
            digits = 1 if max(found, default=0.0) > 1.0 else 4
            cells.append(
                f"{np.median(found):.{digits}f} ({min(found):.{digits}f})" if found else ""
            )
        ms = np.median([row["ms_per_evaluation"] for row in mine])
        p = _paired(ours, mine, [key for key in at if key in mine[0]][-1])
        yield f"| {method} | {len(mine)} | " + " | ".join(cells) + f" | {ms:.0f} | {p} |"


def _paired(ours: dict[int, dict[str, Any]], mine: list[dict[str, Any]], key: str) -> str:
    """One-sided Wilcoxon test that ours has more, over seeds that both have."""
    from scipy.stats import wilcoxon

    both = [(ours[row["seed"]].get(key), row[key]) for row in mine if row["seed"] in ours]
    gaps = [a - b for a, b in both if a is not None]
    if mine[0]["method"] == "dynsearch" or not any(gaps):
        return ""
    return f"{wilcoxon(gaps, alternative='greater').pvalue:.2g}"


def main() -> None:
    """Write one JSON object a run."""
    every = [*LIBRARY, *RIVALS]
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("folder", type=Path, nargs="?", default=FOLDER)
    parser.add_argument("--problem", choices=REFERENCE, default="DJ-enum")
    parser.add_argument("--methods", default="quick", help=f"with commas: {', '.join(every)}")
    parser.add_argument("--evaluations", type=int, default=100)
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--first-seed", type=int, default=0)
    parser.add_argument("--constants", type=int, default=None)
    parser.add_argument("--best", type=float, default=None, help="hypervolume that is 100 %%")
    parser.add_argument("--pool", type=int, help="only pool so many runs of 100,000 evaluations")
    parser.add_argument("--table", type=Path, nargs="*", help="only sum up files of such rows")
    args = parser.parse_args()
    if args.table:
        sys.stdout.write("\n".join(table(args.table)) + "\n")
        return
    if not (args.folder / "joint_problems.py").exists():
        sys.stdout.write(f"no joint_problems.py in {args.folder}\n")
        return
    if args.methods == "quick" and not find_spec("pymoo"):
        sys.stdout.write(f"{', '.join(OF_PYMOO)} left out: pip install pymoo\n")
    if args.pool:
        problem = Problem(args.folder, args.problem, args.constants)
        volume = problem.hypervolume(pooled_front(problem, args.pool), problem.reference)
        sys.stdout.write(json.dumps({"problem": args.problem, "pooled": volume}) + "\n")
        return
    for row in runs(args):
        sys.stdout.write(json.dumps(row) + "\n")
        sys.stdout.flush()


if __name__ == "__main__":
    main()
