from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import pytest
import typer

from cost_models.device import device_names, load_device
from dynsearch import cli
from dynsearch.export.table import CSV_COLUMNS
from dynsearch.job import job_hash, load_job

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
JOBS = sorted((ROOT / "runs" / "jobs").glob("*.toml"))


@pytest.mark.parametrize("path", JOBS, ids=lambda p: p.name)
def test_every_shipped_job_loads(path: Path) -> None:
    assert load_job(path, check_files=False).name == path.stem


def test_own_data_changes_one_line_of_model_and_one_of_data() -> None:
    shipped, own = (
        tomllib.loads((ROOT / "runs" / "jobs" / f"{name}.toml").read_text(encoding="utf-8"))
        for name in ("short-sentences", "own-data-example")
    )
    differ = {key for key in shipped | own if shipped.get(key) != own.get(key)}
    assert differ == {"name", "model", "data"}
    assert [len(own[table]) for table in ("model", "data")] == [1, 1]


def test_a_certificate_asked_for_later_finds_the_same_run(tmp_path: Path) -> None:
    path = ROOT / "runs" / "jobs" / "long-reviews.toml"
    table = "\n[risk]\nepsilon = 0.02\ndelta = 0.1\nlevels = [0.02]\n"
    (tmp_path / "later.toml").write_text(path.read_text(encoding="utf-8") + table)
    plain, later = (load_job(p, check_files=False) for p in (path, tmp_path / "later.toml"))
    assert later.risk is not None
    assert plain.training == later.training
    keys = {job_hash(job, model_hash="m", data_hash="d") for job in (plain, later)}
    assert len(keys) == 1


def command_lines() -> list[str]:
    """Every `dynsearch ...` that the README shows, in code blocks and in its table."""
    quoted = re.findall(r"`(dynsearch [^`]+)`", README)
    blocks = re.findall(r"```bash\n(.*?)```", README, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    return quoted + [line for line in lines if line.startswith("dynsearch ")]


def options_of(command: str) -> set[str]:
    group: Any = typer.main.get_command(cli.app)
    return {option for p in group.commands[command].params for option in p.opts}


def test_the_readme_shows_every_command() -> None:
    group: Any = typer.main.get_command(cli.app)
    assert {line.split()[1] for line in command_lines()} == set(group.commands)


@pytest.mark.parametrize("line", command_lines())
def test_commands_and_options_of_the_readme_exist(line: str) -> None:
    command, *rest = line.split()[1:]
    shown = set(re.findall(r"--[a-z-]+", " ".join(rest)))
    assert shown <= options_of(command)


def test_a_page_explains_every_column_of_the_front() -> None:
    table = (ROOT / "docs" / "front.md").read_text(encoding="utf-8")
    explained = {
        name
        for row in re.findall(r"^\|([^|]*)\|", table, flags=re.MULTILINE)
        for name in re.findall(r"`([a-z0-9_]+)`", row)
    }
    assert explained == set(CSV_COLUMNS)


def test_the_page_of_devices_lists_every_shipped_one() -> None:
    page = (ROOT / "docs" / "devices.md").read_text(encoding="utf-8")
    listed = [line for line in page.splitlines() if line.startswith("| `")]
    assert listed == [
        f"| `{name}` | {load_device(name).kind} | {load_device(name).summary} |"
        for name in device_names()
    ]


def test_the_readme_stays_under_150_lines() -> None:
    assert len(README.splitlines()) < 150


def test_files_that_the_readme_names_are_there() -> None:
    named = re.findall(r"[\w./-]+\.(?:md|txt|toml)\b|(?:search_spaces|cost_models)/\w+", README)
    paths = {name for name in named if "/" in name or name.endswith(".md")}
    assert {name for name in paths if not (ROOT / name).exists()} <= {"path/to/texts.csv"}
