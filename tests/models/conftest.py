from __future__ import annotations

import sys
from pathlib import Path

# reference.py makes model folders with the reference implementation, also for tests/export
sys.path.insert(0, str(Path(__file__).parent))
