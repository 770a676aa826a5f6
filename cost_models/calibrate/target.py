"""Time matrix products on a target machine. A standalone script: copy it there with a plan.

    python target.py plan.csv measured.csv [--engine auto|torch|onnxruntime] [--threads 1]

Needs torch, or numpy with onnx and onnxruntime; x86 or Arm; CUDA events where torch sees a GPU.
`plan.csv` has the columns dtype,m,k,n; `measured.csv` gets them with latency_us, runtime and
date. Every row is written when it is measured; started again, rows that are there are left out,
and a last line that an interruption cut off is dropped and measured again.
"""

from __future__ import annotations

import argparse
import csv
import datetime
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

KEYS = ("dtype", "m", "k", "n")
COLUMNS = (*KEYS, "latency_us", "runtime", "date")
REPEATS = 7
BURST_S = 0.02
MAX_BURST = 200

Key = tuple[str, ...]
Timer = Callable[[str, int, int, int], float]


def measure(plan: Path, out: Path, timer: Timer, runtime: str) -> int:
    """Measure what the plan has and `out` lacks.

    Args:
        plan: CSV with the columns dtype, m, k, n.
        out: CSV that rows are appended to.
        timer: Seconds of one product of (dtype, m, k, n).
        runtime: What runs them.

    Returns:
        Rows measured by this call.
    """
    done, wanted = finished(out), [tuple(r[k] for k in KEYS) for r in rows_of(plan)]
    todo = [key for key in dict.fromkeys(wanted) if key not in done]
    with out.open("a", newline="", encoding="utf-8") as sink:
        writer = csv.writer(sink)
        if sink.tell() == 0:
            writer.writerow(COLUMNS)
        for dtype, m, k, n in todo:
            seconds = timer(dtype, int(m), int(k), int(n))
            today = datetime.date.today().isoformat()
            writer.writerow([dtype, m, k, n, f"{1e6 * seconds:.6g}", runtime, today])
            sink.flush()
    return len(todo)


def rows_of(path: Path) -> list[dict[str, str]]:
    """Rows of a CSV file."""
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def finished(out: Path) -> set[Key]:
    """Keys of whole rows; what follows the last line end is cut off the file."""
    if not out.is_file():
        return set()
    text = out.read_bytes()
    out.write_bytes(text[: text.rfind(b"\n") + 1])
    return {tuple(row[k] for k in KEYS) for row in rows_of(out)}


def torch_timer(threads: int) -> tuple[Timer, str]:
    """Timer over torch, on its GPU where there is one."""
    import torch

    torch.set_num_threads(threads)
    cuda = torch.cuda.is_available()
    types = {"fp32": torch.float32, "bf16": torch.bfloat16, "fp16": torch.float16}

    def timer(dtype: str, m: int, k: int, n: int) -> float:
        where: Any = {"dtype": types[dtype], "device": "cuda" if cuda else "cpu"}
        x, weight = torch.randn(m, k, **where), torch.randn(n, k, **where)

        def call() -> object:
            return torch.nn.functional.linear(x, weight)

        with torch.inference_mode():
            return median(call, _cuda_seconds if cuda else _seconds)

    return timer, "torch-eager"


def onnxruntime_timer(threads: int) -> tuple[Timer, str]:
    """Timer over onnxruntime on the processor; fp32 alone."""
    import numpy as np
    import onnxruntime  # type: ignore[import-not-found]
    from onnx import TensorProto, helper, numpy_helper  # type: ignore[import-not-found]

    def timer(dtype: str, m: int, k: int, n: int) -> float:
        if dtype != "fp32":
            raise SystemExit(f"dtype {dtype}: onnxruntime is measured in fp32; plan fp32 rows")
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
        return median(lambda: session.run(None, feed), _seconds)

    return timer, "onnxruntime"


def median(call: Callable[[], object], clock: Callable[..., float]) -> float:
    """Median seconds of one call over bursts of about BURST_S, the first call not counted."""
    clock(call, 1)
    burst = int(min(MAX_BURST, max(1, BURST_S / max(clock(call, 1), 1e-7))))
    return sorted(clock(call, burst) / burst for _ in range(REPEATS))[REPEATS // 2]


def _seconds(call: Callable[[], object], burst: int) -> float:
    start = time.perf_counter()
    for _ in range(burst):
        call()
    return time.perf_counter() - start


def _cuda_seconds(call: Callable[[], object], burst: int) -> float:
    import torch

    event: Callable[..., torch.cuda.Event] = torch.cuda.Event
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
    parser = argparse.ArgumentParser(description="Time matrix products of a plan.")
    parser.add_argument("plan", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--engine", default="auto", choices=("auto", "torch", "onnxruntime"))
    parser.add_argument("--threads", type=int, default=1)
    args = parser.parse_args(arguments)
    timer, runtime = engine_of(args.engine, args.threads)
    count = measure(args.plan, args.out, timer, runtime)
    sys.stdout.write(f"{count} rows measured into {args.out}\n")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
