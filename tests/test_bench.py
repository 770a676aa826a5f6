"""A bench times what really runs, takes turns fairly, and chooses configurations by rule."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.stats import rankdata

from dynsearch import timing
from dynsearch.bench import Predictions, bench_run, mape, rank_correlation
from dynsearch.bench_select import BenchConfig, config_of, for_batch, references, select_configs
from dynsearch.bench_timing import (
    encoder_runner,
    make_blocks,
    quiet_machine,
    time_interleaved,
)
from dynsearch.models.dynamic import DynamicEncoder, plan_of
from dynsearch.models.experts import split_experts
from dynsearch.models.tokens import Tokens, load_tokenizer, tokenize
from dynsearch.models.weights import encoder_config, read_backbone, read_pretrained
from dynsearch.quality.training import add_heads
from dynsearch.testing import tiny_model, tiny_texts
from search_spaces.candidate import Backbone, Candidate, Exits, Experts, Skim
from search_spaces.errors import InputError

BACKBONE = Backbone(
    name="tiny",
    num_layers=4,
    hidden_size=32,
    num_heads=4,
    ffn_size=64,
    vocab_size=33,
    max_len=64,
)
FULL = Candidate(backbone=BACKBONE, depth=4)


class Clock:
    """Time that passes only when a runner says so."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def scripted(clock: Clock, log: list[tuple[int, int]], number: int, step: float):
    """A runner whose sample i of a batch has its answer after (i + 1) steps."""

    def run(batch: tuple[int, int]) -> np.ndarray:
        key, size = batch
        log.append((number, key))
        stamps = clock.now + step * (1 + np.arange(size))
        clock.now = float(stamps[-1])
        return stamps

    return run


@given(st.lists(st.integers(1, 5), min_size=1, max_size=6), st.integers(1, 4), st.integers(1, 3))
def test_times_are_recovered_and_every_block_is_run_once_a_repeat(
    sizes: list[int], runners: int, repeats: int
):
    clock, log = Clock(), []
    batches = list(enumerate(sizes))
    blocks = [batches[i : i + 2] for i in range(0, len(batches), 2)]
    run = [scripted(clock, log, i, 2.0 * (i + 1)) for i in range(runners)]
    times = time_interleaved(run, blocks, repeats=repeats, seed=0, clock=clock)
    warm = runners * len(batches)
    for number in range(runners):
        mine = [key for n, key in log[warm:] if n == number]
        assert mine == [key for key, _ in batches] * repeats
    step = 2.0 * (1 + np.arange(runners))
    latency = sum(size * (size + 1) / 2 for size in sizes) / sum(sizes)
    assert np.allclose(times.latency_s, np.tile(step * latency, (repeats, 1)))
    assert np.allclose(times.per_sample_s, np.tile(step, (repeats, 1)))


def test_runners_take_turns_in_an_order_that_the_seed_fixes_and_blocks_vary():
    def orders(seed: int) -> list[tuple[int, ...]]:
        clock, log = Clock(), []
        run = [scripted(clock, log, i, 1.0) for i in range(5)]
        time_interleaved(run, [[(k, 1)] for k in range(8)], repeats=1, seed=seed, clock=clock)
        turns = [number for number, _ in log[5 * 8 :]]
        return [tuple(turns[i : i + 5]) for i in range(0, 40, 5)]

    assert orders(3) == orders(3)
    assert orders(3) != orders(4)
    assert len(set(orders(3))) > 4
    assert all(sorted(turn) == [0, 1, 2, 3, 4] for turn in orders(3))


def test_one_slow_repeat_does_not_move_the_median():
    clock, log = Clock(), []
    calls = 0

    def run(batch: tuple[int, int]) -> np.ndarray:
        nonlocal calls
        calls += 1
        clock.now += 50.0 if calls == 3 else 1.0
        return np.array([clock.now])

    times = time_interleaved([run], [[(0, 1)]], repeats=5, seed=0, clock=clock)
    assert log == []
    assert times.latency_s.max() == 50.0
    assert times.latency_median_s[0] == times.per_sample_median_s[0] == 1.0


