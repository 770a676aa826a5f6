"""One self-contained HTML file about a run: no network, no external source, no framework."""

from __future__ import annotations

import base64
import hashlib
import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path
from typing import Any

from cost_models.device import Device, load_device
from dynsearch.agreement import read_benches
from dynsearch.export.files import write_atomic
from dynsearch.export.front import read_front, read_json
from dynsearch.export.records import Front
from dynsearch.report import (
    binding,
    certificates,
    explained,
    importance,
    measured,
    origin,
    plotly,
    quality,
    sections,
)
from dynsearch.report.markup import Html, json_block, tag
from dynsearch.report.view import bench_groups, chart_data

REPORT_FILE = "report.html"
TORCH = "torch"
_SCRIPTS = (
    "svg.js",
    "charts.js",
    "waterfall.js",
    "parts.js",
    "configuration.js",
    "beside.js",
    "explore.js",
    "page.js",
)


def build_report(run_dir: Path) -> Path:
    """Write `report.html` into the run folder from the JSON files that are there.

    Reads `front.json` (needed), and where present `bench*.json`, `analysis.json`,
    `environment.json`, `log.jsonl`, `job.toml`, `devices/*.toml`, `traces/*.npz` and the study's
    journal.

    Raises:
        InputError: `front.json` is missing, or one of the files is half-written or of a newer
            schema.
    """
    job = run_dir / "job.toml"
    surroundings = Surroundings(
        environment=_optional(run_dir / "environment.json") or {},
        log=_read_log(run_dir / "log.jsonl"),
        job=job.read_text(encoding="utf-8", errors="replace") if job.exists() else None,
        devices=[load_device(file) for file in sorted((run_dir / "devices").glob("*.toml"))],
        importances=importance.importances(run_dir),
        analysis=_optional(run_dir / "analysis.json"),
    )
    benches = read_benches(run_dir)
    front = read_front(run_dir)
    told = explained.explanations(run_dir, front, main_device(front, first_bench(benches)))
    return write_atomic(run_dir / REPORT_FILE, page(front, benches, surroundings, told))


@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What a run folder holds besides its figures."""

    environment: Mapping[str, Any]
    log: Sequence[Mapping[str, Any]]
    job: str | None
    devices: Sequence[Device]
    importances: tuple[dict[str, float], str]  # from `importance.importances`
    analysis: Mapping[str, Any] | None  # what `dynsearch analyse` left


def page(
    front: Front,
    benches: Sequence[Mapping[str, Any]],
    around: Surroundings,
    told: tuple[Sequence[Mapping[str, Any]], str],
) -> str:
    """The document as text.

    Args:
        front: The run's front.
        benches: Its measurements, a bench a runtime.
        around: What else the run folder holds.
        told: From `explained.explanations`.
    """
    bench = first_bench(benches)
    device = main_device(front, bench)
    body = [
        _header(front, around.environment),
        tag(
            "main",
            quality.ranking_note(front),
            sections.result(front, device, bench) if front.front else _empty(),
            _front_section(),
            _chosen_section(),
            _beside_section() if front.front else None,
            explained.section(*told),
            measured.measured(front, device, benches),
            certificates.certificates(front, device, bench),
            quality.quality(front, device),
            sections.configurations(front, bench),
            _search_section(front, around),
            _origin_section(around),
            sections.glossary_section(),
        ),
        tag("div", id="tip", role="status", hidden=True),
        json_block(
            "data",
            chart_data(front, bench, device)
            | {
                "bench": [g for one in benches for g in bench_groups(one)],
                "explained": [explained.chart(one) for one in told[0]],
                "origins": {d.name: origin.words(d) for d in around.devices},
            },
        ),
    ]
    return _document(f"{front.job} \u00b7 dynsearch", body)


def first_bench(benches: Sequence[Mapping[str, Any]]) -> Mapping[str, Any] | None:
    """Torch's measurements, which the front's points carry."""
    return next((b for b in benches if any(r["runtime"] == TORCH for r in b["rows"])), None)


def main_device(front: Front, bench: Mapping[str, Any] | None) -> str:
    """The device that was measured, else the job's first."""
    measured = (bench or {}).get("device")
    if measured in front.devices:
        return str(measured)
    return front.devices[0] if front.devices else ""


def _document(title: str, body: list[Html]) -> str:
    assets = files("dynsearch.report").joinpath("assets")
    style = assets.joinpath("page.css").read_text(encoding="utf-8")
    script = "\n".join(assets.joinpath(name).read_text(encoding="utf-8") for name in _SCRIPTS)
    digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
    packed = plotly.packed()
    allowed = [f"'sha256-{d}'" for d in (digest, packed[1] if packed else None) if d]
    policy = "; ".join(
        (
            "default-src 'none'",
            "style-src 'unsafe-inline'",
            "img-src data: blob:",  # the pictures that Plotly saves
            f"script-src {' '.join(allowed)}",
        )
    )
    head = tag(
        "head",
        tag("meta", charset="utf-8"),
        tag("meta", http_equiv="Content-Security-Policy", content=policy),
        tag("meta", name="viewport", content="width=device-width, initial-scale=1"),
        tag("meta", name="color-scheme", content="light dark"),
        tag("title", title),
        tag("style", Html(style)),
    )
    zoom = tag("script", Html(packed[0]), type="text/plain", id="plotly") if packed else None
    script_tag = tag("script", Html(script))
    body = [*body, *([zoom] if zoom else []), script_tag]
    return "<!doctype html>\n" + tag("html", head, tag("body", body), lang="en") + "\n"


