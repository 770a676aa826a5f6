"""What one forward pass of an outer setting leaves: everything that exit policies decide on.

A trace is recorded at full depth with no exit taken. Replaying sample-level exits on it is exact
because exits do not feed back into what other samples, or earlier layers, compute.
"""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

SCHEMA_VERSION = 1


@dataclass(frozen=True, slots=True, kw_only=True)
class Trace:
    """One pass over one split. N samples, L layers, C classes, E experts."""

    logits: NDArray[np.float32]  # [N, L, C] of the exit head after each layer, no temperature
    labels: NDArray[np.int64]  # [N]
    lengths: NDArray[np.int64]  # [N] unpadded tokens, special ones included
    tokens_layer: NDArray[np.int32]  # [N, L] tokens entering layer l
    tokens_ffn: NDArray[np.int32]  # [N, L] tokens entering its feed-forward network
    expert_tokens: NDArray[np.int32]  # [N, L, E] tokens that each expert received, 0 where dense
    aux: dict[str, NDArray[np.float32]] = field(default_factory=dict)  # named [N, L], see below
    header: dict[str, object] = field(default_factory=dict)

    # aux "skim_gap": relative gap between the last kept and the first dropped importance, +inf
    # where nothing is dropped; "router_gap": the same between k-th and next router score.

    @property
    def num_samples(self) -> int:
        """N."""
        return int(self.logits.shape[0])

    @property
    def num_layers(self) -> int:
        """L."""
        return int(self.logits.shape[1])