@pytest.fixture(scope="module")
def tokens(tmp_path_factory: pytest.TempPathFactory) -> tuple[DynamicEncoder, Tokens]:
    folder = tiny_model(tmp_path_factory.mktemp("tiny"))
    rows = tokenize(load_tokenizer(folder), [t for t, _ in tiny_texts(64)], 20)
    backbone = read_backbone(folder)
    config = encoder_config(backbone, num_classes=2, norm_eps=1e-12)
    weights = add_heads(config, read_pretrained(folder), 0)
    return DynamicEncoder(*split_experts(config, weights, rows, (4,), 0)), rows


EXITING = replace(
    FULL,
    exits=Exits(layers=(1, 2), thresholds=(0.503, 0.505)),
    skim=(Skim(layers=(1,), keep_rate=(0.5,)),),
)


@pytest.mark.parametrize("batch", [1, 8])
def test_a_run_under_the_clock_gives_each_sample_the_time_of_its_own_exit(
    tokens: tuple[DynamicEncoder, Tokens], batch: int, monkeypatch: pytest.MonkeyPatch
):
    encoder, rows = tokens
    ticks = iter(range(10**6))
    monkeypatch.setattr("dynsearch.bench_timing.time.perf_counter", lambda: float(next(ticks)))
    seen = set()
    for block in make_blocks(rows, 64, batch=batch):
        for one in block:
            start = float(next(ticks))
            answered = encoder_runner(encoder, EXITING, batch)(one) - start
            plain = encoder.run(plan_of(for_batch(EXITING, batch)), *one)
            # one tick at the start of each layer: layer l (1-based) is done at tick l + 1,
            # the last one that runs is done at the tick that ends the run
            assert answered.tolist() == (plain.exit_layer + 1).tolist()
            seen |= set(plain.exit_layer.tolist())
    assert seen == {1, 2, 4}


def test_where_exited_samples_wait_all_have_the_time_of_the_batch(
    tokens: tuple[DynamicEncoder, Tokens],
):
    encoder, rows = tokens
    waiting = replace(EXITING, exit_batching="wait_all")
    (one, *_), *_ = make_blocks(rows, 8, batch=8)
    answered = encoder_runner(encoder, waiting, 8)(one)
    assert len(set(answered.tolist())) == 1
    leaving = encoder_runner(encoder, EXITING, 8)(one)
    assert len(set(leaving.tolist())) > 1


