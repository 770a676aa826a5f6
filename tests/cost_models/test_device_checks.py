"""Device files with numbers that cannot be, or that look like a slip."""

from __future__ import annotations

from pathlib import Path

import pytest

from cost_models.device import device_names, load_device
from search_spaces.errors import InputError

GOOD = """schema_version = 1
name = "acme-141g"
kind = "gpu"
summary = "a device"
[peak]
fp32_tflops = { value = 60, source = "page", grade = "vendor" }
fp16_tflops = { value = 900, source = "page", grade = "vendor" }
[memory]
capacity_gb = { value = 141, source = "page", grade = "vendor" }
bandwidth_gb_per_s = { value = 4800, source = "page", grade = "vendor" }
[compute]
units = { value = 132, source = "page", grade = "vendor" }
[power]
idle_w = { value = 80, source = "page", grade = "vendor" }
max_w = { value = 700, source = "page", grade = "vendor" }
"""


def write(tmp_path: Path, text: str) -> Path:
    file = tmp_path / "d.toml"
    file.write_text(text)
    return file


def test_a_good_file_has_no_complaint(tmp_path: Path) -> None:
    assert load_device(write(tmp_path, GOOD)).warnings == ()


@pytest.mark.parametrize(
    ("old", "new", "key", "words"),
    [
        ("capacity_gb =", "capacity_gib =", "memory.capacity_gib", "131.3 GiB"),
        ("value = 80,", "value = 800,", "power.idle", "power.max"),
        ('60, source = "page"', '60, source = "unknown"', "peak.fp32.source", "printed"),
        ('60, source = "page"', '60, source = "from memory"', "peak.fp32.source", "estimate"),
        ("[power]\n", "[energy]\nop_fp16_pj = { value = 50, source = 'p', grade = 'vendor' }\n"
         "[power]\n", "energy.op_fp16", "power budget"),
        ("[power]\n", "[energy]\ndram_pj_per_byte = { value = 5, source = 'p', grade='vendor' }\n"
         "[power]\n", "energy.dram", "31 to 325"),
        ("value = 4800", "value = -4800", "memory.bandwidth_gb_per_s.value", "positive"),
        ('source = "page", grade = "vendor" }\n[compute]', 'source = "page" }\n[compute]',
         "memory.bandwidth_gb_per_s.grade", "vendor"),
        ('{ value = 132, source = "page"', "{ value = 132", "compute.units.source", "missing"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_by_key(
    tmp_path: Path, old: str, new: str, key: str, words: str
) -> None:
    assert old in GOOD
    with pytest.raises(InputError) as error:
        load_device(write(tmp_path, GOOD.replace(old, new, 1)))
    told = {p.key: p.message for p in error.value.problems}
    assert key in told, told
    assert words in told[key]


@pytest.mark.parametrize(
    ("old", "new", "words"),
    [
        ("bandwidth_gb_per_s = { value = 4800", "bandwidth_gib_per_s = { value = 4800", "GB/s"),
        ("capacity_gb = { value = 141", "capacity_gib = { value = 131.3", "a fraction"),
        ("value = 4800", "value = 4.8", "FLOPs for each byte"),
        ("capacity_gb = { value = 141", "capacity_mb = { value = 141", "once"),
        ("[memory]", "int8_tflops = { value = 7916, source = 'p', grade = 'vendor' }\n[memory]",
         "sparse"),
        ("[power]", "[cache]\nl2_mb = { value = 50, source = 'p', grade = 'vendor' }\n[power]",
         "l2_mib"),
    ],
)  # fmt: skip
def test_what_looks_like_a_slip_is_a_warning(
    tmp_path: Path, old: str, new: str, words: str
) -> None:
    assert old in GOOD
    warnings = load_device(write(tmp_path, GOOD.replace(old, new, 1))).warnings
    assert any(words in text for text in warnings), warnings


def test_a_profile_that_sets_a_peak_is_refused(tmp_path: Path) -> None:
    profile = """[profile]
name = "p"
base = "acme-141g"
date = "2026-01-01"
tool = "x"
driver = ""
runtime = "r"
machine = "m"
threads = 1
n = 5
mape = 0.1
shared_log_sd = 0.1
[profile.residual_log_sd]
[profile.covered]
[profile.model]
fp32_tflops = 80
"""
    with pytest.raises(InputError, match="peaks"):
        load_device(write(tmp_path, GOOD + profile))


def test_shipped_files_are_free_of_impossible_numbers() -> None:
    for name in device_names():
        load_device(name)
