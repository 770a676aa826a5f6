from __future__ import annotations

import io

import pytest

from dynsearch.progress import duration, make_progress


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def show(stream: io.StringIO, *, quiet: bool = False) -> str:
    with make_progress(quiet=quiet, stream=stream) as progress:
        progress.stage("reading [texts]")
        progress.update(0, 1, 0, 0, 0.0, None, total=64)
        progress.update(0, 2, 0, 0, 0.0, None, total=64)
        for step in range(20):
            progress.share(step / 40, f"step {step}")
        progress.stage("searching")
        progress.update(3, 2, 1, 17, 0.51234, 125.0, total=64)
    return stream.getvalue()


def test_a_pipe_gets_one_line_a_stage_and_a_finished_pass() -> None:
    assert show(io.StringIO()).splitlines() == [
        "reading [texts]",
        "passes 0/64 done, 1 running, 0 failed | front 0 | hypervolume 0.0000 | left ?",
        "  10% step 4",
        "  20% step 8",
        "  30% step 12",
        "  40% step 16",
        "searching",
        "passes 3/64 done, 2 running, 1 failed | front 17 | hypervolume 0.5123 | left 2 min 05 s",
    ]


def test_quiet_shows_nothing() -> None:
    assert show(io.StringIO(), quiet=True) == ""
    assert show(Terminal(), quiet=True) == ""


def test_a_terminal_sees_stages_and_passes_with_brackets_kept(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("COLUMNS", "160")
    text = show(Terminal())
    assert "reading [texts]: done" in text
    assert text.count("reading [texts]") > 1
    assert "passes 3/64 done" in text
    assert "left 2 min 05 s" in text


def test_no_colour_is_written_where_it_is_not_wanted(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert "\x1b[3" not in show(Terminal())


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (None, "?"),
        (float("nan"), "?"),
        (-3, "0 s"),
        (59.4, "59 s"),
        (60, "1 min 00 s"),
        (3599, "59 min 59 s"),
        (7860, "2 h 11 min"),
    ],
)
def test_durations_read_well(seconds: float | None, text: str) -> None:
    assert duration(seconds) == text
