"""Published methods: listed, shown one by one, and written as the tables of the documents."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any, TextIO

from dynsearch.commands.tables import print_table
from dynsearch.errors import InputError
from dynsearch.export.files import write_atomic
from search_spaces.codec import candidate_to_dict, in_words
from search_spaces.methods import (
    Method,
    found,
    holds,
    list_methods,
    load_method,
    papers_without_policy,
)
from search_spaces.methods.records import FAMILIES, Knob

FAMILY_TITLES = {
    "skim": "Skimming: which tokens get which layers",
    "moe": "Mixture of experts: which weights a token sees",
    "early_exit": "Early exit: how many layers an input or a token gets",
    "cascade": "Cascades: which models an input gets",
}
BEGIN = "<!-- written by `dynsearch methods --readme README.md` -->"
END = "<!-- end of methods -->"
_PLAIN = ("training", "extra_cost", "batch_class", "kv_class", "headline", "note")


def methods(name: str | Path | None = None) -> dict[str, Any]:
    """Every shipped method, or one with all that its preset holds.

    Args:
        name: A method's name or the path of a preset; None lists all.

    Returns:
        `methods`: list of {name, title, family, year, paper, decision, evidence, same_as,
        checked}, where `checked` says whether its check holds; with a name also knobs, candidate,
        assumption and check. Without one, `papers` = list of {title, reason} that are no methods.

    Raises:
        InputError: no such method (with the nearest names), or a faulty preset.
    """
    if name is not None:
        method = load_method(name)
        return {"methods": [_summary(method) | _details(method)]}
    entries = [_summary(load_method(one)) for one in list_methods()]
    order = sorted(entries, key=lambda e: (FAMILIES.index(e["family"]), e["name"]))
    return {"methods": order, "papers": [asdict(p) for p in papers_without_policy()]}


def _summary(method: Method) -> dict[str, Any]:
    return {
        "name": method.name,
        "title": method.title,
        "family": method.family,
        "year": method.year,
        "paper": method.paper,
        "decision": method.decision,
        "evidence": method.evidence,
        "same_as": method.same_as,
        "checked": holds(method),
    }


def _details(method: Method) -> dict[str, Any]:
    return {
        **{key: getattr(method, key) for key in _PLAIN},
        "knobs": [asdict(knob) for knob in method.knobs],
        "candidate": in_words(candidate_to_dict(method.candidate)),
        "stages": list(method.stages),
        "assumed": asdict(method.assumed),
        "check": asdict(method.check) | {"found": found(method)},
    }


def show(result: dict[str, Any], out: TextIO) -> None:
    """The list as a table, or one method in full."""
    if "papers" in result:
        _show_list(result, out)
    else:
        _show_one(result["methods"][0], out)


def _show_list(result: dict[str, Any], out: TextIO) -> None:
    rows = [
        [
            entry["name"],
            entry["family"],
            str(entry["year"] or "-"),
            entry["evidence"],
            entry["same_as"] or "-",
            "yes" if entry["checked"] else "NO",
        ]
        for entry in result["methods"]
    ]
    columns = ("name", "family", "year", "evidence", "same as", "checked")
    print_table(out, _count(result["methods"]), columns, rows)
    papers = [[paper["title"], paper["reason"]] for paper in result["papers"]]
    out.write("\n")
    print_table(out, "cited, but no dynamic methods", ("paper", "reason"), papers)


def _count(entries: list[dict[str, Any]]) -> str:
    own = sum(entry["same_as"] is None for entry in entries)
    text = f"{own} methods, and {len(entries) - own} that equal one of them in simulation"
    return text + " (they differ in training or calibration alone)"


def _show_one(entry: dict[str, Any], out: TextIO) -> None:
    out.write(f"{entry['title']} ({entry['name']}), {entry['family']}\n{entry['paper']}\n\n")
    lines = ["decision", *_PLAIN, "evidence", "same_as"]
    out.writelines(
        f"{key.replace('_', ' ')}: {entry[key]}\n" for key in lines if entry[key] is not None
    )
    out.write("\n")
    knobs = [[k["key"], _range(Knob(**k)), k["meaning"]] for k in entry["knobs"]]
    print_table(out, "knobs, in the convention of candidates", ("key", "range", "meaning"), knobs)
    check = entry["check"]
    state = "holds" if entry["checked"] else "FAILS"
    out.write(
        f"\ncheck {state}: {check['quantity']} {check['found']:.6g}, expected "
        f"{check['expected']:.6g} within {check['tolerance']:.2g} ({check['formula']})\n"
    )
    if check["source"]:
        out.write(f"source: {check['source']}\n")
    out.write("\ncandidate:\n")
    for key, value in entry["candidate"].items():
        shown = value.get("name") if key == "backbone" else value
        out.write(f"  {key}: {shown}\n")
    assumed = {key: value for key, value in entry["assumed"].items() if value not in ((), None)}
    out.write(f"assumed where no trace says: {assumed}\n")


def _range(knob: Knob) -> str:
    if knob.values:
        return ", ".join(knob.values)
    return "-" if knob.low is None else f"{knob.low:g} .. {knob.high:g}"


def markdown() -> str:
    """`docs/methods.md`: every preset by family, then the papers that are no methods."""
    entries = [load_method(name) for name in list_methods()]
    parts = [
        "# Published methods\n",
        "Written by `dynsearch methods --markdown` from `search_spaces/methods/*.toml`; "
        "`dynsearch methods NAME` shows all of one. Headlines are what the authors report. "
        "Evidence says how the row is known: read in the named repository or model card, in an "
        "abstract or short summary, or from memory and not read again.\n",
        f"{_count([{'same_as': m.same_as} for m in entries])}.\n",
    ]
    for family in FAMILIES:
        parts.append(f"## {FAMILY_TITLES[family]}\n")
        parts.append(_family_table([m for m in entries if m.family == family]))
    parts.append("## Cited, but no dynamic methods\n")
    rows = [[p.title, p.reason] for p in papers_without_policy()]
    parts.append(markdown_table(("paper", "reason"), rows))
    return "\n".join(parts)


def readme_block() -> str:
    """The table of README.md: every preset's name by family; `docs/methods.md` has the rest."""
    entries = [load_method(name) for name in list_methods()]
    rows = []
    for family in FAMILIES:
        mine = [m for m in entries if m.family == family]
        own = [f"`{m.name}`" for m in mine if m.same_as is None]
        same = [f"`{m.name}` (`{m.same_as}`)" for m in mine if m.same_as]
        names = ", ".join(own) + ("; as another: " + ", ".join(same) if same else "")
        rows.append([FAMILY_TITLES[family].partition(":")[0], str(len(own)), names])
    table = markdown_table(("family", "methods", "presets; full table: docs/methods.md"), rows)
    return f"{BEGIN}\n{table}{END}\n"


