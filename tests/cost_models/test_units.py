"""Units at the end of keys."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models.units import UNITS, from_si, join_key, split_key, to_si


@pytest.mark.parametrize(
    ("key", "stem", "dimension", "si"),
    [
        ("bandwidth_gb_per_s", "bandwidth", "bytes_per_s", 1e9),
        ("capacity_gb", "capacity", "bytes", 1e9),
        ("capacity_gib", "capacity", "bytes", 2.0**30),
        ("fp32_tflops", "fp32", "flops_per_s", 1e12),
        ("launch_us", "launch", "s", 1e-6),
        ("idle_w", "idle", "w", 1.0),
        ("units", "units", "number", 1.0),
    ],
)
def test_the_longest_unit_at_the_end_of_a_key_counts(
    key: str, stem: str, dimension: str, si: float
) -> None:
    found, unit = split_key(key)
    assert (found, unit.dimension, unit.si) == (stem, dimension, si)


@given(value=st.floats(1e-12, 1e15), unit=st.sampled_from(UNITS))
def test_si_and_back_is_the_same_number(value: float, unit: object) -> None:
    assert from_si(to_si(value, unit), unit) == pytest.approx(value, rel=1e-14)  # type: ignore[arg-type]


@pytest.mark.parametrize("dimension", sorted({u.dimension for u in UNITS} | {"number"}))
def test_a_joined_key_splits_into_the_same_stem_and_dimension(dimension: str) -> None:
    stem, unit = split_key(join_key("thing", dimension))
    assert (stem, unit.dimension) == ("thing", dimension)
