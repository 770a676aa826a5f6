"""The model card of an exported configuration."""

from __future__ import annotations

import re
from collections.abc import Sequence

from dynsearch.export.records import Front, FrontPoint
from dynsearch.risk.certificate import Certificate


def model_card(
    front: Front,
    points: Sequence[FrontPoint],
    *,
    size: int,
    columns: Sequence[str],
    packages: Sequence[str],
    certificate: Certificate | None,
) -> str:
    """The model card of one configuration.

    Args:
        front: The front that it belongs to.
        points: Its points, one a device.
        size: Bytes of the model's files.
        columns: Names of the texts that it reads, one or two.
        packages: What its runner needs.
        certificate: What it carries.
    """
    p, s, c = points[0], points[0].selected, points[0].confirmed
    depth = p.candidate["depth"]
    call = '"a text to classify"     ' if len(columns) == 1 else '"first text" "second text"'
    exits = (p.candidate.get("exits") or {}).get("layers", [])
    lines = [
        "---",
        "library_name: dynsearch",
        "pipeline_tag: text-classification",
        "tags:",
        *(f"- {tag}" for tag in _tags(p.family)),
        "---",
        "",
        f"# {p.id}: {p.family}, {p.dtype}",
        "",
        f"Exported by dynsearch from job {_plain(front.job)}. Depth {depth}, early exits after "
        f"layers {', '.join(map(str, exits)) or 'none'}; weights {size / 2**20:.1f} MiB. All of "
        "it is in `config.json`.",
        "",
        "```",
        f"python runner.py {call} # needs {' '.join(packages)}",
        "python benchmark.py --file texts.txt    # how fast it is on this machine",
        "```",
        "",
        "| error | value | loss against the full network | rows |",
        "|---|---|---|---|",
        f"| selected (rows that chose it: a little too good) | {s.error:.2%} "
        f"| {s.loss * 100:+.2f} points | {s.n} |",
    ]
    if c is not None:
        lines.append(
            f"| confirmed (unseen rows) | {c.error:.2%} | {c.loss * 100:+.2f} points, 95 % "
            f"interval {c.low * 100:+.2f} to {c.high * 100:+.2f} | {c.n} |"
        )
    if certificate is not None:
        lines += ["", f"Certificate: {certificate.statement}. {certificate.note}"]
    lines += [
        "",
        "| device | mean latency, predicted (90 % interval) | measured |",
        "|---|---|---|",
    ]
    for q in points:
        t = q.predicted
        measured = "not measured"
        if q.measured is not None:
            m = q.measured
            measured = f"{m.latency_mean_s * 1e3:.3f} ms ({m.runtime}, batch {m.batch})"
        lines.append(
            f"| {_plain(q.device)} | {t.latency_mean_s * 1e3:.3f} ms "
            f"({t.low_s * 1e3:.3f} to {t.high_s * 1e3:.3f}) | {measured} |"
        )
    return "\n".join(lines) + "\n"


def _tags(family: str) -> list[str]:
    names = {"exit": "early-exit", "skim": "token-skimming", "experts": "mixture-of-experts"}
    return ["dynamic-transformer", *(names[part] for part in family.split("+") if part in names)]


def _plain(text: str) -> str:
    """A name without line breaks and Markdown signs."""
    return re.sub(r"[^\w .,:+-]", "", " ".join(text.split()))
