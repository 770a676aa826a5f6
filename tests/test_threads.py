"""Torch threads: shared by one pass, or one for each of several."""

from __future__ import annotations

import threading

import pytest
import torch

from cost_models.calibrate.host import usable_cores
from dynsearch.threads import all_cores, one_core_each


@pytest.fixture(autouse=True)
def _three_threads():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    yield
    assert torch.get_num_threads() == 3
    torch.set_num_threads(before)


def test_a_lone_pass_gets_all_cores() -> None:
    with all_cores():
        assert torch.get_num_threads() == usable_cores()


def test_passes_side_by_side_get_a_core_each_and_answer_in_order() -> None:
    meet = threading.Barrier(min(2, usable_cores()), timeout=60)

    def work(item: int) -> tuple[int, int]:
        if item < 2:
            meet.wait()  # returns only if as many run at once as there are cores
        return item, torch.get_num_threads()

    assert list(one_core_each(work, range(5))) == [(i, 1) for i in range(5)]


def test_an_error_of_one_pass_arrives() -> None:
    def work(item: int) -> int:
        return 1 // item

    with pytest.raises(ZeroDivisionError):
        list(one_core_each(work, [1, 0]))
