"""Finding measured tables in a folder by their columns."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from cost_models.adapters import adapter_of, adapters, csv_files, scan
from cost_models.adapters.reader import read_csv
from cost_models.measured import Measured
from search_spaces.errors import InputError

from ..calibrate.synthetic import matmuls, table


@dataclass
class Toy:
    COLUMNS: frozenset[str]

    def read(self, path: Path, root: Path) -> list[Measured]:
        rows = read_csv(path, root, self.COLUMNS)
        ops = matmuls(rows.integer("m"), 64, 64)
        return [table(ops, rows.seconds("latency"), "box", source=rows.file)]


TOYS = {
    "plain": Toy(frozenset({"m", "latency_us"})),
    "finer": Toy(frozenset({"m", "latency_us", "dtype"})),
}


def write(path: Path, text: str) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")


def test_a_folder_is_read_whatever_its_layout(tmp_path: Path) -> None:
    write(tmp_path / "a" / "b" / "one.csv", "m,latency_us\n1,5\n2,6\n")
    write(tmp_path / "two.csv", "latency_us,dtype,m,extra\n7,bf16,3,x\n")
    write(tmp_path / "notes.csv", "who,what\nx,y\n")
    write(tmp_path / "README.md", "m,latency_us\n")
    found = scan(tmp_path, known=TOYS)
    assert found.read == {"a/b/one.csv": "plain", "two.csv": "finer"}
    assert found.unrecognised == ("notes.csv",)
    assert [t.source for t in found.tables] == ["a/b/one.csv", "two.csv"]
    np.testing.assert_allclose(found.tables[0].seconds, [5e-6, 6e-6])
    assert not found.faulty


def test_the_adapter_with_most_columns_wins() -> None:
    assert adapter_of(["m", "latency_us", "dtype", "z"], TOYS) == "finer"
    assert adapter_of(["m", "latency_us"], TOYS) == "plain"
    assert adapter_of(["m"], TOYS) is None


def test_a_faulty_file_is_told_and_the_others_are_read(tmp_path: Path) -> None:
    write(tmp_path / "bad.csv", "m,latency_us\n1,0\n")
    write(tmp_path / "good.csv", "m,latency_us\n1,5\n")
    found = scan(tmp_path, known=TOYS)
    assert [p.file for p in found.faulty] == ["bad.csv"]
    assert len(found.tables) == 1


def test_one_file_is_a_data_folder_too(tmp_path: Path) -> None:
    write(tmp_path / "good.csv", "m,latency_us\n1,5\n")
    assert scan(tmp_path / "good.csv", known=TOYS).tables[0].source == "good.csv"


def test_a_folder_without_tables_is_refused(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"holds no \.csv"):
        csv_files(tmp_path)


def test_no_two_adapters_claim_the_same_columns() -> None:
    claims = [a.COLUMNS for a in adapters().values()]
    assert len(claims) == len(set(claims))
