"""Where the measured tables lie that are never committed: `../shared/data` beside the checkout."""

from __future__ import annotations

from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
_BESIDE = [folder / "shared" / "data" for folder in CHECKOUT.parents[:2]]
DATA = next((folder for folder in _BESIDE if folder.is_dir()), _BESIDE[0])
needs_data = pytest.mark.skipif(not DATA.is_dir(), reason="no ../shared/data beside the checkout")


def data_file(name: str) -> tuple[Path, Path]:
    """A table and the data folder."""
    return DATA / name, DATA
