"""One invocation of the command line: where output goes, and how a failure is told.

Results go to standard output, everything else to standard error. With `--json` standard output
holds exactly one object, also when the command fails.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, TextIO

from dynsearch.redact import redact

if TYPE_CHECKING:
    from dynsearch.errors import Problem

SCHEMA_VERSION = 1
DONE, FAILED, BAD_INPUT, INTERRUPTED = "done", "failed", "bad_input", "interrupted"
EXIT_STATUS = {DONE: 0, FAILED: 1, BAD_INPUT: 2, INTERRUPTED: 130}
COMMAND_LINE = "command line"
PACKAGES = ("dynsearch", "cost_models", "search_spaces")


@dataclass(frozen=True, slots=True)
class Session:
    """Arguments and the warnings seen so far."""

    args: Sequence[str]
    warnings: list[str] = field(default_factory=list)

    @property
    def as_json(self) -> bool:
        """One JSON object in place of text."""
        return "--json" in self.args

    @property
    def quiet(self) -> bool:
        """No progress and no warnings on standard error."""
        return "-q" in self.args or "--quiet" in self.args

    @property
    def command(self) -> str:
        """The command's name; empty when none was given."""
        return next((word for word in self.args if not word.startswith("-")), "")

    def finish(
        self, result: dict[str, Any], show: Callable[[dict[str, Any], TextIO], None]
    ) -> int:
        """Print a result and give the exit status.

        Args:
            result: The command's own keys; `status` and `warnings` may be among them.
            show: Writes the same result as text.
        """
        told = [str(w) for w in result.get("warnings", ())]
        envelope = self._envelope(str(result.get("status", DONE)))
        envelope |= {key: value for key, value in result.items() if key not in envelope}
        envelope["warnings"] = list(dict.fromkeys([*self.warnings, *told]))
        if self.as_json:
            self._print_json(envelope)
        else:
            show(envelope, sys.stdout)
            sys.stdout.flush()
            if not self.quiet:
                self._tell(f"warning: {w}" for w in told if w not in self.warnings)
        return EXIT_STATUS.get(envelope["status"], 1)

    def fail(self, status: str, problems: Sequence[Problem]) -> int:
        """Tell what went wrong, one line a problem, and give the exit status."""
        if self.as_json:
            errors = [
                {"file": p.file, "key": p.key, "value": p.value, "message": p.message}
                for p in problems
            ]
            self._print_json({**self._envelope(status), "errors": errors})
        self._tell(f"error: {p}" for p in problems)
        return EXIT_STATUS[status]

    def fail_with(self, status: str, place: str, text: str) -> int:
        """Tell the one thing that went wrong, and give the exit status."""
        from dynsearch.errors import Problem

        return self.fail(status, [Problem(place, "", "", text)])

    def crash(self, error: BaseException) -> int:
        """Keep the traceback of an unexpected error in a file and name it on one line."""
        if os.environ.get("DYNSEARCH_DEBUG") == "1":
            raise error
        log = self._write_log(error)
        text = str(error).strip().splitlines()
        reason = type(error).__name__ + (f": {text[0]}" if text else "")
        message = f"{reason} (unexpected; details in {log}; DYNSEARCH_DEBUG=1 shows them)"
        return self.fail_with(FAILED, f"dynsearch {self.command}".strip(), message)

    @contextmanager
    def collected_warnings(self) -> Iterator[None]:
        """Warnings logged by the packages are kept for the result and told as they come."""
        handler = _Collect(self)
        loggers = [logging.getLogger(name) for name in PACKAGES]
        for logger in loggers:
            logger.addHandler(handler)
        try:
            yield
        finally:
            for logger in loggers:
                logger.removeHandler(handler)

    def _envelope(self, status: str) -> dict[str, Any]:
        return {
            "schema_version": SCHEMA_VERSION,
            "command": self.command,
            "status": status,
            "warnings": list(self.warnings),
            "errors": [],
        }

    def _print_json(self, value: dict[str, Any]) -> None:
        text = json.dumps(value, indent=1, allow_nan=False, ensure_ascii=False)
        sys.stdout.write(redact(text) + "\n")
        sys.stdout.flush()

    def _tell(self, lines: Iterable[str]) -> None:
        for line in lines:
            sys.stderr.write(redact(line) + "\n")
        sys.stderr.flush()

    def _write_log(self, error: BaseException) -> Path:
        """The traceback in the run folder that the command was given, else in a temporary file."""
        runs = [Path(word) for word in self.args if (Path(word) / "job.toml").is_file()]
        text = redact(f"dynsearch {' '.join(self.args)}\n")
        text += redact("".join(traceback.format_exception(error)))
        for folder in [*runs[:1], None]:
            try:
                number, name = tempfile.mkstemp(prefix="error-", suffix=".log", dir=folder)
            except OSError:
                continue
            with os.fdopen(number, "w", encoding="utf-8") as file:
                file.write(text)
            return Path(name)
        return Path(os.devnull)


class _Collect(logging.Handler):
    """Puts warnings into the session; tells them at once where people read."""

    def __init__(self, session: Session) -> None:
        super().__init__(level=logging.WARNING)
        self._session = session

    def emit(self, record: logging.LogRecord) -> None:
        text = record.getMessage()
        if text in self._session.warnings:
            return
        self._session.warnings.append(text)
        if not self._session.quiet and not self._session.as_json:
            self._session._tell([f"warning: {text}"])
