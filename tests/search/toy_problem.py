"""A small real network with real data and a real replay, fast enough to search in seconds.

Tokens [N, T, D] pass L residual layers; skimming drops tokens, experts are groups of hidden
units, dtype rounds the weights, and a linear head answers after each layer. Nothing here knows
Ray, Optuna or files, except for the marks that let a test strike in the middle of a pass.
"""

from __future__ import annotations

import os
import time
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from dynsearch.quality.trace import Trace
from dynsearch.search.pareto import non_dominated
from dynsearch.search.types import DeviceFront, PassFronts, SearchProblem
from search_spaces.candidate import Backbone, Candidate, PolicyBatch, keep_counts, layer_schedule
from search_spaces.space import SearchSpace

L, D, T, C = 4, 8, 12, 2
BACKBONE = Backbone(
    name="toy", num_layers=L, hidden_size=D, num_heads=2, ffn_size=4 * D, vocab_size=50, max_len=T
)
SPACE = {
    "dtype": ["fp32", "bf16"],
    "skim": {"layers": [1, 2, 3], "keep": [1.0, 0.75, 0.5, 0.25]},
    "experts": {"groups": [[1, 2], [3, 4]], "counts": [1, 4], "active": [0.25, 0.5]},
}
TINY_SPACE = {"dtype": ["fp32", "bf16"], "skim": {"layers": [2], "keep": [1.0, 0.5, 0.25]}}
SPEEDS = {"slow": 1.0, "fast": 0.25}  # seconds per layer at full width and length
BYTES = 1000.0  # per layer


def toy_space(table: dict[str, Any] | None = None) -> SearchSpace:
    return SearchSpace.from_dict(table or SPACE, backbone=BACKBONE)


@dataclass(kw_only=True)
class ToyQuality:
    seed: int = 0
    n: int = 60
    sleep_s: float = 0.0  # a pass takes at least as long
    marks: str = ""  # folder: a pass leaves a file with its process there
    fails: tuple[str, ...] = ()  # dtypes whose passes raise
    num_classes: int = C
    device: str = "cpu"
    arrays: dict[str, np.ndarray] = field(default_factory=dict)

    def __post_init__(self) -> None:
        if self.arrays:
            return
        rng = np.random.default_rng(self.seed)
        tokens = rng.normal(size=(self.n, T, D))
        lengths = rng.integers(4, T + 1, size=self.n)
        teacher = rng.normal(size=D)
        labels = (tokens.mean(axis=1) @ teacher + 0.1 * rng.normal(size=self.n) > 0).astype(int)
        w1 = rng.normal(size=(L, D, 4 * D)) / np.sqrt(D)
        w2 = rng.normal(size=(L, 4 * D, D)) / np.sqrt(4 * D)
        self.arrays = {"tokens": tokens, "lengths": lengths, "labels": labels}
        self.arrays |= {"w1": w1, "w2": w2, "heads": np.zeros((L, D, C))}
        states, _, _ = self._forward(toy_space().full())
        onehot = np.eye(C)[labels]
        heads = [np.linalg.lstsq(states[:, layer], onehot, rcond=None)[0] for layer in range(L)]
        self.arrays["heads"] = 4 * np.stack(heads)

    @property
    def weights_hash(self) -> str:
        return f"{self.seed:064x}"

    def majority_error(self, split: str) -> float:
        return 1.0 - float(np.bincount(self.arrays["labels"]).max()) / self.n

    def record(self, outer: Candidate, split: str) -> Trace:
        if self.marks:
            mark = Path(self.marks) / f"{time.time_ns()}-{os.getpid()}"
            mark.touch()
        time.sleep(self.sleep_s)
        if outer.dtype in self.fails:
            raise RuntimeError(f"no kernel for {outer.dtype}")
        states, entering, ffn = self._forward(outer)
        logits = np.einsum("nld,ldc->nlc", states, self.arrays["heads"])
        return Trace(
            logits=logits.astype(np.float32),
            labels=np.asarray(self.arrays["labels"], dtype=np.int64),
            lengths=np.asarray(self.arrays["lengths"], dtype=np.int64),
            tokens_layer=entering.astype(np.int32),
            tokens_ffn=ffn.astype(np.int32),
            expert_tokens=np.zeros((self.n, L, 1), dtype=np.int32),
            header={
                "weights_hash": self.weights_hash,
                "split": split,
                "dtype": outer.dtype,
                "device": self.device,
            },
        )

    def on(self, device: str) -> ToyQuality:
        return replace(self, device=device)

    def rows(self, split: str, start: int, stop: int | None = None) -> ToyQuality:
        kept = slice(start, stop)
        part = {name: self.arrays[name][kept] for name in ("tokens", "lengths", "labels")}
        return replace(self, n=len(part["labels"]), arrays=self.arrays | part)

    def payload(self) -> dict[str, Any]:
        return asdict(self)

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> ToyQuality:
        return cls(**payload)

    def _forward(self, outer: Candidate) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
        plan = layer_schedule(outer)
        kind = np.float16 if outer.dtype == "bf16" else np.float64
        w1, w2 = (self.arrays[k].astype(kind).astype(np.float64) for k in ("w1", "w2"))
        x, lengths = self.arrays["tokens"], self.arrays["lengths"]
        alive = np.arange(T)[None] < lengths[:, None]
        states, entering, after = [], [], []
        for layer in range(L):
            entering.append(alive.sum(axis=1))
            wanted = keep_counts(lengths, plan["keep_rate"][layer])
            norm = np.where(alive, np.linalg.norm(x, axis=2), -1.0)
            alive = alive & (np.argsort(np.argsort(-norm, axis=1), axis=1) < wanted[:, None])
            after.append(alive.sum(axis=1))
            units = 4 * D * plan["top_k"][layer] // plan["num_experts"][layer]
            x = x + 0.3 * np.tanh(x @ w1[layer][:, :units]) @ w2[layer][:units]
            states.append((x * alive[:, :, None]).sum(axis=1) / alive.sum(axis=1)[:, None])
        return np.stack(states, axis=1), np.stack(entering, axis=1), np.stack(after, axis=1)


