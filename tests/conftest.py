"""Settings of the whole suite: one thread, a cache of its own, repeatable property tests."""

from __future__ import annotations

import atexit
import os
import shutil
import tempfile

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
