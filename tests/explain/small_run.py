"""Random small candidates with random traces, and a run folder of them: real prices, no model."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, replace
from pathlib import Path

import numpy as np
from replay_cases import make_trace

from cost_models.calibrate.write import device_text
from cost_models.device import Device, Quantity, load_device
from dynsearch.evaluate import Scene, blank_trace
from dynsearch.explain.prices import Setting
from dynsearch.explain.whatif import Case, open_case
from dynsearch.export.front import write_front_json
from dynsearch.export.records import Front
from dynsearch.front_points import Chosen, FullNetwork, make_points, reference_of
from dynsearch.quality.trace import Trace, save_trace
from search_spaces.candidate import (
    Backbone,
    Candidate,
    Exits,
    Experts,
    Skim,
    policies_of,
    static_policies,
)
from search_spaces.codec import candidate_to_dict
from search_spaces.workload import Workload

NAMES = (
    "generic-x86-avx2",
    "nvidia-a100-80g-sxm",
    "google-tpu-v5e",
    "nvidia-jetson-agx-orin-64g",
)
DEVICES = [load_device(name) for name in NAMES]
MAX_LEN = 20
CLASSES = 3


def net(layers: int) -> Backbone:
    return Backbone(
        name="small",
        num_layers=layers,
        hidden_size=48,
        num_heads=4,
        ffn_size=192,
        vocab_size=99,
        max_len=64,
    )


def draw(seed: int, *, mode: str = "", device: Device | None = None, **load: int) -> Case:
    """A candidate, trace, workload and device made from a seed."""
    rng = np.random.default_rng(seed)
    layers = int(rng.integers(2, 5))
    skim: tuple[Skim, ...] = ()
    if rng.random() < 0.5:
        skim = (Skim(layers=(int(rng.integers(1, layers + 1)),), keep_rate=(0.5,)),)
    moe = None
    if rng.random() < 0.5:
        split = (int(rng.integers(1, layers + 1)),)
        kind = str(rng.choice(["token", "sequence"]))
        moe = Experts(layers=split, num_experts=(4,), top_k=(2,), granularity=kind)
    outer = Candidate(
        backbone=net(layers),
        depth=layers,
        skim=skim,
        moe=moe,
        dtype=str(rng.choice(["fp32", "bf16"])),
        exit_batching=mode or str(rng.choice(["serial", "wait_all", "compact"])),
    )
    depth = int(rng.integers(1, layers + 1))
    on = tuple(x for x in range(1, depth) if rng.random() < 0.7)
    exits = None
    if on:
        level = tuple(float(x) for x in rng.uniform(0.3, 1.0, len(on)))
        exits = Exits(layers=on, thresholds=level)
    policy = policies_of([replace(outer, depth=depth, exits=exits)])
    workload = Workload(
        batch=load.get("batch", int(rng.integers(1, 7))),
        max_len=load.get("max_len", MAX_LEN),
        sort=bool(rng.random() < 0.5),
        threads=int(rng.integers(1, 3)),
    )
    found = device or DEVICES[int(rng.integers(len(DEVICES)))]
    setting = Setting(outer=outer, device=found, workload=workload, num_classes=CLASSES)
    return open_case(setting, make_trace(rng, int(rng.integers(3, 30)), layers), policy)


def full_of(case: Case) -> Case:
    """The full network beside a case."""
    setting = case.setting
    outer = replace(setting.outer, skim=(), moe=None, exits=None)
    trace = blank_trace(outer, case.trace.lengths, CLASSES)
    layers = outer.backbone.num_layers
    policy = static_policies([layers], num_layers=layers, exit_batching=outer.exit_batching)
    return open_case(replace(setting, outer=outer), trace, policy)


def proportional(peak: float = 1e9) -> Device:
    """A device whose time is executed FLOPs over its peak and nothing else."""
    edge = load_device("nvidia-jetson-agx-orin-64g")
    values = {
        "model.node": 0.0,
        "model.sync": 0.0,
        "model.call": 0.0,
        "model.attention_share": 1.0,
        "model.score_flops": 0.0,
        "model.move_share": 1.0,
        "model.rows_half": 0.0,
        "model.efficiency": 1.0,
        "model.bandwidth_share": 1.0,
        "memory.bandwidth": 1e30,
        "peak.fp32": peak,
        "peak.bf16": peak,
    }
    made = {
        key: Quantity(value=value, dimension="number", source="test", grade="estimate")
        for key, value in values.items()
    }
    return replace(edge, quantities={**edge.quantities, **made})


@dataclass(frozen=True)
class Made:
    path: Path
    front: Front
    dynamic: str  # id of a configuration with exits, skim and experts
    truncated: str


def make_run(folder: Path, *, batch: int = 1) -> Made:
    """A run folder whose front was priced from the traces in it."""
    path = folder / "small-01234567"
    for name in ("traces", "fronts", "devices"):
        (path / name).mkdir(parents=True)
    (path / "job.toml").write_text("schema_version = 1\n")
    (path / "environment.json").write_text('{"schema_version": 1, "study": "small"}')
    for device in DEVICES:
        (path / "devices" / f"{device.name}.toml").write_text(device_text(device, None))
    rng = np.random.default_rng(3)
    backbone = net(4)
    full = Candidate(backbone=backbone, depth=4)
    rich = replace(
        full,
        skim=(Skim(layers=(1,), keep_rate=(0.5,)),),
        moe=Experts(layers=(2, 3), num_experts=(4, 4), top_k=(1, 2)),
        exit_batching="serial" if batch == 1 else "compact",
    )
    reference = make_trace(rng, 60, 4)
    traces: dict[Candidate, Trace] = {}
    for number, outer in enumerate((full, rich)):
        logits = make_trace(rng, 60, 4).logits
        header = {"outer": candidate_to_dict(outer), "depth": 4}
        traces[outer] = replace(reference, logits=logits, header=header)
        save_trace(path / "traces" / f"{number}-{number:08x}.npz", traces[outer])
    exits = Exits(layers=(1, 2), thresholds=(0.6, 0.55))
    policy = policies_of([replace(rich, depth=3, exits=exits)])
    names = tuple(d.name for d in DEVICES)
    chosen = [Chosen(trial=1, outer=rich, policies=policy, devices=names)]
    for depth in (2, 4):
        static = static_policies([depth], num_layers=4, exit_batching=rich.exit_batching)
        chosen.append(Chosen(trial=0, outer=full, policies=static, devices=names))
    network = FullNetwork(
        trial=0, outer={"fp32": full}, trace=traces[full], exit_batching=rich.exit_batching
    )
    workload = Workload(batch=batch, max_len=MAX_LEN)
    points = make_points(
        chosen,
        scene=Scene(devices=tuple(DEVICES), workload=workload, num_classes=CLASSES),
        full=network,
        objectives=("error", "latency_mean_s"),
        budgets={},
        search_trace=lambda one, depth: traces[one.outer],
    )
    front = Front(
        job="small",
        run=path.name,
        workload=asdict(workload),
        objectives=("error", "latency_mean_s"),
        budgets={},
        reference=reference_of(points, network, None),
        hypervolume=(),
        front=points,
    )
    write_front_json(front, path)
    ids = {p.family: p.id for p in points}
    return Made(path, front, ids["exit+skim+experts"], ids["truncated"])


def edit_front(path: Path, change: dict[str, object]) -> None:
    """Put top-level keys of front.json in place of those that are there."""
    file = path / "front.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | change))
