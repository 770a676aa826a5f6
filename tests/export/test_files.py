"""Result files are whole or absent, under names that stay inside their folder."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from dynsearch.export.files import safe_name, write_atomic


@example("..")
@example("../../etc/passwd")
@example("...hidden")
@given(st.text())
def test_a_safe_name_is_one_component_of_a_path_whatever_the_text(text: str):
    name = safe_name(text)
    assert name
    assert Path(name).name == name
    assert not name.startswith(".")
    assert len(name) <= 80


def test_a_failed_write_leaves_the_old_file_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
):
    path = write_atomic(tmp_path / "a.json", "old")

    def fail(*_: object) -> None:
        raise OSError("disk full")

    monkeypatch.setattr("dynsearch.export.files.os.fsync", fail)
    with pytest.raises(OSError, match="disk full"):
        write_atomic(path, "new")
    assert path.read_text() == "old"
    assert list(tmp_path.iterdir()) == [path]


def test_text_is_written_byte_for_byte_into_folders_that_it_makes(tmp_path: Path):
    path = write_atomic(tmp_path / "deep" / "er" / "a.txt", "x\r\ny\n\u00e4")
    assert path.read_bytes() == "x\r\ny\n\u00e4".encode()
