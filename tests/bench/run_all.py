"""Runs every script of this folder and writes one table each, with machine and commit.

A script prints its figures: a JSON object a line, or plain lines. Run: make bench.
"""

from __future__ import annotations

import argparse
import json
import os
import platform
import subprocess
import sys
import tempfile
from datetime import date
from pathlib import Path
from typing import Any

HERE = Path(__file__).parent
POOLED = 0.8666  # hypervolume of the front of three pooled runs on DJ-12, see search_methods.py
# Scripts whose rows are runs of some seeds, and what of them is run: see their docstrings for more
# seeds and for methods that take long (gp, qlognehvi).
SUMMED = {
    "search_methods": (
        "--methods quick --seeds 5",
        "--methods dynsearch,tpe --seeds 2 --constants 1",
        f"--problem DJ-12 --methods quick --evaluations 500 --seeds 2 --best {POOLED}",
    ),
    "recorded_search": ("--seeds 5 --history",),
}


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


def run_script(path: Path) -> str:
    """What a script found, as Markdown: JSON objects as one table, other lines as a list."""
    if path.stem not in SUMMED:
        return shown(run(path))
    return "\n".join(summed(path, arguments.split()) for arguments in SUMMED[path.stem])


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
        raise SystemExit(f"{path.name} failed with status {done.returncode}\n{done.stderr}")
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


def main() -> None:
    """Write the table to --out and to the screen."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--out", type=Path, required=True, help="Markdown file to write")
    parser.add_argument("names", nargs="*", help="only these scripts, without .py")
    args = parser.parse_args()
    scripts = [p for p in sorted(HERE.glob("*.py")) if p != Path(__file__)]
    scripts = [p for p in scripts if not args.names or p.stem in args.names]
    parts = [f"# Speed\n\n{date.today()}, commit {commit()}, {machine()}\n"]
    for script in scripts:
        parts.append(f"## {script.stem}\n\n{run_script(script)}\n")
    args.out.parent.mkdir(parents=True, exist_ok=True)
    args.out.write_text("\n".join(parts), encoding="utf-8")
    sys.stdout.write("\n".join(parts))


if __name__ == "__main__":
    main()
