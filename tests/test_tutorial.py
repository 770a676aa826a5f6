"""The commands of the tutorial run, in order, as they stand on the page.

The machine counts as calibrated (a shipped device file stands for it), or the test would measure
it for minutes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from cost_models import device

ROOT = Path(__file__).parent.parent
PAGE = ROOT / "docs" / "tutorial.md"
SHIM = f'#!/bin/sh\nexec "{sys.executable}" -m dynsearch.cli "$@"\n'


def blocks() -> list[str]:
    return re.findall(r"```bash\n(.*?)```", PAGE.read_text(encoding="utf-8"), flags=re.DOTALL)


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.skipif(shutil.which("bash") is None, reason="the page is written for bash")
def test_the_tutorial_leads_from_texts_to_a_verified_model(tmp_path: Path) -> None:
    work, tools = tmp_path / "work", tmp_path / "tools"
    for folder in (work, tools):
        folder.mkdir()
    (tools / "dynsearch").write_text(SHIM, encoding="utf-8")
    (tools / "dynsearch").chmod(0o755)
    (tools / "python").write_text(SHIM.replace(" -m dynsearch.cli", ""), encoding="utf-8")
    (tools / "python").chmod(0o755)
    shipped = Path(device.__file__).parent / "devices" / "generic-x86-avx2.toml"
    (tmp_path / "cache" / "devices").mkdir(parents=True)
    shutil.copyfile(shipped, tmp_path / "cache" / "devices" / "local-1.toml")
    environment = os.environ | {
        "PATH": f"{tools}{os.pathsep}{os.environ['PATH']}",
        "PYTHONPATH": os.pathsep.join([str(ROOT), *filter(None, sys.path)]),
        "DYNSEARCH_CACHE": str(tmp_path / "cache"),
        "PYTHONWARNINGS": "default",
    }
    done = subprocess.run(
        ["bash", "-euo", "pipefail", "-c", "\n".join(blocks())],
        cwd=work,
        env=environment,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-4000:] + done.stderr[-4000:]
    (run,) = (work / "runs").glob("reviews-*")
    for name in ("report.html", "agreement.md", "bench.json", "figures"):
        assert (run / name).exists(), name
    answers = [json.loads(x) for x in (work / "answers.jsonl").read_text().splitlines()]
    assert len(answers) == 1200
    assert len((work / "plan.csv").read_text().splitlines()) == 6
    assert "error_bound" in done.stdout
