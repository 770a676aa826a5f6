"""Where activity, cost and quality meet: traces are priced and searched, nowhere else.

`build` makes, from plain values that travel to workers, the function that a pass ends in: from
(outer setting, trace) to the front of exit policies on every device.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from cost_models.candidates import cost_candidates
from cost_models.device import Device
from cost_models.memory import peak_bytes
from dynsearch.quality.metrics import BOUND_Z
from dynsearch.quality.trace import Trace
from dynsearch.search import fidelity
from dynsearch.search.fronts import objective_points
from dynsearch.search.inner import InnerProblem, search_inner
from dynsearch.search.screen import shallowest
from dynsearch.search.types import Deepest, DeviceFront, PassFronts, PassInner, PassScreen
from dynsearch.sim.layer_cost import LayerCost, build_layer_cost
from dynsearch.sim.ranking import Ranking, error_of
from dynsearch.sim.replay import Replayer
from dynsearch.sim.row_losses import row_losses
from search_spaces.candidate import (
    Candidate,
    PolicyBatch,
    layer_schedule,
    stack,
    static_policies,
    tokens_per_layer,
    with_policies,
)
from search_spaces.codec import candidate_from_dict
from search_spaces.inner import InnerSpace
from search_spaces.workload import Workload

F64 = NDArray[np.float64]
Costs = dict[str, dict[str, float]]  # device -> cost -> value, SI units

BUILDER = "dynsearch.evaluate:build"
DEPTH = "dynsearch.evaluate:build_depth"
SCREEN = "dynsearch.evaluate:build_screen"


@dataclass(frozen=True, slots=True, kw_only=True)
class Scene:
    """What every candidate of a job is priced on."""

    devices: tuple[Device, ...]
    workload: Workload
    num_classes: int
    metric: str = "accuracy"  # what ranks, see `quality.metrics.METRICS`

    def layer_cost(self, outer: Candidate) -> LayerCost:
        """Stage costs of an outer setting."""
        return build_layer_cost(
            outer, self.devices, workload=self.workload, num_classes=self.num_classes
        )

    def replayer(
        self, outer: Candidate, trace: Trace, full: Trace | None, bound_z: float = BOUND_Z
    ) -> Replayer:
        """The trace of an outer setting with its prices.

        Args:
            outer: The setting.
            trace: Its trace.
            full: The full network's trace of the same rows, from which losses are counted; None:
                costs alone are asked for.
            bound_z: Standard errors in what ranks.
        """
        correct, ranking, losses = np.ones(trace.num_samples, dtype=bool), None, None
        if full is not None:
            correct = full.logits[:, -1].argmax(axis=-1) == full.labels
            ranking = Ranking.of(self.metric, full)
            losses = row_losses(trace, full) if ranking is None else None
        return Replayer(
            trace,
            self.layer_cost(outer),
            workloads=[self.workload],
            correct_full=correct,
            row_losses=losses,
            ranking=ranking,
            bound_z=bound_z,
        )

    def peak_bytes(self, outer: Candidate, policies: PolicyBatch) -> F64:
        """Peak memory of an outer setting under P policies [P]."""
        return peak_bytes(
            with_policies(outer, policies), workload=self.workload, num_classes=self.num_classes
        )


def _scene_of(spec: Mapping[str, Any]) -> Scene:
    return Scene(
        devices=spec["devices"],
        workload=spec["workload"],
        num_classes=spec["num_classes"],
        metric=spec["metric"],
    )


def build(spec: Mapping[str, Any]) -> PassInner:
    """The end of a pass, from the keys that `inner_spec` gives."""
    scene = _scene_of(spec)
    reference: Trace = spec["reference_trace"]
    ranking = Ranking.of(scene.metric, reference)
    majority = float(spec["majority_error"]) if ranking is None else ranking.majority_error

    def end_of_pass(outer: Candidate, trace: Trace) -> PassFronts:
        outer = replace(outer, depth=trace.num_layers)
        problem = InnerProblem(
            space=down_to(spec["inner_space"], trace.depth),
            cost=spec["cost"],
            budgets=spec["budgets"],
            also=spec["also"],
            peak_bytes=lambda policies: scene.peak_bytes(outer, policies),
        )
        fronts = search_inner(scene.replayer(outer, trace, reference), problem)
        anchors = spec["anchors"]
        return PassFronts(
            devices=tuple(
                DeviceFront(
                    device=front.device,
                    policies=front.policies,
                    error=front.error,
                    error_bound=front.error_bound,
                    costs=front.costs,
                    heuristic=front.heuristic,
                    anchor_values=front.anchor_values(
                        spec["cost"], anchors[front.device], majority
                    ),
                    violation=front.violation,
                    budget_values=front.budget_values,
                )
                for front in fronts
            )
        )

    return end_of_pass


def build_depth(spec: Mapping[str, Any]) -> Deepest:
    """How many layers of settings are worth running, from the keys that `inner_spec` gives.

    A policy costs at least as much worst-case latency and memory as its depth without early
    exits, so deeper layers than fit the budgets on some device are reached by no policy.
    """
    scene = Scene(
        devices=spec["devices"], workload=spec["workload"], num_classes=spec["num_classes"]
    )
    space: InnerSpace = spec["inner_space"]
    depths = np.arange(space.min_depth, space.max_depth + 1)

    def deepest(outer: Sequence[Candidate]) -> NDArray[np.int64]:
        static = [shallowest(candidate, int(d)) for candidate in outer for d in depths]
        found = cost_candidates(
            stack(static),
            devices=scene.devices,
            workload=scene.workload,
            num_classes=scene.num_classes,
        )
        fits = np.zeros(len(static), dtype=bool)
        for d, device in enumerate(scene.devices):
            limits = spec["budgets"].get(device.name, {})
            costs = {"latency_worst_s": found.latency_worst_s[d], "peak_bytes": found.peak_bytes}
            here = [costs[name] <= limit for name, limit in limits.items() if name in costs]
            fits |= np.all(here, axis=0) if here else True
        deep = np.where(fits.reshape(len(outer), depths.size), depths, space.min_depth)
        return np.asarray(deep.max(axis=1), dtype=np.int64)

    return deepest


def build_screen(spec: Mapping[str, Any]) -> PassScreen:
    """What the first rows of a pass say of all of them, from the keys that `inner_spec` gives.

    Policies are searched as at the end of a pass, ranked by lower bounds of what they will score
    (`search.fidelity`), within the budgets that do not depend on rows.
    """
    scene = _scene_of(spec)
    reference: Trace = spec["reference_trace"]
    rows_known = int(spec["screen_rows"])
    total, part = reference.num_samples, reference.take(slice(rows_known))
    shift = error_of(scene.metric, reference) - error_of(scene.metric, part)
    described: Any = reference.header["outer"]
    full_outer = candidate_from_dict(described)
    whole = static_policies(
        [reference.num_layers],
        num_layers=reference.num_layers,
        exit_batching=full_outer.exit_batching,
    )
    full_s = scene.replayer(full_outer, reference, None).latencies(whole)[:, 0]  # [D, N]

    def screen(outer: Candidate, trace: Trace) -> dict[str, F64]:
        outer = replace(outer, depth=trace.num_layers)
        problem = InnerProblem(
            space=down_to(spec["inner_space"], trace.depth),
            cost=spec["cost"],
            budgets={
                device: {n: v for n, v in limits.items() if n in fidelity.OF_NO_ROWS}
                for device, limits in spec["budgets"].items()
            },
            also=spec["also"],
            peak_bytes=lambda policies: scene.peak_bytes(outer, policies),
            refine=False,
        )
        z = fidelity.bound_z(trace.num_samples, total)
        replayer = scene.replayer(outer, trace, part, z)
        found = {}
        for d, front in enumerate(search_inner(replayer, problem)):
            error = np.maximum(front.error_bound + shift, 0.0)
            least = fidelity.cost_shares(replayer.latencies(front.policies)[d], full_s[d])
            costs = {name: fidelity.lowered(name, v, least) for name, v in front.costs.items()}
            found[front.device] = objective_points(error, costs, spec["objectives"])
        return found

    return screen


def down_to(space: InnerSpace, depth: int) -> InnerSpace:
    """The policies of a space that end at or above `depth`."""
    most = min(space.max_depth, depth)
    return replace(
        space, max_depth=most, exit_layers=tuple(x for x in space.exit_layers if x < most)
    )


def inner_spec(
    scene: Scene,
    *,
    inner_space: InnerSpace,
    objectives: Sequence[str],
    budgets: Mapping[str, Mapping[str, float]],
    anchors: Mapping[str, Sequence[float]],
) -> dict[str, Any]:
    """Plain values from which `build` makes the end of a pass."""
    costs = [name for name in objectives if name != "error"]
    return {
        "builder": BUILDER,
        "depth": DEPTH,
        "devices": scene.devices,
        "workload": scene.workload,
        "num_classes": scene.num_classes,
        "metric": scene.metric,
        "inner_space": inner_space,
        "screen": SCREEN,
        "objectives": tuple(objectives),
        "cost": costs[0],
        "also": tuple(costs[1:]),
        "budgets": {device: dict(limits) for device, limits in budgets.items()},
        "anchors": {device: tuple(values) for device, values in anchors.items()},
    }


def blank_trace(outer: Candidate, lengths: NDArray[np.int64], num_classes: int) -> Trace:
    """A trace that knows lengths only: enough to price a network that takes no exit."""
    keep = layer_schedule(outer)
    layer, ffn = tokens_per_layer(lengths, keep["keep_rate"], keep["keep_before"])
    size, layers = layer.shape
    return Trace(
        logits=np.zeros((size, layers, num_classes), dtype=np.float32),
        labels=np.zeros(size, dtype=np.int64),
        lengths=lengths,
        tokens_layer=layer.astype(np.int32),
        tokens_ffn=ffn.astype(np.int32),
        expert_tokens=np.zeros((size, layers, 1), dtype=np.int32),
    )


def static_costs(
    scene: Scene,
    outer: Candidate,
    depth: int,
    lengths: NDArray[np.int64],
    *,
    costs: Sequence[str],
    exit_batching: str,
) -> Costs:
    """Costs of the first `depth` layers of an outer setting, without any early exit.

    Args:
        scene: Devices, workload, classes.
        outer: The setting.
        depth: Layers that run, 1-based.
        lengths: Unpadded token counts of the inputs [N].
        costs: Which costs.
        exit_batching: How its batches are formed.
    """
    trace = blank_trace(outer, lengths, scene.num_classes)
    replayer = scene.replayer(outer, trace, None)
    problem = InnerProblem(
        space=InnerSpace(
            exit_layers=(), min_depth=depth, max_depth=depth, exit_batching=(exit_batching,)
        ),
        cost=costs[0],
        also=tuple(costs[1:]),
        peak_bytes=lambda policies: scene.peak_bytes(outer, policies),
    )
    return {
        front.device: {name: float(values[0]) for name, values in front.costs.items()}
        for front in search_inner(replayer, problem)
    }


def lower_bounds(
    scene: Scene, outer: Sequence[Candidate], lengths: NDArray[np.int64]
) -> dict[str, dict[str, F64]]:
    """Lower ends of the 90 % intervals of candidates without early exits, by device and cost.

    Args:
        scene: Devices, workload, classes.
        outer: B candidates at the depth that is asked about.
        lengths: Unpadded token counts of the inputs [N].
    """
    batch = stack(list(outer))
    found = cost_candidates(
        batch,
        devices=scene.devices,
        workload=scene.workload,
        num_classes=scene.num_classes,
        lengths=lengths,
        reach=batch.valid.astype(np.float64),
    )
    assert found.mean_low_s is not None
    return {
        device.name: {
            "latency_mean_s": found.mean_low_s[d],
            "latency_worst_s": found.worst_low_s[d],
            "peak_bytes": found.peak_bytes,
        }
        for d, device in enumerate(scene.devices)
    }
