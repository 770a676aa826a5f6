"""Pages point at what exists: files, headings, commands and their options."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from dynsearch import cli
from dynsearch.commands import calibrate

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").rglob("*.md"))
CODE = re.compile(r"^( *)```.*?^\1```$", re.MULTILINE | re.DOTALL)


def text_of(page: Path) -> str:
    return page.read_text(encoding="utf-8")


def headings(page: Path) -> set[str]:
    """Anchors of a page, as the site makes them."""
    lines = re.findall(r"^#+ +(.+)$", CODE.sub("", text_of(page)), flags=re.MULTILINE)
    words = (re.sub(r"[^\w\s-]", "", line.lower()).strip() for line in lines)
    return {re.sub(r"[-\s]+", "-", line) for line in words}


def links(page: Path) -> list[str]:
    return re.findall(r"\]\(([^)\s]+)\)", CODE.sub("", text_of(page)))


def command_lines(page: Path) -> list[str]:
    """Every `dynsearch ...` in a page's code, lines that go on in the next one joined."""
    text = text_of(page).replace("\\\n", " ")
    blocks = "\n".join(re.findall(r"```(?:bash|sh)?\n(.*?)```", text, flags=re.DOTALL))
    indented = re.findall(r"^ {4,}(dynsearch .+)$", text, flags=re.MULTILINE)
    quoted = re.findall(r"`(dynsearch [^`\n]+)`", text)
    lines = [line.strip() for line in blocks.splitlines()]
    found = [line for line in lines if line.startswith("dynsearch ")] + indented + quoted
    return list(dict.fromkeys(found))


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_links_lead_to_files_and_headings_that_are_there(page: Path) -> None:
    for link in links(page):
        if re.match(r"https?://|doi:", link):
            continue
        name, _, anchor = link.partition("#")
        target = (page.parent / name).resolve() if name else page
        assert target.is_relative_to(ROOT), f"{page.name}: {link} leaves the repository"
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in headings(target), f"{page.name}: {link}"


@pytest.mark.parametrize("page", [*PAGES, ROOT / "ARCHITECTURE.md"], ids=lambda p: p.name)
def test_pages_that_are_named_in_the_text_are_there(page: Path) -> None:
    for name in re.findall(r"\bdocs/[\w/-]+\.(?:md|svg)\b", text_of(page)):
        assert (ROOT / name).exists(), f"{page.name}: {name}"


@pytest.mark.parametrize("page", PAGES, ids=lambda p: p.name)
def test_commands_and_their_options_exist(page: Path) -> None:
    group: Any = typer.main.get_command(cli.app)
    for line in command_lines(page):
        words = shlex.split(line.split("  ")[0], comments=True)
        assert words[1] in group.commands, f"{page.name}: {line}"
        command = group.commands[words[1]]
        known = {option for p in command.params for option in p.opts} | {"--help"}
        shown = {word.split("=")[0] for word in words[2:] if re.match(r"--?[a-z]", word)}
        assert shown <= known, f"{page.name}: {line}: {sorted(shown - known)}"
        if words[1] == "calibrate" and len(words) > 2 and not words[2].startswith("-"):
            assert words[2] in calibrate.ACTIONS, f"{page.name}: {line}"


def test_the_commands_of_the_pages_are_found_at_all() -> None:
    found = [line for page in PAGES for line in command_lines(page)]
    assert len(found) > 40
    assert {"export", "bench", "verify", "simulate", "trace"} <= {x.split()[1] for x in found}


def test_every_page_has_a_place_in_the_site_and_on_its_first_page() -> None:
    listed = re.findall(r"^ +- ([\w/-]+\.md)$", text_of(ROOT / "mkdocs.yml"), re.MULTILINE)
    docs = ROOT / "docs"
    pages = {p.relative_to(docs).as_posix() for p in docs.glob("**/*.md")}
    assert sorted(listed) == sorted(pages)
    assert set(links(ROOT / "docs" / "index.md")) == pages - {"index.md"}


def test_modules_of_the_reference_are_there() -> None:
    named = re.findall(r"^::: ([\w.]+)$", text_of(ROOT / "docs" / "reference.md"), re.MULTILINE)
    assert named
    for name in named:
        path = ROOT / Path(*name.split("."))
        whole, member = path.with_suffix(".py"), path.parent.with_suffix(".py")
        assert whole.is_file() or f"def {path.name}(" in text_of(member), name


def test_tables_of_the_pages_have_as_many_cells_in_every_row() -> None:
    for page in PAGES:
        width = 0
        for line in [*CODE.sub("", text_of(page)).splitlines(), ""]:
            cells = len(re.sub(r"\\\||`[^`]*`", "", line).split("|")) if line[:1] == "|" else 0
            assert not (width and cells) or cells == width, f"{page.name}: {line}"
            width = cells


@pytest.mark.slow
@pytest.mark.browser
def test_the_site_opens_from_disk_and_asks_for_nothing(tmp_path: Path) -> None:
    sys.path.insert(0, str(ROOT / "tests" / "report"))
    import chromium

    mkdocs = ROOT / os.environ.get("DOCS_VENV", ".venv-docs") / "bin" / "mkdocs"
    if not mkdocs.exists():
        pytest.skip("the site's environment is not there; run: make docs")
    if chromium.CHROMIUM is None:
        pytest.skip("Chromium is not installed")
    command = [str(mkdocs), "build", "--strict", "--quiet", "--site-dir", str(tmp_path)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    with chromium.browser() as browser:
        for name in ("index", "tutorial", "reference"):
            browser.open(tmp_path / f"{name}.html")
            assert browser.value("document.querySelector('h1') !== null")
            asked = [
                r for r in browser.requests() if not r.startswith(("file:", "data:", "blob:"))
            ]
            assert asked == []
        assert "optimize" in browser.value("document.body.textContent")
