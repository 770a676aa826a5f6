from __future__ import annotations

import numpy as np
import pytest

from search_spaces.hashing import hash_buckets, hash_words, ranked_buckets


def test_words_are_those_of_the_published_generator() -> None:
    # the first outputs of SplitMix64 from seed 0
    published = [0xE220A8397B1DCDAF, 0x6E789E6AA1B965F4, 0x06C45D188009454F]
    assert [int(x) for x in hash_words(np.arange(3))] == published


@pytest.mark.parametrize("salt", [0, 1, 12345])
def test_buckets_stay_in_range_and_keep_any_shape(salt: int) -> None:
    buckets = hash_buckets(np.arange(24).reshape(2, 3, 4), 5, salt)
    assert buckets.shape == (2, 3, 4)
    assert set(buckets.ravel().tolist()) <= set(range(5))


def test_ranked_buckets_are_equally_full_and_ascend() -> None:
    values = np.array([3.0, 1.0, 2.0, 2.0, 9.0, 0.0])
    assert ranked_buckets(values, 3).tolist() == [2, 0, 1, 1, 2, 0]
