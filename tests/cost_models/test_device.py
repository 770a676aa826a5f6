"""Device files and profiles: what is read, what is refused, what is laid over what."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest

from cost_models.calibrate.write import device_text
from cost_models.device import (
    GRADES,
    Device,
    OutdatedProfileError,
    device_names,
    list_devices,
    load_device,
    overlay,
)
from cost_models.forms import FORM_NAMES, parameters_of
from cost_models.profile import Profile, load_profile
from search_spaces.candidate import DTYPES
from search_spaces.errors import InputError

GOOD = """
schema_version = 1
name = "box"
kind = "cpu"
summary = "a box"
[peak]
fp32_gflops = { value = 100, source = "sheet", grade = "vendor" }
[memory]
capacity_gb = { value = 8, source = "sheet", grade = "vendor" }
bandwidth_gb_per_s = { value = 20, source = "sheet", grade = "vendor" }
[compute]
units = { value = 4, source = "sheet", grade = "vendor" }
[model]
stream_share = { value = 0.25, source = "guess", grade = "estimate" }
"""


def profile(**changes: object) -> Profile:
    values: dict[str, object] = {
        "name": "box-t1",
        "base": "box",
        "date": "2025-01-01",
        "tool": "test",
        "driver": "torch 2",
        "runtime": "torch",
        "threads": 1,
        "n": 10,
        "mape": 0.05,
        "machine": "box",
        "shared_log_sd": 0.05,
        "residual_log_sd": {"matmul": 0.1},
        "covered": {"m": (1.0, 512.0)},
        "model": {"overhead_matmul_fp32": 7e-6},
    }
    return Profile(**(values | changes))  # type: ignore[arg-type]


def written(tmp_path: Path, text: str) -> Path:
    path = tmp_path / "box.toml"
    path.write_text(text)
    return path


def problems_of(tmp_path: Path, text: str) -> dict[str, str]:
    with pytest.raises(InputError) as caught:
        load_device(written(tmp_path, text))
    return {p.key: p.message for p in caught.value.problems}


def test_numbers_are_read_in_si_units(tmp_path: Path) -> None:
    device = load_device(written(tmp_path, GOOD))
    assert device.peak_flops_per_s[0] == 100e9
    assert device.bandwidth_bytes_per_s == 20e9
    assert device.capacity_bytes == 8e9
    assert device.units == 4
    assert device.parameter("stream_share") == 0.25


def test_serving_formats_without_a_peak_run_at_the_rate_of_their_plain_type(
    make_device: Callable[..., Device],
) -> None:
    device = make_device("gpu", peak__fp32=1.0, peak__bf16=8.0, peak__int8=16.0)
    rate = dict(zip(DTYPES, device.peak_flops_per_s.tolist(), strict=True))
    assert (rate["tf32"], rate["fp8"], rate["int4"]) == (1.0, 8.0, 8.0)


def test_a_type_without_a_peak_runs_at_the_fp32_rate(tmp_path: Path) -> None:
    device = load_device(written(tmp_path, GOOD))
    assert (device.peak_flops_per_s == 100e9).all()


def test_all_problems_of_a_file_come_at_once(tmp_path: Path) -> None:
    text = """
