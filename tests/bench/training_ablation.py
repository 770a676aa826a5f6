"""What parts of the training recipe buy: trains variants, judges them on the search rows.

Run by a person: python tests/bench/training_ablation.py OUT [variant ...] --epochs 2. A variant
is the recipe with some constants set otherwise. Each leaves
OUT/<variant>-<epochs>-<seed>/ and is not trained again. All are compared with the first one, or
with the folder that --against names, on the same rows. Report rows are never read.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from cost_models.device import load_device
from dynsearch.job import find_job, load_job
from dynsearch.models.dynamic import EncoderConfig, Weights
from dynsearch.models.weights import encoder_config, norm_eps, read_pretrained
from dynsearch.quality import batches, distil, training
from dynsearch.quality.opening import Material, open_material
from dynsearch.quality.source import SupernetQuality
from dynsearch.quality.supernet import save_supernet
from dynsearch.quality.trace import Trace, load_trace, save_trace
from dynsearch.quality.train_apart import unlabelled_tokens
from dynsearch.search.inner import InnerProblem, search_inner
from dynsearch.sim.layer_cost import build_layer_cost
from dynsearch.sim.replay import Replayer
from search_spaces.candidate import Candidate, Experts, Skim
from search_spaces.inner import InnerSpace
from search_spaces.workload import Workload

MODULES = (batches, distil, training)
VARIANTS: dict[str, dict[str, Any]] = {
    "recipe": {},
    "half the distillation": {"distillation": 1.0},
    "twice the distillation": {"distillation": 4.0},
    "full network at every step": {"FULL_STEPS": 1.0},
    "no skims": {"SKIMS": 0.0, "EXPERTS": 1.0},
    "no experts": {"EXPERTS": 0.0},
    "exits alike": {"EARLY": 1.0},
    "words fixed": {"WORD_RATE": 0.0},
    "no pieces": {"LONG_TOKENS": 10**6},
}
SETTINGS: dict[str, dict[str, Any]] = {
    "full": {},
    "keep 50 % after 1": {"skim": (Skim(layers=(1,), keep_rate=(0.5,)),)},
    "keep 50 % after 2": {"skim": (Skim(layers=(2,), keep_rate=(0.5,)),)},
    "keep 25 % after 2": {"skim": (Skim(layers=(2,), keep_rate=(0.25,)),)},
    "keep 75 % after 1, 50 % after 2": {"skim": (Skim(layers=(1, 2), keep_rate=(0.75, 0.5)),)},
    "1 of 4 in 4-6, token": {
        "moe": Experts(
            layers=(4, 5, 6), num_experts=(4, 4, 4), top_k=(1, 1, 1), granularity="token"
        )
    },
    "1 of 4 in 4-6, sequence": {
        "moe": Experts(layers=(4, 5, 6), num_experts=(4, 4, 4), top_k=(1, 1, 1))
    },
    "2 of 4 in 4-6, token": {
        "moe": Experts(
            layers=(4, 5, 6), num_experts=(4, 4, 4), top_k=(2, 2, 2), granularity="token"
        )
    },
    "2 of 4 in 4-6, sequence": {
        "moe": Experts(layers=(4, 5, 6), num_experts=(4, 4, 4), top_k=(2, 2, 2))
    },
    "25 % after 2 and 1 of 4 in 4-6": {
        "skim": (Skim(layers=(2,), keep_rate=(0.25,)),),
        "moe": Experts(layers=(4, 5, 6), num_experts=(4, 4, 4), top_k=(1, 1, 1)),
    },
}
FEW = ("full", "keep 50 % after 1", "keep 25 % after 2", "1 of 4 in 4-6, sequence")
MEAN_DEPTHS = (1.5, 2.0, 3.0)
ALLOWED_LOSS = 0.01
SHOWN_EXITS = 3


def trained(material: Material, changes: dict[str, Any]) -> tuple[EncoderConfig, Weights, float]:
    """A supernet by the recipe with some constants changed; processor seconds that it took."""
    for name, value in changes.items():
        if name == "distillation":
            material = replace(material, training=replace(material.training, distillation=value))
        for module in MODULES:
            if hasattr(module, name):
                setattr(module, name, value)
    start = time.process_time()
    config, weights = distil.train_supernet(
        encoder_config(
            material.backbone, num_classes=len(material.labels), norm_eps=norm_eps(material.folder)
        ),
        read_pretrained(material.folder),
        material.splits["train"],
        material.training,
        lambda share, text: print(f"\r{share:5.1%} {text}   ", end="", file=sys.stderr),
        early_stop=material.splits["early_stop"],
        unlabelled=unlabelled_tokens(material),
    )
    return config, weights, time.process_time() - start


def record(
    folder: Path, material: Material, config: EncoderConfig, weights: Weights, names: list[str]
) -> None:
    """Traces of the settings `names` over the search rows, as files of `folder`."""
    rows = {"search": material.splits["search"]}
    quality = SupernetQuality(config=config, weights=weights, splits=rows, weights_hash="ablation")
    for name in names:
        if not trace_file(folder, name).exists():
            save_trace(trace_file(folder, name), quality.record(setting(material, name), "search"))


def trace_file(folder: Path, name: str) -> Path:
    return folder / f"{list(SETTINGS).index(name)}.npz"


def setting(material: Material, name: str) -> Candidate:
    """The outer setting called `name`."""
    depth = material.backbone.num_layers
    return Candidate(backbone=material.backbone, depth=depth, **SETTINGS[name])


def wrong(trace: Trace) -> NDArray[np.bool_]:
    """[N, L] whether each exit is wrong."""
    found: NDArray[np.bool_] = trace.logits.argmax(axis=-1) != trace.labels[:, None]
    return found


def curve(trace: Trace, depths: tuple[float, ...]) -> NDArray[np.float64]:
    """Share wrong [N, depths] per row when the mean depth is as given.

    One threshold of the highest probability for all exits; between two thresholds, their mix.
    """
    logits = trace.logits.astype(np.float64)
    shares = np.exp(logits - logits.max(axis=-1, keepdims=True))
    sure = (shares / shares.sum(axis=-1, keepdims=True)).max(axis=-1)
    sure[:, -1] = np.inf
    errors, means = [], []
    for threshold in np.quantile(sure[:, :-1], np.linspace(0, 1, 200)):
        at = (sure >= threshold).argmax(axis=1)
        errors.append(np.take_along_axis(wrong(trace), at[:, None], axis=1)[:, 0])
        means.append(at.mean() + 1.0)
    order = np.argsort(means)
    mean, table = np.array(means)[order], np.array(errors, dtype=float)[order]
    out = []
    for depth in depths:
        right = int(np.clip(np.searchsorted(mean, depth), 1, mean.size - 1))
        share = np.clip((depth - mean[right - 1]) / (mean[right] - mean[right - 1]), 0.0, 1.0)
        out.append((1 - share) * table[right - 1] + share * table[right])
    return np.stack(out, axis=1)


def best_policy(
    material: Material,
    name: str,
    trace: Trace,
    correct: NDArray[np.bool_],
    device: str,
    max_len: int,
) -> tuple[float, float]:
    """Mean layers and seconds of the fastest policy whose loss bound is allowed; inf: none."""
    load = Workload(batch=1, max_len=max_len)
    cost = build_layer_cost(
        setting(material, name),
        [load_device(device)],
        workload=load,
        num_classes=len(material.labels),
    )
    replayer = Replayer(trace, cost, workloads=[load], correct_full=correct)
    layers = trace.num_layers
    space = InnerSpace(exit_layers=tuple(range(1, layers)), min_depth=1, max_depth=layers)
    front = search_inner(replayer, InnerProblem(space=space))[0]
    allowed = np.flatnonzero(front.error_bound <= 1.0 - correct.mean() + ALLOWED_LOSS)
    if allowed.size == 0:
        return float("inf"), float("inf")
    seconds = front.costs["latency_mean_s"][allowed]
    policies = front.policies.take(allowed[[int(seconds.argmin())]])
    reach = replayer.run(policies, ["latency_mean_s"]).reach[0]
    return float(reach.sum()), float(seconds.min())


def row_of(
    material: Material, folder: Path, first: Path, device: str, max_len: int
) -> dict[str, Any]:
    """Figures of one trained variant beside the first one: errors in %, differences in points."""
    info = json.loads((folder / "info.json").read_text())
    row: dict[str, Any] = {"variant": folder.name, "seconds": round(info["seconds"])}
    names = [n for n in SETTINGS if trace_file(folder, n).exists()]
    mine, base = load_trace(trace_file(folder, "full")), load_trace(trace_file(first, "full"))
    for exit_ in range(mine.num_layers):
        row[f"exit {exit_ + 1}"] = percent(wrong(mine)[:, exit_], wrong(base)[:, exit_])
    for i, depth in enumerate(MEAN_DEPTHS):
        row[f"at {depth:g} layers"] = percent(
            curve(mine, MEAN_DEPTHS)[:, i], curve(base, MEAN_DEPTHS)[:, i]
        )
    for name in names[1:]:
        if trace_file(first, name).exists():
            other = wrong(load_trace(trace_file(first, name)))[:, -1]
            row[name] = percent(wrong(load_trace(trace_file(folder, name)))[:, -1], other)
    own, common = ~wrong(mine)[:, -1], ~wrong(base)[:, -1]
    dense = full_seconds(material, mine, device, max_len)
    for title, correct in (("own", own), ("first", common)):
        found = {
            n: best_policy(
                material, n, load_trace(trace_file(folder, n)), correct, device, max_len
            )
            for n in names
        }
        best = min(found, key=lambda n: found[n][1])
        row[f"layers, {title} full network"] = round(found["full"][0], 2)
        row[f"speed-up, {title}"] = f"{dense / found[best][1]:.2f} ({best})"
    return row


def full_seconds(material: Material, trace: Trace, device: str, max_len: int) -> float:
    """Mean seconds of the full network."""
    load = Workload(batch=1, max_len=max_len)
    cost = build_layer_cost(
        setting(material, "full"),
        [load_device(device)],
        workload=load,
        num_classes=len(material.labels),
    )
    right = ~wrong(trace)[:, -1]
    replayer = Replayer(trace, cost, workloads=[load], correct_full=right)
    layers = trace.num_layers
    space = InnerSpace(exit_layers=(), min_depth=layers, max_depth=layers)
    return float(search_inner(replayer, InnerProblem(space=space))[0].costs["latency_mean_s"][0])


def percent(mine: NDArray[Any], other: NDArray[Any]) -> str:
    """Share wrong in %, and the paired difference with its standard error in points."""
    gap = mine.astype(float) - other
    se = gap.std() / np.sqrt(gap.size)
    text = f"{100 * mine.mean():.2f}"
    return text if not gap.any() else f"{text} ({100 * gap.mean():+.2f} ± {100 * se:.2f})"


def main() -> None:
    """Train what is missing, then print one JSON object a variant."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("out", type=Path)
    parser.add_argument("variants", nargs="*", default=list(VARIANTS))
    parser.add_argument("--job", default="short-sentences")
    parser.add_argument("--epochs", type=int, default=2)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--device", default="generic-x86-avx2", help="name or file that prices")
    parser.add_argument("--few", action="store_true", help="only the first few settings")
    parser.add_argument("--against", type=Path, help="folder that another call left")
    args = parser.parse_args()
    if unknown := set(args.variants) - VARIANTS.keys():
        parser.error(f"no variant {', '.join(unknown)}; there are {', '.join(VARIANTS)}")
    torch.set_num_threads(args.threads)
    os.environ["OMP_NUM_THREADS"] = str(args.threads)
    material = open_material(load_job(find_job(args.job)))
    training = replace(material.training, epochs=args.epochs, seed=args.seed, threads=args.threads)
    material = replace(material, training=training)
    usual = {
        name: getattr(module, name)
        for changes in VARIANTS.values()
        for name in changes
        for module in MODULES
        if hasattr(module, name)
    }
    first = args.against
    for name in args.variants:
        folder = args.out / f"{name}-{args.epochs}-{args.seed}"
        if not (folder / "info.json").exists():
            folder.mkdir(parents=True, exist_ok=True)
            config, weights, seconds = trained(material, usual | VARIANTS[name])
            record(folder, material, config, weights, list(FEW if args.few else SETTINGS))
            tokenizer = folder / "tokenizer.json"
            material.tokenizer.save(str(tokenizer))
            save_supernet(folder / "supernet", config, weights, info={}, tokenizer=tokenizer)
            (folder / "info.json").write_text(json.dumps({"seconds": seconds}))
        first = first or folder
        row = row_of(material, folder, first, args.device, training.max_len)
        print(json.dumps(row), flush=True)


if __name__ == "__main__":
    main()
