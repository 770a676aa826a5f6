"""What naming points by expected losses buys: losses held out, over halves of the search rows.

Run by a person: python tests/bench/naming.py RUN [--dtype fp32] [--halvings 6]. RUN is a run
folder of `dynsearch gains` or `dynsearch search`. Policies of each pass are judged on one half of
the search rows, the fastest that each rule allows is named, and its plain loss on the other half
is told. Rules: weight of what was drawn (`row_losses.DRAWN`; 1: the plain paired loss) and the
standard errors added. Report rows are never read.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from dynsearch.export.records import LOSS_LEVELS
from dynsearch.opened import Opened, pass_fronts, reopen
from dynsearch.quality.trace import Trace, load_trace
from dynsearch.search.policies import PolicyMaker, exit_sets
from dynsearch.search.runs import open_run
from dynsearch.sim import row_losses
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import Candidate

F64 = NDArray[np.float64]
COST = "time_per_sample_s"
DRAWN = (0.0, 0.25, 0.5, 0.75, 1.0)
ERRORS = (0.0, 1.28, 2.0)
RATES = 16


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("run", type=Path)
    parser.add_argument("--dtype", default="fp32")
    parser.add_argument("--halvings", type=int, default=6)
    options = parser.parse_args()
    opened = reopen(open_run(options.run))
    weights, settings = opened.quality.weights_hash, opened.settings
    traces = {n: load_trace(path, weights) for n, path in pass_fronts(opened.run)[1].items()}
    whole = opened.material.space.full()
    full = next(t for n, t in traces.items() if settings[n] == whole)
    passes = [(settings[n], t) for n, t in traces.items() if settings[n].dtype == options.dtype]
    found = [one_halving(opened, passes, full, seed) for seed in range(options.halvings)]
    tell(np.array(found), options.run.name, options.dtype, len(passes))


def one_halving(
    opened: Opened, passes: list[tuple[Candidate, Trace]], full: Trace, seed: int
) -> F64:
    """Speed and held-out loss of the named points [DRAWN, ERRORS, LOSS_LEVELS, 2]; NaN: none."""
    order = np.random.default_rng(seed).permutation(full.num_samples)
    first, second = np.sort(order[::2]), np.sort(order[1::2])
    cost, held = [], []
    loss: dict[float, list[F64]] = {drawn: [] for drawn in DRAWN}
    error: dict[float, list[F64]] = {drawn: [] for drawn in DRAWN}
    for outer, trace in passes:
        here, there = trace.take(first), trace.take(second)
        plain = replayer(opened, outer, here, full.take(first))
        inner = opened.material.space.inner
        maker = PolicyMaker.of(plain, inner)
        depths = range(inner.min_depth, min(inner.max_depth, trace.depth) + 1)
        sets = exit_sets(inner.exit_layers, depths, maker.num_layers, len(inner.exit_layers))
        policies = maker.grid(sets, RATES)
        cost.append(plain.run(policies, [COST]).cost(COST)[0])
        other = replayer(opened, outer, there, full.take(second))
        held.append(other.run(policies, [COST]).loss)
        for drawn in DRAWN:
            row_losses.DRAWN = drawn
            plain.row_losses = row_losses.row_losses(here, full.take(first))
            sums = plain.run(policies, [COST]).row_losses
            assert sums is not None
            mean, square = sums.T / here.num_samples
            loss[drawn].append(mean)
            error[drawn].append(np.sqrt(np.maximum(square - mean**2, 0.0) / here.num_samples))
    costs, losses = np.concatenate(cost), np.concatenate(held)
    out = np.full((len(DRAWN), len(ERRORS), len(LOSS_LEVELS), 2), np.nan)
    for i, drawn in enumerate(DRAWN):
        for j, errors in enumerate(ERRORS):
            bound = np.concatenate(loss[drawn]) + errors * np.concatenate(error[drawn])
            for k, level in enumerate(LOSS_LEVELS):
                allowed = np.flatnonzero(bound <= level + 1e-12)
                if allowed.size:
                    named = allowed[np.argmin(costs[allowed])]
                    out[i, j, k] = 1 / costs[named], losses[named]
    return out


def replayer(opened: Opened, outer: Candidate, trace: Trace, full: Trace) -> Replayer:
    """With plain losses."""
    found = opened.scene.replayer(outer, trace, full)
    found.row_losses = None
    return found


def tell(found: F64, run: str, dtype: str, passes: int) -> None:
    """A table: speed relative to plain losses and 1.28 errors, held-out loss in points."""
    mean = np.nanmean(found, axis=0)
    base = mean[DRAWN.index(1.0), ERRORS.index(1.28), :, 0]
    print(f"{run}, {dtype}, {passes} passes, {len(found)} halvings\n")
    print("| drawn | errors |" + "".join(f" at most {100 * x:g} |" for x in LOSS_LEVELS))
    print("|---|---|" + "---|" * len(LOSS_LEVELS))
    for i, drawn in enumerate(DRAWN):
        for j, errors in enumerate(ERRORS):
            cells = [
                f" {speed / b:.2f} ({100 * loss:+.2f}) |"
                for (speed, loss), b in zip(mean[i, j], base, strict=True)
            ]
            print(f"| {drawn:g} | {errors:g} |" + "".join(cells))


if __name__ == "__main__":
    main()
