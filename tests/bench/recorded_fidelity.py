"""Whether stopping passes after some of their rows pays, on the recorded table and its traces.

Run: python tests/bench/recorded_fidelity.py [--rows 96,160] [--z 1.96] [--seeds 10]; needs
`recorded_table.py --record`. A pass that is screened runs the first rows of the search split and
goes on only where the front of its lower bounds (`search.fidelity`) would add hypervolume; one
that is stopped costs its share of rows. Prints one JSON object a method, number of rows and seed:
hypervolume in % of the exact front's once so many whole passes' worth of rows were run, the share
of settings that were stopped, and of those the ones that would have added something.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
from recorded_search import NO_ANSWER, Recorded
from recorded_table import DEVICES, LAYERS, folder, load_table, policies

from cost_models.device import load_device
from dynsearch.evaluate import Scene
from dynsearch.quality.trace import Trace, load_trace
from dynsearch.search import fidelity
from dynsearch.search.encoding import full_setting, setting_key
from dynsearch.search.pareto import hypervolume, non_dominated
from dynsearch.search.sampler import OWN, Gate, ask_sampler, own_sampler
from dynsearch.sim.ranking import error_of
from search_spaces.workload import Workload

CHECKPOINTS = (5, 8, 10, 15, 20, 30, 40)


def bounds_of(recorded: Recorded, rows: int) -> list[np.ndarray]:
    """What a pass of each setting promises at best after so many rows: points [K, 2]."""
    device = load_device(DEVICES[recorded.d])
    scene = Scene(devices=(device,), workload=Workload(batch=1, max_len=64), num_classes=2)
    batch, _ = policies()
    bare = batch.take(np.array([recorded.table.full]))
    full_trace = trace_of(recorded, 0)
    part, total = full_trace.take(slice(rows)), full_trace.num_samples
    shift = error_of("accuracy", full_trace) - error_of("accuracy", part)
    full_outer = replace(recorded.space.decode(recorded.table.settings[0]), depth=LAYERS)
    full_s = scene.replayer(full_outer, full_trace, None).latencies(bare)[0, 0]
    found = []
    for s, setting in enumerate(recorded.table.settings):
        trace = trace_of(recorded, s).take(slice(rows))
        outer = replace(recorded.space.decode(setting), depth=LAYERS)
        replayer = scene.replayer(outer, trace, part, fidelity.bound_z(rows, total))
        done = replayer.run(batch, ("latency_mean_s",))
        points = np.stack([done.error_bound + shift, done.cost("latency_mean_s")[0]], axis=1)
        inside = np.flatnonzero(recorded.inside[s])
        best = inside[non_dominated(points[inside])]
        points = points[best]
        points[:, 1] *= fidelity.cost_shares(replayer.latencies(batch.take(best))[0], full_s)
        found.append(np.maximum(points, 0.0))
    return found


def trace_of(recorded: Recorded, s: int) -> Trace:
    """The recorded trace of a setting."""
    key = setting_key(recorded.table.settings[s])[:16]
    (file,) = folder().glob(f"*/search-320/{key}.npz")
    return load_trace(file)


def search(
    recorded: Recorded,
    kind: str,
    seed: int,
    bounds: Sequence[np.ndarray] | None,
    rows: int,
    passes: float,
) -> dict[str, Any]:
    """A two-loop search until rows worth so many passes have run."""
    total = 320
    codec, reference = recorded.codec, recorded.reference
    inside = recorded.inside

    def hopeless(outer: list[Any]) -> np.ndarray:
        at = [recorded.number.get(setting_key(recorded.space.encode(c))) for c in outer]
        return np.array([s is None or not inside[s].any() for s in at])

    gate = Gate(codec=codec, screen=hopeless)
    study = optuna.create_study(directions=["minimize"] * 3)
    own = own_sampler(gate, seed, lambda t: [np.array(t.user_attrs["front"]).reshape(-1, 2)])
    spent, stopped, wrong, n = 0.0, 0, 0, 0
    merged, history = np.empty((0, 2)), []
    while spent < passes:
        if n == 0:
            study.enqueue_trial(codec.encode(full_setting(codec)))
        else:
            words = (seed, n, 0)
            reserve = gate.reserve(np.random.default_rng([*words, 0]))
            if reserve is None:
                break
            study.sampler = ask_sampler(kind, gate, reserve, words, own if kind == OWN else None)
        trial = study.ask(codec.distributions)
        setting = codec.decode(trial.params)
        gate.add([setting])
        s = recorded.number[setting_key(setting)]
        points = recorded.front(s)
        before = hypervolume(merged, reference)
        adds = hypervolume(np.concatenate([merged, points]), reference) > before
        n += 1
        if bounds is not None and n > 1:
            hoped = np.concatenate([merged, bounds[s]])
            if hypervolume(hoped, reference) <= before:
                spent, stopped, wrong = spent + rows / total, stopped + 1, wrong + adds
                study.tell(trial, state=optuna.trial.TrialState.PRUNED)
                history.append((spent, before))
                continue
        spent += 1.0
        merged = np.concatenate([merged, points])
        merged = merged[non_dominated(merged)]
        trial.set_user_attr("front", (points / reference).tolist())
        reached = [points[points[:, 1] <= a, 0].min(initial=np.inf) for a in recorded.anchors]
        study.tell(trial, [v if np.isfinite(v) else NO_ANSWER for v in reached])
        history.append((spent, hypervolume(merged, reference)))
    at = {c: max(v for when, v in history if when <= c + 1e-9) for c in CHECKPOINTS if c <= passes}
    return {
        "settings": n,
        "stopped_%": round(100.0 * stopped / n, 1),
        "stopped_wrongly": int(wrong),
        **{f"hv@{c}": round(100.0 * v / recorded.exact, 2) for c, v in at.items()},
    }


def main(arguments: Sequence[str] | None = None) -> None:
    """Print one JSON object a search."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", default="96,160")
    parser.add_argument("--z", default="1.96", help="standard errors of the bounds, with commas")
    parser.add_argument("--seeds", type=int, default=2)
    parser.add_argument("--device", type=int, default=0)
    args = parser.parse_args(arguments)
    optuna.logging.set_verbosity(optuna.logging.WARNING)
    if load_table() is None:
        sys.stdout.write("nothing recorded: see recorded_table.py --record\n")
        return
    recorded = Recorded(args.device)
    cases: list[tuple[float, int, Sequence[np.ndarray] | None]] = [(0.0, 0, None)]
    for z in map(float, args.z.split(",")):
        fidelity.Z = z
        cases += [(z, n, bounds_of(recorded, n)) for n in map(int, args.rows.split(","))]
    for seed in range(args.seeds):
        for kind in (OWN, "random"):
            for z, rows, bounds in cases:
                row: dict[str, Any] = {"method": f"{kind}, replay", "screen_rows": rows, "z": z}
                row["seed"] = seed
                row |= search(recorded, kind, seed, bounds, rows, CHECKPOINTS[-1])
                sys.stdout.write(json.dumps(row) + "\n")
                sys.stdout.flush()


if __name__ == "__main__":
    main()
