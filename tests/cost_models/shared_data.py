"""Where measured tables lie beside the checkout, for tests that need them."""

from __future__ import annotations

from pathlib import Path

import pytest

_FOLDERS = [p / "shared" / "data" for p in Path(__file__).resolve().parents[3:]]
DATA = next((folder for folder in _FOLDERS if folder.is_dir()), None)
needs_data = pytest.mark.skipif(DATA is None, reason="needs shared/data beside the checkout")


def data_file(name: str) -> tuple[Path, Path]:
    """A table and the data folder."""
    assert DATA is not None
    return DATA / name, DATA
