"""Processor cores: additive time of overhead, weights, activations and arithmetic.

Per execution of one operator, with every coefficient looked up by (dtype, kind):

    t = overhead + context + batch * per_problem
        + weight_bytes * (1 / pack + miss(working set) / stream)
        + activation_bytes / move
        + executed_flops / (peak per core * g(threads) * efficiency * ramp(rows))

The terms add because eager kernels do them one after another: the library first packs (or, in
bf16, re-orders) the weights, then computes, and a weight that is not in the last-level cache
arrives while it is packed (facts measured on one core: a cold matmul costs the warm one plus
bytes / 12 GB/s at every row count). `miss` is the share of weights that left the cache since
they were last used; it rises from 0 to 1 as the working set passes the cache. `ramp` says how
well few rows fill the kernel, as factors at powers of two that calibration may bend. `context`
is what an operator costs more inside a model than in a loop of its own: code, activations and
the allocator's memory are no longer in the nearest cache.
"""

from __future__ import annotations

from functools import lru_cache
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from cost_models.forms import Parameter, Terms
from search_spaces.candidate import DTYPES, PLAIN_DTYPE
from search_spaces.ops import KINDS

if TYPE_CHECKING:
    from cost_models.device import Device
    from search_spaces.ops import OpTable

F64 = NDArray[np.float64]

# Calibrated types; the others borrow the parameters (not the peak). Only matmuls are int8.
FAMILIES: tuple[str, ...] = ("fp32", "bf16", "int8")
FAMILY_OF: dict[str, str] = {
    "fp32": "fp32",
    "bf16": "bf16",
    "fp16": "bf16",
    "int8": "int8",
    "tf32": "fp32",
    "fp8": "bf16",
    "int4": "bf16",
}
RAMP_ROWS: tuple[int, ...] = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 2048)
RAMP_LIMIT = 2048  # rows beyond it behave like the last knot
SHARED_LOG_SD = 0.5
RESIDUAL_LOG_SD = 0.4
MISS_POWER = 3.0  # steepness of the passage from cache to memory

US, NS, GB = 1e-6, 1e-9, 1e9


def _per_family() -> list[Parameter]:
    found: list[Parameter] = []
    for d in FAMILIES:
        slow = 1.0 if d == "fp32" else 1.5  # the other libraries set up each call for longer

        def add(
            name: str,
            dimension: str,
            default: float,
            sd: float,
            doc: str,
            top: float | None = None,
        ) -> None:
            found.append(Parameter(f"{name}_{d}", dimension, default, sd, f"{doc}, {d}", top))  # noqa: B023

        add("overhead_matmul", "s", 4 * US * slow, 1.0, "fixed time of a matmul")
        add("overhead_grouped_matmul", "s", 15 * US * slow, 1.0, "fixed time of an expert matmul")
        add("pack", "bytes_per_s", 30 * GB, 0.7, "rate of packing weights that are cached")
        add("pack_one_row", "bytes_per_s", 60 * GB, 0.7, "the same where there is one row")
        add("efficiency_matmul", "number", 0.85, 0.3, "share of the peak of a large matmul", 1.0)
        add("context", "s", 3 * US, 0.7, "added to an operator inside a model: cold code and data")
        for m in RAMP_ROWS:
            add(f"ramp_{m}", "number", 1.0, 0.25, f"efficiency at {m} rows beside that of many")
        if d == "int8":  # what enters is quantised, what leaves is scaled back to fp32
            add("move_matmul", "bytes_per_s", 12 * GB, 0.7, "activations quantised and scaled")
            continue
        add("overhead_attention", "s", 12 * US * slow, 1.0, "fixed time of fused attention")
        add("overhead_importance", "s", 60 * US * slow, 1.0, "fixed time of explicit attention")
        add("overhead_elementwise", "s", 4 * US, 1.0, "fixed time of an elementwise operator")
        add("overhead_reduce", "s", 6 * US, 1.0, "fixed time of a reduction")
        add("overhead_gather", "s", 4 * US, 1.0, "fixed time of a gather")
        add("overhead_host_sync", "s", 20 * US, 1.0, "a decision taken by the host")
        add("problem_attention", "s", 1.2 * US, 0.8, "fused attention, each head and sequence")
        add("problem_importance", "s", 1.2 * US, 0.8, "explicit attention, each of them")
        add("call", "s", 100 * US, 0.7, "fixed time of a forward pass, from ids to an answer")
        add("efficiency_attention", "number", 0.5, 0.6, "the same for fused attention", 1.0)
        add("efficiency_scores", "number", 0.4, 0.6, "the same for explicit scores", 1.0)
        add("move_elementwise", "bytes_per_s", 60 * GB, 0.5, "bytes moved by elementwise kernels")
        add("efficiency_elementwise", "number", 0.15, 0.7, "share of the fp32 peak", 1.0)
        add("move_reduce", "bytes_per_s", 8 * GB, 0.8, "bytes moved by reductions")
        add("move_gather", "bytes_per_s", 8 * GB, 0.8, "bytes moved by gathers")
        add("move_scores", "bytes_per_s", 8 * GB, 0.8, "bytes moved by explicit scores")
    return found


