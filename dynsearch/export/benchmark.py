"""Times one exported configuration on this machine, beside what was predicted for it.

Copied into every exported folder, beside `runner.py`, and needs what that needs.

    python benchmark.py --file texts.txt --batch 1,8 --repeats 5 --threads 1
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import time
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import runner  # type: ignore[import-not-found,unused-ignore]  # beside this file


def measure(model: Any, rows: Sequence[Any], batch: int, repeats: int) -> dict[str, Any]:
    """Time from the start of a batch to its end, over all batches and repeats.

    Args:
        model: From `runner.load`.
        rows: Encoded texts.
        batch: Texts in a batch.
        repeats: How often everything is done; the median counts for each batch.

    Returns:
        Seconds of a batch (mean, p50, p95, p99), seconds a text, share of texts per exit layer.
    """
    parts = [[rows[i] for i in part] for part in runner.batches(rows, batch)]
    answers = [answer for part in parts for answer in model.answer(part)]  # warms up, too
    times: list[list[float]] = [[] for _ in parts]
    for _ in range(repeats):
        for i, part in enumerate(parts):
            start = time.perf_counter()
            model.answer(part)
            times[i].append(time.perf_counter() - start)
    seconds = sorted(statistics.median(t) for t in times)
    left = Counter(answer.exit_layer for answer in answers)

    def quantile(share: float) -> float:
        return seconds[min(len(seconds) - 1, int(share * len(seconds)))]

    return {
        "batch": batch,
        "texts": len(rows),
        "mean_s": statistics.fmean(seconds),
        "p50_s": quantile(0.5),
        "p95_s": quantile(0.95),
        "p99_s": quantile(0.99),
        "time_per_sample_s": sum(seconds) / len(rows),
        "exits": {str(layer): left[layer] / len(rows) for layer in sorted(left)},
    }


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description="Time this configuration.")
    parser.add_argument(
        "--file", type=Path, required=True, help="UTF-8 file, one text a line (pairs: tab)"
    )
    parser.add_argument("--batch", default="1,8", help="batch sizes, separated by commas")
    parser.add_argument("--repeats", type=int, default=5, help="repeats of everything")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime")
    parser.add_argument("--runtime", help="of ONNX graphs: onnxruntime or openvino")
    parser.add_argument("--json", action="store_true", help="one JSON object")
    options = parser.parse_args(arguments)
    sizes = options.batch.split(",")
    if not all(size.isdecimal() and int(size) for size in sizes):
        parser.error("--batch: whole numbers above 0, separated by commas")
    if options.repeats < 1 or options.threads < 1:
        parser.error("--repeats and --threads must be at least 1")
    model = runner.load_or_stop(parser, options.threads, options.runtime)
    lines = runner.read_lines(parser, options.file)
    texts = runner.pairs_of(parser, [], lines) if model.pairs else lines
    if not texts:
        parser.error(f"{options.file}: no text in it")
    rows = model.encode(texts)
    found = [measure(model, rows, int(size), options.repeats) for size in sizes]
    config = model.config
    result = {
        "id": config["id"],
        "format": config["format"],
        "threads": options.threads,
        "rows": found,
        "predicted": [
            {"device": name, **entry["predicted"]}
            for name, entry in config["expected"]["devices"].items()
        ],
    }
    sys.stdout.write(json.dumps(result, indent=1) + "\n" if options.json else _text(result))
    return 0


def _text(result: dict[str, Any]) -> str:
    lines = [f"{result['id']} ({result['format']}), {result['threads']} threads"]
    for row in result["rows"]:
        exits = ", ".join(f"layer {k} {share:.0%}" for k, share in row["exits"].items())
        lines.append(
            f"batch {row['batch']}: {row['mean_s'] * 1e3:.3f} ms a batch (p95 "
            f"{row['p95_s'] * 1e3:.3f}), {row['time_per_sample_s'] * 1e3:.3f} ms a text; "
            f"answers: {exits}"
        )
    lines += [
        f"predicted on {p['device']}: {p['latency_mean_s'] * 1e3:.3f} ms mean "
        f"({p['low_s'] * 1e3:.3f} to {p['high_s'] * 1e3:.3f})"
        for p in result["predicted"]
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.exit(main())
