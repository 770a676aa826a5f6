from __future__ import annotations

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).parent.parent
PROBE = """
import json, sys
from pathlib import Path
from cost_models.device import device_names, load_device
from search_spaces import load_backbone
from search_spaces.backbones import list_backbones
from dynsearch.job import find_job, load_job
import dynsearch
from dynsearch.cli import run
print(json.dumps({
    "where": str(Path(dynsearch.__file__).parent),
    "devices": [load_device(name).name for name in device_names()],
    "backbones": [load_backbone(name).name for name in list_backbones()],
    "job": str(find_job("short-sentences")),
    "name": load_job(find_job("short-sentences"), check_files=False).name,
    "status": run(["devices", "--json", "-q"]),
}))
"""


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel, built with the backend that is installed here: no network is needed."""
    out = tmp_path_factory.mktemp("wheel")
    command = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(out)]
    subprocess.run(command, cwd=ROOT, check=True, capture_output=True)
    (built,) = out.glob("*.whl")
    return built


def test_the_wheel_holds_three_packages_and_nothing_else(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    top = {name.split("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {
        "dynsearch",
        "cost_models",
        "search_spaces",
    }


def test_the_wheel_holds_every_file_of_the_packages(wheel: Path) -> None:
    names = set(zipfile.ZipFile(wheel).namelist())
    sources = {
        str(path.relative_to(ROOT))
        for package in ("dynsearch", "cost_models", "search_spaces")
        for path in (ROOT / package).rglob("*")
        if path.is_file() and "__pycache__" not in path.parts
    }
    assert sources <= names
    jobs = {f"dynsearch/jobs/{path.name}" for path in (ROOT / "runs/jobs").glob("*.toml")}
    assert jobs
    assert jobs <= names


def test_the_installed_wheel_works_away_from_the_checkout(wheel: Path, tmp_path: Path) -> None:
    target, elsewhere = tmp_path / "site", tmp_path / "elsewhere"
    elsewhere.mkdir()
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "install", "--quiet"]
    subprocess.run(
        [*pip, "--no-deps", "--no-index", "--target", str(target), str(wheel)],
        check=True,
        capture_output=True,
    )
    done = subprocess.run(
        [sys.executable, "-c", f"import sys; sys.path.insert(0, {str(target)!r})\n{PROBE}"],
        cwd=elsewhere,
        check=True,
        capture_output=True,
        text=True,
    )
    found = json.loads(done.stdout.splitlines()[-1])
    assert found["where"] == str(target / "dynsearch")
    assert found["devices"]
    assert "minilm-l6" in found["backbones"]
    assert found["job"] == str(target / "dynsearch" / "jobs" / "short-sentences.toml")
    assert found["name"] == "short-sentences"
    assert found["status"] == 0
    assert list(elsewhere.iterdir()) == []
