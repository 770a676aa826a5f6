from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent))  # away.py
# run_folder.py makes the generated run folder that export and report tests share
sys.path.insert(0, str(Path(__file__).parents[1] / "report"))
# reference.py makes model folders with the reference implementation
sys.path.insert(0, str(Path(__file__).parents[1] / "models"))
