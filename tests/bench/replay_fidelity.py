"""How far replaying one pass of the whole network is from running skims and experts for real.

Run by a person: python tests/bench/replay_fidelity.py [JOB] [--rows 600] [--supernet FOLDER]
[--only WORD]. The job's trained supernet (from the cache, or a folder) records the first rows of
the search split as the whole network and under each setting; the first trace is replayed for every
setting by `dynsearch simulate --trace WHOLE --against OWN` and compared with the second. Exits and
their thresholds are the same throughout: half of the rows leave the whole network early. Prints a
table, asserts nothing.
"""

from __future__ import annotations

import argparse
import logging
import tempfile
from dataclasses import replace
from pathlib import Path

import numpy as np

from dynsearch.job import load_job
from dynsearch.quality.opening import open_material
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.supernet import cache_folder, load_supernet
from dynsearch.quality.trace import save_trace
from dynsearch.simulate.run import simulate
from search_spaces.candidate import Candidate, Exits, Experts, Skim
from search_spaces.codec import to_toml
from search_spaces.tokens import SCORER_WIDTH

SITES = (2, 4)
DEVICE = "raspberry-pi-5"


def settings(whole: Candidate, *, scorer: bool) -> dict[str, Candidate]:
    """Skims and experts, from mild to strong."""
    found = {}
    for last in (0.75, 0.5, 0.25):
        rates = (1 - (1 - last) / 2, last)
        found[f"{last:.0%} of tokens from layer 2 on"] = replace(
            whole, skim=(Skim(layers=(1, 2), keep_rate=rates),)
        )
    if scorer:
        for rate in (0.5, 0.25):
            first = Skim(
                layers=(1,),
                keep_rate=(rate,),
                score="learned",
                point="before_layer",
                gate_width=SCORER_WIDTH,
            )
            found[f"{rate:.0%} of tokens enter layer 1"] = replace(whole, skim=(first,))
    for granularity in ("token", "sequence"):
        for top_k in (2, 1):
            layers = (3, 4, 5, 6)
            moe = Experts(
                layers=layers,
                num_experts=(4,) * len(layers),
                top_k=(top_k,) * len(layers),
                granularity=granularity,
            )
            found[f"{top_k} of 4 experts in layers {layers[0]} to 6, by {granularity}"] = replace(
                whole, moe=moe
            )
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("job", nargs="?", default="runs/jobs/short-sentences.toml", type=Path)
    parser.add_argument("--rows", type=int, default=600)
    parser.add_argument("--supernet", type=Path)
    parser.add_argument("--only", default="", help="settings with this word in their name")
    args = parser.parse_args()
    logging.getLogger("search_spaces").setLevel(logging.ERROR)
    material = open_material(load_job(args.job))
    folder = args.supernet or cache_folder() / "supernets" / material.key
    config, weights, head = load_supernet(folder)
    source = SupernetQuality(config, weights, material.splits, head["key"])
    source = source.first_rows("search", args.rows)
    whole = Candidate(backbone=material.backbone, depth=config.num_layers)
    recorded = source.record(whole, "search")
    sure = np.exp(recorded.logits - recorded.logits.max(axis=-1, keepdims=True))
    sure = (sure / sure.sum(axis=-1, keepdims=True)).max(axis=-1)
    threshold = float(np.quantile(sure[:, [s - 1 for s in SITES]].max(axis=1), 0.5))
    exits = Exits(layers=SITES, thresholds=(threshold,) * len(SITES))
    scorer = "scorer.out.weight" in weights
    print(f"{args.job.stem}, {len(recorded.labels)} rows of the search split, {folder.name[:8]}")
    print("| setting | same exit | same answer | mean exit: replayed, run | accuracy |")
    print("|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as place:
        base = save_trace(Path(place) / "whole.npz", recorded)
        for name, outer in settings(whole, scorer=scorer).items():
            if args.only not in name:
                continue
            own = save_trace(Path(place) / "own.npz", source.record(outer, "search"))
            path = Path(place) / "candidate.toml"
            path.write_text(to_toml(replace(outer, exits=exits)), encoding="utf-8")
            found = simulate(str(path), device=DEVICE, trace=base, against=own)["fidelity"]
            exit_, right = found["mean_exit"], found["accuracy"]
            print(
                f"| {name} | {found['same_exit']:.1%} | {found['same_answer']:.1%} | "
                f"{exit_[0]:.2f}, {exit_[1]:.2f} | {right[0]:.1%}, {right[1]:.1%} |",
                flush=True,
            )


if __name__ == "__main__":
    main()
