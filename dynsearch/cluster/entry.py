"""What the cluster runs of a submitted job: `python -m dynsearch.cluster.entry OUT [OPTION...]`.

It stands in the folder that travelled, keeps it beside the runs, and searches from there.
"""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

from dynsearch.cli import run
from dynsearch.cluster.luggage import keep


def main(args: Sequence[str]) -> int:
    """Run the job of the current folder; runs go to the folder OUT, a `~` is this node's."""
    out = Path(args[0]).expanduser()
    job = keep(Path.cwd(), out)
    return run(["search", str(job), "--out", str(out), *args[1:]])


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
