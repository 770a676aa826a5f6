"""Configurations of a front as folders that run, whatever format the model has.

A folder is laid out as Hugging Face does: `config.json`, the model, `tokenizer.json`, a model card
`README.md`; beside them `runner.py` and `benchmark.py` with the few source files that they need in
`lib`. `config.json` has the checksum of every file but itself and the card, the certificate where
there is one, and what `dynsearch verify` holds the folder to.
"""

from __future__ import annotations

import difflib
import json
import logging
import shutil
import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from dynsearch.export.card import model_card
from dynsearch.export.front import FRONT_FILE, read_front
from dynsearch.export.manifest import (
    CONFIG_FILE,
    SCHEMA_VERSION,
    TOKENIZER,
    WEIGHTS,
    file_hashes,
    model_sha256,
)
from dynsearch.export.promise import Row, certificate_of, expected, write_rows
from dynsearch.export.records import Front, FrontPoint
from dynsearch.export.vendor import vendor
from dynsearch.models.dynamic import EncoderConfig, Weights
from dynsearch.quality.supernet import load_supernet
from dynsearch.risk.certificate import Certificate
from search_spaces.candidate import DTYPES, Candidate, layer_schedule
from search_spaces.codec import candidate_from_dict
from search_spaces.errors import InputError, Problem
from search_spaces.validity import require_valid

_LOG = logging.getLogger(__name__)

