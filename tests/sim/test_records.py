"""Policies that records tell: replayed as a plain loop over samples does."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from dynsearch.sim.decide import exit_layers
from dynsearch.sim.records import named_arrays
from dynsearch.sim.replay import Replayer
from search_spaces import Candidate, Exits, InputError, apply_policy, load_backbone, policies_of
from search_spaces.exits.decisions import answered_logits, gather_evidence, leaves
from search_spaces.workload import Workload

from .replay_cases import make_cost, make_trace, plain_replay

LAYERS = 6
RNG = np.random.default_rng(11)
TRACE = replace(
    make_trace(RNG, 70, LAYERS),
    aux={
        name: RNG.random((70, LAYERS)).astype(np.float32)
        for name in ("halting", "learned", "cosine_previous")
    }
    | {"position": np.repeat(np.arange(70)[:, None], LAYERS, axis=1).astype(np.float32)},
)
COST = make_cost(RNG, LAYERS, 8)
FULL = Candidate(backbone=load_backbone("minilm-l6"), depth=LAYERS)
EXITS = [
    Exits(layers=(1, 3), criterion="learned", thresholds=(0.8, 0.6)),
    Exits(layers=(2, 3, 4), criterion="halting_sum", thresholds=(0.9,) * 3),
    Exits(layers=(2, 3, 4), criterion="halting_sum", thresholds=(0.7,) * 3),
    Exits(layers=(1, 2, 4), criterion="vote", thresholds=(1.2,) * 3, vote_power=0.5),
    Exits(layers=(1, 3, 4), criterion="flexible_patience", similarity="js", patience=1,
          thresholds=(-0.1,) * 3),
    Exits(layers=(1, 3, 4), criterion="max_prob", thresholds=(0.8,) * 3, aggregator="cache"),
    Exits(layers=(1, 3, 4), criterion="margin", thresholds=(0.5,) * 3, aggregator="poe"),
    Exits(layers=(1, 3, 4), criterion="patience", patience=1, aggregator="vote"),
    Exits(layers=(2, 4), thresholds=(0.6, 0.6), temperatures=(0.5, 2.0)),
    Exits(layers=(2, 4), thresholds=(0.6, 0.6), decay_rate=4.0, decay_length=70),
    Exits(layers=(1, 2, 3, 4), criterion="oracle"),
    Exits(layers=(3,), criterion="static"),
    Exits(layers=(2, 4), thresholds=(0.6, 0.6), temperature=2.0),  # told by the arrays alone
]  # fmt: skip
CANDIDATES = [
    replace(FULL, depth=5 + i % 2, exits=exits, exit_batching=mode)
    for mode in ("serial", "wait_all", "compact")
    for i, exits in enumerate(EXITS)
]


def test_every_record_is_replayed_as_a_plain_loop_does() -> None:
    policies = policies_of(CANDIDATES)
    load = Workload(batch=5)
    replayer = Replayer(
        TRACE,
        COST,
        workloads=[load],
        correct_full=TRACE.logits[:, -1].argmax(axis=-1) == TRACE.labels,
    )
    got = replayer.run(policies)
    where = exit_layers(TRACE.logits, policies, named_arrays(TRACE))
    latencies = replayer.latencies(policies)
    for p, candidate in enumerate(CANDIDATES):
        exits = candidate.exits
        assert exits is not None
        seen = gather_evidence(exits, TRACE.logits, named_arrays(TRACE), candidate.depth)
        gone = leaves(exits, seen)
        columns = np.array([*exits.layers, candidate.depth])
        answers = answered_logits(exits, TRACE.logits[:, columns - 1], columns, candidate.depth)
        wrong = 0
        for i in range(TRACE.num_samples):
            x = int(gone[i].argmax()) if gone[i].any() else len(exits.layers)
            assert where[p, i] == columns[x] - 1
            wrong += int(answers[i, x].argmax() != TRACE.labels[i])
        assert got.n_wrong[p] == wrong
        assert got.exits[p].tolist() == np.bincount(where[p], minlength=LAYERS).tolist()
        for d in range(2):
            plain = plain_replay(TRACE, policies, p, COST, d, load, where[p].tolist())
            assert got.cost("time_per_sample_s")[d, p] == pytest.approx(plain.time / 70)
            assert latencies[d, p] == pytest.approx(np.array(plain.latency))


def test_records_survive_a_stack_and_are_cut_out_of_it_whole() -> None:
    policies = policies_of(CANDIDATES)
    for p, candidate in enumerate(CANDIDATES):
        assert apply_policy(FULL, policies, p) == candidate


def test_an_array_that_the_trace_lacks_is_named() -> None:
    bare = replace(TRACE, aux={})
    full = np.ones(70, dtype=bool)
    replayer = Replayer(bare, COST, workloads=[Workload()], correct_full=full)
    with pytest.raises(InputError, match=r"aux\.learned"):
        replayer.run(policies_of(CANDIDATES[:1]))


def test_aggregated_answers_refuse_losses_of_exits_that_answer_alone() -> None:
    full = np.ones(70, dtype=bool)
    replayer = Replayer(
        TRACE,
        COST,
        workloads=[Workload()],
        correct_full=full,
        row_losses=np.zeros((70, LAYERS)),
    )
    with pytest.raises(InputError, match="row_losses"):
        replayer.run(policies_of(CANDIDATES[5:6]))
