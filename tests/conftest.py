"""Settings of the whole suite: one thread, a cache of its own, repeatable property tests.

Where several processes share the tests (`make test` has two), a file's tests stay together. Files
that start Ray come first: they take longest.
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
os.environ.setdefault("RAY_DEDUP_LOGS_SKIP_REGEX", ".")  # Ray reads it when it is first imported

settings.register_profile(
    "dynsearch",
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.too_slow],
)
settings.load_profile("dynsearch")


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Files whose tests start Ray come first, those of clusters last."""
    ray = {item.path for item in items if item.get_closest_marker("ray")}

    def order(item: pytest.Item) -> int:
        if item.path.parent.name == "cluster":  # Ray keeps a token that it has once seen
            return 2
        return int(item.path not in ray)

    items.sort(key=order)
