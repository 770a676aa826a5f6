"""A driver in a process of its own: `python drive.py RUN OPTIONS QUALITY`, both as JSON."""

from __future__ import annotations

import json
import sys
from pathlib import Path

from toy_problem import ToyQuality, toy_problem, toy_space

from dynsearch.search.driver import SearchOptions, run_search
from dynsearch.search.runs import open_run

if __name__ == "__main__":
    folder, options, quality = sys.argv[1:]
    result = run_search(
        open_run(Path(folder)),
        space=toy_space(),
        quality=ToyQuality(**json.loads(quality)),
        problem=toy_problem(),
        options=SearchOptions(**json.loads(options)),
    )
    told = {"stopped": result.stopped, "passes": result.passes, "failed": result.failed}
    sys.stdout.write(json.dumps(told | {"front": sum(map(len, result.fronts))}))
