"""What is calibrated together."""

from __future__ import annotations

from dataclasses import replace

import numpy as np

from cost_models.calibrate.subjects import gather, row_dtypes, with_groups

from .synthetic import matmuls, table

GPU = "nvidia-a100-80g-sxm"


def test_a_subject_is_a_device_under_a_runtime_and_training_is_apart() -> None:
    rows = table(matmuls([1, 2, 3], [64, 128, 192], 64), [1, 1, 1], GPU)
    tables = [
        rows,
        replace(rows, family="vector"),
        replace(rows, runtime="other"),
        replace(rows, training=True),
        replace(rows, family="energy"),
        replace(rows, device="no-such-device"),
    ]
    subjects, warnings = gather(tables)
    assert [s.name for s in subjects] == [
        f"{GPU}--other",
        f"{GPU}--test",
        f"{GPU}--test--training",
    ]
    assert [len(s) for s in subjects] == [3, 6, 3]
    assert warnings == ["no device file is named no-such-device: its rows are not used"]


def test_rows_of_one_geometry_are_grouped_by_whole_sizes() -> None:
    m = np.tile([1, 2, 4, 8], 5)
    rows = replace(table(matmuls(m, 64, 64), np.ones(20), GPU), group=np.full(20, "one"))
    found = with_groups(rows)
    assert set(found.group) == {"one/1", "one/2", "one/4", "one/8"}
    assert (found.group == np.array([f"one/{v}" for v in m])).all()


def test_groups_of_the_source_are_kept_where_there_are_enough() -> None:
    rows = table(matmuls(1, [64, 128, 192], 64), np.ones(3), GPU)
    assert with_groups(rows) is rows


def test_the_format_of_a_row_is_that_of_its_largest_operator() -> None:
    ops = matmuls([1, 4096], 512, 512)
    ops.candidate[:] = 0
    ops.dtype[:] = [0, 1]
    assert row_dtypes(table(ops, [1.0], GPU)).tolist() == ["bf16"]
