"""Studies in databases: one run each, passwords nowhere, one line for whatever goes wrong."""

from __future__ import annotations

import contextlib
import logging
import random
import re
import sqlite3
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import optuna
import pytest
from optuna.storages import BaseStorage, RDBStorage
from postgres import PASSWORD, Postgres, postgres, why_not
from told import Finished, check_none_lost_twice_or_mispaired, finished
from toy_problem import ToyQuality, toy_problem, toy_space

import dynsearch.search.database as database
from dynsearch.errors import DynsearchError, InputError
from dynsearch.search import runs
from dynsearch.search.driver import SearchOptions, SearchResult, run_search
from dynsearch.search.study import open_storage

LOCAL = SearchOptions(trials=4, workers=0, sampler="random")


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create_run(tmp_path / "toy-00000000", "")


def search(run: runs.Run, options: SearchOptions, **quality: object) -> SearchResult:
    return run_search(
        run,
        space=toy_space(),
        quality=ToyQuality(**quality),
        problem=toy_problem(),
        options=options,
    )


def close(storage: BaseStorage) -> None:
    assert isinstance(storage, RDBStorage)
    storage.remove_session()
    storage.engine.dispose()


# any database


def test_a_study_of_another_run_folder_is_refused(run: runs.Run, tmp_path: Path) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    search(run, replace(LOCAL, storage=url))
    other = runs.create_run(tmp_path / "elsewhere" / run.study_name, "")
    with pytest.raises(InputError, match=r"another run folder.*--fresh"):
        search(other, replace(LOCAL, storage=url))
    moved = runs.open_run(run.path.rename(tmp_path / "moved"))
    assert search(moved, replace(LOCAL, storage=url, trials=5)).passes == 5


def studies(file: Path) -> set[str]:
    with contextlib.closing(sqlite3.connect(file)) as connection:
        return {name for (name,) in connection.execute("select study_name from studies")}


def test_a_fresh_start_forgets_the_study_and_its_fronts_and_no_other(
    run: runs.Run, tmp_path: Path
) -> None:
    url = f"sqlite:///{tmp_path}/study.db"
    other = runs.create_run(tmp_path / f"{run.study_name}-more", "")
    for one in (run, other):
        search(one, replace(LOCAL, storage=url, trials=2))
    before = studies(tmp_path / "study.db")
    database.forget_run(url, run.study_name)
    left = studies(tmp_path / "study.db")
    devices = {f"{run.study_name}/front/{name}" for name in ("slow", "fast")}
    assert before - left == {run.study_name} | devices
    anew = runs.create_run(run.path, "", fresh=True)
    assert search(anew, replace(LOCAL, storage=url, trials=2)).passes == 2


def test_tables_of_a_newer_schema_are_refused(run: runs.Run, tmp_path: Path) -> None:
    file = tmp_path / "study.db"
    close(open_storage(run, f"sqlite:///{file}"))
    with sqlite3.connect(file) as connection:
        connection.execute("update alembic_version set version_num = 'v9.9.9.a'")
    connection.close()
    with pytest.raises(InputError, match="newer or older schema"):
        open_storage(run, f"sqlite:///{file}")


def test_a_file_that_is_no_database_is_refused(run: runs.Run, tmp_path: Path) -> None:
    (tmp_path / "text").write_text("no database " * 200)
    with pytest.raises(InputError, match="file is not a database"):
        open_storage(run, f"sqlite:///{tmp_path}/text")


def lose_storage() -> None:
    url = "postgresql://me:secret@host/db"
    with database.storage_may_be_lost(url):
        try:
            raise OSError(f"connection to {url}\nwas lost")
        except OSError as error:
            raise optuna.exceptions.StorageInternalError("An exception is raised") from error


def test_a_storage_that_goes_away_ends_the_search_with_one_line() -> None:
    with pytest.raises(DynsearchError) as caught:
        lose_storage()
    text = str(caught.value)
    assert "postgresql://me@host/db was lost during the search (connection to" in text
    assert "secret" not in text
    assert "\n" not in text


