"""Configurations as folders that run: weights, config, tokenizer, runner, model card.

Only what no input can reach by construction is cut from the weights: layers above the depth,
heads of exits that are off, routers and expert means that are not used. What a data set merely
happened not to reach stays.
"""

from __future__ import annotations

import difflib
import hashlib
import json
import re
import shutil
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

from safetensors.torch import save

from dynsearch.export.front import FRONT_FILE, read_front
from dynsearch.export.promise import (
    CONFIG_FILE,
    Row,
    certificate_of,
    expected,
    file_hashes,
    write_rows,
)
from dynsearch.export.records import Front, FrontPoint
from dynsearch.export.vendor import vendor
from dynsearch.models.dynamic import EncoderConfig, Weights
from dynsearch.models.packed import stored
from dynsearch.quality.supernet import load_supernet
from search_spaces.candidate import Candidate, layer_schedule
from search_spaces.codec import candidate_from_dict
from search_spaces.errors import InputError, Problem

SCHEMA_VERSION = 1
SUPERNET = "supernet"
_RUNTIME = ("dynsearch.models.dynamic", "dynsearch.risk.certificate", "search_spaces.codec")
_SPLIT = re.compile(r"(?:router|experts)(\d+)")


def export_torch(
    run_dir: Path, ids: Sequence[str], out: Path, rows: Sequence[Row] = ()
) -> tuple[Path, ...]:
    """Write one folder per configuration under `out`, each named after its id.

    Args:
        run_dir: The run folder; its `supernet` folder holds weights, tokenizer and class names.
        ids: Configurations of its front; empty = the named and the certified ones.
        out: Folder that gets the folders; an older export of the same id is replaced.
        rows: Labelled texts to write beside each model, for `dynsearch verify`.

    Raises:
        InputError: unknown ids (all at once, with the nearest), or an unreadable supernet.
    """
    front = read_front(run_dir)
    wanted = list(dict.fromkeys(ids)) or _named(front)
    points = _find(front, wanted, run_dir)
    config, weights, info = load_supernet(run_dir / SUPERNET)
    supernet = run_dir / SUPERNET
    out.mkdir(parents=True, exist_ok=True)
    return tuple(
        _export_one(front, found, config, weights, supernet, info, out, rows) for found in points
    )


def reachable(weights: Weights, candidate: Candidate) -> Weights:
    """The weights that some input can reach when `candidate` runs."""
    schedule = layer_schedule(candidate)
    exits = candidate.exits.layers if candidate.exits else ()
    heads = {layer - 1 for layer in exits} | {candidate.depth - 1}

    def used(name: str) -> bool:
        kind, layer, *rest = name.split(".")
        if kind == "heads":
            return int(layer) in heads
        if kind != "layers":
            return True
        place = int(layer)
        split = _SPLIT.fullmatch(rest[0])
        if split is not None and int(split[1]) != schedule["num_experts"][place]:
            return False
        return place < candidate.depth

    return {name: tensor for name, tensor in weights.items() if used(name)}


def _named(front: Front) -> list[str]:
    return list(dict.fromkeys(p.id for p in front.front if p.named or p.certificate))


def _find(front: Front, ids: Sequence[str], run_dir: Path) -> list[list[FrontPoint]]:
    """The points of each id, one per device."""
    by_id: dict[str, list[FrontPoint]] = {}
    for p in front.front:
        by_id.setdefault(p.id, []).append(p)
    problems = []
    for key in ids:
        if key not in by_id:
            close = difflib.get_close_matches(key, by_id, n=3, cutoff=0.3)
            hint = f"; near: {', '.join(close)}" if close else ""
            text = f"no configuration of this front{hint}; `dynsearch front RUN` lists them"
            problems.append(Problem(str(run_dir / FRONT_FILE), "id", key, text))
    if problems:
        raise InputError(problems)
    if not ids:
        raise InputError.one(
            run_dir / FRONT_FILE, "front", None, "names no configuration; give ids with --id"
        )
    return [by_id[key] for key in ids]


