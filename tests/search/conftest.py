from __future__ import annotations

import sys
from pathlib import Path

# Ray workers and driver processes import the toy problem by name.
sys.path.insert(0, str(Path(__file__).parent))
