"""A supernet that runs no pass twice: traces are kept in a folder that all families share.

A trace is a pure function of weights, rows and outer setting, so a family that comes upon a
setting of another one (the full network in each number format, if nothing else) may take its
trace. Every family counts it as one of its own passes.
"""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

from dynsearch.quality.source import SupernetQuality, split_hash
from dynsearch.quality.trace import Trace, load_trace, save_trace
from search_spaces.candidate import Candidate
from search_spaces.codec import candidate_hash


@dataclass(slots=True)
class RememberingQuality(SupernetQuality):
    """A `SupernetQuality` with a folder of traces."""

    folder: Path = Path()

    @classmethod
    def of(cls, quality: SupernetQuality, folder: Path) -> Self:
        """`quality` with its traces kept in `folder`."""
        return cls(
            config=quality.config,
            weights=quality.weights,
            splits=quality.splits,
            weights_hash=quality.weights_hash,
            _cast=quality._cast,
            device=quality.device,
            folder=folder,
        )

    def record(self, outer: Candidate, split: str) -> Trace:
        """The trace in the folder where it goes as deep, else a pass, whose trace is kept."""
        path = self._path(outer, split)
        if path.exists():
            trace = load_trace(path, self.weights_hash)
            if trace.depth >= outer.depth:
                return trace
        trace = SupernetQuality.record(self, outer, split)
        self.folder.mkdir(parents=True, exist_ok=True)
        save_trace(path, trace)
        return trace

    def payload(self) -> dict[str, Any]:
        """As the parent's, with the folder."""
        return SupernetQuality.payload(self) | {"folder": str(self.folder)}

    @classmethod
    def from_payload(cls, payload: Mapping[str, Any]) -> Self:
        """As the parent's, with the folder."""
        return cls.of(SupernetQuality.from_payload(payload), Path(payload["folder"]))

    def _path(self, outer: Candidate, split: str) -> Path:
        whole = candidate_hash(replace(outer, depth=self.config.num_layers))
        rows = split_hash(self.splits[split])
        name = hashlib.sha256(f"{self.weights_hash}{rows}{whole}".encode()).hexdigest()[:24]
        return self.folder / f"{split}-{name}.npz"
