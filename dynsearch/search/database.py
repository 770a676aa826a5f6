"""A study in a database: opened within a stated time, held by one run, lost with one line."""

from __future__ import annotations

import contextlib
import time
from collections.abc import Iterator
from typing import Any

import optuna
from optuna.exceptions import StorageInternalError
from optuna.storages import RDBStorage
from optuna.study import Study
from sqlalchemy.engine import URL, make_url
from sqlalchemy.exc import ArgumentError, OperationalError, SQLAlchemyError

from dynsearch.errors import DynsearchError, InputError
from dynsearch.redact import keep_secret, redact, redact_url
from dynsearch.search.runs import Run

WAIT_S = 10.0  # for a database to answer
_PAUSE_S = 0.5
_RUN = "run"  # study attribute: the run folder that it belongs to
_DRIVERS = {"postgresql": "postgresql+psycopg"}  # where the URL names no driver
_UNREACHABLE = ("refused", "timeout", "timed out", "translate host", "resolve", "starting up",
                "shutting down", "unreachable", "no route", "closed the connection")  # fmt: skip
_REFUSED = ("authentication failed", "no password supplied", "access denied", "pg_hba.conf")


def open_database(storage: str) -> RDBStorage:
    """Optuna's storage behind a URL.

    Raises:
        InputError: no such driver, no answer within `WAIT_S`, no access, or a newer schema.
    """
    deadline = time.monotonic() + WAIT_S
    try:
        url = make_url(storage)
    except ArgumentError:
        raise _bad(storage, "is no URL; write postgresql://USER@HOST/DB") from None
    keep_secret(str(url.password or ""))
    url = url.set(drivername=_DRIVERS.get(url.drivername, url.drivername))
    while True:
        try:
            return _connect(url)
        except OperationalError as error:
            reason = _first_line(error)
            if _says(reason, _REFUSED):
                text = f"refused the user or the password ({reason}); a password may also stand in"
                raise _bad(storage, f"{text} PGPASSWORD or ~/.pgpass") from None
            if url.get_backend_name() == "sqlite" or not _says(reason, _UNREACHABLE):
                raise _unusable(storage, reason) from None
            if time.monotonic() > deadline:
                text = f"no database answered within {WAIT_S:g} s ({reason}); check the address"
                raise _bad(storage, text) from None
            time.sleep(_PAUSE_S)
        except ImportError as error:
            text = f"needs a driver that is not installed ({_first_line(error)}); for PostgreSQL:"
            raise _bad(storage, f"{text} pip install 'dynsearch[postgres]'") from None
        except RuntimeError as error:  # what Optuna says of tables of another version
            raise _bad(storage, f"newer or older schema: {_first_line(error)}") from None
        except Exception as error:  # drivers raise what they like, and may quote the password
            raise _unusable(storage, f"{type(error).__name__}: {_first_line(error)}") from None


def _connect(url: URL) -> RDBStorage:
    options: dict[str, Any] = {"pool_pre_ping": True}
    if url.get_backend_name() in ("postgresql", "mysql", "mariadb"):
        options["connect_args"] = {"connect_timeout": max(2, int(WAIT_S))}
    return RDBStorage(url.render_as_string(hide_password=False), engine_kwargs=options)


def _bad(storage: str, text: str) -> InputError:
    return InputError.one("job", "search.storage", redact_url(storage), text)


def _unusable(storage: str, reason: str) -> InputError:
    text = f"cannot be opened ({reason}); check address, database, rights and the driver"
    return _bad(storage, text)


def _says(reason: str, words: tuple[str, ...]) -> bool:
    return any(word in reason.lower() for word in words)


def _first_line(error: BaseException) -> str:
    """What went wrong, on one line, without passwords; a driver's own words where it has any."""
    said = getattr(error, "orig", None) or error
    lines = str(said).strip().splitlines() or [type(said).__name__]
    return redact(lines[0])[:300]


def of_this_run(study: Study, run: Run, storage: str) -> None:
    """Bind a study to the run folder that it was begun from: traces and trials belong together.

    Raises:
        InputError: it belongs to another run folder.
    """
    if not run.id:
        return
    found = study.user_attrs.get(_RUN)
    if found is None:
        study.set_user_attr(_RUN, run.id)
    elif found != run.id:
        text = f"holds {run.study_name} of another run folder; go on there, name another storage,"
        raise _bad(storage, f"{text} or start anew with --fresh, which deletes its trials")


def close_database(study: Study) -> None:
    """Close the connections of a study that lies in a database."""
    storage = study._storage
    inner = getattr(storage, "_backend", storage)
    if isinstance(inner, RDBStorage):
        inner.remove_session()
        inner.engine.dispose()


def forget_run(storage: str, study_name: str) -> None:
    """Delete a run's study, and those derived from it, from a database.

    Raises:
        InputError: as `open_database`.
    """
    if "://" not in storage:
        return
    opened = open_database(storage)
    for name in optuna.get_all_study_names(opened):
        if name == study_name or name.startswith(f"{study_name}/front/"):
            optuna.delete_study(study_name=name, storage=opened)
    opened.remove_session()
    opened.engine.dispose()


@contextlib.contextmanager
def storage_may_be_lost(storage: str) -> Iterator[None]:
    """A database that goes away during a search ends it with one line.

    Raises:
        DynsearchError: in place of what the database's driver raises.
    """
    try:
        yield
    except (SQLAlchemyError, StorageInternalError) as error:
        cause = error.__cause__ if isinstance(error, StorageInternalError) else error
        reason = _first_line(cause or error)
        text = f"the storage {redact_url(storage)} was lost during the search ({reason})"
        way_out = "passes that were told are kept; once it is back, the same command goes on"
        raise DynsearchError(f"{text}; {way_out}") from None
