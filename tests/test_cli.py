from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

import dynsearch
from dynsearch import cli
from dynsearch.errors import DynsearchError, InputError

ROOT = Path(__file__).parent.parent
HEAVY = ("torch", "ray", "optuna", "scipy", "numpy", "plotly", "rich", "tokenizers", "moocore")
COMMANDS = (
    "search",
    "resume",
    "front",
    "export",
    "bench",
    "report",
    "explain",
    "analyse",
    "calibrate",
    "devices",
    "cost",
)

Calls = dict[str, Callable[..., Any]]


@pytest.fixture
def main_job(monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    """Puts functions in the place of the work behind the commands."""

    def put(**calls: Callable[..., Any]) -> None:
        module = SimpleNamespace(**calls)
        monkeypatch.setitem(sys.modules, "dynsearch.main_job", module)
        monkeypatch.setattr(dynsearch, "main_job", module, raising=False)

    return put


def raises(error: BaseException) -> Callable[..., Any]:
    def call(*args: Any, **kwargs: Any) -> Any:
        raise error

    return call


def point(**changes: Any) -> dict[str, Any]:
    return {
        "id": "0123abcd",
        "device": "local",
        "family": "exit",
        "objectives": {"error": 0.12, "latency_mean_s": 0.0021},
        "selected": {"error": 0.12, "loss": 0.004, "se": 0.001, "n": 2000},
        "confirmed": None,
        "error_bound": 0.125,
        "dominated": False,
        "fidelity": "replay",
        "candidate": {"dtype": "fp32", "depth": 4},
        "named": [0.01],
        **changes,
    }


def loaded_by(arguments: list[str]) -> set[str]:
    code = (
        "import sys; from dynsearch.cli import run; status = run(sys.argv[1:]);"
        "print('\\n' + repr((status, sorted({m.split('.')[0] for m in sys.modules}))))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True
    )
    status, modules = eval(done.stdout.splitlines()[-1])
    assert status == 0
    return set(modules)


@pytest.mark.parametrize("arguments", [["--help"], ["search", "--help"], ["--version"], []])
def test_help_loads_no_heavy_library(arguments: list[str]) -> None:
    assert loaded_by(arguments).isdisjoint(HEAVY)


def test_every_command_has_help(capsys: pytest.CaptureFixture[str]) -> None:
    for command in COMMANDS:
        assert cli.run([command, "--help"]) == 0
        assert f"dynsearch {command}" in capsys.readouterr().out


BAD = [
    ["serch"],
    ["search"],
    ["search", "no-such-job.toml"],
    ["search", "short-sentences", "--trials", "many"],
    ["search", "short-sentences", "--trials", "0"],
    ["search", "short-sentences", "--colour"],
    ["export", "no-run", "--format", "xml", "--out", "x"],
    ["bench", "no-run", "--batch", "1,eight"],
    ["bench", "no-run", "--batch", "0"],
    ["bench", "no-run", "--rows", "0"],
    ["resume", "no-run", "-q"],
    ["front", "no-run"],
    ["export", "no-run", "--out", "x"],
    ["bench", "no-run", "-q"],
    ["report", "no-run"],
    ["explain", "no-run", "0123abcd"],
    ["analyse", "no-run", "-q"],
    ["analyse", "no-run", "--relax", "0"],
    ["devices", "h20-nowhere"],
    ["cost", "no-candidate.toml", "--device", "local"],
    ["cost", "no-candidate.toml"],
]


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_is_told_on_one_line_each_and_exits_2(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run(arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err
    assert all(line.startswith("error: ") for line in err.splitlines())
    assert "Traceback" not in err


@pytest.mark.parametrize("arguments", BAD, ids=" ".join)
def test_bad_input_in_json_is_one_object_with_errors(
    arguments: list[str], capsys: pytest.CaptureFixture[str]
) -> None:
    assert cli.run([*arguments, "--json"]) == 2
    result = json.loads(capsys.readouterr().out)
    assert result["schema_version"] == 1
    assert result["command"] == arguments[0]
    assert result["status"] == "bad_input"
    assert result["warnings"] == []
    assert all(set(e) == {"file", "key", "value", "message"} for e in result["errors"])
    assert result["errors"]


def test_every_problem_of_a_job_is_told(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    job = tmp_path / "bad.toml"
    job.write_text('schema_version = 1\nname = "x"\ncolour = 3\n[space]\n[search]\ntrials = 0\n')
    assert cli.run(["search", str(job), "--json"]) == 2
    keys = {e["key"] for e in json.loads(capsys.readouterr().out)["errors"]}
    assert keys == {"colour", "model", "data", "search.trials"}


def test_an_expected_failure_exits_1_with_its_own_words(
    main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    main_job(front=raises(DynsearchError("all passes failed")))
    assert cli.run(["front", "run"]) == 1
    assert capsys.readouterr().err == "error: dynsearch front: all passes failed\n"


def test_an_input_error_of_the_work_exits_2(
    main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    main_job(resume=raises(InputError.one("run/front.json", "", None, "half-written")))
    assert cli.run(["resume", "run", "-q"]) == 2
    assert capsys.readouterr().err == "error: run/front.json: half-written\n"


@pytest.mark.parametrize("json_", [False, True])
def test_an_interrupt_exits_130_and_names_resume(
    json_: bool, main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    main_job(resume=raises(KeyboardInterrupt()))
    assert cli.run(["resume", "run", *(["--json"] if json_ else [])]) == 130
    out, err = capsys.readouterr()
    assert "dynsearch resume" in err
    assert not json_ or json.loads(out)["status"] == "interrupted"


def test_an_unexpected_error_is_one_line_and_a_log_in_the_run_folder(
    tmp_path: Path, main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "job.toml").write_text("")
    main_job(front=raises(ZeroDivisionError("one\ntwo")))
    assert cli.run(["front", str(tmp_path)]) == 1
    err = capsys.readouterr().err
    (log,) = tmp_path.glob("error-*.log")
    assert err.count("\n") == 1
    assert "ZeroDivisionError: one" in err
    assert str(log) in err
    assert "Traceback" in log.read_text()


def test_debug_shows_the_traceback(
    main_job: Callable[..., None], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("DYNSEARCH_DEBUG", "1")
    main_job(front=raises(ZeroDivisionError()))
    with pytest.raises(ZeroDivisionError):
        cli.run(["front", "run"])


def test_the_front_is_printed_as_plain_columns_in_a_pipe(
    main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    slow = point(id="ffff0000", objectives={"error": 0.1, "latency_mean_s": 0.004})
    main_job(front=lambda run: {"front": [slow, point()]})
    assert cli.run(["front", "run"]) == 0
    title, header, first, second = capsys.readouterr().out.splitlines()
    assert title == "front: 2 configurations"
    assert header.split()[:5] == ["id", "device", "family", "dtype", "depth"]
    assert (first.split()[0], second.split()[0]) == ("0123abcd", "ffff0000")
    assert "2.1" in first.split()
    assert "12.50" in first.split()


def test_json_output_is_the_envelope_and_the_result(
    main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    main_job(front=lambda run: {"front": [point()], "warnings": ["few report rows"]})
    assert cli.run(["front", "run", "--json"]) == 0
    result = json.loads(capsys.readouterr().out)
    assert result == {
        "schema_version": 1,
        "command": "front",
        "status": "done",
        "warnings": ["few report rows"],
        "errors": [],
        "front": [point()],
    }


def test_a_missed_budget_exits_1_and_still_prints_its_result(
    main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    main_job(report=lambda run, figures: {"status": "failed", "files": ["report.html"]})
    assert cli.run(["report", "run"]) == 1
    assert capsys.readouterr().out == "report.html\n"


def test_logged_warnings_reach_the_reader_once(
    main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    def report(run: Path, figures: bool) -> dict[str, Any]:
        import logging

        for _ in range(2):
            logging.getLogger("dynsearch.somewhere").warning("only %d rows", 7)
        return {"files": [], "warnings": ["only 7 rows"]}

    main_job(report=report)
    assert cli.run(["report", "run"]) == 0
    assert capsys.readouterr().err == "warning: only 7 rows\n"
    assert cli.run(["report", "run", "-q"]) == 0
    assert capsys.readouterr().err == ""
    main_job(report=lambda run, figures: {"files": [], "warnings": ["few rows"]})
    assert cli.run(["report", "run"]) == 0
    assert capsys.readouterr().err == "warning: few rows\n"
    assert cli.run(["report", "run", "-q"]) == 0
    assert capsys.readouterr().err == ""
    main_job(report=report)
    assert cli.run(["report", "run", "--json"]) == 0
    out, err = capsys.readouterr()
    assert json.loads(out)["warnings"] == ["only 7 rows"]
    assert err == ""


def test_options_arrive_where_the_work_is_done(
    main_job: Callable[..., None], capsys: pytest.CaptureFixture[str]
) -> None:
    seen: dict[str, Any] = {}

    def bench(run: Path, **options: Any) -> dict[str, Any]:
        seen.update(options, run=run)
        return {"rows": [], "mape": [], "spearman": [], "coverage": []}

    def export(
        run: Path, format: str, out: Path, ids: tuple[str, ...], *, opset: int | None, rows: int
    ) -> dict[str, Any]:
        seen.update(format=format, out=out, ids=ids, rows=rows)
        return {"files": []}

    main_job(bench=bench, export=export)
    assert cli.run(["bench", "r", "--rows", "5", "--configs", "2", "--batch", "1,8", "-q"]) == 0
    assert (seen["run"], seen["rows"], seen["configs"]) == (Path("r"), 5, 2)
    assert seen["batches"] == (1, 8)
    words = ["export", "r", "--format", "csv", "--out", "o", "--id", "a", "--id", "b"]
    assert cli.run(words) == 0
    assert (seen["format"], seen["out"], seen["ids"]) == ("csv", Path("o"), ("a", "b"))
    assert cli.run(["export", "r", "--format", "torch", "--out", "o", "--rows", "7"]) == 0
    assert seen["rows"] == 7
    assert cli.run(["export", "r", "--format", "csv", "--out", "o", "--rows", "7"]) == 2
    assert "only models carry texts" in capsys.readouterr().err


def test_search_hands_over_a_checked_job_with_the_options_of_the_command_line(
    main_job: Callable[..., None],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    seen: dict[str, Any] = {}

    def search(job: Any, **options: Any) -> dict[str, Any]:
        seen.update(options, job=job)
        options["progress"].stage("searching")
        return {"run": "runs/out/x", "passes": 3, "front": [point()]}

    monkeypatch.setattr("dynsearch.job_checks.read_geometry", lambda *_: _six_layers())
    monkeypatch.setattr("dynsearch.job_checks.check_data", lambda *_: None)
    main_job(search=search)
    words = ["search", "short-sentences", "--trials", "3", "--seed", "9", "--out", "o", "--fresh"]
    assert cli.run(words) == 0
    out, err = capsys.readouterr()
    assert (seen["job"].search.trials, seen["job"].search.seed) == (3, 9)
    assert (seen["out"], seen["fresh"]) == (Path("o"), True)
    assert "run: runs/out/x" in out
    assert "searching" in err


def _six_layers() -> Any:
    from search_spaces.candidate import Backbone

    return Backbone(
        name="six",
        num_layers=6,
        hidden_size=384,
        num_heads=12,
        ffn_size=1536,
        vocab_size=100,
        max_len=512,
    )


def test_a_reader_that_goes_away_is_no_error() -> None:
    script = "import sys; from dynsearch.cli import run; sys.exit(run(['--help']))"
    read, write = os.pipe()
    os.close(read)
    with os.fdopen(write, "w") as gone:
        done = subprocess.run(
            [sys.executable, "-c", script], stdout=gone, stderr=subprocess.PIPE, text=True
        )
    assert "Traceback" not in done.stderr
