from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from dynsearch.sim.decode_steps import DecodeCost
from dynsearch.simulate.decode_costs import StepCost
from dynsearch.simulate.generation import generate
from dynsearch.simulate.leaving import Leaving, exit_mask
from dynsearch.simulate.ledger import IDEAL, QUANTITIES, SECONDS, Prices
from dynsearch.simulate.steps import Steps, expected_steps, simulated_steps
from search_spaces.backbones import load_backbone
from search_spaces.candidate import Candidate, Exits, Skim

from .cases import WRITER, decoder, setting

POLICIES = (
    "copy_state",
    "recompute",
    "sync_parallel",
    "pipeline",
    "monotone",
    "self_speculative",
)


@pytest.mark.parametrize("policy", [p for p in POLICIES if p != "pipeline"])
@pytest.mark.parametrize("batch", [1, 3])
def test_simulated_generations_take_the_expected_time(policy: str, batch: int) -> None:
    found = generate(setting(decoder(policy), batch=batch, lengths=(32,), new_tokens=60))
    error = 4.5 * found.latencies.std() / np.sqrt(found.latencies.size / batch)
    slack = 0.02 if policy in ("recompute", "sync_parallel", "self_speculative") else 1e-3
    assert abs(found.latencies.mean() - found.mean_s) < error + slack * found.mean_s
    assert found.latencies.max() <= found.worst_s * 1.001
    if policy != "recompute":  # batches force whole passes, after which less is made again
        assert found.flops_ideal <= found.flops_executed * 1.001


@pytest.mark.parametrize("batch", [1, 3])
def test_tokens_of_a_pipeline_wait_for_the_stages_up_to_their_exit_and_pay_for_all(
    batch: int,
) -> None:
    """Two layers and 0.5 for a check or the head make three stages of 2.5, none of which waits."""
    ones = np.ones((QUANTITIES, 6, batch))
    cost = StepCost(
        parts=DecodeCost(layer=ones, keys=0 * ones, check=0.5 * ones, head=0.5 * ones[:, 0]),
        always=0.2 * ones[:, 0],
        answer=0.5 * ones[:, 0],
        prices=Prices(values=np.zeros((QUANTITIES, 0)), log_sd=0.0, origin="", warnings=()),
    )
    law, rng, count = np.array([0, 0.5, 0, 0.2, 0, 0.3]), np.random.default_rng(batch), 50
    where = rng.choice(6, 20_000, p=law)
    exits = decoder("pipeline").exits
    on = exit_mask(exits, 6)
    leaving = Leaving(where=where, law=law, on=on, accuracy=None, origin="")
    steps = Steps(count=count, first=0, acceptance=0.0, sample=False)
    below = np.cumsum([0.5, 0.2, 0.3]) ** batch  # no row of a step is deeper
    stages = np.diff(below, prepend=0.0) @ [1, 2, 3]
    mean = expected_steps(cost, leaving, exits, steps, batch, wait=True)
    assert mean[SECONDS] == pytest.approx(count * (0.2 + 2.5 * stages))
    assert mean[IDEAL] == pytest.approx(count * (0.2 + 6 + 2 * 0.5 + 0.5))
    drawn = simulated_steps(rng, cost, leaving, exits, steps, batch, 400, wait=True)
    assert drawn.mean() == pytest.approx(mean[SECONDS], rel=0.01)


@pytest.mark.parametrize("policy", POLICIES)
def test_no_policy_is_slower_than_no_exit_at_all(policy: str) -> None:
    whole = Candidate(backbone=WRITER, depth=6, output="text")
    full = generate(setting(whole, lengths=(32,), new_tokens=60))
    exits = generate(setting(decoder(policy), lengths=(32,), new_tokens=60))
    assert exits.mean_s < 1.35 * full.mean_s  # small exits cost heads; nothing else is added
    assert full.exits[-1] == 1.0


@pytest.mark.parametrize("policy", ["recompute", "sync_parallel", "copy_state"])
def test_no_short_generation_takes_longer_than_the_worst(policy: str) -> None:
    """Passes over all that waited, and keys of rows that left, cost more than no exit at all."""
    candidate = decoder(policy, exit_batching="compact")
    found = generate(setting(candidate, batch=3, lengths=(48,), new_tokens=3))
    assert found.latencies.max() <= found.worst_s * (1 + 1e-9)
    whole = Candidate(backbone=WRITER, depth=6, output="text", exit_batching="compact")
    plain = generate(setting(whole, batch=3, lengths=(48,), new_tokens=3))
    assert found.worst_s > plain.worst_s


def test_a_schedule_by_position_runs_the_layers_that_it_states() -> None:
    exits = Exits(
        layers=(2, 4),
        criterion="position_schedule",
        schedule=(6, 4, 2),
        schedule_length=60,
        granularity="token",
        head="norm_lm",
        kv_policy="monotone",
    )
    one = Candidate(backbone=WRITER, depth=6, exits=exits, output="text")
    two = Candidate(backbone=WRITER, depth=6, output="text")
    start: dict[str, Any] = {"lengths": (1,), "new_tokens": 60}
    scheduled, full = (generate(setting(c, **start)) for c in (one, two))
    assert scheduled.activity == "counted"
    saved = 1 - scheduled.more["per_token_s"] / full.more["per_token_s"]
    assert 0.15 < saved < 1 / 3  # four of six layers on average, and a head


def test_routed_depth_halves_what_half_of_the_layers_do() -> None:
    skim = Skim(
        layers=(2, 4, 6),
        keep_rate=(0.125, 0.125, 0.125),
        mechanism="topk_router",
        score="router",
        point="before_layer",
        skipped="pass_through",
        causal_predictor=True,
    )
    whole = Candidate(backbone=WRITER, depth=6, output="text")
    routed = whole.with_policy(skim=(skim,))
    full, less = (generate(setting(c, lengths=(64,), new_tokens=0)) for c in (whole, routed))
    head = 2.0 * WRITER.hidden_size * WRITER.vocab_size
    share = (less.flops_ideal - head) / (full.flops_ideal - head)
    assert 0.5 < share < 0.6


def test_one_sequence_loads_as_many_experts_as_a_token_sees() -> None:
    mixtral = Candidate(
        backbone=load_backbone("mixtral-8x7b"), depth=32, output="text", dtype="bf16"
    )
    alone = generate(setting(mixtral, batch=1, new_tokens=8))
    many = generate(setting(mixtral, batch=16, new_tokens=8))
    assert alone.experts[0].touched == pytest.approx(2.0)
    assert many.experts[0].touched == pytest.approx(8 * (1 - 0.75**16), rel=1e-6)
    # 46.7e9 parameters in two bytes each (methods.md, P08), and a cache
    assert 93.4e9 < alone.peak_bytes < 93.6e9


def test_an_encoder_decoder_reads_once_and_writes_every_token() -> None:
    t5 = Candidate(backbone=load_backbone("t5-small"), depth=6, output="text")
    short, long = (generate(setting(t5, lengths=(64,), new_tokens=n)) for n in (8, 16))
    step = short.more["per_token_s"]
    assert short.more["first_token_s"] == pytest.approx(long.more["first_token_s"])
    assert short.mean_s == pytest.approx(short.more["first_token_s"] + 8 * step)
