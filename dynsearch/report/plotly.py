"""Plotly's script as the report carries it: packed, so that a page that does not zoom is light."""

from __future__ import annotations

import base64
import gzip
import hashlib
from functools import lru_cache
from importlib.util import find_spec
from pathlib import Path


@lru_cache(maxsize=1)
def packed() -> tuple[str, str] | None:
    """Base64 of the gzipped script and base64 of its sha256; None where it is not installed.

    The page unpacks it when a zoomable chart is asked for; the hash lets it run under the page's
    content security policy.
    """
    found = find_spec("plotly")
    if found is None or not found.submodule_search_locations:
        return None
    file = Path(found.submodule_search_locations[0]) / "package_data" / "plotly.min.js"
    if not file.is_file():
        return None
    script = file.read_bytes()
    digest = base64.b64encode(hashlib.sha256(script).digest()).decode()
    return base64.b64encode(gzip.compress(script, 9, mtime=0)).decode(), digest
