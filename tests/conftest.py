"""Settings of the whole suite: one thread, a cache of its own, repeatable property tests.

Where several processes share the tests (`make test` has two), a file's tests stay together, and
those of all files that start Ray stay in one process, first: they take longest.
"""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

import pytest
from hypothesis import HealthCheck, settings

os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["DYNSEARCH_CACHE"] = tempfile.mkdtemp(prefix="dynsearch-tests-")
atexit.register(shutil.rmtree, os.environ["DYNSEARCH_CACHE"], ignore_errors=True)
os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")

settings.register_profile(
    "dynsearch",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("dynsearch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Say which tests share a process, and begin with those that start Ray."""
    ray = {item.path for item in items if item.get_closest_marker("ray")}
    for item in items:
        item.add_marker(pytest.mark.xdist_group("ray" if item.path in ray else str(item.path)))
    items.sort(key=lambda item: item.path not in ray)