def with_block(text: str, file: object) -> str:
    """A document with what stands between the markers written anew.

    Args:
        text: Of the document.
        file: Its name, for messages.

    Raises:
        InputError: a marker is missing or stands twice.
    """
    for marker in (BEGIN, END):
        if text.count(marker) != 1:
            way = f"must hold this line once: {marker}"
            raise InputError.one(file, "", f"{text.count(marker)} times", way)
    before, _, rest = text.partition(BEGIN)
    return before + readme_block() + rest.partition(END)[2].removeprefix("\n")


def update(path: Path) -> Path:
    """Write the table into a document between its markers.

    Raises:
        InputError: no such file, or a marker is missing.
    """
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise InputError.one(path, "", None, "cannot be read: check the path") from error
    return write_atomic(path, with_block(text, path))


def _family_table(entries: list[Method]) -> str:
    columns = ("name", "method", "decides", "costs more", "batch", "cache", "evidence", "reported")
    return markdown_table(
        columns,
        [
            [
                f"`{m.name}`",
                m.title + ("" if m.year is None else f" ({m.year})"),
                m.decision,
                m.extra_cost,
                m.batch_class.replace("_", " "),
                m.kv_class.replace("_", " "),
                m.evidence + (f", as `{m.same_as}`" if m.same_as else ""),
                m.headline or "",
            ]
            for m in entries
        ],
    )


def markdown_table(columns: Iterable[str], rows: Iterable[Iterable[str]]) -> str:
    """Rows as a table; bars inside cells are escaped."""
    head = list(columns)
    lines = [head, ["---"] * len(head), *([c.replace("|", "\\|") for c in row] for row in rows)]
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
