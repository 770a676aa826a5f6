"""Keeps passwords and tokens out of everything that is shown or written."""

from __future__ import annotations

import logging
import os
import re

_SECRET_VARIABLES = ("RAY_AUTH_TOKEN", "PGPASSWORD")
_SHORTEST = 4  # shorter values of variables are parts of too many words to be replaced
_IN_URL = re.compile(r"(://[^\s:/@'\"]*):[^\s@'\"]*@")
_IN_QUERY = re.compile(r"([?&;\s]\w*(?:password|passwd|pwd)=)[^&;\s'\"]+", re.IGNORECASE)
_told: set[str] = set()


def redact_url(url: str) -> str:
    """A database URL without its password, fit for files and messages.

    It still opens the database where the driver finds the password elsewhere (PGPASSWORD,
    `~/.pgpass`). Other storage names come back unchanged.
    """
    if "://" not in url:
        return url
    from sqlalchemy.engine import URL, make_url
    from sqlalchemy.exc import ArgumentError

    try:
        full = make_url(url)
    except ArgumentError:
        return url.partition("://")[0] + "://..."
    query = {k: v for k, v in full.query.items() if "pass" not in k.lower()}
    plain = URL.create(
        full.drivername, full.username, None, full.host, full.port, full.database, query
    )
    return plain.render_as_string()


def keep_secret(value: str) -> None:
    """Let `redact` know a token or password that no variable of the environment holds."""
    if value:
        _told.add(value)


def redact(text: str) -> str:
    """Any text without passwords of URLs, and without tokens and passwords of this process."""
    values = _told | {os.environ.get(name, "") for name in _SECRET_VARIABLES}
    for value in sorted(values, key=len, reverse=True):
        if len(value) >= _SHORTEST:
            text = text.replace(value, "***")
    return _IN_QUERY.sub(r"\1***", _IN_URL.sub(r"\1@", text))


class Redacting(logging.Filter):
    """Redacts what other libraries log."""

    def filter(self, record: logging.LogRecord) -> bool:
        """Let every record pass, redacted."""
        record.msg, record.args = redact(record.getMessage()), ()
        return True


def redact_logs(name: str) -> None:
    """Have the handlers of a library's logger redact what they write."""
    for handler in logging.getLogger(name).handlers:
        if not any(isinstance(one, Redacting) for one in handler.filters):
            handler.addFilter(Redacting())
