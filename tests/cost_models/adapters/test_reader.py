"""The CSV reader that every adapter uses."""

from __future__ import annotations

import gzip
import re
from pathlib import Path

import numpy as np
import pytest
from numpy.testing import assert_allclose

from cost_models.adapters.reader import CsvTable, read_csv
from search_spaces.errors import InputError

GOOD = "m,n,latency_us\n1,64,5\n2,64,6.5\n"


def read(folder: Path, text: str, **options: object) -> CsvTable:
    path = folder / "sub" / "rows.csv"
    path.parent.mkdir(exist_ok=True)
    path.write_text(text, encoding="utf-8")
    return read_csv(path, folder, ("m", "n"), **options)


def complaint(folder: Path, text: str, **options: object) -> str:
    def use() -> None:
        table = read(folder, text, **options)
        table.integer("m")
        table.seconds("latency")

    with pytest.raises(InputError) as raised:
        use()
    assert all(p.file == "sub/rows.csv" for p in raised.value.problems)
    return str(raised.value)


def test_columns_become_arrays_in_si(tmp_path: Path) -> None:
    table = read(tmp_path, GOOD)
    assert table.integer("m").tolist() == [1, 2]
    assert_allclose(table.seconds("latency"), [5e-6, 6.5e-6])
    ms = read(tmp_path, GOOD.replace("latency_us", "latency_ms"))
    assert_allclose(ms.seconds("latency"), [5e-3, 6.5e-3])
    assert table.take(np.array([False, True])).line.tolist() == [3]


def test_a_packed_file_reads_alike(tmp_path: Path) -> None:
    path = tmp_path / "rows.csv.gz"
    path.write_bytes(gzip.compress(GOOD.encode()))
    assert read_csv(path, tmp_path).text("n").tolist() == ["64", "64"]


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("n,latency_us\n64,5\n", "m: is missing; the columns are n, latency_us"),
        ("m,n,latency_us,latency_ms\n1,64,5,5\n", "latency_us: the same quantity also stands in"),
        (GOOD + "3,64,0\n", r"latency_us, row 4 = 0: must be a number above 0"),
        (GOOD + "3,64,-2\n", r"latency_us, row 4 = -2: must be a number above 0"),
        (GOOD + "3,64,fast\n", r"latency_us, row 4 = fast: must be a number above 0"),
        (GOOD + "3,64,\n", r"latency_us, row 4 = empty: must be a number above 0"),
        (GOOD + "3,64,nan\n", r"latency_us, row 4 = nan"),
        (GOOD + "3.5,64,7\n", r"m, row 4 = 3.5: must be a whole number"),
        (GOOD + "1,64,5\n", "row 4: repeats row 2 in every column"),
        (GOOD + "3,64\n", "row 4: has 2 cells, the header 3"),
        ("m,n,latency_us\n", "rows = 0: too few rows, 1 are needed"),
        ("m,n,n,latency_us\n1,2,3,4\n", "n: stands in the header twice"),
        ("m,n,speed\n1,2,3\n", "latency: is missing; give latency_us"),
        ('m,n,latency_us\n1,2,"3\n', "cannot be read as CSV"),
    ],
)
def test_each_fault_is_named_with_its_place(tmp_path: Path, text: str, message: str) -> None:
    found = complaint(tmp_path, text)
    assert re.search(message, found), found


def test_many_faults_are_counted_rather_than_listed(tmp_path: Path) -> None:
    rows = "".join(f"{i},64,0\n" for i in range(1, 101))
    found = complaint(tmp_path, "m,n,latency_us\n" + rows)
    assert "95 more rows like it" in found
    assert found.count("\n") == 5
    assert "95 more repeat" in complaint(tmp_path, "m,n,latency_us\n" + "1,64,5\n" * 101)


def test_published_repeats_are_kept_where_the_adapter_says_so(tmp_path: Path) -> None:
    assert len(read(tmp_path, GOOD + "1,64,5\n", repeats=True)) == 3


def test_blank_and_negative_cells_pass_where_they_may(tmp_path: Path) -> None:
    table = read(tmp_path, "m,n,peer\n1,64,\n2,64,-3\n")
    assert_allclose(table.number("peer", blank=True, signed=True), [np.nan, -3])


def test_rates_per_second_are_no_second_unit_of_a_time(tmp_path: Path) -> None:
    assert len(read(tmp_path, "m,n,tokens_per_s,tokens_per_ms\n1,2,3,4\n")) == 1


def test_a_text_that_is_no_text_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "x.csv"
    path.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(InputError, match=r"x\.csv: cannot be read as CSV"):
        read_csv(path, tmp_path)
    broken = tmp_path / "y.csv.gz"
    broken.write_bytes(gzip.compress(GOOD.encode())[:-9])
    with pytest.raises(InputError, match=r"y\.csv\.gz: cannot be read"):
        read_csv(broken, tmp_path)
