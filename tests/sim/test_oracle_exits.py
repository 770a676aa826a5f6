"""The best that exits can do, on a published trace, and what a batch leaves of it."""

from __future__ import annotations

import numpy as np
import pytest

from dynsearch.quality.trace import Trace
from dynsearch.sim.layer_cost import LayerCost, StageTable
from dynsearch.sim.replay import Replayer
from search_spaces import Candidate, Exits, load_backbone, policies_of
from search_spaces.workload import Workload

from ..cost_models.shared_data import data_file, needs_data

LAYERS = 12
SPEED_UPS = (3.90, 2.00, 1.53, 1.22, 1.05, 1.00)  # at these batches
BATCHES = (1, 4, 8, 16, 32, 64)


@pytest.fixture(scope="module")
def replayer() -> Replayer:
    table = data_file("traces/snli-exits/exit_correctness.csv")[0]
    right = np.loadtxt(table, delimiter=",", skiprows=1, dtype=np.int64)[:, 1:]
    rng = np.random.default_rng(0)
    # batches of 8 orders, so that which samples meet is no more than half a percent of chance
    right = right[np.concatenate([rng.permutation(len(right)) for _ in range(8)])]
    n = len(right)
    logits = np.stack([right, 1 - right], axis=-1).astype(np.float32)
    ones = np.ones((n, LAYERS), dtype=np.int32)
    trace = Trace(
        logits=logits,
        labels=np.zeros(n, dtype=np.int64),
        lengths=np.ones(n, dtype=np.int64),
        tokens_layer=ones,
        tokens_ffn=ones,
        expert_tokens=np.zeros((n, LAYERS, 1), dtype=np.int32),
    )

    def stages() -> StageTable:
        free = np.zeros((1, LAYERS, max(BATCHES), 1))
        return StageTable(
            embed=free[:, 0], layer=np.ones(free.shape), check=free, head=free, compact=free
        )

    cost = LayerCost(
        devices=("equal layers",),
        lengths=np.array([1]),
        seconds=stages(),
        joules=stages(),
        log_sd=np.zeros(1),
    )
    return Replayer(
        trace,
        cost,
        workloads=[Workload(batch=batch) for batch in BATCHES],
        correct_full=right[:, -1] == 1,
    )


@needs_data
def test_oracle_exits_and_what_waiting_for_a_batch_leaves_of_them(replayer: Replayer) -> None:
    exits = Exits(layers=tuple(range(1, LAYERS)), criterion="oracle")
    oracle = Candidate(
        backbone=load_backbone("bert-base"), depth=12, exits=exits, exit_batching="wait_all"
    )
    got = replayer.run(policies_of([oracle]), ("time_per_sample_s",))
    mean = float((got.exits[0] * np.arange(1, 13)).sum() / got.num_samples)
    assert mean == pytest.approx(3.08, abs=0.005)
    for i, (batch, want) in enumerate(zip(BATCHES, SPEED_UPS, strict=True)):
        layers = float(got.cost("time_per_sample_s", i)[0, 0]) * batch
        assert 12 / layers == pytest.approx(want, rel=0.01)