PARAMETERS: tuple[Parameter, ...] = (
    *_per_family(),
    Parameter(
        "stream_share", "number", 0.5, 0.7, "share of the memory bandwidth that one core reads"
    ),
    Parameter("resident_share", "number", 0.6, 0.6, "share of the last cache that weights keep"),
    Parameter("contention", "number", 0.15, 0.5, "s of g(T) = T / (1 + s (T - 1))"),
    Parameter("thread_start", "s", 3 * US, 0.8, "time to start a parallel region"),
)


def _coarse() -> list[Parameter]:
    found = []
    for d in FAMILIES:

        def add(name: str, dimension: str, default: float, sd: float, top: float | None) -> None:
            found.append(Parameter(f"{name}_{d}", dimension, default, sd, _ABOUT[name], top))  # noqa: B023

        add("context", "s", 60 * US, 2.0, None)
        add("efficiency_matmul", "number", 0.25, 1.2, 1.0)
        add("pack", "bytes_per_s", 100 * GB, 2.0, None)
        add("ramp_4", "number", 1.0, 0.3, None)
    return found


_ABOUT = {
    "context": "fixed time of an operator of any kind, whatever dispatches it",
    "efficiency_matmul": "share of the peak of a large matmul",
    "pack": "rate at which weights pass the caches",
    "ramp_4": "efficiency at 4 rows beside that of many",
}
# What whole networks on machines of others can tell apart: a fixed time for every operator, a
# rate of arithmetic, one of weights, and how well few rows fill it. Runtimes differ in the first
# by a factor of ten and more, so the priors are wide.
COARSE: tuple[Parameter, ...] = tuple(_coarse())
_CORE = 100e9  # fp32 FLOP per second of the core that the default of `context` is for


def prior_scales(device: Device) -> dict[str, float]:
    """Factors on the defaults of `COARSE`: a slow core is slow to dispatch, too.

    What an interpreter does between operators is neither counted nor stated of any core. Cores
    with wide vector units are those that also run such code fast, so the rate of a core stands
    for both: 103 us on a core of 77 GFLOP/s is 691 us on one of 12 (HAT's Xeon and Raspberry Pi).
    """
    core = float(device.peak_flops_per_s[DTYPES.index("fp32")]) / device.units
    return {f"context_{d}": _CORE / core for d in FAMILIES}