def _export_one(
    front: Front,
    points: list[FrontPoint],
    config: EncoderConfig,
    weights: Weights,
    supernet: Path,
    info: Mapping[str, Any],
    out: Path,
    rows: Sequence[Row],
) -> Path:
    """Fill a folder under another name, then rename it: whole or not at all."""
    first = points[0]
    candidate = candidate_from_dict(first.candidate)
    kept = stored(reachable(weights, candidate), candidate.dtype)
    raw = save({name: tensor.contiguous() for name, tensor in kept.items()})
    counts = {int(e) for e in layer_schedule(candidate)["num_experts"] if e > 1}
    geometry = replace(config, expert_counts=tuple(sorted(counts)))
    part = Path(tempfile.mkdtemp(prefix=f".{first.id}.", dir=out))
    try:
        (part / "model.safetensors").write_bytes(raw)
        shutil.copyfile(supernet / "tokenizer.json", part / "tokenizer.json")
        shutil.copyfile(Path(__file__).with_name("runner.py"), part / "runner.py")
        vendor(_RUNTIME, part / "lib")
        digest = hashlib.sha256(raw).hexdigest()
        head = _config(front, points, geometry, info, digest)
        if rows:
            write_rows(part, rows, head["text_columns"])
        head["certificate"] = certificate_of(
            first, candidate, supernet / "model.safetensors", digest
        )
        head["expected"] = expected(front, points)
        head["files"] = file_hashes(part)
        text = json.dumps(head, indent=1, ensure_ascii=False, allow_nan=False)
        (part / CONFIG_FILE).write_text(text + "\n", encoding="utf-8")
        card = _card(front, points, len(raw), head["text_columns"])
        (part / "README.md").write_text(card, encoding="utf-8")
        part.chmod(0o755)
        target = out / first.id
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _config(
    front: Front,
    points: list[FrontPoint],
    geometry: EncoderConfig,
    info: Mapping[str, Any],
    digest: str,
) -> dict[str, Any]:
    first = points[0]
    return {
        "schema_version": SCHEMA_VERSION,
        "id": first.id,
        "family": first.family,
        "job": front.job,
        "backbone": first.candidate["backbone"],
        "candidate": first.candidate,
        "labels": list(info["labels"]),
        "text_columns": list(info.get("text_columns", ["text"])),  # older supernets: one text
        "pooling": geometry.pooling,
        "head": "linear, tanh, linear after each exit layer, on the pooled state",
        "max_len": front.workload.get("max_len", first.candidate["backbone"]["max_len"]),
        "encoder": asdict(geometry),
        "sha256": digest,
        "selected": asdict(first.selected),
        "confirmed": None if first.confirmed is None else asdict(first.confirmed),
    }


def _card(front: Front, points: list[FrontPoint], size: int, columns: Sequence[str]) -> str:
    """The model card."""
    p, s, c = points[0], points[0].selected, points[0].confirmed
    depth = p.candidate["depth"]
    call = '"a text to classify"     ' if len(columns) == 1 else '"first text" "second text"'
    exits = (p.candidate.get("exits") or {}).get("layers", [])
    lines = [
        f"# {p.id}: {p.family}, {p.dtype}",
        "",
        f"Exported by dynsearch from job {_plain(front.job)}. Depth {depth}, early exits after "
        f"layers {', '.join(map(str, exits)) or 'none'}; weights {size / 2**20:.1f} MiB. All of "
        "it is in `config.json`.",
        "",
        "```",
        f"python runner.py {call} # needs torch numpy safetensors tokenizers",
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
    if p.certificate is not None:
        lines += ["", f"Certificate: {p.certificate.statement}. {p.certificate.note}"]
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


def _plain(text: str) -> str:
    """A name without line breaks and Markdown signs."""
    return re.sub(r"[^\w .,:+-]", "", " ".join(text.split()))
