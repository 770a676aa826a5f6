from __future__ import annotations

import numpy as np
import pytest

from dynsearch.sim.readers import (
    Jumps,
    batch_step_share,
    draw_gated_s,
    draw_reads,
    expected_reads,
    expected_units,
    expected_visits,
    gated_s,
    structural_law,
)


@pytest.mark.parametrize("offsets", [[1, 5, 9], [-3, 1, 4], [0, 2, 30]])
@pytest.mark.parametrize(("read", "most"), [(1, 30), (4, 3)])
def test_drawn_readers_read_what_is_expected(offsets: list[int], read: int, most: int) -> None:
    rng = np.random.default_rng(0)
    jumps = Jumps(
        offsets=np.array(offsets), chance=np.array([0.4, 0.3, 0.2]), read=read, most=most
    )
    lengths = np.repeat([1, 7, 40], 20_000)
    want, drawn = expected_reads(jumps, lengths), draw_reads(rng, jumps, lengths)
    for expected, found in zip(want, drawn, strict=True):
        means = found.reshape(3, -1).mean(axis=1)
        np.testing.assert_allclose(means, expected.reshape(3, -1)[:, 0], rtol=0.02, atol=1e-9)


def test_a_reader_that_always_goes_on_by_one_word_reads_everything() -> None:
    jumps = Jumps(offsets=np.array([1]), chance=np.array([1.0]), read=3, most=100)
    reads, decided = expected_reads(jumps, np.array([0, 2, 3, 10]))
    assert reads.tolist() == [0, 2, 3, 10]
    assert decided.tolist() == [0, 0, 0, 3]


def test_after_the_last_jump_it_reads_once_more() -> None:
    jumps = Jumps(offsets=np.array([6]), chance=np.array([1.0]), read=2, most=2)
    assert expected_reads(jumps, np.array([100]))[0].tolist() == [6]


def test_structural_readers_visit_what_walks_visit() -> None:
    rng = np.random.default_rng(0)
    marks, skip, jump = np.arange(15) % 5 == 4, 0.3, 0.25
    visits = expected_visits(structural_law(marks, skip, jump))
    counts, walks = np.zeros(15), 20_000
    for _ in range(walks):
        at = 0
        while at < 15:
            counts[at] += 1
            if rng.random() < jump:
                ahead = [m for m in np.flatnonzero(marks) if m > at]
                at = int(ahead[0]) + 1 if ahead else 15
            else:
                at += 1
                while at < 15 and rng.random() < skip:
                    at += 1
    np.testing.assert_allclose(counts / walks, visits, atol=0.015)


def test_reading_again_is_counted_each_time() -> None:
    law = np.array([[0.5, 0.5], [0.0, 0.0]])
    np.testing.assert_allclose(expected_visits(law), [2, 1])


def test_gated_readers_take_the_expected_time() -> None:
    rng = np.random.default_rng(0)
    lengths, share, step = rng.integers(1, 50, 40_000), np.array([0.3, 0.7]), np.array([2.0, 0.1])
    drawn = draw_gated_s(rng, lengths, share, step, 0.05)
    assert drawn.mean() == pytest.approx(gated_s(lengths, share, step, 0.05).mean(), rel=0.01)


def test_a_batch_leaves_out_only_what_all_its_rows_leave_out() -> None:
    drawn = (np.random.default_rng(0).random((40_000, 4)) < 0.3).any(axis=1)
    assert batch_step_share(0.3, 4) == pytest.approx(drawn.mean(), abs=0.01)
    assert batch_step_share(0.3, 1) == pytest.approx(0.3)


def test_updated_units_are_rounded_up() -> None:
    rng = np.random.default_rng(0)
    drawn = np.ceil(rng.beta(0.4 * 9, 0.6 * 9, 100_000) * 20)
    assert expected_units(0.4, 0.1, 20) == pytest.approx(drawn.mean(), rel=0.005)
