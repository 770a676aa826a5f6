from __future__ import annotations

import sys
from pathlib import Path

# Helpers of this folder, and the real PostgreSQL of the search's tests.
sys.path[:0] = [str(Path(__file__).parent), str(Path(__file__).parents[1] / "search")]
