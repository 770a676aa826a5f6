from __future__ import annotations

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from search_spaces import batch_order
from search_spaces.workload import SORT_WINDOW


def test_unsorted_batches_keep_the_order_of_arrival() -> None:
    assert batch_order(np.array([5, 1, 3]), batch=2, sort=False).tolist() == [0, 1, 2]


def test_single_samples_are_never_reordered() -> None:
    assert batch_order(np.array([5, 1, 3]), batch=1, sort=True).tolist() == [0, 1, 2]


@given(lengths=st.lists(st.integers(2, 9), min_size=1, max_size=600))
def test_sorting_stays_inside_windows_and_is_stable(lengths: list[int]) -> None:
    order = batch_order(np.array(lengths), batch=8, sort=True).tolist()
    for start in range(0, len(lengths), SORT_WINDOW):
        window = range(start, min(start + SORT_WINDOW, len(lengths)))
        expected = sorted(window, key=lambda i: (lengths[i], i))
        assert order[start : start + SORT_WINDOW] == expected