def _header(front: Front, environment: Mapping[str, Any]) -> Html:
    dynamic = len({p.id for p in front.front})
    facts = [
        f"run {front.run}",
        f"{dynamic} configurations on {_devices(len(front.devices))}",
        ", ".join(f"{k} {v}" for k, v in front.workload.items() if v not in (None, False)),
        f"{front.reference.selected_n:,} search rows",
        f"{front.reference.confirmed_n:,} report rows" if front.reference.confirmed_n else None,
        str(environment["created"]) if "created" in environment else None,
    ]
    links = [
        ("result", "Result"),
        ("front", "Fronts"),
        ("chosen", "Chosen"),
        *([("beside-section", "Compare")] if front.front else []),
        ("explain", "Time"),
        ("measured", "Measured"),
        *([("certificates", "Certificates")] if front.risk or front.uncertified else []),
        *([("quality", "Quality")] if any(p.selected_quality for p in front.front) else []),
        ("configurations-section", "Table"),
        ("search", "Search"),
        ("origin", "Origin"),
        ("glossary", "Glossary"),
    ]
    return tag(
        "header",
        tag("p", "dynsearch report", class_="eyebrow"),
        tag("h1", front.job),
        tag("p", [tag("span", fact) for fact in facts if fact], class_="facts-line"),
        tag(
            "nav",
            [tag("a", text, href=f"#{target}") for target, text in links],
            tag("button", "Theme: auto", type="button", id="theme"),
            aria_label="Sections",
        ),
    )


def _devices(count: int) -> str:
    return "1 device" if count == 1 else f"{count} devices"


def _empty() -> Html:
    return tag(
        "section",
        tag("h2", "Result"),
        tag(
            "p",
            "The front is empty: no configuration meets every budget on any device.",
            class_="verdict warn",
        ),
        id="result",
    )


def _front_section() -> Html:
    return tag(
        "section",
        tag("h2", "Fronts"),
        tag(
            "p",
            "Lower is better on both axes. Hover for figures, click or press Enter to "
            "select, arrow keys move between points.",
            class_="small",
        ),
        tag(
            "div",
            tag(
                "div",
                tag("button", "selected", type="button", data_quality="selected"),
                tag("button", "confirmed", type="button", data_quality="confirmed"),
                class_="segmented",
                role="group",
                aria_label="Which error is shown",
            ),
            tag("label", "Cost ", tag("select", id="cost")),
            tag("label", "Number format ", tag("select", id="dtype")),
            class_="controls",
        ),
        tag("div", id="legend", class_="legend"),
        tag(
            "div",
            tag("div", id="main-front"),
            tag("aside", id="detail", aria_live="polite", tabindex="0"),
            class_="split",
        ),
        tag("div", id="other-fronts", class_="grid"),
        _explore() if plotly.packed() else None,
        id="front",
    )


def _explore() -> Html:
    """The zoomable front; Plotly is unpacked when the button asks for it."""
    save = [
        tag("button", f"save {kind.upper()}", type="button", id=f"save-{kind}", class_="plain")
        for kind in ("svg", "png")
    ]
    return tag(
        "div",
        tag("h3", "Zoom"),
        tag(
            "div",
            tag(
                "button",
                "Open the zoomable front",
                type="button",
                id="explore-open",
                class_="plain",
            ),
            tag(
                "label",
                "Device ",
                tag("select", id="explore-device"),
                class_="explore-more",
                hidden=True,
            ),
            tag("span", save, class_="explore-more", hidden=True),
            class_="controls",
        ),
        tag(
            "p",
            "Drag to zoom, double-click to zoom out, click a name to hide it, click a point to "
            "select it; bars are predicted 90 % intervals. Pictures are saved for white paper.",
            class_="small",
            id="explore-note",
        ),
        tag("div", id="explore-chart", hidden=True),
        class_="explore",
    )


def _beside_section() -> Html:
    return tag(
        "section",
        tag("h2", "Two configurations beside each other"),
        tag(
            "div",
            tag("label", "A ", tag("select", id="beside-a")),
            tag("label", "B ", tag("select", id="beside-b")),
            tag("button", "A = the selected one", type="button", id="beside-take", class_="plain"),
            class_="controls",
        ),
        tag("div", id="beside"),
        id="beside-section",
    )


def _chosen_section() -> Html:
    return tag(
        "section",
        tag("h2", "Chosen configurations"),
        tag(
            "p",
            "One column per layer. Bar height = share of tokens kept; bar strength = share "
            "of inputs that get there; k/E = experts that run; below, the exit with its "
            "threshold and the share of inputs that leave.",
            class_="small",
        ),
        tag("div", id="chosen-cards", class_="grid wide"),
        id="chosen",
    )


def _search_section(front: Front, around: Surroundings) -> Html:
    has = bool(front.hypervolume)
    history = tag("div", tag("h3", "Hypervolume"), tag("div", id="hypervolume")) if has else None
    return tag(
        "section",
        tag("h2", "Search"),
        tag("div", history, sections.budgets(front), class_="grid wide"),
        importance.section(around.importances),
        binding.section(around.analysis),
        id="search",
    )


def _origin_section(around: Surroundings) -> Html:
    parts = [
        origin.costs(around.devices),
        origin.devices(around.devices),
        origin.surroundings(around.environment),
        origin.job(around.job),
        origin.warnings(around.log),
    ]
    return tag("section", tag("h2", "Where the figures come from"), parts, id="origin")


def _optional(path: Path) -> dict[str, Any] | None:
    return read_json(path, "") if path.exists() else None


def _read_log(path: Path) -> list[Mapping[str, Any]]:
    """The complete lines of a JSON Lines log; a last line cut short by a crash is left out."""
    if not path.exists():
        return []
    out: list[Mapping[str, Any]] = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines():
        try:
            record = json.loads(line)
        except json.JSONDecodeError:
            continue
        if isinstance(record, dict):
            out.append(record)
    return out
