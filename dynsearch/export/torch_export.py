"""Configurations as folders that run with torch.

Only what no input can reach by construction is cut from the weights: layers above the depth,
heads of exits that are off, routers and expert means that are not used. What a data set merely
happened not to reach stays.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path

from safetensors.torch import save

from dynsearch.export.folder import Source, Written, export_folders
from dynsearch.export.manifest import WEIGHTS
from dynsearch.export.promise import Row
from dynsearch.models.dynamic import Weights
from dynsearch.models.packed import stored
from search_spaces.candidate import Candidate, layer_schedule

RUNTIME = ("dynsearch.models.dynamic", "dynsearch.heap")
PACKAGES = ("torch", "numpy", "safetensors", "tokenizers")
_SPLIT = re.compile(r"(?:router|experts)(\d+)")


def export_torch(
    run_dir: Path, ids: Sequence[str], out: Path, rows: Sequence[Row] = ()
) -> tuple[Path, ...]:
    """One folder per configuration; see `folder.export_folders`."""
    return export_folders(run_dir, ids, out, written, rows)


def written(source: Source) -> Written:
    """The weights that the configuration can reach, in its number format."""
    kept = stored(reachable(source.weights, source.candidate), source.candidate.dtype)
    raw = save({name: tensor.contiguous() for name, tensor in kept.items()})
    return Written(
        files={WEIGHTS: raw}, config={"format": "torch"}, runtime=RUNTIME, packages=PACKAGES
    )


def reachable(weights: Weights, candidate: Candidate) -> Weights:
    """The weights that some input can reach when `candidate` runs."""
    schedule = layer_schedule(candidate)
    exits = candidate.exits.layers if candidate.exits else ()
    heads = {layer - 1 for layer in exits} | {candidate.depth - 1}

    def used(name: str) -> bool:
        kind, layer, *rest = name.split(".")
        if kind == "heads":
            return int(layer) in heads
        if kind == "scorer":
            return bool(schedule["keep_before"][0] < 1.0)
        if kind != "layers":
            return True
        place = int(layer)
        split = _SPLIT.fullmatch(rest[0])
        if split is not None and int(split[1]) != schedule["num_experts"][place]:
            return False
        return place < candidate.depth

    return {name: tensor for name, tensor in weights.items() if used(name)}