def toy_problem(
    *,
    budgets: dict[str, float] | None = None,
    devices: tuple[str, ...] = ("slow", "fast"),
    hope: float = 1.0,
) -> SearchProblem:
    anchors = {d: tuple(SPEEDS[d] * a for a in (1.0, 2.0, 4.0)) for d in devices}
    limits = {device: dict(budgets or {}) for device in devices}
    spec = {"builder": "toy_problem:build", "devices": devices, "anchors": anchors}
    spec |= {"screen": "toy_problem:build_screen", "hope": hope}
    return SearchProblem(
        devices=devices,
        objectives=("error", "latency_mean_s"),
        budgets=limits,
        anchors=anchors,
        full_cost={d: {"latency_mean_s": L * SPEEDS[d]} for d in devices},
        inner_spec=spec | {"budgets": limits},
    )


@dataclass(frozen=True)
class ToyInner:
    """Every depth, with no or one early exit at some confidences."""

    spec: dict[str, Any]

    def __call__(self, outer: Candidate, trace: Trace) -> PassFronts:
        policies = _policies()
        exits = _exit_layers(trace, policies)
        rows = np.arange(trace.num_samples)
        right = trace.logits.argmax(axis=2)[rows, exits - 1] == trace.labels
        reference = self.spec["reference_trace"]
        ok = reference.logits[:, -1].argmax(axis=1) == reference.labels
        loss = (ok.astype(float) - right).mean(axis=1)
        se = (ok.astype(float) - right).std(axis=1) / np.sqrt(trace.num_samples)
        bound = (1 - ok.mean()) + loss + 1.28 * se
        layers = layer_cost(outer)
        mean_s = np.cumsum(layers)[exits - 1].mean(axis=1)
        worst_s = np.cumsum(layers)[policies.depth - 1]
        fronts = [
            self._front(device, policies, 1.0 - right.mean(axis=1), bound, mean_s, worst_s)
            for device in self.spec["devices"]
        ]
        return PassFronts(devices=tuple(fronts))

    def _front(self, device, policies, error, bound, mean_s, worst_s) -> DeviceFront:
        speed = SPEEDS[device]
        costs = {
            "latency_mean_s": speed * mean_s,
            "latency_worst_s": speed * worst_s,
            "peak_bytes": BYTES * policies.depth,
        }
        excess = np.zeros(len(policies))
        budgets = self.spec["budgets"][device]
        for name, limit in budgets.items():
            excess += np.maximum(0.0, costs[name] / limit - 1.0)
        best = int(excess.argmin())
        majority = self.spec["majority_error"]
        anchor_values = [
            min([majority, *bound[(excess == 0) & (costs["latency_mean_s"] <= a)]])
            for a in self.spec["anchors"][device]
        ]
        legal = np.flatnonzero(excess == 0)
        points = np.stack([bound, costs["latency_mean_s"]], axis=1)[legal]
        keep = legal[non_dominated(points)]
        return DeviceFront(
            device=device,
            policies=policies.take(keep),
            error=error[keep],
            error_bound=bound[keep],
            costs={name: cost[keep] for name, cost in costs.items()},
            heuristic=policies.exit_on[keep].any(axis=1),
            anchor_values=np.array(anchor_values),
            violation=float(excess[best]),
            budget_values={n: float(costs[n][best]) for n in budgets},
        )