def test_what_optuna_logs_is_redacted(
    run: runs.Run, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    close(open_storage(run, f"sqlite:///{tmp_path}/study.db"))
    handler = logging.getLogger("optuna").handlers[0]
    assert isinstance(handler, logging.StreamHandler)
    record = logging.LogRecord(
        "optuna.x", logging.WARNING, "", 0, "lost %s", ("mysql://a:secret@h/d",), None
    )
    assert handler.filter(record)
    assert record.getMessage() == "lost mysql://a@h/d"


# a real PostgreSQL


@pytest.fixture(scope="module")
def server() -> Iterator[Postgres]:
    if reason := why_not():
        pytest.skip(reason)
    with postgres() as running, pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGPASSWORD", PASSWORD)
        yield running


def test_postgresql_holds_what_a_journal_holds(
    run: runs.Run, tmp_path: Path, server: Postgres
) -> None:
    for count in (2, 5):
        search(run, replace(LOCAL, trials=count, storage=server.url))
    journal = runs.create_run(tmp_path / "toy-11111111", "")
    search(journal, replace(LOCAL, trials=5))
    assert finished(run, server.url) == finished(journal, "journal")
    assert not run.journal.exists()


def test_a_password_in_the_url_opens_and_is_nowhere_in_the_run(
    tmp_path: Path, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    run = runs.create_run(tmp_path / "toy-22222222", "")
    search(run, replace(LOCAL, trials=2, storage=server.url_with_password))
    for file in run.path.rglob("*"):
        assert not file.is_file() or PASSWORD.encode() not in file.read_bytes()


@pytest.mark.parametrize("password", ["", "wrong-password"])
def test_a_refused_password_is_bad_input_and_not_shown(
    run: runs.Run, server: Postgres, monkeypatch: pytest.MonkeyPatch, password: str
) -> None:
    monkeypatch.delenv("PGPASSWORD")
    url = server.url_with_password.replace(f":{PASSWORD}", f":{password}" if password else "")
    with pytest.raises(InputError, match="refused the user or the password") as caught:
        open_storage(run, url)
    assert "wrong-password" not in str(caught.value)
    assert len(caught.value.problems) == 1
    assert "\n" not in str(caught.value)


def test_a_database_that_does_not_answer_is_bad_input_after_the_stated_wait(
    run: runs.Run, server: Postgres, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(database, "WAIT_S", 0.6)
    nobody = server.url.replace(str(server.port), "1")
    with pytest.raises(InputError, match=r"no database answered within 0\.6 s .*refused"):
        open_storage(run, nobody)


def kill_while_searching(
    run: runs.Run, server: Postgres, options: SearchOptions, rng: random.Random, marks: Path
) -> str:
    """Kill the server at a random moment after some passes began; how the search ended."""
    wanted = len(list(marks.iterdir())) + rng.randint(1, 3)
    ended = threading.Event()

    def strike() -> None:
        while len(list(marks.iterdir())) < wanted and not ended.is_set():
            time.sleep(0.005)
        time.sleep(rng.random() * 0.15)
        server.kill()

    killer = threading.Thread(target=strike)
    killer.start()
    try:
        search(run, options, sleep_s=0.05, marks=str(marks))
    except DynsearchError as error:
        return str(error)
    finally:
        ended.set()
        killer.join()
    return ""


def check_killed_databases(tmp_path: Path, trials: int, kills: int, seed: int) -> None:
    run = runs.create_run(tmp_path / f"toy-{seed:08d}", "")
    marks = tmp_path / "marks"
    marks.mkdir()
    rng = random.Random(seed)
    with postgres() as server:
        options = replace(LOCAL, trials=trials, storage=server.url)
        before: Finished = []
        for _ in range(kills):
            told = kill_while_searching(run, server, options, rng, marks)
            assert not told or re.fullmatch(r"the storage .* was lost during the search .*", told)
            assert PASSWORD not in told
            server.start()
            done = finished(run, server.url)
            assert done[: len(before)] == before
            before = done
        assert search(run, options, marks=str(marks)).passes == trials
        after = finished(run, server.url)
        assert after[: len(before)] == before
        check_none_lost_twice_or_mispaired(run, trials, server.url)
        assert trials <= len(list(marks.iterdir())) <= trials + kills  # one is under way at a time
    straight = runs.create_run(tmp_path / "toy-99999999", "")
    search(straight, replace(LOCAL, trials=trials))
    assert after == finished(straight, "journal")


@pytest.mark.usefixtures("server")
def test_a_killed_database_loses_nothing_that_was_told(tmp_path: Path) -> None:
    check_killed_databases(tmp_path, trials=5, kills=1, seed=1)


@pytest.mark.slow
@pytest.mark.usefixtures("server")
def test_a_database_killed_five_times_loses_nothing_that_was_told(tmp_path: Path) -> None:
    check_killed_databases(tmp_path, trials=20, kills=5, seed=5)
