"""Time products, attention and encoder layers on a target. Standalone: copy it with a plan.

    python target.py plan.csv measured.csv [--engine auto|torch|onnxruntime] [--threads 1]

Needs torch, or numpy with onnx and onnxruntime (products alone); x86 or Arm; CUDA events where
torch sees a GPU. `plan.csv` has the columns op,dtype,batch,m,k,n,heads,layers:

    matmul     [m, k] @ [k, n]
    attention  fused, `batch` sequences of `heads` heads `k` wide, `m` queries to `n` keys
    network    `layers` encoder layers of width `k` and inner width `n` over `batch` x `m` tokens

op, batch, heads and layers may be absent: a product. `measured.csv` gets them with latency_us,
runtime and date. Every row is written when it is measured; started again, rows that are there
are left out, and a last line that an interruption cut off is dropped and measured again.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

MATMUL, ATTENTION, NETWORK = OPS = ("matmul", "attention", "network")
KEYS = ("dtype", "m", "k", "n")  # what a plan cannot do without


class Shape(NamedTuple):
    """One thing to time."""

    op: str
    dtype: str
    batch: int
    m: int
    k: int
    n: int
    heads: int = 1
    layers: int = 1


COLUMNS = (*Shape._fields, "latency_us", "runtime", "date")
FORMATS = ("fp32", "bf16", "fp16")  # that it can measure
REPEATS = 7
BURST_S = 0.02
MAX_BURST = 200

Timer = Callable[[Shape], float]


def measure(plan: Path, out: Path, timer: Timer, runtime: str) -> int:
    """Measure what the plan has and `out` lacks.

    Args:
        plan: CSV with the columns of `Shape`.
        out: CSV that rows are appended to.
        timer: Seconds of one execution of a shape.
        runtime: What runs them.

    Returns:
        Rows measured by this call.
    """
    done, wanted = finished(out), [shape_of(row) for row in rows_of(plan)]
    todo = [shape for shape in dict.fromkeys(wanted) if shape not in done]
    with out.open("a", newline="", encoding="utf-8") as sink:
        writer = csv.writer(sink)
        if sink.tell() == 0:
            writer.writerow(COLUMNS)
        for shape in todo:
            seconds = timer(shape)
            today = datetime.date.today().isoformat()
            writer.writerow([*shape, f"{1e6 * seconds:.6g}", runtime, today])
            sink.flush()
    return len(todo)


def fault_of(plan: Path, out: Path | None = None) -> str | None:
    """What is wrong with a plan, or with the file that rows go to; None where nothing is."""
    if not plan.is_file():
        return "no such plan; make one with dynsearch calibrate plan"
    if out is not None and out.is_file():
        head = out.read_text(encoding="utf-8").split("\n", 1)[0].strip()
        if head and head != ",".join(COLUMNS):
            return f"{out} has other columns than {','.join(COLUMNS)}; name a new file"
    for line, row in enumerate(rows_of(plan), start=2):
        if any(row.get(key) is None for key in KEYS):
            return f"line {line}: needs the columns {', '.join(KEYS)}"
        fault = _fault_of_row(row)
        if fault is not None:
            return f"line {line}: {fault}"
    return None


def _fault_of_row(row: dict[str, str]) -> str | None:
    if row["dtype"] not in FORMATS:
        return f"dtype {row['dtype']}: {', '.join(FORMATS)} can be measured"
    if (row.get("op") or MATMUL) not in OPS:
        return f"op {row['op']}: {', '.join(OPS)} can be measured"
    numbers = [row.get(key) or "1" for key in Shape._fields[2:]]
    if not all(text.isdecimal() and int(text) > 0 for text in numbers):
        return f"{', '.join(Shape._fields[2:])} must be whole numbers above 0"
    shape = shape_of(row)
    if shape.op == NETWORK and shape.k % shape.heads:
        return f"k = {shape.k} does not split into {shape.heads} heads"
    return None


def shape_of(row: dict[str, str]) -> Shape:
    """What a row of a plan or of measurements is; columns that it lacks are those of a product."""
    sizes = [int(row.get(key) or 1) for key in Shape._fields[2:]]
    return Shape(row.get("op") or MATMUL, row["dtype"], *sizes)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def finished(out: Path) -> set[Shape]:
    """Shapes of whole rows; what follows the last line end is cut off the file."""
    if not out.is_file():
        return set()
    text = out.read_bytes()
    out.write_bytes(text[: text.rfind(b"\n") + 1])
    return {shape_of(row) for row in rows_of(out)}


def torch_timer(threads: int) -> tuple[Timer, str]:
    """Timer over torch, on its GPU where there is one."""
    import torch

    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

    def timer(shape: Shape) -> float:
        where: Any = {"dtype": types[shape.dtype], "device": "cuda" if cuda else "cpu"}
        with torch.inference_mode():
            call = _TORCH[shape.op](shape, lambda *sizes: torch.randn(*sizes, **where))
            return median(call, _cuda_seconds if cuda else seconds_by(threads))

    return timer, "torch-eager"


def _torch_matmul(shape: Shape, random: Callable[..., Any]) -> Callable[[], object]:
    import torch

    x, weight = random(shape.m, shape.k), random(shape.n, shape.k)
    return lambda: torch.nn.functional.linear(x, weight)


def _torch_attention(shape: Shape, random: Callable[..., Any]) -> Callable[[], object]:
    import torch

    query = random(shape.batch, shape.heads, shape.m, shape.k)
    key, value = (random(shape.batch, shape.heads, shape.n, shape.k) for _ in range(2))
    return lambda: torch.nn.functional.scaled_dot_product_attention(query, key, value)


def _torch_network(shape: Shape, random: Callable[..., Any]) -> Callable[[], object]:
    import torch.nn.functional as F  # noqa: N812 - its usual name

    h, inner = shape.k, shape.n

    def linear(outer: int, width: int) -> Callable[[Any], Any]:
        weight, bias = random(outer, width) / width**0.5, random(outer)
        return lambda x: F.linear(x, weight, bias)

    def layer() -> Callable[[Any], Any]:
        project, out = linear(3 * h, h), linear(h, h)
        up, down = linear(inner, h), linear(h, inner)
        scale, shift = random(h), random(h)

        def run(x: Any) -> Any:
            split = project(x).view(shape.batch, shape.m, 3, shape.heads, h // shape.heads)
            query, key, value = split.permute(2, 0, 3, 1, 4)
            attended = F.scaled_dot_product_attention(query, key, value)
            joined = attended.transpose(1, 2).reshape(shape.batch, shape.m, h)
            x = F.layer_norm(x + out(joined), (h,), scale, shift)
            return F.layer_norm(x + down(F.gelu(up(x))), (h,), scale, shift)

        return run

    layers, start = [layer() for _ in range(shape.layers)], random(shape.batch, shape.m, h)

    def call() -> object:
        x = start
        for run in layers:
            x = run(x)
        return x

    return call


_TORCH = {MATMUL: _torch_matmul, ATTENTION: _torch_attention, NETWORK: _torch_network}


def onnxruntime_timer(threads: int) -> tuple[Timer, str]:
    """Timer over onnxruntime on the processor; products in fp32 alone."""
    import numpy as np
    import onnxruntime
    from onnx import TensorProto, helper, numpy_helper

    def timer(shape: Shape) -> float:
        if (shape.op, shape.dtype) != (MATMUL, "fp32"):
            text = f"{shape.op} in {shape.dtype}: onnxruntime is measured by products in fp32"
            raise SystemExit(f"{text}; plan with --ops matmul --dtype fp32")
        m, k, n = shape.m, shape.k, shape.n
        weight = numpy_helper.from_array(np.ones((k, n), dtype=np.float32), "w")
        ends = [
            helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)
            for name, shape in (("x", [m, k]), ("y", [m, n]))
        ]
        node = helper.make_node("MatMul", ["x", "w"], ["y"])
        model = helper.make_model(
            helper.make_graph([node], "matmul", ends[:1], ends[1:], [weight]),
            opset_imports=[helper.make_opsetid("", 13)],
            ir_version=8,
        )
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = threads
        session = onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )
        feed = {"x": np.ones((m, k), dtype=np.float32)}
        return median(lambda: session.run(None, feed), seconds_by(threads))

    return timer, "onnxruntime"


def median(call: Callable[[], object], clock: Callable[..., float]) -> float:
    """Median seconds of one call over bursts of about BURST_S, the first call not counted."""
    clock(call, 1)
    burst = int(min(MAX_BURST, max(1, BURST_S / max(clock(call, 1), 1e-7))))
    return sorted(clock(call, burst) / burst for _ in range(REPEATS))[REPEATS // 2]


def seconds_by(threads: int) -> Callable[[Callable[[], object], int], float]:
    """Clock of a burst: of one thread its processor time, which other work disturbs least."""
    now = time.thread_time if threads == 1 else time.perf_counter

    def seconds(call: Callable[[], object], burst: int) -> float:
        start = now()
        for _ in range(burst):
            call()
        return now() - start

    return seconds


def _cuda_seconds(call: Callable[[], object], burst: int) -> float:
    import torch

    event: Any = torch.cuda.Event
    first, last = (event(enable_timing=True) for _ in range(2))
    first.record()
    for _ in range(burst):
        call()
    last.record()
    torch.cuda.synchronize()
    return float(first.elapsed_time(last)) / 1000


def engine_of(name: str, threads: int) -> tuple[Timer, str]:
    """Timer of an engine; "auto" is torch, else onnxruntime."""
    if name == "auto":
        try:
            return torch_timer(threads)
        except ImportError:
            return onnxruntime_timer(threads)
    return {"torch": torch_timer, "onnxruntime": onnxruntime_timer}[name](threads)


def main(arguments: list[str]) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time the shapes of a plan.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--engine", default="auto", choices=("auto", "torch", "onnxruntime"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    fault = fault_of(args.plan, args.out)
    if fault is not None:
        parser.error(f"{args.plan}: {fault}")
    timer, runtime = engine_of(args.engine, args.threads)
    count = measure(args.plan, args.out, timer, runtime)
    sys.stdout.write(f"{count} rows measured into {args.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
