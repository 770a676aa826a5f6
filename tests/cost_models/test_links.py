"""Collectives over links: closed forms, limits, files."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from cost_models.links import (
    KNOWN,
    Link,
    Stated,
    collective_s,
    link_names,
    link_of,
    load_link,
)
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError
from search_spaces.ops import COLLECTIVE

RING = ("all_reduce", "all_gather", "reduce_scatter")


def seconds(link: Link, name: str, size: float, n: int, dtype: str = "bf16") -> float:
    found = collective_s(
        link,
        np.array([COLLECTIVE[name]]),
        np.array([size]),
        np.array([n]),
        np.array([DTYPES.index(dtype)]),
    )
    return float(found[0])


def ideal(bandwidth: float, **values: float) -> Link:
    """A link without any overhead but those named."""
    free = dict.fromkeys(KNOWN, 1e-30) | {"share": 1.0, "exchange_share": 1.0, "pair": 1.0}
    return Link(
        name="ideal",
        fabric="switch",
        summary="",
        devices=(),
        bandwidth=Stated(value=bandwidth, source="test", grade="estimate"),
        domain=8,
        sums=False,
        parameters={
            k: Stated(value=v, source="test", grade="estimate")
            for k, v in (free | {"short_share": 1e-9} | values).items()
        },
    )


@pytest.mark.parametrize("n", [2, 4, 8])
def test_a_ring_sends_its_share_of_the_buffer_and_all_reduce_twice(n: int) -> None:
    link, size = ideal(1e11), 1e9
    share = (n - 1) / n * size / 1e11
    assert seconds(link, "all_gather", size, n) == pytest.approx(share, rel=1e-3)
    assert seconds(link, "reduce_scatter", size, n) == pytest.approx(share, rel=1e-3)
    assert seconds(link, "all_reduce", size, n) == pytest.approx(2 * share, rel=1e-3)
    assert seconds(link, "all_to_all", size, n) == pytest.approx(share, rel=1e-3)
    assert seconds(link, "point_to_point", size, 2) == pytest.approx(size / 1e11, rel=1e-3)


@pytest.mark.parametrize(("name", "steps"), [("all_gather", 7), ("all_reduce", 14)])
def test_a_small_message_takes_its_steps(name: str, steps: int) -> None:
    link = ideal(1e11, start=5e-6, step=1e-6)
    assert seconds(link, name, 8, 8) == pytest.approx(5e-6 + steps * 1e-6, rel=1e-3)


def test_between_nodes_an_all_reduce_takes_the_tree_where_it_is_shorter() -> None:
    ring = ideal(1e11, step=1e-6)
    tree = replace(ring, fabric="network")
    assert seconds(ring, "all_reduce", 8, 64) == pytest.approx(126e-6, rel=1e-3)
    assert seconds(tree, "all_reduce", 8, 64) == pytest.approx(12e-6, rel=1e-3)
    assert seconds(tree, "all_gather", 8, 64) == pytest.approx(63e-6, rel=1e-3)


def test_switches_add_floating_point_only_and_never_make_it_slower() -> None:
    plain = ideal(1e11, in_network=1.0)
    adds = replace(plain, sums=True)
    assert seconds(adds, "all_reduce", 1e9, 8, "fp16") < 0.7 * seconds(plain, "all_reduce", 1e9, 8)
    assert seconds(adds, "all_reduce", 1e9, 8, "int8") == seconds(plain, "all_reduce", 1e9, 8)


def test_one_participant_alone_takes_no_time() -> None:
    for name in link_names():
        assert seconds(load_link(name), "all_reduce", 1e6, 1) == 0


@settings(max_examples=40, deadline=None)
@given(
    st.sampled_from(sorted(link_names())),
    st.sampled_from([*RING, "all_to_all"]),
    st.floats(1, 2e9),
    st.floats(1.01, 10),
    st.sampled_from([2, 4, 8]),
)
def test_more_bytes_take_longer_and_none_exceeds_its_rate(
    name: str, collective: str, size: float, factor: float, n: int
) -> None:
    link = load_link(name)
    first, second = (seconds(link, collective, s, n, "int8") for s in (size, size * factor))
    assert first < second
    wire = size * (n - 1) / n * (2 if collective == "all_reduce" else 1)
    assert wire / first < link.bandwidth.value * 1.2  # the soft minimum takes at most 2^(1/4)


def test_a_message_far_above_saturation_keeps_below_the_rate_of_the_link() -> None:
    for name in link_names():
        link = load_link(name)
        for n in (2, 8):
            t = seconds(link, "all_gather", 4e9, n)
            assert 4e9 * (n - 1) / n / t <= link.bandwidth.value * 1.001


def test_a_device_has_one_link_at_most_and_every_number_a_source() -> None:
    devices = [d for name in link_names() for d in load_link(name).devices]
    assert len(devices) == len(set(devices))
    link = link_of("nvidia-h100-80g-sxm")
    assert link is not None
    assert link.name == "nvlink-4"
    assert link_of("raspberry-pi-5") is None
    for name in link_names():
        for stated in (load_link(name).bandwidth, *load_link(name).parameters.values()):
            assert stated.source.strip()


GOOD = """schema_version = 1
name = "x"
fabric = "switch"
[link]
bandwidth_gb_per_s = { value = 10, source = "s", grade = "vendor" }
"""


@pytest.mark.parametrize(
    ("text", "key"),
    [
        (GOOD.replace("= 1\n", "= 2\n"), "schema_version"),
        (GOOD.replace('"switch"', '"string"'), "fabric"),
        (GOOD.replace("_gb_per_s", "_us"), "link.bandwidth_us"),
        (GOOD.replace("10", "-10"), "link.bandwidth_gb_per_s.value"),
        (GOOD.replace(', grade = "vendor"', ""), "link.bandwidth_gb_per_s"),
        (GOOD + '[model]\nshare = { value = 1.5, source = "s", grade = "vendor" }', "model.share"),
        (GOOD + '[model]\nspeed = { value = 1, source = "s", grade = "vendor" }', "model.speed"),
        (GOOD + "[extra]\n", "extra"),
    ],
)
def test_a_faulty_link_file_is_refused_by_key(tmp_path: Path, text: str, key: str) -> None:
    file = tmp_path / "x.toml"
    file.write_text(text)
    with pytest.raises(InputError) as error:
        load_link(file)
    assert key in [p.key for p in error.value.problems]


def test_an_unknown_link_names_the_known_ones() -> None:
    with pytest.raises(InputError, match="nvlink-4"):
        load_link("nvlink-9")