def build_screen(spec: dict[str, Any]) -> Any:
    """Bounds: the front of the first rows, times a factor of the test's choice."""
    whole = spec["reference_trace"]
    reference = whole.take(slice(spec["screen_rows"]))
    inner = ToyInner({**spec, "reference_trace": reference})

    def screen(outer: Candidate, trace: Trace) -> dict[str, np.ndarray]:
        fronts = inner(outer, trace).devices
        return {
            f.device: spec["hope"] * np.stack([f.error_bound, f.costs["latency_mean_s"]], axis=1)
            for f in fronts
        }

    return screen


def build(spec: dict[str, Any]) -> ToyInner:
    return ToyInner(dict(spec))


def layer_cost(outer: Candidate) -> np.ndarray:
    """[L] cost of each layer on a device of speed 1: tokens times active width."""
    plan = layer_schedule(outer)
    width = plan["top_k"] / plan["num_experts"]
    return 0.1 + 0.9 * plan["keep_rate"] * (0.5 + 0.5 * width)


def _policies() -> PolicyBatch:
    rows = [(depth, 0, np.inf) for depth in range(1, L + 1)]
    levels = (0.6, 0.75, 0.9)
    rows += [(d, e, t) for d in range(2, L + 1) for e in range(1, d) for t in levels]
    size = len(rows)
    exit_on = np.zeros((size, L), dtype=bool)
    thresholds = np.full((size, L), np.inf)
    for i, (_, layer, level) in enumerate(rows):
        if layer:
            exit_on[i, layer - 1], thresholds[i, layer - 1] = True, level
    zeros = np.zeros(size, dtype=np.int64)
    return PolicyBatch(
        depth=np.array([row[0] for row in rows]),
        exit_on=exit_on,
        criterion=zeros,
        thresholds=thresholds,
        patience=zeros,
        temperature=np.ones(size),
        exit_batching=zeros,
    )


def _exit_layers(trace: Trace, policies: PolicyBatch) -> np.ndarray:
    logits = trace.logits.astype(np.float64)
    scaled = np.exp(logits - logits.max(axis=2, keepdims=True))
    sure = (scaled / scaled.sum(axis=2, keepdims=True)).max(axis=2)
    leaves = policies.exit_on[:, None] & (sure[None] >= policies.thresholds[:, None])
    first = np.where(leaves.any(axis=2), leaves.argmax(axis=2) + 1, L)
    return np.minimum(first, policies.depth[:, None])