schema_version = 9
name = "box"
kind = "cpu"
colour = "red"
[peak]
fp32_gflops = { value = -1, source = "sheet", grade = "vendor" }
bf16_gb = { value = 1, source = "sheet", grade = "vendor" }
fp16_gflops = { value = 5, grade = "vendor" }
int8_gflops = { value = 5, source = "sheet", grade = "rumour" }
[memory]
capacity_gb = 8
bandwith_gb_per_s = { value = 20, source = "sheet", grade = "vendor" }
[model]
efficiency_matmul_fp32 = { value = 1.5, source = "x", grade = "estimate" }
"""
    found = problems_of(tmp_path, text)
    assert set(found) == {
        "schema_version",
        "summary",
        "colour",
        "peak.fp32_gflops.value",
        "peak.bf16_gb",
        "peak.fp16_gflops.source",
        "peak.int8_gflops.grade",
        "memory.capacity_gb",
        "memory.bandwith_gb_per_s",
        "memory.bandwidth",
        "compute.units",
        "model.efficiency_matmul_fp32",
    }
    assert "bandwidth" in found["memory.bandwith_gb_per_s"]


@pytest.mark.parametrize("value", ["0", "nan", "inf", "true", '"5"'])
def test_values_that_are_no_positive_number_are_refused(tmp_path: Path, value: str) -> None:
    text = GOOD.replace("{ value = 20,", f"{{ value = {value},")
    assert "memory.bandwidth_gb_per_s.value" in problems_of(tmp_path, text)


def test_an_unknown_class_lists_the_known_ones(tmp_path: Path) -> None:
    found = problems_of(tmp_path, GOOD.replace('"cpu"', '"abacus"'))
    assert "gpu" in found["kind"]


def test_broken_toml_and_missing_files_are_one_clear_error(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="not valid TOML"):
        load_device(written(tmp_path, "name = "))
    with pytest.raises(InputError, match="cannot be read"):
        load_device(tmp_path / "none.toml")


def test_an_unknown_name_answers_with_the_nearest() -> None:
    with pytest.raises(InputError, match="nvidia-a100-80g-sxm"):
        load_device("a100")
    with pytest.raises(InputError, match=r"raspberry-pi-5.*calibrate"):
        load_device("rasbery-pi")


def test_every_shipped_number_has_a_source_and_a_grade() -> None:
    devices = list_devices()
    assert [d.name for d in devices] == device_names()
    assert {d.kind for d in devices} == set(FORM_NAMES)
    for device in devices:
        for row in device.to_rows():
            assert row["source"]
            assert row["grade"] in GRADES
            assert row["origin"] in ("datasheet", "form")


def test_rows_show_every_parameter_of_the_form(tmp_path: Path) -> None:
    device = load_device(written(tmp_path, GOOD))
    shown = {row["key"] for row in device.to_rows()}
    assert {f"model.{name}" for name in parameters_of("cpu")} <= shown
    assert len(shown) == len(device.to_rows())


def test_a_profile_changes_its_parameters_and_their_origin_only(tmp_path: Path) -> None:
    device = load_device(written(tmp_path, GOOD))
    laid = overlay(device, profile())
    assert laid.parameter("overhead_matmul_fp32") == 7e-6
    assert laid.quantities["model.overhead_matmul_fp32"].origin == "profile:box-t1"
    assert laid.quantities["peak.fp32"] == device.quantities["peak.fp32"]
    assert laid.parameter("stream_share") == 0.25
    assert laid.origin == "profile:box-t1"
    assert device.origin == "datasheet"


def test_a_profile_of_another_device_is_refused(tmp_path: Path) -> None:
    device = load_device(written(tmp_path, GOOD))
    with pytest.raises(InputError, match="another device"):
        overlay(device, profile(base="barrel"))


def test_a_profile_may_never_set_a_peak(tmp_path: Path) -> None:
    device = load_device(written(tmp_path, GOOD))
    with pytest.raises(InputError, match="facts of the device such as peaks"):
        overlay(device, profile(model={"peak.fp32": 1e15}))
    text = device_text(device, profile()) + "fp32_gflops = 5000.0\n"
    assert "peaks" in problems_of(tmp_path, text)["profile.model.fp32_gflops"]


@pytest.mark.parametrize(
    ("line", "key"),
    [
        ("nonsense_us = 1.0", "profile.model.nonsense_us"),
        ("overhead_gather_fp32_gb = 1.0", "profile.model.overhead_gather_fp32_gb"),
        ("overhead_gather_fp32_us = -1.0", "profile.model.overhead_gather_fp32_us"),
        ("efficiency_matmul_fp32 = 1.2", "profile.model.efficiency_matmul_fp32"),
    ],
)
def test_bad_parameters_of_a_profile_are_refused(tmp_path: Path, line: str, key: str) -> None:
    device = load_device(written(tmp_path, GOOD))
    assert key in problems_of(tmp_path, f"{device_text(device, profile())}{line}\n")


def test_a_profile_without_its_provenance_is_refused(tmp_path: Path) -> None:
    found = problems_of(tmp_path, GOOD + '[profile]\nname = "p"\nthreads = "one"\n')
    assert {"profile.base", "profile.date", "profile.mape", "profile.threads"} <= set(found)


def test_device_and_profile_survive_a_round_trip_through_one_file(tmp_path: Path) -> None:
    device = overlay(load_device(written(tmp_path, GOOD)), profile())
    path = tmp_path / "copy.toml"
    path.write_text(device_text(device, device.profile))
    again = load_device(path)
    for key, quantity in device.quantities.items():
        assert again.quantities[key].value == pytest.approx(quantity.value, rel=1e-14)
        assert replace(again.quantities[key], value=0.0) == replace(quantity, value=0.0)
    assert again.profile is not None
    assert again.profile.model["overhead_matmul_fp32"] == pytest.approx(7e-6, rel=1e-14)
    assert replace(again.profile, model={}) == replace(profile(), model={})
    assert load_profile(path) == again.profile


def test_a_file_without_a_profile_says_so(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"no table \[profile\]"):
        load_profile(written(tmp_path, GOOD))


def test_a_fit_of_an_earlier_version_is_refused_and_a_partial_one_by_hand_is_not(
    tmp_path: Path,
) -> None:
    whole = {name: p.default for name, p in parameters_of("cpu").items()}
    host = load_device("generic-x86-avx2")
    fitted = profile(base=host.name, tool="dynsearch calibrate", model=whole)
    assert load_device(written(tmp_path, device_text(host, fitted))).profile == fitted
    del whole["move_matmul_int8"]
    with pytest.raises(OutdatedProfileError, match="lacks move_matmul_int8"):
        load_device(written(tmp_path, device_text(host, fitted)))
    by_hand = replace(fitted, tool="stopwatch")
    assert load_device(written(tmp_path, device_text(host, by_hand))).profile == by_hand
