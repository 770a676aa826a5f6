from __future__ import annotations

from dataclasses import fields

import numpy as np

from search_spaces import KIND, KINDS, OpTable, load_backbone, lower_compaction


def table() -> OpTable:
    return lower_compaction(
        load_backbone("minilm-l6"), layer=[0, 1, 2], remaining=[1, 2, 3], n=8, dtype=0
    )


def test_kind_numbers_are_positions_in_kinds() -> None:
    assert [KINDS[KIND[name]] for name in KINDS] == list(KINDS)


def test_concat_of_parts_is_the_whole() -> None:
    whole = table()
    again = OpTable.concat([whole.take(np.array([0])), whole.take(np.arange(3) > 0)])
    assert len(again) == 3
    for f in fields(OpTable):
        assert np.array_equal(getattr(whole, f.name), getattr(again, f.name)), f.name
