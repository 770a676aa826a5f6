"""Runs the scripts of this folder and writes one table each, with machine and commit.

A script prints its figures: a JSON object a line, or plain lines. Those that say "Run by a person"
need a run or hours, and are only named. Run: make bench; with few seeds and small sizes, about ten
minutes of one core: make bench QUICK=1. A script that fails is told with what it said; the others
still run, and the status is 1.
"""

from __future__ import annotations

import argparse
import ast
import json
import os
import platform
import shlex
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
POOLED = 0.8666  # hypervolume of the front of three pooled runs on DJ-12, see search_methods.py
BY_HAND = "Run by a person"
# What is run of scripts whose rows are runs of some seeds; `--table` of theirs sums these up. See
# their docstrings for more seeds.
SUMMED = {
    "search_methods": (
        "--methods quick --seeds 5",
        "--methods dynsearch,gpsampler,qlognehvi --seeds 1",
        "--methods dynsearch,tpe --seeds 2 --constants 1",
        f"--problem DJ-12 --methods quick --evaluations 500 --seeds 2 --best {POOLED}",
    ),
    "recorded_search": ("--seeds 5 --history",),
}
QUICK_SUMMED = {
    "search_methods": (
        "--methods quick --seeds 1",
        f"--problem DJ-12 --methods quick --evaluations 100 --seeds 1 --best {POOLED}",
    ),
    "recorded_search": ("--seeds 1 --history",),
}
QUICK = {
    "driver_rate": "--trials 100",
    "recorded_attempts": "--seeds 2 --attempts 'startup 5'",
    "recorded_fidelity": "--seeds 1 --rows 96",
    "report_open": "--repeats 1",
    "sampler_time": "--trials 1000 --asks 20",
    "two_workers": "--passes 6 --rounds 1 --rows 64",
}


class ScriptError(Exception):
    """A script ended with another status than 0."""


def machine() -> str:
    """Processor, cores, Python: what a figure depends on."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
    models = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    name = models[0] if models else platform.processor() or platform.machine()
    load = f", load {os.getloadavg()[0]:.1f}" if hasattr(os, "getloadavg") else ""
    return f"{name}, {os.cpu_count()} cores{load}, Python {platform.python_version()}"


def commit() -> str:
    """Short hash of the checkout, `+` where it has changes."""

    def git(*words: str) -> str:
        done = subprocess.run(["git", *words], cwd=HERE, capture_output=True, text=True)
        return done.stdout.strip()

    return (git("rev-parse", "--short", "HEAD") or "no commit") + (
        "+" if git("status", "--porcelain", "--untracked-files=no") else ""
    )


def run_script(path: Path, quick: bool) -> str:
    """What a script found, as Markdown: JSON objects as one table, other lines as a list.

    Raises:
        ScriptError: when it fails.
    """
    calls = (QUICK_SUMMED if quick else SUMMED).get(path.stem)
    if calls is None:
        return shown(run(path, *shlex.split(QUICK.get(path.stem, "") if quick else "")))
    return "\n".join(summed(path, arguments.split()) for arguments in calls)


def summed(path: Path, arguments: list[str]) -> str:
    """Rows of a script over seeds, as the script itself sums them up: medians and worst rows."""
    found = run(path, *arguments)
    notes = shown("\n".join(x for x in found.splitlines() if not x.startswith("{")))
    rows = "\n".join(x for x in found.splitlines() if x.startswith("{"))
    if not rows:
        return notes
    with tempfile.TemporaryDirectory() as folder:
        file = Path(folder) / "rows.jsonl"
        file.write_text(rows, encoding="utf-8")
        return f"{run(path, '--table', str(file))}\n{notes}"


def run(path: Path, *arguments: str) -> str:
    """What a script prints."""
    done = subprocess.run([sys.executable, str(path), *arguments], capture_output=True, text=True)
    if done.returncode:
        last = "\n".join(done.stderr.splitlines()[-5:])
        raise ScriptError(f"failed with status {done.returncode}:\n\n```\n{last}\n```")
    return done.stdout


def shown(text: str) -> str:
    """JSON objects, one a line, as one table, other lines as a list."""
    rows, notes = [], []
    for line in filter(None, text.splitlines()):
        try:
            row = json.loads(line)
        except json.JSONDecodeError:
            row = None
        if isinstance(row, dict):
            rows.append(row)
        else:
            notes.append(f"- {line}")
    return "\n".join([as_table(rows)] * bool(rows) + notes)


def as_table(rows: list[dict[str, Any]]) -> str:
    """Rows as a Markdown table, columns in the order in which they first appear."""
    columns = list(dict.fromkeys(key for row in rows for key in row))
    lines = [columns, ["---"] * len(columns)]
    lines += [[_shown(row.get(column, "")) for column in columns] for row in rows]
    return "\n".join("| " + " | ".join(line) + " |" for line in lines)


def _shown(value: Any) -> str:
    if isinstance(value, bool) or not isinstance(value, int | float):
        return str(value)
    return f"{value:,}" if isinstance(value, int) else f"{value:.4g}"


def purpose(path: Path) -> str:
    """The docstring of a script; empty for what is only imported."""
    text = path.read_text(encoding="utf-8")
    return (ast.get_docstring(ast.parse(text)) or "") if "__main__" in text else ""


def main() -> None:
    """Write the table to --out and to the screen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("--quick", action="store_true", help="few seeds, small sizes")
    parser.add_argument("names", nargs="*", help="only these scripts, without .py")
    args = parser.parse_args()
    every = [p for p in sorted(HERE.glob("*.py")) if p != Path(__file__) and purpose(p)]
    wanted = [p for p in every if not args.names or p.stem in args.names]
    by_hand = [p.stem for p in wanted if BY_HAND in purpose(p)]
    parts = [f"# Speed\n\n{date.today()}, commit {commit()}, {machine()}\n"]
    failed = []
    sys.stdout.write(parts[0] + "\n")
    for script in (p for p in wanted if p.stem not in by_hand):
        try:
            found = run_script(script, args.quick)
        except ScriptError as problem:
            failed.append(script.stem)
            found = str(problem)
        parts.append(f"## {script.stem}\n\n{found}\n")
        sys.stdout.write(parts[-1] + "\n")
        sys.stdout.flush()
    if by_hand:
        parts.append(f"Not run, see their first lines: {', '.join(by_hand)}.\n")
        sys.stdout.write(parts[-1])
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(parts), encoding="utf-8")
    if failed:
        raise SystemExit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
