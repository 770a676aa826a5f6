"""Passwords and tokens are left out of whatever is shown or written."""

from __future__ import annotations

import pytest

from dynsearch.redact import keep_secret, redact, redact_url


@pytest.mark.parametrize(
    ("url", "shown"),
    [
        ("journal", "journal"),
        ("postgresql+psycopg://me:secret@host:5/db", "postgresql+psycopg://me@host:5/db"),
        ("postgresql://h/db?password=secret&sslmode=off", "postgresql://h/db?sslmode=off"),
        ("sqlite:///x.db", "sqlite:///x.db"),
    ],
)
def test_a_password_leaves_the_url(url: str, shown: str) -> None:
    assert redact_url(url) == shown


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("lost postgresql://me:s3cret@h:5/db: gone", "lost postgresql://me@h:5/db: gone"),
        ("http://me:s3cret@h/ and http://h:8265/", "http://me@h/ and http://h:8265/"),
        ("x://h/d?a=1&password=s3cret&b=2", "x://h/d?a=1&password=***&b=2"),
        ("host=h password=s3cret user=me", "host=h password=*** user=me"),
        ("the pass = 3 of 4, bypass=1", "the pass = 3 of 4, bypass=1"),
    ],
)
def test_a_password_leaves_any_text(text: str, shown: str) -> None:
    assert redact(text) == shown


def test_tokens_of_the_environment_and_of_files_leave_any_text(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setenv("RAY_AUTH_TOKEN", "token-of-env")
    monkeypatch.setenv("PGPASSWORD", "a")  # part of too many words
    keep_secret("token-of-file")
    keep_secret("")
    assert redact("a token-of-env, a token-of-file") == "a ***, a ***"
