"""Numbers of the GPU form: what calibration may set, and constants pooled over devices.

Matmuls, attention and expert layers have up to eight parameters for each runtime and family of
number formats; the priors (default, width) are the means and spreads over the devices of fits to
published tables: matmuls of 16 bits and fp8 on A100, H100, H200, B200 and RTX PRO 6000
(AIConfigurator's serving kernels, Apache-2.0), fp32 on P4, P100, V100, A100, L4 and MI210
(NeuSight's eager kernels, MIT), attention and experts on the five of the former.
"""

from __future__ import annotations

from cost_models.forms import Parameter

US, GB = 1e-6, 1e9

# Number formats that are calibrated; the others borrow parameters, never the peak.
MATMUL_FAMILY: dict[str, str] = {
    "fp32": "fp32",
    "tf32": "half",
    "bf16": "half",
    "fp16": "half",
    "int4": "half",  # weights only: multiplied in 16 bits
    "fp8": "fp8",
    "int8": "fp8",
}
HALF_OR_FP8: dict[str, str] = {
    name: "fp8" if family == "fp8" else "half" for name, family in MATMUL_FAMILY.items()
}

# Pooled constants.
NORM = 4.0  # arithmetic, memory and cache overlap: t = (sum t_i^NORM)^(1/NORM)
TILES: tuple[tuple[int, int], ...] = (
    (64, 64),
    (64, 128),
    (128, 64),
    (128, 128),
    (128, 256),
    (128, 32),
    (32, 128),
)
FILLS: tuple[float, ...] = (1.0, 2.0)  # waves that a split inner dimension fills
SPLIT_INNER = 128.0  # inner steps of a part, at least
SPLIT_MOST = 64.0
SPLIT_BYTES = 8.0  # written and read again for each value of each part, fp32
WIDE_COLUMNS = 32768.0
EXPERT_ROWS: tuple[int, ...] = (16, 32, 64, 128)  # tile rows of grouped matmuls
EXPERT_FILL = 50.0
EXPERT_WAVES = 0.8
QUERY_ROWS: tuple[int, ...] = (64, 128)
DECODE_EFFICIENCY = 0.4
DECODE_L2 = 50 * GB  # bytes per second and multiprocessor
DECODE_WAVES = 0.3
DECODE_OVERLAP = 0.85  # items behind one another overlap: waves^this
SPLIT_POSITIONS = 64.0
FP32_OP_J = 6.9e-12  # the most that the literature gives an fp32 operation (energy.toml)
ARITHMETIC_POWER = 0.8  # of a board's power; idle chip and memory take the rest
ROW_THREADS = 512.0  # threads that move one row of a gather, at most
UNIT_THREADS = 2048.0

_Row = tuple[str, str, float, float, str, float | None]

_MATMUL: dict[str, tuple[float, ...]] = {
    #        launch eff. bandw. fill waves tile l2   saturation
    "fp32": (40 * US, 0.80, 0.75, 40, 0.15, 0.15, 60 * GB, 0.4),
    "half": (2.3 * US, 0.85, 0.86, 180, 0.20, 0.15, 90 * GB, 0.12),
    "fp8": (4.5 * US, 0.60, 0.75, 150, 0.30, 0.20, 60 * GB, 0.2),
}
_ATTENTION: dict[str, tuple[float, ...]] = {
    #        launch eff. bandw. softmax block wave tile head
    "half": (6 * US, 0.75, 0.75, 20 * GB, 1 * US, 0.5, 0.7, 0.2),
    "fp8": (8 * US, 0.55, 0.65, 25 * GB, 0.5 * US, 0.6, 0.8, 0.5),
}
_DECODE: dict[str, tuple[float, ...]] = {
    #        launch bandw. item stream slots combine unsplit saturation resident
    "half": (6 * US, 0.88, 4 * US, 45 * GB, 1.0, 2 * US, 0.05, 0.2, 0.2),
    "fp8": (6 * US, 0.80, 4 * US, 25 * GB, 1.0, 1 * US, 0.01, 0.2, 0.2),
}
_EXPERTS: dict[str, tuple[float, ...]] = {
    #        launch eff. bandw. tile ragged l2 saturation move
    "half": (5 * US, 0.50, 0.90, 0.5, 0.5, 80 * GB, 0.8, 0.7),
    "fp8": (12 * US, 0.35, 0.85, 0.35, 0.4, 90 * GB, 1.0, 1.2),
}


def _matmul(family: str) -> list[Parameter]:
    v = _MATMUL[family]
    rows: tuple[_Row, ...] = (
        ("launch", "s", v[0], 0.5, "fixed time of a matmul", None),
        ("efficiency", "number", v[1], 0.3, "share of the peak of a large tile", 1.0),
        ("bandwidth_share", "number", v[2], 0.2, "share of the memory bandwidth", 1.0),
        ("fill", "number", v[3], 0.6, "inner steps lost at start and end of a tile", None),
        ("wave_weight", "number", v[4], 0.7, "weight of whole waves", 1.0),
        ("tile_power", "number", v[5], 0.6, "a tile's efficiency ~ area to this power", 1.0),
        ("l2_per_unit", "bytes_per_s", v[6], 0.6, "tile traffic of a multiprocessor", None),
        ("saturation", "number", v[7], 0.7, "waves at which memory runs at half speed", None),
    )
    return _named(rows, family)