_OVERHEAD = {
    "matmul": "overhead_matmul",
    "grouped_matmul": "overhead_grouped_matmul",
    "attention_prefill": "overhead_attention",
    "attention_decode": "overhead_attention",
    "attention_importance": "overhead_importance",
    "elementwise": "overhead_elementwise",
    "reduce": "overhead_reduce",
    "gather": "overhead_gather",
    "host_sync": "overhead_host_sync",
    "collective": "overhead_host_sync",
}
_PROBLEM = {
    "attention_prefill": "problem_attention",
    "attention_decode": "problem_attention",
    "attention_importance": "problem_importance",
}
_MOVE = {
    "elementwise": "move_elementwise",
    "reduce": "move_reduce",
    "gather": "move_gather",
    "attention_importance": "move_scores",
}
_EFFICIENCY = {
    "matmul": "efficiency_matmul",
    "grouped_matmul": "efficiency_matmul",
    "attention_prefill": "efficiency_attention",
    "attention_decode": "efficiency_attention",
    "attention_importance": "efficiency_scores",
    "elementwise": "efficiency_elementwise",
}
_MATMULS = ("matmul", "grouped_matmul")


def operator_time_s(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> F64:
    """Seconds of one execution of every operator.

    Args:
        ops: R operators.
        device: Of kind "cpu".
        threads: Threads that share one operator.
        working_set_bytes: Weights read between two uses of the same ones, one number or [R];
            None: more than any cache holds, so that every weight comes from memory.

    Returns:
        Times [R].
    """
    return times_from(ops, device, device.parameter, threads, working_set_bytes)


def times_from(
    ops: OpTable,
    device: Device,
    parameter: Any,
    threads: int,
    working_set_bytes: float | NDArray[Any] | None,
    in_context: float | NDArray[Any] = 1.0,
) -> F64:
    """`operator_time_s` with parameters from a function name -> value (used by the fit).

    `in_context` is 1 for operators inside a model and 0 for one that is timed in a loop.
    """
    fixed, weights, activations, arithmetic, ramp = _pieces(
        ops, device, parameter, threads, working_set_bytes, in_context
    )
    time: F64 = fixed + weights + activations + arithmetic / ramp
    return time


def operator_terms(
    ops: OpTable,
    device: Device,
    *,
    threads: int = 1,
    working_set_bytes: float | NDArray[Any] | None = None,
) -> Terms:
    """`operator_time_s`, told apart; "few rows" is what the ramp adds to the arithmetic."""
    fixed, weights, activations, arithmetic, ramp = _pieces(
        ops, device, device.parameter, threads, working_set_bytes, 1.0
    )
    return Terms(fixed, weights, activations, arithmetic, arithmetic / ramp - arithmetic)


def _pieces(
    ops: OpTable,
    device: Device,
    parameter: Any,
    threads: int,
    working_set_bytes: float | NDArray[Any] | None,
    in_context: float | NDArray[Any],
) -> tuple[F64, F64, F64, F64, F64]:
    """Seconds of start, weights, activations, arithmetic of many rows, and the ramp [R]."""
    table = _Table(device, parameter, threads)
    cell = ops.dtype * len(KINDS) + ops.kind
    one_row = (ops.m == 1).astype(np.int64)
    weights = table.pack[one_row, cell] + _miss(device, parameter, working_set_bytes) / (
        _stream_bytes_per_s(device, parameter, threads)
    )
    ramp = table.ramp[ops.dtype, np.minimum(ops.m, RAMP_LIMIT)]
    fixed = table.overhead[cell] + in_context * table.context[ops.dtype]
    return (
        fixed + ops.batch * table.problem[cell],
        ops.weight_bytes * weights,
        ops.activation_bytes * table.move[cell],
        ops.executed_flops * table.flop[cell],
        np.where(table.is_matmul[cell], ramp, 1.0),
    )


class _Table:
    """Coefficients by (dtype, kind), flattened to one index; slopes, so that terms multiply."""

    def __init__(self, device: Device, parameter: Any, threads: int) -> None:
        def read(name: str | None, family: str, inverse: bool = False) -> float:
            if name is None:
                return 0.0
            value = float(parameter(f"{name}_{family}"))
            return 1.0 / value if inverse else value

        cells = [(DTYPES[d], kind) for d in range(len(DTYPES)) for kind in KINDS]
        gain = threads / (1.0 + parameter("contention") * (threads - 1))
        start = parameter("thread_start") if threads > 1 else 0.0
        peak = dict(zip(DTYPES, device.peak_flops_per_s / device.units * gain, strict=True))
        self.overhead = np.array([read(_OVERHEAD[k], family(d, k)) + start for d, k in cells])
        self.context = np.array([read("context", FAMILY_OF[d]) for d in DTYPES])
        self.problem = np.array([read(_PROBLEM.get(k), family(d, k)) for d, k in cells]) / gain
        self.move = np.array([read(_moved(d, k), family(d, k), True) for d, k in cells]) / gain
        names = ("pack", "pack_one_row")
        self.pack = np.array(
            [
                [read(n if k in _MATMULS else None, family(d, k), True) for d, k in cells]
                for n in names
            ]
        )
        self.flop = np.array(
            [
                read(_EFFICIENCY.get(k), family(d, k), True)
                / peak["fp32" if k == "elementwise" else d]
                for d, k in cells
            ]
        )
        self.is_matmul = np.array([k in _MATMULS for _, k in cells])
        self.ramp = np.stack([_ramp(parameter, FAMILY_OF[d]) for d in DTYPES])


def family(dtype: str, kind: str) -> str:
    """Whose parameters price an operator: of int8 there are matmuls only."""
    return FAMILY_OF[dtype if kind in _MATMULS else PLAIN_DTYPE[dtype]]


def _moved(dtype: str, kind: str) -> str | None:
    """The parameter that prices the activations of an operator, where one does."""
    if kind in _MATMULS:
        return "move_matmul" if dtype == "int8" else None
    return _MOVE.get(kind)


def _ramp(parameter: Any, family: str) -> F64:
    """Relative efficiency at 0..RAMP_LIMIT rows, log-linear between the knots."""
    knots = np.log([float(parameter(f"ramp_{m}_{family}")) for m in RAMP_ROWS])
    return np.exp(np.interp(_log_rows(), np.log(RAMP_ROWS), knots))


@lru_cache(maxsize=1)
def _log_rows() -> F64:
    return np.log(np.maximum(np.arange(RAMP_LIMIT + 1), 1))


def _stream_bytes_per_s(device: Device, parameter: Any, threads: int) -> float:
    """Bytes per second from memory; several cores together reach at most the device's rate."""
    share = min(1.0, float(parameter("stream_share")) * threads)
    return share * device.bandwidth_bytes_per_s


def call_overhead_s(device: Device, dtype: str = "fp32") -> float:
    """Fixed time of a forward pass in `dtype`: what the host does around the operators."""
    return device.parameter(call_parameter(dtype))


def call_parameter(dtype: str) -> str:
    """Name of the parameter that `call_overhead_s` reads."""
    return f"call_{FAMILY_OF[PLAIN_DTYPE[dtype]]}"


def miss_share(device: Device, working_set_bytes: float | NDArray[Any] | None) -> F64:
    """Share of weights that must come from memory again, 0..1; times are linear in it."""
    return _miss(device, device.parameter, working_set_bytes)


def _miss(device: Device, parameter: Any, working_set_bytes: float | NDArray[Any] | None) -> F64:
    if working_set_bytes is None:
        return np.asarray(1.0)
    resident = float(parameter("resident_share")) * last_cache_bytes(device)
    ratio = (np.asarray(working_set_bytes, dtype=np.float64) / resident) ** MISS_POWER
    return np.asarray(1.0 / (1.0 + 1.0 / np.maximum(ratio, 1e-30)))


def last_cache_bytes(device: Device) -> float:
    """Size of the last cache before memory that the device states; 1 MiB where none is stated."""
    for level in ("l3", "l2", "l1"):
        if f"cache.{level}" in device.quantities:
            return device.get(f"cache.{level}")
    return 2.0**20
