"""`dynsearch search JOB --dry-run`: what a search would take, and budgets that cannot be met.

Nothing is trained, calibrated or written. Times are estimates: a forward pass of the pretrained
network is timed here and now, and multiplied by how often a search runs one. Memory and disk
follow from the size of the network and of its traces.
"""

from __future__ import annotations

import math
import time
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from cost_models.calibrate.host import usable_cores
from cost_models.device import Device, load_device
from dynsearch.commands.devices import is_calibrated, local_file
from dynsearch.evaluate import Scene
from dynsearch.job import Job
from dynsearch.job_checks import LOCAL
from dynsearch.models.dynamic import DynamicEncoder, full_plan
from dynsearch.models.weights import encoder_config, norm_eps, read_pretrained
from dynsearch.opened import CALIBRATION_S, workload_of
from dynsearch.problem import make_problem
from dynsearch.quality.batches import CHUNK_TOKENS, piece_tokens
from dynsearch.quality.distil import distil_texts
from dynsearch.quality.opening import Material, open_material
from dynsearch.quality.source import RECORD_BATCH
from dynsearch.quality.supernet import cache_folder
from dynsearch.quality.training import copy_to
from dynsearch.threads import all_cores

BACKWARD = 2.0  # a backward pass takes about two forward ones
CALIBRATION_EXTRA_S = 30.0  # fitting, after measuring
CONFIRMED = 16  # settings on a front that are confirmed, about
PROCESS_BYTES = 0.35 * 2**30  # of a process that has imported torch
TRAINED_COPIES = 4  # weights, gradients and two moments
VALUES_PER_TOKEN = 34  # states that a layer keeps for its backward pass, in units of its width
SAMPLE_ROWS = 64


def dry_run(job: Job) -> dict[str, Any]:
    """What `job` would take, and whether its budgets can be met.

    Returns:
        `passes`, `estimates` (list of step, seconds, why), `seconds`, `memory_bytes`,
        `disk_bytes`, `cached` (supernet, calibration), `budgets` (device -> quantity -> limit in
        SI units), `unpriced` (devices that cannot be priced before they are calibrated).

    Raises:
        InputError: whatever a search would refuse, impossible budgets among it.
    """
    material = open_material(job)
    trained = (cache_folder() / "supernets" / material.key).is_dir()
    calibrated = is_calibrated(job.workload.threads)
    needs_local = LOCAL in (*job.devices, *job.score_on)
    budgets, unpriced = _budgets(job, material)
    pass_s = _pass_seconds(material)
    steps = _steps(
        job, material, pass_s, trained=trained, calibrated=calibrated or not needs_local
    )
    return {
        "passes": job.search.trials,
        "estimates": steps,
        "seconds": sum(step["seconds"] for step in steps),
        "memory_bytes": _memory(job, material, trained=trained),
        "disk_bytes": _disk(job, material),
        "cached": {"supernet": trained, "calibration": calibrated},
        "budgets": budgets,
        "unpriced": unpriced,
    }


def _budgets(job: Job, material: Material) -> tuple[dict[str, dict[str, float]], list[str]]:
    """Limits by device; a device that is not calibrated yet cannot be checked."""
    devices: list[Device] = []
    unpriced: list[str] = []
    for name in job.devices:
        file = local_file(job.workload.threads)
        if name != LOCAL:
            devices.append(load_device(name))
        elif is_calibrated(job.workload.threads):
            devices.append(load_device(file))
        else:
            unpriced.append(name)
    if not devices:
        return {}, unpriced
    scene = Scene(
        devices=tuple(devices), workload=workload_of(job), num_classes=len(material.labels)
    )
    lengths = material.splits["search"].tokens.lengths
    problem, _ = make_problem(job, scene, material.space, lengths)
    return {name: dict(limits) for name, limits in problem.budgets.items()}, unpriced


