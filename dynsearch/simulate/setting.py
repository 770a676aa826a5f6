"""Everything that a simulation is asked about, in one record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from cost_models.device import Device
from cost_models.links import link_of
from dynsearch.quality.trace import Trace
from dynsearch.simulate.assumptions import Assumptions
from dynsearch.simulate.batches import Serving
from search_spaces.candidate import Candidate
from search_spaces.workload import Workload

I64 = NDArray[np.int64]

SAMPLES = 20_000  # inputs that are drawn where no trace has them


@dataclass(frozen=True, slots=True, kw_only=True)
class Setting:
    """One candidate, device and workload."""

    candidate: Candidate
    file: Path  # that the candidate came from
    device: Device
    workload: Workload
    lengths: tuple[int, ...]  # tokens of inputs, equally frequent; a trace has its own
    new_tokens: int = 32  # that a decoder writes
    num_classes: int = 2
    stages: Mapping[str, Candidate] = field(default_factory=dict)  # of a method's cascade
    assumptions: Assumptions = field(default_factory=Assumptions)
    trace: Trace | None = None
    samples: int = SAMPLES
    seed: int = 0

    @property
    def serving(self) -> Serving:
        """How batches are made; without exits nothing can leave, so all are served alike."""
        mode = self.candidate.exit_batching
        alone = mode == "serial" and self.candidate.exits is not None
        if mode == "serial" and not alone:
            mode = "compact" if self.candidate.cascade is not None else "wait_all"
        return Serving(
            mode=mode,
            batch=1 if alone else self.workload.batch,
            period=self.candidate.compact_every,
            sort=self.workload.sort,
        )

    @property
    def linked(self) -> bool:
        """Whether a link joins devices of this kind."""
        return link_of(self.device.name) is not None

    def rng(self, purpose: int = 0) -> np.random.Generator:
        """A generator of its own for each purpose."""
        return np.random.default_rng([self.seed, purpose])

    def drawn_lengths(self) -> I64:
        """Tokens of each input [N]."""
        if self.trace is not None:
            return self.trace.lengths.astype(np.int64)
        chosen = self.rng(1).integers(0, len(self.lengths), self.samples)
        return np.asarray(self.lengths, dtype=np.int64)[chosen]
