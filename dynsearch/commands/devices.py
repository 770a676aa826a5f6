"""Devices by name: shipped ones, device files, and this machine with its calibrated profile."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from cost_models.device import Device, OutdatedProfileError, list_devices, load_device
from cost_models.profile import profile_names
from dynsearch.errors import InputError
from dynsearch.job_checks import LOCAL
from search_spaces.candidate import DTYPES


def local_file(threads: int = 1, runtime: str = "torch") -> Path:
    """Where the calibrated device file of this machine lies, one a number of threads, runtime."""
    from dynsearch.quality.supernet import cache_folder

    suffix = "" if runtime == "torch" else f"-{runtime}"
    return cache_folder() / "devices" / f"local-{threads}{suffix}.toml"


def is_calibrated(threads: int = 1) -> bool:
    """Whether this machine has a profile that this version can use; a damaged one counts."""
    file = local_file(threads)
    if not file.is_file():
        return False
    try:
        load_device(file)
    except OutdatedProfileError:
        return False
    except InputError:
        return True  # whoever opens it says what is wrong
    return True


def find_device(name: str, *, threads: int = 1) -> Device:
    """A device by name or file; "local" is this machine as it was calibrated.

    Raises:
        InputError: no such device (with the nearest names), faulty file, or not calibrated yet.
    """
    if name != LOCAL:
        return load_device(name)
    file = local_file(threads)
    if not is_calibrated(threads):
        text = f"this machine is not calibrated yet; run: dynsearch calibrate --threads {threads}"
        raise InputError.one("devices", "name", name, text)
    return load_device(file)


def calibrate(
    out: Path | None,
    *,
    seconds: float,
    threads: int,
    progress: Callable[[float], None] | None = None,
    runtime: str = "torch",
) -> dict[str, Any]:
    """Measure this machine and write its device file.

    Args:
        out: The file; None writes what "local" stands for.
        seconds: Time to measure.
        threads: Torch threads.
        progress: Called with the share that is done.
        runtime: "torch", "onnxruntime" or "openvino".

    Returns:
        `profile` (the file), `device` (its name), `n` measurements, `error` (mean absolute
        percentage error, as a share, of groups left out of the fit).

    Raises:
        DynsearchError: the measuring process failed.
        InputError: an unknown runtime, or one that is not installed.
    """
    from cost_models.calibrate.fit import calibrate_host

    measured = None
    if runtime != "torch":
        from dynsearch.measure_onnx import runtime_of

        measured = runtime_of(runtime)
    file = local_file(threads, runtime) if out is None else out
    file.parent.mkdir(parents=True, exist_ok=True)
    calibrate_host(file, seconds=seconds, threads=threads, progress=progress, runtime=measured)
    device = load_device(file)
    assert device.profile is not None
    return {
        "profile": str(file),
        "device": device.name,
        "n": device.profile.n,
        "error": device.profile.mape,
    }


def devices(name: str | None = None) -> dict[str, Any]:
    """Every shipped device, or one device with all its numbers.

    Args:
        name: A device's name, the path of a device file, or "local"; None lists all.

    Returns:
        `devices`: list of records in SI units, `profiles` being the runtimes that NAME@RUNTIME
        may name; with a name, also `numbers` with their sources.

    Raises:
        InputError: no such device (with the nearest names), or a faulty file.
    """
    if name is None:
        found = list_devices()
        return {"devices": [_summary(d) for d in found], "warnings": _warnings(found)}
    device = find_device(name)
    entry = {**_summary(device), "numbers": device.to_rows()}
    return {"devices": [entry], "warnings": _warnings([device])}


def _summary(device: Device) -> dict[str, Any]:
    peaks = device.peak_flops_per_s
    return {
        "name": device.name,
        "kind": device.kind,
        "summary": device.summary,
        "peak_flops_per_s": {d: float(peak) for d, peak in zip(DTYPES, peaks, strict=True)},
        "bandwidth_bytes_per_s": device.bandwidth_bytes_per_s,
        "capacity_bytes": device.capacity_bytes,
        "origin": device.origin,
        "profiles": [runtime for _, runtime in profile_names(device.name)],
    }


def _warnings(found: list[Device]) -> list[str]:
    return [f"{device.name}: {text}" for device in found for text in device.warnings]
