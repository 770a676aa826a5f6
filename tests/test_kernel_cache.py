"""The limit on compiled bf16 kernels is raised at import, and a user's own limit is kept."""

import os
import subprocess
import sys

import pytest

NAME = "ONEDNN_PRIMITIVE_CACHE_CAPACITY"
READ = f"import os, dynsearch.bench_timing; print(os.environ[{NAME!r}])"


@pytest.mark.parametrize(("own", "expected"), [(None, "8192"), ("64", "64")])
def test_kernel_limit(own: str | None, expected: str) -> None:
    environment = {k: v for k, v in os.environ.items() if k != NAME}
    if own is not None:
        environment[NAME] = own
    done = subprocess.run(
        [sys.executable, "-c", READ], env=environment, capture_output=True, text=True, check=True
    )
    assert done.stdout.strip() == expected