SUPERNET = "supernet"
SCRIPTS = ("runner.py", "benchmark.py")
# what the runner needs for any format
RUNTIME = ("dynsearch.export.manifest", "dynsearch.risk.certificate", "search_spaces.codec")
SPECIAL = {
    "cls_token": ("[CLS]", "<s>"),
    "sep_token": ("[SEP]", "</s>"),
    "pad_token": ("[PAD]", "<pad>"),
    "unk_token": ("[UNK]", "<unk>"),
    "mask_token": ("[MASK]", "<mask>"),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Source:
    """What one configuration is exported from."""

    candidate: Candidate
    geometry: EncoderConfig
    weights: Weights  # of the whole supernet, float32
    labels: tuple[str, ...]
    text_columns: tuple[str, ...]
    max_len: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Written:
    """What a format puts into a folder."""

    files: dict[str, bytes]  # of the model, by name
    config: dict[str, Any]  # its entries of config.json; "format" among them
    runtime: tuple[str, ...]  # modules that its runner needs beside those of any format
    packages: tuple[str, ...]  # and packages
    void: str = ""  # why a certificate of the network says nothing of these files


Format = Callable[[Source], Written]


def export_folders(
    run_dir: Path,
    ids: Sequence[str],
    out: Path,
    format_: Format,
    rows: Sequence[Row] = (),
    dtypes: Sequence[str] = DTYPES,
) -> tuple[Path, ...]:
    """Write one folder per configuration under `out`, each named after its id.

    Args:
        run_dir: The run folder; its `supernet` folder holds weights, tokenizer and class names.
        ids: Configurations of its front; empty = the named and the certified ones in `dtypes`,
            where there are any; a warning tells the others.
        out: Folder that gets the folders; an older export of the same id is replaced.
        format_: Makes the files of the model.
        rows: Labelled texts to write beside each model, for `dynsearch verify`.
        dtypes: Number formats that the format holds.

    Raises:
        InputError: unknown ids (all at once, with the nearest), an unreadable supernet, or what
            the format refuses.
    """
    front = read_front(run_dir)
    wanted = list(dict.fromkeys(ids)) or _named_in(front, dtypes)
    points = _find(front, wanted, run_dir)
    supernet = run_dir / SUPERNET
    config, weights, info = load_supernet(supernet)
    made = []
    for found in points:  # all of them first: nothing is written where one is refused
        source = _source(front, found[0], config, weights, info)
        made.append((found, source, format_(source)))
    out.mkdir(parents=True, exist_ok=True)
    return tuple(_write(front, *one, supernet, rows, out) for one in made)


def _source(
    front: Front,
    point: FrontPoint,
    config: EncoderConfig,
    weights: Weights,
    info: Mapping[str, Any],
) -> Source:
    candidate = candidate_from_dict(point.candidate)
    require_valid(candidate, file=f"configuration {point.id}", run=True)
    counts = {int(e) for e in layer_schedule(candidate)["num_experts"] if e > 1}
    return Source(
        candidate=candidate,
        geometry=replace(config, expert_counts=tuple(sorted(counts))),
        weights=weights,
        labels=tuple(info["labels"]),
        text_columns=tuple(info.get("text_columns", ["text"])),  # older supernets: one text
        max_len=front.workload.get("max_len", candidate.backbone.max_len),
    )


def named_ids(
    front: Front, dtypes: Sequence[str] = DTYPES, device: str | None = None
) -> list[str]:
    """Ids of named and certified configurations in some number formats, of one device or all."""
    found = (p for p in front.front if p.named or p.certificate)
    mine = (p for p in found if p.dtype in dtypes and device in (None, p.device))
    return list(dict.fromkeys(p.id for p in mine))


def _named_in(front: Front, dtypes: Sequence[str]) -> list[str]:
    """Those, or all where none is: what refuses them says why."""
    every, found = named_ids(front), named_ids(front, dtypes)
    left = [i for i in every if i not in found]
    if found and left:
        _LOG.warning(
            "left out, in number formats that these files do not hold: %s; see --format torch",
            ", ".join(left),
        )
    return found or every


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


def _write(
    front: Front,
    points: list[FrontPoint],
    source: Source,
    written: Written,
    supernet: Path,
    rows: Sequence[Row],
    out: Path,
) -> Path:
    """Fill a folder under another name, then rename it: whole or not at all."""
    first, tokenizer = points[0], (supernet / TOKENIZER).read_bytes()
    part = Path(tempfile.mkdtemp(prefix=f".{first.id}.", dir=out))
    try:
        for name, raw in (written.files | {TOKENIZER: tokenizer}).items():
            (part / name).write_bytes(raw)
        for name in SCRIPTS:
            shutil.copyfile(Path(__file__).with_name(name), part / name)
        vendor((*RUNTIME, *written.runtime), part / "lib")
        _write_json(part / "tokenizer_config.json", _tokenizer_config(tokenizer, source.max_len))
        if rows:
            write_rows(part, rows, source.text_columns)
        head = _config(front, points, source, written, file_hashes(part))
        certificate = certificate_of(
            first, source.candidate, supernet / WEIGHTS, head["sha256"], written.void
        )
        head["certificate"] = None if certificate is None else asdict(certificate)
        _write_json(part / CONFIG_FILE, head)
        card = _card(front, points, source, written, certificate)
        (part / "README.md").write_text(card, encoding="utf-8")
        part.chmod(0o755)
        target = out / first.id
        if target.exists():
            shutil.rmtree(target)
        part.rename(target)
    finally:
        shutil.rmtree(part, ignore_errors=True)
    return target


def _write_json(path: Path, data: Mapping[str, Any]) -> None:
    text = json.dumps(data, indent=1, ensure_ascii=False, allow_nan=False)
    path.write_text(text + "\n", encoding="utf-8")


def _config(
    front: Front,
    points: list[FrontPoint],
    source: Source,
    written: Written,
    files: Mapping[str, str],
) -> dict[str, Any]:
    first = points[0]
    labels = source.labels
    head: dict[str, Any] = {
        "schema_version": SCHEMA_VERSION,
        "model_type": "dynsearch",
        "id": first.id,
        "family": first.family,
        "job": front.job,
        "backbone": first.candidate["backbone"],
        "candidate": first.candidate,
        "labels": list(labels),
        "id2label": {str(i): name for i, name in enumerate(labels)},
        "label2id": {name: i for i, name in enumerate(labels)},
        "text_columns": list(source.text_columns),
        "pooling": source.geometry.pooling,
        "head": "linear, tanh, linear after each exit layer, on the pooled state",
        "max_len": source.max_len,
        "encoder": asdict(source.geometry),
        "files": files,
        "selected": asdict(first.selected),
        "confirmed": None if first.confirmed is None else asdict(first.confirmed),
        "expected": expected(front, points),
        **written.config,
    }
    return head | {"sha256": model_sha256(head)}


def _card(
    front: Front,
    points: list[FrontPoint],
    source: Source,
    written: Written,
    certificate: Certificate | None,
) -> str:
    return model_card(
        front,
        points,
        size=sum(map(len, written.files.values())),
        columns=source.text_columns,
        packages=written.packages,
        certificate=certificate,
    )


def _tokenizer_config(tokenizer: bytes, max_len: int) -> dict[str, Any]:
    """What Hugging Face's AutoTokenizer needs beside tokenizer.json."""
    added = json.loads(tokenizer).get("added_tokens") or []
    there = {token["content"] for token in added}
    named = {
        name: next(t for t in texts if t in there)
        for name, texts in SPECIAL.items()
        if there.intersection(texts)
    }
    return {
        "tokenizer_class": "PreTrainedTokenizerFast",
        "model_max_length": max_len,
        "truncation_side": "right",
        **named,
    }
