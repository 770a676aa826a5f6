"""Latencies of transformer networks on Snapdragon boards, as the Qualcomm AI Hub lists them.

Shapes come from a `geometry.csv` beside the file: one line for each model, and for each component
where `component_regex` tells encoder and decoder apart. Models without a line are not read, nor
are rows that the processor ran whole, nor boards without a device file (`unread` says which).
Rows of equal geometry form one group: BERT and ELECTRA are one network to a cost model.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.adapters.edge_shapes import (
    Geometry,
    joined_ops,
    mobile_bert,
    network,
    on_processor,
)
from cost_models.adapters.reader import CsvTable, read_csv
from cost_models.device import device_names
from cost_models.measured import Measured
from search_spaces.errors import InputError
from search_spaces.ops import OpTable

COLUMNS = frozenset(
    {
        "model",
        "component",
        "precision",
        "device",
        "runtime",
        "compute_unit",
        "latency_ms",
        "layers_cpu",
    }
)
GEOMETRY = frozenset(
    {
        "model",
        "component_regex",
        "layers",
        "hidden",
        "ffn",
        "heads",
        "q_len",
        "kv_len",
        "weight_m",
    }
)
BOARDS = {
    "Dragonwing IQ-9075 EVK": "qualcomm-iq-9075",
    "QCS8275 (Proxy)": "qualcomm-qcs8275",
    "QCS8450 (Proxy)": "qualcomm-qcs8450",
    "QCS8550 (Proxy)": "qualcomm-qcs8550",
    "SA8295P ADP": "qualcomm-sa8295p",
    "SA8775P ADP": "qualcomm-sa8775p",
    "Samsung Galaxy S24": "qualcomm-snapdragon-8-gen3",
    "Samsung Galaxy S25": "qualcomm-snapdragon-8-elite",
    "Snapdragon 8 Elite QRD": "qualcomm-snapdragon-8-elite",
    "Snapdragon 8 Elite Gen 5 QRD": "qualcomm-snapdragon-8-elite-gen5",
    "Snapdragon X Elite CRD": "qualcomm-snapdragon-x-elite",
}
WEIGHTS = {  # precision -> type of weights; activations stay 16 bits wide
    "float": "fp16",
    "w8a16": "int8",
    "w8a8": "int8",
    "w8a8_mixed_int16": "int8",
}


@dataclass(frozen=True, slots=True)
class _Line:
    """One line of geometry.csv."""

    model: str
    component: re.Pattern[str]
    shape: Geometry


def read(path: Path, root: Path) -> list[Measured]:
    """One table for each board and runtime.

    Raises:
        InputError: no geometry.csv beside the file, missing columns or wrong values.
    """
    table = read_csv(path, root, COLUMNS)
    lines = geometry_lines(path, root)
    which = _line_of(table, lines)
    wanted = (which >= 0) & np.isin(table.text("precision"), list(WEIGHTS))
    wanted &= table.text("compute_unit") == "NPU"
    board = boards_of(table.text("device"))
    wanted &= board != ""
    runtime = table.text("runtime")
    keys = sorted({(str(b), str(r)) for b, r in zip(board[wanted], runtime[wanted], strict=True)})
    found = []
    for name, ran in keys:
        rows = np.flatnonzero(wanted & (board == name) & (runtime == ran))
        found.append(_measured(table.take(rows), [lines[i] for i in which[rows]], name, ran))
    return found


def unread(path: Path, root: Path) -> list[str]:
    """What of a file is not read, and why: boards without a device file."""
    boards = np.unique(read_csv(path, root, COLUMNS).text("device"))
    return [
        f"{path.name}: {name} has no device file" for name in boards if board_of(str(name)) is None
    ]


def board_of(name: str) -> str | None:
    """Device file of a board of the AI Hub; None where there is none."""
    found = BOARDS.get(name)
    return found if found in device_names() else None


def boards_of(names: NDArray[np.str_]) -> NDArray[np.str_]:
    """Device files of boards [N]; an empty text where there is none."""
    known = {str(name): board_of(str(name)) or "" for name in np.unique(names)}
    return np.array([known[str(name)] for name in names], dtype=np.str_)


def geometry_lines(path: Path, root: Path) -> list[_Line]:
    """The lines of the geometry.csv beside a file.

    Raises:
        InputError: there is none, or it is wrong.
    """
    beside = path.parent / "geometry.csv"
    if not beside.is_file():
        text = "is missing beside the file; shapes of the models are read from it"
        raise InputError.one(path, "geometry.csv", None, text)
    table = read_csv(beside, root, GEOMETRY)
    columns = {
        name: table.integer(name)
        for name in ("layers", "hidden", "ffn", "heads", "q_len", "kv_len")
    }
    weights = table.number("weight_m") * 1e6
    models, patterns = table.text("model"), table.text("component_regex")
    return [
        _Line(
            str(models[i]),
            re.compile(str(patterns[i])),
            Geometry(
                **{name: int(values[i]) for name, values in columns.items()},
                weights=float(weights[i]),
            ),
        )
        for i in range(len(table))
    ]


def operators(line: _Line, precision: str, cpu_nodes: int = 0) -> OpTable:
    """The operators of one run of a model.

    Args:
        line: Model and shape.
        precision: Key of WEIGHTS.
        cpu_nodes: Nodes of the graph that the processor ran.
    """
    shape, weights = line.shape, WEIGHTS[precision]
    if line.model.startswith("mobile_bert"):
        parts = [mobile_bert(shape.layers, shape.q_len, "fp16", weights)]
    elif line.model == "openai_clip":
        text = Geometry(
            layers=12, hidden=512, ffn=2048, heads=8, q_len=77, kv_len=77, weights=37.8e6
        )
        rest = Geometry(
            **{f: getattr(shape, f) for f in ("layers", "hidden", "ffn", "heads")},
            q_len=shape.q_len,
            kv_len=shape.kv_len,
            weights=shape.weights - text.weights,
        )
        parts = [network(rest, "fp16", weights), network(text, "fp16", weights)]
    else:
        parts = [network(shape, "fp16", weights)]
    table = OpTable.concat(parts)
    return on_processor(table, cpu_nodes, shape.q_len, shape.hidden, "fp16")


def _line_of(table: CsvTable, lines: list[_Line]) -> NDArray[np.int64]:
    """Line of geometry of every row [N]; -1 where there is none."""
    found: dict[tuple[str, str], int] = {}
    which = np.full(len(table), -1, dtype=np.int64)
    for row, pair in enumerate(zip(table.text("model"), table.text("component"), strict=True)):
        key = (str(pair[0]), str(pair[1]))
        if key not in found:
            fitting = [
                i
                for i, line in enumerate(lines)
                if line.model == key[0] and line.component.search(key[1])
            ]
            found[key] = fitting[0] if fitting else -1
        which[row] = found[key]
    return which


def _measured(table: CsvTable, lines: list[_Line], board: str, runtime: str) -> Measured:
    nodes = _cpu_nodes(table)
    precisions = [str(name) for name in table.text("precision")]
    label = np.array([_label(line) for line in lines])
    return Measured(
        source=table.file,
        device=board,
        runtime=runtime,
        family="end_to_end",
        ops=joined_ops(
            [
                operators(line, precision, int(away))
                for line, precision, away in zip(lines, precisions, nodes, strict=True)
            ]
        ),
        seconds=table.seconds("latency"),
        calls=np.ones(len(table)),
        group=label,
        peer_s={},
    )


def _cpu_nodes(table: CsvTable) -> NDArray[np.int64]:
    """Nodes of each row's graph that the processor ran [N]; an empty cell means none."""
    nodes = np.nan_to_num(table.number("layers_cpu", blank=True, signed=True), nan=0.0)
    table.refuse("layers_cpu", nodes < 0, "must be 0 or more; mend the row")
    return nodes.astype(np.int64)


def _label(line: _Line) -> str:
    special = line.model.startswith("mobile_bert") or line.model == "openai_clip"
    return line.model if special else line.shape.label
