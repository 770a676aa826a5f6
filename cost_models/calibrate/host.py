"""Facts of the machine that this code runs on, for a device file of its own."""

from __future__ import annotations

import os
import platform
import re
from pathlib import Path

CACHES = Path("/sys/devices/system/cpu/cpu0/cache")


def host_name() -> str:
    """Name for this machine's processor, fit for a file: `amd-epyc`."""
    slug = re.sub(r"[^a-z0-9]+", "-", processor().lower()).strip("-")
    return f"host-{slug or 'cpu'}"


def processor() -> str:
    """Model name of the processor as the system states it."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace")
    except OSError:
        text = ""
    found = re.search(r"^(?:model name|Model|Hardware)\s*:\s*(.+)$", text, flags=re.MULTILINE)
    return found.group(1).strip() if found else platform.processor() or platform.machine()


def usable_cores() -> int:
    """Cores that this process may run on."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def memory_bytes() -> float:
    """Size of the main memory; 8 GiB where the system does not say."""
    try:
        return float(os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE"))
    except (ValueError, OSError, AttributeError):
        return 8.0 * 2**30


def cache_bytes(root: Path = CACHES) -> dict[str, float]:
    """Sizes of the data caches by level, `l1` to `l3`; empty where the system does not say."""
    sizes: dict[str, float] = {}
    for folder in sorted(root.glob("index*")):
        try:
            kind = (folder / "type").read_text().strip()
            level = (folder / "level").read_text().strip()
            size = (folder / "size").read_text().strip()
        except OSError:
            continue
        units = {"K": 2.0**10, "M": 2.0**20}
        found = re.fullmatch(r"(\d+)([KM])", size)
        if kind != "Instruction" and level in "123" and found:
            sizes[f"l{level}"] = float(found.group(1)) * units[found.group(2)]
    return sizes