def _attention(family: str) -> list[Parameter]:
    v, d = _ATTENTION[family], _DECODE[family]
    rows: tuple[_Row, ...] = (
        ("attention_launch", "s", v[0], 0.5, "fixed time of fused attention", None),
        ("attention_efficiency", "number", v[1], 0.2, "share of the peak", 1.0),
        ("attention_bandwidth_share", "number", v[2], 0.25, "share of the bandwidth", 1.0),
        ("softmax_per_unit", "per_s", v[3], 0.3, "scores of a multiprocessor", None),
        ("attention_block", "s", v[4], 0.7, "start and end of a block of queries", None),
        ("attention_wave_weight", "number", v[5], 0.6, "weight of whole waves", 1.0),
        ("attention_tile_power", "number", v[6], 0.4, "as tile_power, blocks of queries", 1.5),
        ("wide_head", "number", v[7], 0.6, "loss ~ (width / 128)^this above 128", 2.0),
        ("decode_launch", "s", d[0], 0.5, "fixed time of decoding attention", None),
        ("decode_bandwidth_share", "number", d[1], 0.15, "share of the bandwidth", 1.0),
        ("decode_item", "s", d[2], 0.5, "latency of one sequence and cached head", None),
        ("decode_stream", "bytes_per_s", d[3], 0.5, "rate at which one item is read", None),
        ("decode_slots", "number", d[4], 0.5, "items on a multiprocessor at a time", None),
        ("decode_combine", "s", d[5], 0.7, "joining the parts of a split cache", None),
        ("decode_unsplit", "number", d[6], 1.5, "1: one query head a cache is not split", 1.0),
        ("decode_saturation", "number", d[7], 0.7, "as saturation", None),
        ("decode_resident", "number", d[8], 0.8, "share of L2 that keeps a repeated cache", None),
    )
    return _named(rows, family)


def _experts(family: str) -> list[Parameter]:
    v = _EXPERTS[family]
    rows: tuple[_Row, ...] = (
        ("experts_launch", "s", v[0], 0.6, "fixed time of a grouped matmul", None),
        ("experts_efficiency", "number", v[1], 0.3, "share of the peak", 1.0),
        ("experts_bandwidth_share", "number", v[2], 0.15, "share of the bandwidth", 1.0),
        ("experts_tile_power", "number", v[3], 0.5, "as tile_power, rows of a tile", 1.0),
        ("experts_ragged", "number", v[4], 0.4, "tiles more for each expert, uneven loads", None),
        ("experts_l2_per_unit", "bytes_per_s", v[5], 0.5, "as l2_per_unit", None),
        ("experts_saturation", "number", v[6], 0.6, "as saturation", None),
        ("experts_move", "number", v[7], 0.6, "activations moved besides operands", None),
    )
    return _named(rows, family)


def _named(rows: tuple[_Row, ...], family: str) -> list[Parameter]:
    return [
        Parameter(f"{name}_{family}", dimension, default, sd, f"{doc}, {family}", top)
        for name, dimension, default, sd, doc, top in rows
    ]


PARAMETERS: tuple[Parameter, ...] = (
    *(p for family in _MATMUL for p in _matmul(family)),
    Parameter("split", "s", 3 * US, 0.5, "adding up the parts of a split inner dimension"),
    Parameter("split_fp8", "s", 30 * US, 0.5, "the same, fp8: its kernels hardly split"),
    Parameter("resident", "number", 0.1, 1.0, "share of L2 that keeps repeated weights"),
    Parameter("resident_values", "number", 0.5, 0.7, "the same, what is multiplied by them"),
    Parameter("wide", "number", 0.1, 1.5, "loss of fp32 kernels with very many columns"),
    Parameter("batched_output", "number", 0.5, 1.0, "writes of batched matmuls, times more"),
    Parameter("quantise_row", "s", 1 * US, 0.5, "one row to 8 bits, on one multiprocessor"),
    Parameter("quantise_value", "s", 0.35e-9, 0.5, "each value of it"),
    *(p for family in _ATTENTION for p in _attention(family)),
    *(p for family in _EXPERTS for p in _experts(family)),
    Parameter("vector_launch", "s", 3 * US, 0.8, "fixed time of a vector operator"),
    Parameter("vector_bandwidth_share", "number", 0.80, 0.2, "share of the bandwidth", 1.0),
    Parameter("vector_resident", "number", 0.3, 0.8, "share of L2 that keeps repeated vectors"),
    Parameter("gather_row", "s", 3 * US, 0.5, "life of the threads that move a row"),
    Parameter("sync", "s", 20 * US, 0.7, "a result copied to the host and awaited"),
    # Of fits to whole networks on TITAN Xp and A10G, 100 to 140 us; loops of one kernel start
    # it in 20 to 50 (`launch_fp32` of NeuSight's tables). No device says which host it has.
    Parameter("dispatch", "s", 80 * US, 0.7, "host time of a module of an eager forward pass"),
    Parameter("host_call", "s", 100 * US, 1.5, "an eager pass before its first kernel"),
)
