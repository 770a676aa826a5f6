"""What a running search shows: a live display on a terminal, plain lines in a pipe, or nothing.

All of it goes to standard error, so that standard output holds results only.
"""

from __future__ import annotations

import math
import sys
from types import TracebackType
from typing import Protocol, Self, TextIO


class View(Protocol):
    """Where progress is shown."""

    def stage(self, text: str) -> None:
        """A new part of the work begins."""

    def share(self, done: float, text: str) -> None:
        """How much of the stage is done, 0 to 1."""

    def passes(self, done: int, failed: int, total: int | None, status: str) -> None:
        """The state of the search, in numbers for a bar and as one line."""

    def start(self) -> None:
        """Begin to show."""

    def stop(self) -> None:
        """Leave the screen as a log would look."""


class Progress:
    """What the search tells while it runs. Use it as a context manager."""

    def __init__(self, view: View) -> None:
        self._view = view

    @classmethod
    def silent(cls) -> Self:
        """Progress that is told and not shown."""
        return cls(NoView())

    def stage(self, text: str) -> None:
        """A new part of the work begins; say which in a few words."""
        self._view.stage(text)

    def share(self, done: float, text: str = "") -> None:
        """How much of the stage is done (0 to 1), with a few words about it."""
        self._view.share(done, text)

    def update(
        self,
        done: int,
        running: int,
        failed: int,
        front_size: int,
        hypervolume: float,
        eta_s: float | None,
        *,
        total: int | None = None,
    ) -> None:
        """The state of the search.

        Args:
            done: Forward passes finished.
            running: Passes under way.
            failed: Passes that failed.
            front_size: Points on the front, all devices together.
            hypervolume: Mean over devices, 0 to 1.
            eta_s: Expected seconds until the last pass ends; None while unknown.
            total: Passes in all, where known.
        """
        of_total = f"/{total}" if total else ""
        status = (
            f"passes {done}{of_total} done, {running} running, {failed} failed"
            f" | front {front_size} | hypervolume {hypervolume:.4f} | left {duration(eta_s)}"
        )
        self._view.passes(done, failed, total, status)

    def __enter__(self) -> Self:
        self._view.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._view.stop()


def make_progress(*, quiet: bool = False, stream: TextIO | None = None) -> Progress:
    """Progress that suits the stream: live on a terminal, lines elsewhere, nothing if quiet."""
    stream = stream or sys.stderr
    if quiet:
        return Progress.silent()
    return Progress(LiveView(stream) if stream.isatty() else LineView(stream))


def duration(seconds: float | None) -> str:
    """Seconds as `42 s`, `3 min 05 s` or `2 h 10 min`; `?` while unknown."""
    if seconds is None or not math.isfinite(seconds):
        return "?"
    whole = max(0, round(seconds))
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60:02d} s"
    return f"{whole // 3600} h {whole % 3600 // 60:02d} min"


class NoView:
    """Shows nothing."""

    def stage(self, text: str) -> None:
        """Ignored."""

    def share(self, done: float, text: str) -> None:
        """Ignored."""

    def passes(self, done: int, failed: int, total: int | None, status: str) -> None:
        """Ignored."""

    def start(self) -> None:
        """Nothing to start."""

    def stop(self) -> None:
        """Nothing to stop."""


class LineView(NoView):
    """One line a stage, a tenth of a stage, and a pass that has finished or failed."""

    def __init__(self, stream: TextIO) -> None:
        self._stream = stream
        self._last: tuple[int, int] | None = None
        self._tenths = 0

    def stage(self, text: str) -> None:
        """Write the stage."""
        self._tenths = 0
        self._write(text)

    def share(self, done: float, text: str) -> None:
        """Write a line when another tenth is done."""
        if int(done * 10) > self._tenths:
            self._tenths = int(done * 10)
            self._write(f"  {done:.0%} {text}".rstrip())

    def passes(self, done: int, failed: int, total: int | None, status: str) -> None:
        """Write the state, unless nothing has finished or failed since the last line."""
        if (done, failed) != self._last:
            self._last = (done, failed)
            self._write(status)

    def _write(self, line: str) -> None:
        self._stream.write(f"{line}\n")
        self._stream.flush()


class LiveView(NoView):
    """A spinner, the stage, a bar over the passes and the state of the front."""

    def __init__(self, stream: TextIO) -> None:
        from rich.console import Console
        from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

        self._bar = Progress(
            SpinnerColumn(),
            TextColumn("{task.description}", markup=False),
            BarColumn(bar_width=24),
            TextColumn("{task.fields[status]}", markup=False),
            TimeElapsedColumn(),
            console=Console(file=stream),
        )
        self._stage: str | None = None
        self._task = self._bar.add_task("starting", total=None, status="")

    def stage(self, text: str) -> None:
        """Show the stage beside the bar; the one before stays as a line above."""
        if self._stage is not None:
            self._bar.console.print(f"{self._stage}: done", highlight=False, markup=False)
        self._stage = text
        self._bar.reset(self._task, description=text, total=None, status="")

    def share(self, done: float, text: str) -> None:
        """Redraw the bar."""
        self._bar.update(self._task, completed=done, total=1.0, status=text)

    def passes(self, done: int, failed: int, total: int | None, status: str) -> None:
        """Redraw the bar and the state."""
        self._bar.update(self._task, completed=done, total=total, status=status)

    def start(self) -> None:
        """Take the last lines of the screen."""
        self._bar.start()

    def stop(self) -> None:
        """Give them back."""
        self._bar.stop()
