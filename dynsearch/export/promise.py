"""What an export promises beside its answers: cost, activity, budgets, certificate, texts.

`dynsearch verify` holds the export to it on the machine where it runs.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from dynsearch.checksums import file_sha256
from dynsearch.export.records import Front, FrontPoint
from dynsearch.risk.certificate import Certificate, bound_to, void_reasons
from search_spaces.candidate import Candidate

ROWS_FILE = "rows.jsonl"
Row = tuple[str | tuple[str, str], str]  # a text or a pair, and its label
logger = logging.getLogger(__name__)


def expected(front: Front, points: Sequence[FrontPoint]) -> dict[str, Any]:
    """What the search says of one configuration: its workload, and by device cost and budgets."""
    reach = points[0].reach
    return {
        "workload": front.workload,
        "metric": front.metric,
        "reach": None if reach is None else list(reach),
        "devices": {
            p.device: {
                "predicted": asdict(p.predicted),
                "measured": None if p.measured is None else asdict(p.measured),
                "budgets": front.budgets.get(p.device, {}),
            }
            for p in points
        },
    }


def certificate_of(
    point: FrontPoint, candidate: Candidate, supernet: Path, export_sha256: str, void: str = ""
) -> Certificate | None:
    """The certificate that the export carries; None where there is none, or it is void here.

    Args:
        point: The configuration.
        candidate: What is exported.
        supernet: Weights of the run, which must be those that were certified.
        export_sha256: Of the model as it is exported.
        void: Why no certificate of the network holds for the exported files; empty: it does.
    """
    if point.certificate is None:
        return None
    reasons = void_reasons(
        point.certificate, candidate=candidate, weights_sha256=file_sha256(supernet)
    )
    reasons += [void] if void else []
    if reasons:
        logger.warning(
            "%s is exported without its certificate, which is void: %s",
            point.id,
            "; ".join(reasons),
        )
        return None
    return bound_to(point.certificate, export_sha256)


def write_rows(folder: Path, rows: Sequence[Row], columns: Sequence[str]) -> None:
    """Write labelled texts for `dynsearch verify`, one JSON object a line."""
    lines = []
    for text, label in rows:
        texts = (text,) if isinstance(text, str) else text
        row = dict(zip(columns, texts, strict=True)) | {label_column(columns): label}
        lines.append(json.dumps(row, ensure_ascii=False) + "\n")
    (folder / ROWS_FILE).write_text("".join(lines), encoding="utf-8")


def label_column(columns: Sequence[str]) -> str:
    """Column of the labels in the rows of an export whose texts have these columns."""
    return "label" if "label" not in columns else "class"
