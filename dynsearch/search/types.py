"""What the parts of the search agree on: where quality comes from, what one pass yields.

The driver and the workers know a model only as a `QualitySource` and the replay only as a
`PassInner`; both travel to Ray workers as plain data and are built there once.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from importlib import import_module
from typing import Any, Protocol, Self

import numpy as np
from numpy.typing import NDArray

from dynsearch.quality.trace import Trace
from search_spaces.candidate import Candidate, PolicyBatch

F64 = NDArray[np.float64]
Params = dict[str, Any]  # one outer setting by knob name, readable values

NUM_ANCHORS = 3  # values of a trial, whatever the number of devices


class QualitySource(Protocol):
    """A model with its data: runs real forward passes and records what policies decide on."""

    @property
    def num_classes(self) -> int:
        """C."""

    @property
    def weights_hash(self) -> str:
        """Content hash of the weights, hexadecimal."""

    def majority_error(self, split: str) -> float:
        """Error of always answering the most frequent class of a split."""

    def record(self, outer: Candidate, split: str) -> Trace:
        """Run the first `outer.depth` layers of a setting over a split, no exit taken."""

    def payload(self) -> dict[str, Any]:
        """Numpy arrays and plain values from which `from_payload` rebuilds the source."""

    def rows(self, split: str, start: int, stop: int | None = None) -> Self:
        """The same network on some rows of one split alone; asked for by screened passes only."""

    def on(self, device: str) -> Self:
        """The same network, run on "cpu" or "cuda"; asked for where workers hold GPUs only."""

    @classmethod
    def from_payload(cls, payload: dict[str, Any]) -> Self:
        """The source, on arrays that may be read-only."""


class OuterSpace(Protocol):
    """The outer knobs of a search space, as `search_spaces.space.SearchSpace` offers them."""

    def outer_domains(self) -> Mapping[str, Any]:
        """Domain of every outer knob by name, in a fixed order."""

    def normalise(self, params: Mapping[str, Any]) -> Params:
        """The setting with inactive knobs at their defaults: equal networks, equal settings."""

    def canonical(self, values: Mapping[str, NDArray[Any]]) -> dict[str, NDArray[Any]]:
        """`normalise` of many settings: values [B] by knob."""

    def decode(self, params: Mapping[str, Any]) -> Any:
        """What a setting stands for: a candidate at full depth without exits, or itself."""

    def cut(self, params: Mapping[str, Any], depth: int) -> Params:
        """The setting with the knobs of layers below the first `depth` at their defaults."""

    def full_params(self) -> Params:
        """The setting of the full network."""

    def sample_outer(self, rng: np.random.Generator, n: int) -> list[Params]:
        """`n` settings drawn uniformly."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceFront:
    """What the inner search found for one outer setting on one device. K policies."""

    device: str
    policies: PolicyBatch  # K, non-dominated and within every budget
    error: F64  # [K] plain estimate on the search rows
    error_bound: F64  # [K] what ranks: `Replayed.error_bound`
    costs: dict[str, F64]  # [K] by cost name, SI units
    heuristic: NDArray[np.bool_]  # [K] found by a local search, not by enumeration
    anchor_values: F64  # [3] lowest error_bound at cost <= a_dj, the majority error where none
    violation: float  # least total violation over all policies; 0 where one is within budgets
    budget_values: dict[str, float]  # what that policy costs, by budget


@dataclass(frozen=True, slots=True, kw_only=True)
class PassFronts:
    """Fronts of one pass, one per device in the job's order."""

    devices: tuple[DeviceFront, ...]


PassInner = Callable[[Candidate, Trace], PassFronts]
# What the first rows of a pass promise of all of them at best: points [K, M] by device.
PassScreen = Callable[[Candidate, Trace], Mapping[str, F64]]
Deepest = Callable[[Sequence[Candidate]], NDArray[np.int64]]  # layers worth running [B]


@dataclass(frozen=True, slots=True, kw_only=True)
class SearchProblem:
    """What is minimised on which devices, within which budgets."""

    devices: tuple[str, ...]
    objectives: tuple[str, ...]  # "error" and at least one cost, in the job's order
    budgets: dict[str, dict[str, float]]  # limit by device and cost, the same costs everywhere
    anchors: dict[str, tuple[float, ...]]  # by device, ascending costs, see study.anchor_costs
    full_cost: dict[str, dict[str, float]]  # full network's cost by device and cost objective
    split: str = "search"
    metric: str = "accuracy"  # what ranks, see `quality.metrics.METRICS`
    inner_spec: Mapping[str, Any] = field(default_factory=dict)
    # Plain picklable values. "builder" = "module:function" of a function that takes this mapping
    # and returns a PassInner. The driver adds "reference_trace" (the full network's Trace) and
    # "majority_error" unless they are there.

    @property
    def cost(self) -> str:
        """The first cost among the objectives."""
        return next(name for name in self.objectives if name != "error")


def resolve(target: str) -> Any:
    """What `module:qualified.name` stands for."""
    module, _, name = target.partition(":")
    found: Any = import_module(module)
    for part in name.split("."):
        found = getattr(found, part)
    return found


def build_inner(spec: Mapping[str, Any]) -> PassInner:
    """The inner search that a spec describes."""
    inner: PassInner = resolve(str(spec["builder"]))(spec)
    return inner


def build_depth(spec: Mapping[str, Any]) -> Deepest | None:
    """How many layers of settings are worth running; None where a spec does not say."""
    if "depth" not in spec:
        return None
    deepest: Deepest = resolve(str(spec["depth"]))(spec)
    return deepest


def build_screen(spec: Mapping[str, Any]) -> PassScreen | None:
    """What the first rows of a pass say; None where passes are run whole."""
    if spec.get("screen_rows") is None or "screen" not in spec:
        return None
    screen: PassScreen = resolve(str(spec["screen"]))(spec)
    return screen


def target_of(thing: type) -> str:
    """`module:qualified.name`, the inverse of `resolve`."""
    return f"{thing.__module__}:{thing.__qualname__}"
