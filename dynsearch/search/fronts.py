"""Fronts of passes: their file, their union per device, their hypervolume.

Ranking uses `error_bound`, never the plain error; all objectives are minimised.
"""

from __future__ import annotations

import hashlib
import json
import zipfile
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from dynsearch.export.files import npz_bytes, write_atomic
from dynsearch.search.pareto import non_dominated, thin_front
from dynsearch.search.types import F64, DeviceFront, PassFronts
from search_spaces.candidate import PolicyBatch
from search_spaces.errors import InputError

SCHEMA_VERSION = 1
I64 = NDArray[np.int64]
_THIN_FROM = 512  # points
# A search tries policies that their arrays tell whole: there are no records to keep.
_POLICY_FIELDS = tuple(f.name for f in fields(PolicyBatch) if f.name != "records")


@dataclass(frozen=True, slots=True, kw_only=True)
class MergedFront:
    """Non-dominated policies of all finished passes on one device. K points."""

    device: str
    trial: I64  # [K] number of the trial whose pass yielded the policy
    policies: PolicyBatch  # K
    error: F64  # [K]
    error_bound: F64  # [K]
    costs: dict[str, F64]  # [K] by cost name
    heuristic: NDArray[np.bool_]  # [K] found by a local search, not by enumeration

    def __len__(self) -> int:
        return int(self.trial.shape[0])

    def points(self, objectives: Sequence[str]) -> F64:
        """What is minimised [K, M]: `error_bound` in place of "error", then costs."""
        return objective_points(self.error_bound, self.costs, objectives)

    def take(self, rows: NDArray[Any]) -> MergedFront:
        """The points at `rows` (indices or mask)."""
        return replace(
            self,
            trial=self.trial[rows],
            policies=self.policies.take(rows),
            error=self.error[rows],
            error_bound=self.error_bound[rows],
            costs={name: cost[rows] for name, cost in self.costs.items()},
            heuristic=self.heuristic[rows],
        )


def objective_points(error_bound: F64, costs: Mapping[str, F64], objectives: Sequence[str]) -> F64:
    """Columns in the order of `objectives`, [K, M]."""
    columns = [error_bound if name == "error" else costs[name] for name in objectives]
    return np.stack(columns, axis=1).astype(np.float64)


def as_merged(front: DeviceFront, trial: int) -> MergedFront:
    """The front of one pass as a merged front."""
    return MergedFront(
        device=front.device,
        trial=np.full(len(front.policies), trial, dtype=np.int64),
        policies=front.policies,
        error=front.error,
        error_bound=front.error_bound,
        costs=dict(front.costs),
        heuristic=front.heuristic,
    )


def merge(parts: Sequence[MergedFront], objectives: Sequence[str]) -> MergedFront:
    """The non-dominated points of fronts of one device; of equal points the first stays."""
    names = parts[0].costs
    union = MergedFront(
        device=parts[0].device,
        trial=np.concatenate([p.trial for p in parts]),
        policies=PolicyBatch.concat([p.policies for p in parts]),
        error=np.concatenate([p.error for p in parts]),
        error_bound=np.concatenate([p.error_bound for p in parts]),
        costs={name: np.concatenate([p.costs[name] for p in parts]) for name in names},
        heuristic=np.concatenate([p.heuristic for p in parts]),
    )
    return union.take(non_dominated(union.points(objectives)))


def thin(points: F64, limit: int) -> I64:
    """Rows of at most `limit` points [K, M], by ascending last objective, its two ends included.

    Far too many points are first thinned to `_THIN_FROM` at even steps; then, with two
    objectives, those stay that hold the most hypervolume.
    """
    order: I64 = np.argsort(points[:, -1], kind="stable")
    order = _even(order, _THIN_FROM if points.shape[1] == 2 else limit)
    if order.size <= limit:
        return order
    return np.asarray(order[thin_front(points[order], limit)])


def _even(order: I64, limit: int) -> I64:
    if order.size <= limit:
        return order
    places = np.linspace(0, order.size - 1, limit).round().astype(np.int64)
    return np.asarray(order[np.unique(places)])


def policy_hash(policies: PolicyBatch, i: int) -> str:
    """Hex sha256 of policy i."""
    row = {name: getattr(policies, name)[i].tolist() for name in _POLICY_FIELDS}
    return hashlib.sha256(json.dumps(row, sort_keys=True).encode()).hexdigest()


def save_fronts(path: Path, fronts: PassFronts) -> Path:
    """Write the fronts of one pass as npz with a JSON header. The trace can yield them again."""
    arrays: dict[str, NDArray[Any]] = {}
    devices = []
    for i, front in enumerate(fronts.devices):
        for name in _POLICY_FIELDS:
            arrays[f"{i}.policies.{name}"] = getattr(front.policies, name)
        for name in ("error", "error_bound", "heuristic", "anchor_values"):
            arrays[f"{i}.{name}"] = getattr(front, name)
        for name, cost in front.costs.items():
            arrays[f"{i}.costs.{name}"] = cost
        devices.append(
            {
                "device": front.device,
                "costs": list(front.costs),
                "violation": front.violation,
                "budget_values": front.budget_values,
            }
        )
    text = json.dumps({"schema_version": SCHEMA_VERSION, "devices": devices})
    arrays["header"] = np.frombuffer(text.encode(), dtype=np.uint8)
    return write_atomic(path, npz_bytes(arrays), lasting=False)


def load_fronts(path: Path) -> PassFronts | None:
    """Read fronts back; None when the file is missing or damaged: it is rebuilt from the trace.

    Raises:
        InputError: when the file is of a newer schema.
    """
    try:
        with path.open("rb") as raw, np.load(raw, allow_pickle=False) as file:
            arrays = {name: file[name] for name in file.files}
        header = json.loads(bytes(arrays["header"]).decode())
        if header["schema_version"] <= SCHEMA_VERSION:
            pairs = enumerate(header["devices"])
            return PassFronts(devices=tuple(_front_from(arrays, i, d) for i, d in pairs))
    except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile, zlib.error):
        return None
    text = f"newer schema: this dynsearch reads up to {SCHEMA_VERSION}; upgrade dynsearch"
    raise InputError.one(path, "schema_version", header["schema_version"], text)


def _front_from(arrays: Mapping[str, Any], i: int, device: Mapping[str, Any]) -> DeviceFront:
    return DeviceFront(
        device=device["device"],
        policies=PolicyBatch(**{name: arrays[f"{i}.policies.{name}"] for name in _POLICY_FIELDS}),
        error=arrays[f"{i}.error"],
        error_bound=arrays[f"{i}.error_bound"],
        costs={name: arrays[f"{i}.costs.{name}"] for name in device["costs"]},
        heuristic=arrays[f"{i}.heuristic"],
        anchor_values=arrays[f"{i}.anchor_values"],
        violation=device["violation"],
        budget_values=device["budget_values"],
    )
