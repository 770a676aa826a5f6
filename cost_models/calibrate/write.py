"""Device and profile -> the text of TOML files that `load_device` reads back."""

from __future__ import annotations

import json

import numpy as np

from cost_models.device import Device
from cost_models.forms import parameters_of
from cost_models.learned import AXES
from cost_models.profile import SCHEMA_VERSION, Profile
from cost_models.units import from_si, join_key, split_key


def device_text(device: Device, profile: Profile | None = None) -> str:
    """One file: facts of the device, then the profile where there is one.

    Args:
        device: Its facts; parameters that a profile laid over it are left to the profile.
        profile: What was fitted, with parameters in SI units.
    """
    lines = [
        f"schema_version = {SCHEMA_VERSION}",
        f"name = {_text(device.name)}",
        f"kind = {_text(device.kind)}",
        f"summary = {_text(device.summary)}",
    ]
    section = ""
    for dotted, q in sorted(device.quantities.items()):
        if q.origin != "datasheet":
            continue
        head, stem = dotted.split(".", 1)
        if head != section:
            section = head
            lines += ["", f"[{section}]"]
        key, value = _in_unit(stem, q.dimension, q.value)
        origin = f"source = {_text(q.source)}, grade = {_text(q.grade)}"
        lines.append(f"{key} = {{ value = {value!r}, {origin} }}")
    if profile is not None:
        lines += _profile_lines(device.kind, profile)
    return "\n".join(lines) + "\n"


def profile_text(kind: str, profile: Profile) -> str:
    """A profile as a file of its own.

    Args:
        kind: Form of the device that it is for.
        profile: What was fitted, with parameters in SI units.
    """
    lines = [f"schema_version = {SCHEMA_VERSION}", *_profile_lines(kind, profile)]
    return "\n".join(lines) + "\n"


def _profile_lines(kind: str, p: Profile) -> list[str]:
    lines = ["", "[profile]"]
    for key in ("name", "base", "date", "tool", "driver", "runtime", "machine"):
        lines.append(f"{key} = {_text(getattr(p, key))}")
    lines += [f"threads = {p.threads}", f"n = {p.n}"]
    lines += [f"mape = {p.mape!r}", f"shared_log_sd = {p.shared_log_sd!r}"]
    if p.network_log_sd is not None:
        lines.append(f"network_log_sd = {p.network_log_sd!r}")
    if p.sources:
        lines += ["sources = [", *(f"    {_text(source)}," for source in p.sources), "]"]
    if p.formats:
        lines.append(f"formats = [{', '.join(_text(name) for name in p.formats)}]")
    for name in ("residual_log_sd", "kind_log_sd"):
        values = getattr(p, name)
        if values or name == "residual_log_sd":
            lines += ["", f"[profile.{name}]"]
            lines += [f"{key} = {value!r}" for key, value in sorted(values.items())]
    lines += ["", "[profile.covered]"]
    for axis, (low, high) in sorted(p.covered.items()):
        lines.append(f"{_text(axis) if '.' in axis else axis} = [{low!r}, {high!r}]")
    if p.uncertain:
        lines += ["", "[profile.covariance]"]
        lines.append(f"names = [{', '.join(_text(name) for name in p.uncertain)}]")
        lines += ["log = ["]
        lines += [f"    [{', '.join(f'{v:.4g}' for v in row)}]," for row in p.log_covariance]
        lines += ["]"]
    lines += ["", "[profile.model]"]
    known = parameters_of(kind)
    for name, value in sorted(p.model.items()):
        key, written = _in_unit(name, known[name].dimension, value)
        lines.append(f"{key} = {float(f'{written:.12g}')!r}")
    for part in p.learned:
        lines += ["", "[[profile.learned]]", f"kind = {_text(part.kind)}"]
        lines += [f"dtype = {_text(part.dtype)}", f"log_sd = {part.log_sd:.4g}"]
        lines.append(f"points = [  # {', '.join(AXES)}, weight")
        for point, weight in zip(np.exp(part.points), part.weights, strict=True):
            lines.append(f"    [{', '.join(f'{v:.5g}' for v in (*point, weight))}],")
        lines.append("]")
    return lines


def _in_unit(stem: str, dimension: str, value: float) -> tuple[str, float]:
    key = join_key(stem, dimension)
    return key, from_si(float(value), split_key(key)[1])


def _text(value: str) -> str:
    return json.dumps(value, ensure_ascii=False)