@pytest.mark.parametrize("batch", [1, 3, 8])
def test_blocks_hold_the_first_rows_each_once(tokens: tuple[DynamicEncoder, Tokens], batch: int):
    _, rows = tokens
    blocks = make_blocks(rows, 50, batch=batch, block_rows=16)
    lengths = [int(n) for block in blocks for _, ns, _ in block for n in ns]
    assert sorted(lengths) == sorted(rows.lengths[:50].tolist())
    assert (lengths == sorted(lengths)) == (batch > 1)
    assert all(len(block) <= max(1, 16 // batch) for block in blocks)


def test_a_quiet_machine_puts_threads_and_collection_back():
    import gc

    before = torch.get_num_threads()

    def fail() -> None:
        with quiet_machine(1):
            assert not gc.isenabled()
            raise RuntimeError("x")

    with pytest.raises(RuntimeError, match="x"):
        fail()
    assert gc.isenabled()
    assert torch.get_num_threads() == before


FAMILIES = ("exit", "skim", "experts", "exit+skim", "exit+experts", "truncated", "full")


@settings(max_examples=60)
@given(
    st.lists(
        st.tuples(st.sampled_from(FAMILIES), st.integers(1, 1000), st.booleans()),
        min_size=1,
        max_size=60,
    ),
    st.integers(13, 30),
)
def test_chosen_configurations_keep_the_rules_wherever_the_pool_allows(rows: list, count: int):
    pool = [
        BenchConfig(id=f"id{i}", family=family, candidate=FULL, must=must)
        for i, (family, _, must) in enumerate(rows)
    ]
    latency = np.array([time * 1e-3 for _, time, _ in rows])
    chosen, warnings = select_configs(pool, latency, count=count)
    usable = [i for i, c in enumerate(pool) if c.family not in ("full", "truncated")]
    assert set(chosen) <= set(usable)
    assert len(chosen) == len(set(chosen)) == min(count, len(usable))
    assert latency[chosen].tolist() == sorted(latency[chosen])
    must = [i for i in usable if pool[i].must]
    assert len(set(chosen) & set(must)) == min(count, len(must))
    if not must:
        for part in ("skim", "experts"):
            there = sum(part in pool[i].family for i in usable)
            assert sum(part in pool[i].family for i in chosen) >= min(6, there)
    if len(chosen) > 1 and not must and count > 14:
        ends = {latency[usable].min(), latency[usable].max()}
        assert ends <= set(latency[chosen])
    assert any("configurations could be chosen" in w for w in warnings) == (len(usable) < count)


def test_six_of_each_family_are_chosen_even_where_they_add_no_spread():
    families = ["exit"] * 40 + ["skim"] * 7 + ["experts"] * 7
    latency = np.concatenate([np.geomspace(1e-3, 1e-1, 40), np.full(14, 1e-2)])
    pool = [BenchConfig(id=f"id{i}", family=f, candidate=FULL) for i, f in enumerate(families)]
    chosen, warnings = select_configs(pool, latency, count=24)
    found = [families[i] for i in chosen]
    assert (found.count("skim"), found.count("experts"), len(found)) == (6, 6, 24)
    assert {latency[chosen].min(), latency[chosen].max()} == {latency.min(), latency.max()}
    assert warnings == []
    _, warnings = select_configs(pool[:46], latency[:46] * 0 + 1e-3, count=24)
    assert [w.split(",")[0] for w in warnings] == [
        "only 0 configurations with experts",
        "predicted latency spans 1.00x only",
    ]


def test_the_same_id_is_timed_once():
    one = BenchConfig(id="a", family="exit", candidate=FULL)
    chosen, _ = select_configs([one, one, replace(one, id="b")], np.array([1.0, 1.0, 2.0]))
    assert chosen == [0, 2]


def test_references_are_the_full_network_and_truncations_without_any_method():
    found = references(EXITING, layers=(2, 3, 4, 9))
    assert [(c.candidate.depth, c.family) for c in found] == [
        (4, "full"),
        (2, "truncated"),
        (3, "truncated"),
    ]


@given(st.lists(st.tuples(st.floats(0.1, 10), st.floats(0.1, 10)), min_size=3, max_size=20))
def test_agreement_figures_equal_their_definitions(pairs: list[tuple[float, float]]):
    predicted, measured = (np.array(x) for x in zip(*pairs, strict=True))
    total = sum(abs(p - m) / m for p, m in pairs) / len(pairs)
    assert mape(predicted, measured) == pytest.approx(total)
    ranks = [rankdata(x) for x in (predicted, measured)]
    if min(r.std() for r in ranks) > 0:
        expected = np.corrcoef(*ranks)[0, 1]
        assert rank_correlation(predicted, measured) == pytest.approx(expected)
    else:
        assert rank_correlation(predicted, measured) is None


def candidates() -> list[Candidate]:
    out = []
    for depth in (2, 3, 4):
        for threshold in (0.5, 0.504, 0.9):
            base = replace(FULL, depth=depth, exits=Exits(layers=(1,), thresholds=(threshold,)))
            out += [
                base,
                replace(base, skim=(Skim(layers=(1,), keep_rate=(0.5,)),)),
                replace(base, moe=Experts(layers=(2,), num_experts=(4,), top_k=(1,))),
            ]
    return out


def by_depth(given: list[Candidate], batch: int) -> Predictions:
    mean = np.array([1e-4 * c.depth + 1e-9 * int(config_of(c).id[:3], 16) for c in given])
    return Predictions(mean_s=mean, low_s=mean * 0.5, high_s=mean * 2)


def test_a_bench_writes_what_it_returns_with_references_timed_but_not_counted(
    tokens: tuple[DynamicEncoder, Tokens], tmp_path: Path
):
    encoder, rows = tokens
    shares: list[float] = []
    compact = replace(FULL, depth=3, exit_batching="compact")
    result = bench_run(
        tmp_path,
        rows=rows,
        configs=[config_of(c) for c in candidates()] + [config_of(compact)],
        full=FULL,
        encoder=encoder.to,
        predict=by_depth,
        predict_same_rows=lambda given, batch, n: by_depth(given, batch).mean_s * n,
        batches=(1, 8),
        num_rows=16,
        repeats=2,
        on_progress=shares.append,
    )
    assert json.loads((tmp_path / "bench.json").read_text()) == result
    for batch in (1, 8):
        group = [r for r in result["rows"] if r["batch"] == batch]
        counted = [r for r in group if r["counted"]]
        assert len(counted) == 24
        statics = [r for r in group if not r["counted"]]
        assert sorted(r["family"] for r in statics) == ["full", "truncated", "truncated"]
        assert config_of(compact).id in {r["id"] for r in statics}
        for part in ("skim", "experts"):
            assert sum(part in r["family"] for r in counted) >= 6
        for r in group:
            assert 0 < r["measured_min_s"] <= r["measured_s"] <= r["measured_max_s"]
            assert r["predicted_same_rows_s"] == pytest.approx(16 * r["predicted_s"])
        full = next(r for r in statics if r["family"] == "full")
        assert full["predicted_scaled_s"] == pytest.approx(full["measured_s"])
        factors = [r["predicted_scaled_s"] / r["predicted_s"] for r in group]
        assert factors == pytest.approx([factors[0]] * len(group))
        apart = [abs(r["predicted_s"] / r["measured_s"] - 1) for r in counted]
        figure = next(f for f in result["mape"] if f["batch"] == batch)
        assert figure["value"] == pytest.approx(np.mean(apart))
        scaled = [abs(r["predicted_scaled_s"] / r["measured_s"] - 1) for r in counted]
        assert figure["scaled"] == pytest.approx(np.mean(scaled))
    assert result["timed_rows"] == 16
    assert shares == sorted(shares)
    assert shares[-1] == 1.0
    one = [r for r in result["rows"] if r["batch"] == 1]
    assert all(r["time_per_sample_s"] >= r["measured_s"] for r in one)


def test_too_few_rows_and_configurations_are_said(
    tokens: tuple[DynamicEncoder, Tokens], tmp_path: Path
):
    encoder, rows = tokens
    result = bench_run(
        tmp_path,
        rows=rows,
        configs=[config_of(EXITING)],
        full=FULL,
        encoder=encoder.to,
        predict=by_depth,
        batches=(8,),
        num_rows=len(rows) + 1,
        repeats=1,
    )
    assert result["timed_rows"] == len(rows)
    assert any(f"only {len(rows)} rows could be timed" in w for w in result["warnings"])
    assert any("only 1 configurations" in w for w in result["warnings"])


def test_a_dtype_that_the_front_lacks_is_bad_input(
    tokens: tuple[DynamicEncoder, Tokens], tmp_path: Path
):
    encoder, rows = tokens
    with pytest.raises(InputError, match="no dynamic configuration"):
        bench_run(
            tmp_path,
            rows=rows,
            configs=[config_of(EXITING)],
            full=FULL,
            encoder=encoder.to,
            predict=by_depth,
            dtypes=("bf16",),
        )
    assert not (tmp_path / "bench.json").exists()


def test_networks_without_exits_need_no_trace_as_deep_as_they_are() -> None:
    """Those of a pass that stops above them are priced apart, by lengths alone."""

    class Told(timing._Predictor):
        def _price_group(
            self,
            outer: Candidate,
            group: Any,
            batch: int,
            n: int | None,
            *,
            static: bool,
        ) -> tuple[Any, float]:
            assert {c.exits is None for c in group} == {static}
            return np.full(len(group), float(static)), 0.0

    own: Any = None  # nothing but the grouping is asked
    told = Told(scene=own, known={timing._key(EXITING): FULL}, traces={}, full=FULL, opened=own)
    mixed = [EXITING, FULL, replace(FULL, depth=2)]
    assert told.predict(mixed, 1).mean_s.tolist() == [0.0, 1.0, 1.0]
