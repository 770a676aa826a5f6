"""A job that a tiny model finishes in seconds, on a device that needs no calibration."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from dynsearch.testing import tiny_data, tiny_model

JOB = """
schema_version = 1
name = "tiny"
devices = ["nvidia-a100-80g-sxm"]
objectives = ["error", "latency_mean_s"]
[model]
folder = "model"
[data]
file = "data.jsonl"
[training]
epochs = 1
learning_rate = 1e-3
head_learning_rate = 3e-3
threads = 1
[space]
dtype = ["fp32"]
[space.skim]
layers = [1]
keep = [1.0, 0.75, 0.5]
[space.exits]
layers = [1, 2]
min_depth = 2
criteria = ["max_prob"]
[workload]
max_len = 24
[search]
trials = 2
workers = 1
sampler = "random"
"""


def write_job(home: Path) -> Path:
    tiny_model(home / "model", layers=3)
    tiny_data(home / "data.jsonl", 1000)
    (home / "job.toml").write_text(JOB, encoding="utf-8")
    return home / "job.toml"


def write_large_job(home: Path) -> Path:
    """The same with more settings than a test has time for, searched by our own sampler."""
    rates = ", ".join(str(1 - i / 32) for i in range(24))
    text = write_job(home).read_text().replace("layers = [1]\n", "layers = [1, 2]\n")
    text = text.replace("1.0, 0.75, 0.5", rates).replace('"random"', '"dynsearch"')
    (home / "large.toml").write_text(text, encoding="utf-8")
    return home / "large.toml"


def passes_told(out: Path) -> int:
    """Passes that the log of the run in a folder holds so far."""
    return sum(len(log.read_bytes().splitlines()) for log in out.glob("tiny-*/log.jsonl"))


def comparable(front: dict[str, Any]) -> list[tuple[Any, ...]]:
    """What must be equal wherever a job has run: configurations with all their figures."""
    return [
        (p["id"], p["device"], p["family"], p["selected"], p["confirmed"], p["predicted"])
        for p in front["front"]
    ]
