"""Power modes scale what their clocks drive, and a busy processor takes bandwidth away."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

from cost_models.device import Device, load_device
from cost_models.forms.edge_modes import (
    MODES_FOLDER,
    in_power_mode,
    power_modes,
    read_modes,
    with_cpu_traffic,
)
from search_spaces.errors import InputError

MakeDevice = Callable[..., Device]
MODE = """
[modes.half]
clock_ghz = { value = 0.5, source = "s", grade = "vendor" }
memory_ghz = { value = 1.0, source = "s", grade = "vendor" }
full_memory_ghz = { value = 4.0, source = "s", grade = "vendor" }
units = { value = 3, source = "s", grade = "vendor" }
max_w = { value = 15, source = "s", grade = "vendor" }
"""


def test_a_mode_scales_peaks_by_clock_and_units_and_bandwidth_by_the_memory_clock(
    tmp_path: Path, make_device: MakeDevice
) -> None:
    path = tmp_path / "modes.toml"
    path.write_text(MODE, encoding="utf-8")
    device = make_device("edge", compute__clock=1e9, compute__units=4.0, peak__int8=4e11)
    slow = in_power_mode(device, read_modes(path)["half"])
    for key, factor in (("peak.fp32", 0.375), ("peak.int8", 0.375), ("memory.bandwidth", 0.25)):
        assert slow.get(key) == pytest.approx(device.get(key) * factor)
        assert slow.quantities[key].grade == "estimate"
    assert (slow.get("power.max"), slow.get("compute.clock"), slow.units) == (15.0, 5e8, 3.0)
    assert slow.get("memory.capacity") == device.get("memory.capacity")


def test_every_shipped_mode_is_slower_than_its_device() -> None:
    names = [path.stem for path in MODES_FOLDER.glob("*.toml")]
    assert names
    for name in names:
        device = load_device(name)
        for mode in power_modes(name):
            slow = in_power_mode(device, mode)
            assert 0 < slow.get("peak.fp32") < device.get("peak.fp32")
            assert 0 < slow.bandwidth_bytes_per_s <= device.bandwidth_bytes_per_s


def test_an_unknown_mode_names_those_that_there_are() -> None:
    with pytest.raises(InputError, match="15w, 25w"):
        in_power_mode(load_device("nvidia-jetson-orin-nano-8g"), "9000w")
    with pytest.raises(InputError, match="none is known"):
        in_power_mode(load_device("google-tpu-v5e"), "15w")


@pytest.mark.parametrize(
    ("wrong", "key"),
    [
        (MODE.replace('"vendor"', '"rumour"', 1), "clock_ghz"),
        (MODE.replace("value = 3", "value = -3"), "units"),
        (MODE.replace("clock_ghz", "clock_gb", 1), "clock_gb"),
        ("\n".join(MODE.splitlines()[:3]), "memory"),
    ],
)
def test_a_mode_with_a_wrong_number_is_refused_by_name(
    tmp_path: Path, wrong: str, key: str
) -> None:
    path = tmp_path / "modes.toml"
    path.write_text(wrong, encoding="utf-8")
    with pytest.raises(InputError, match=key):
        read_modes(path)


def test_a_busy_processor_takes_its_bandwidth_and_no_more_than_there_is(
    make_device: MakeDevice,
) -> None:
    device = make_device("edge", memory__bandwidth=1e11)
    assert with_cpu_traffic(device, 3e10).bandwidth_bytes_per_s == pytest.approx(7e10)
    for wrong in (-1.0, 1e11):
        with pytest.raises(InputError, match="bytes_per_s"):
            with_cpu_traffic(device, wrong)