def _pass_seconds(material: Material) -> dict[str, float]:
    """Seconds a text of the pretrained network in batches as a pass runs them.

    By number of threads: one, and all cores.
    """
    config = encoder_config(
        material.backbone, num_classes=len(material.labels), norm_eps=norm_eps(material.folder)
    )
    model = DynamicEncoder(
        config, copy_to(material.training.device, read_pretrained(material.folder))
    )
    tokens = material.splits["search"].tokens
    rows = np.argsort(tokens.lengths, kind="stable")
    rows = rows[np.linspace(0, rows.size - 1, min(SAMPLE_ROWS, rows.size)).astype(int)]
    batches = [tokens.batch(rows[i : i + RECORD_BATCH]) for i in range(0, rows.size, RECORD_BATCH)]
    plan = full_plan(config)

    def spent() -> float:
        best = math.inf
        with torch.inference_mode():
            for _ in range(3):
                start = time.perf_counter()
                for ids, n in batches:
                    model.pooled(plan, ids, n)[-1].cpu()  # waits for a GPU
                best = min(best, time.perf_counter() - start)
        return best / len(rows)

    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        one = spent()
    finally:
        torch.set_num_threads(before)
    with all_cores():
        return {"one": one, "all": spent()}


def _steps(
    job: Job,
    material: Material,
    pass_s: Mapping[str, float],
    *,
    trained: bool,
    calibrated: bool,
) -> list[dict[str, Any]]:
    """Estimated seconds of each stage, and what the estimate rests on."""
    rows = {name: len(part.labels) for name, part in material.splits.items()}
    cores = usable_cores()
    workers = job.search.workers or cores
    steps = []
    if not trained:
        epochs, distilled = job.training.epochs, distil_texts(rows["train"], material.training)
        both = 1 + BACKWARD
        seconds = epochs * rows["train"] * both * pass_s["all"]
        distilling = distilled * (1 + both) * pass_s["all"]
        why = (
            f"{epochs} epochs of {rows['train']} texts, then distillation on {distilled}, "
            f"a backward pass like {BACKWARD:g} forward ones"
        )
        lengths = material.splits["train"].tokens
        if width := piece_tokens(lengths):
            short = width / float(lengths.lengths.mean())
            seconds, distilling = seconds * (1 + short), distilling * (1 + short) / 2
            why += f"; half of it on pieces of {width} tokens"
        seconds += distilling
        steps.append({"step": "training", "seconds": seconds, "why": why})
    if not calibrated:
        seconds = CALIBRATION_S + CALIBRATION_EXTRA_S
        steps.append({"step": "calibration", "seconds": seconds, "why": "a fixed budget"})
    each = rows["search"] * pass_s["one"]
    passes = each * math.ceil(job.search.trials / min(workers, cores))
    why = f"{job.search.trials} passes over {rows['search']} texts, {workers} at once, all layers"
    steps.append({"step": "passes, at most", "seconds": passes, "why": why})
    confirm = CONFIRMED * rows["report"] * pass_s["one"] / cores
    why = f"about {CONFIRMED} settings over {rows['report']} texts"
    steps.append({"step": "confirmation", "seconds": confirm, "why": why})
    return steps


def _memory(job: Job, material: Material, *, trained: bool) -> float:
    """Largest sum over all processes, in bytes: of training, or of the passes."""
    b = material.backbone
    layer = 4 * b.hidden_size**2 + 2 * b.hidden_size * b.ffn_size
    body = 4.0 * b.num_layers * layer
    weights = body + 4.0 * (b.vocab_size + b.max_len) * b.hidden_size
    tokens = min(CHUNK_TOKENS, job.training.batch * job.workload.max_len)
    kept = 4.0 * tokens * b.hidden_size * VALUES_PER_TOKEN * b.num_layers
    attention = 4.0 * 3 * tokens * job.workload.max_len * b.num_heads * b.num_layers
    training = 2 * PROCESS_BYTES + weights + TRAINED_COPIES * body + kept + attention
    workers = job.search.workers or usable_cores()
    width = {"fp32": 1.0, "bf16": 0.5, "int8": 0.3}  # int8 shares the embeddings with fp32
    copies = sum(width.get(d, 1.0) for d in material.space.table.dtype)
    passes = PROCESS_BYTES * (3 + workers) + weights * (2 + workers * (1 + copies))
    return passes if trained else max(training, passes)


def _disk(job: Job, material: Material) -> float:
    """Bytes of the supernet (shared by cache and run) and of the traces."""
    b, rows = material.backbone, len(material.splits["search"].labels)
    weights = sum(p.stat().st_size for p in Path(material.folder).glob("*.safetensors"))
    per_pass = rows * b.num_layers * (4.0 * len(material.labels) + 4 * 6)
    return float(weights) + job.search.trials * per_pass
