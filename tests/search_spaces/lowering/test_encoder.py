from __future__ import annotations

import math
from dataclasses import fields, replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from search_spaces import (
    DTYPES,
    KIND,
    KINDS,
    Activity,
    Candidate,
    Exits,
    Experts,
    InputError,
    LayerShapes,
    OpTable,
    SearchSpace,
    Skim,
    keep_counts,
    load_backbone,
    lower,
    lower_compaction,
    lower_embedding,
    lower_exit_check,
    lower_layers,
    stack,
)
from search_spaces.lowering.encoder import (
    expected_experts,
    lower_entry,
    lower_expert_overheads,
)
from search_spaces.tokens import SCORER_WIDTH

BERT = load_backbone("bert-base")
MINI = load_backbone("minilm-l6")
H, F = MINI.hidden_size, MINI.ffn_size
FULL = Candidate(backbone=MINI, depth=6)
SPACE = SearchSpace.from_dict(
    {
        "dtype": ["fp32", "bf16"],
        "pooling": ["mean", "cls"],
        "skim": {"layers": [1, 3], "keep": [1.0, 0.6, 0.3]},
        "experts": {"groups": [[2, 4]], "granularity": ["token", "sequence"]},
        "exits": {"batching": ["compact"]},
    },
    backbone=MINI,
)
MATMULS = [KIND[k] for k in ("matmul", "attention_prefill", "attention_importance")]


def shapes(**changes: Any) -> LayerShapes:
    values: dict[str, Any] = {
        "layer": [0],
        "n_in": [16],
        "n_ffn": [16],
        "batch": [1],
        "drops": [False],
        "num_experts": [1],
        "top_k": [1],
        "granularity": [0],
        "dtype": [0],
    }
    values |= changes
    rows = max(len(v) for v in values.values())
    return LayerShapes(**{k: np.resize(np.array(v), rows) for k, v in values.items()})


def kinds(table: OpTable) -> list[str]:
    return [KINDS[k] for k in table.kind]


def only(table: OpTable, kind: str) -> OpTable:
    return table.take(table.kind == KIND[kind])


def per_row(table: OpTable, values: Any, rows: int) -> Any:
    return np.bincount(table.candidate, weights=table.count * values, minlength=rows)


@pytest.mark.parametrize(("n", "macs"), [(1, 7079424), (2, 14161920), (47, 336053760)])
def test_a_bert_base_layer_costs_the_published_macs(n: int, macs: int) -> None:
    # TR-BERT's table for 12 h^2 n + 2 h n^2 multiply-adds
    table = lower_layers(BERT, shapes(n_in=[n], n_ffn=[n]))
    heavy = table.take(np.isin(table.kind, MATMULS))
    assert heavy.flops.sum() == 2 * macs
    assert np.array_equal(heavy.flops, heavy.executed_flops)


def test_a_dense_layer_is_these_operators_in_this_order() -> None:
    table = lower_layers(MINI, shapes(batch=[3]))
    assert kinds(table) == [
        "matmul",
        "attention_prefill",
        "matmul",
        "elementwise",
        "matmul",
        "elementwise",
        "matmul",
        "elementwise",
    ]
    matmuls = only(table, "matmul")
    assert matmuls.m.tolist() == [48] * 4
    assert matmuls.k.tolist() == [H, H, H, F]
    assert matmuls.n.tolist() == [3 * H, H, F, H]
    # weights and biases of the layer, 4 bytes each: all but the two layer norms
    assert matmuls.weight_bytes.sum() == 4 * (12 * H * H + 9 * H)
    assert table.weight_bytes.sum() == 4 * (12 * H * H + 13 * H)
    attention = only(table, "attention_prefill")
    assert [int(x[0]) for x in (attention.m, attention.k, attention.n, attention.batch)] == [
        16,
        32,
        16,
        3 * 12,
    ]


def test_bytes_follow_the_width_of_the_dtype() -> None:
    table = lower_layers(MINI, shapes(dtype=[0, 1]))
    for name in ("weight_bytes", "activation_bytes"):
        wide, narrow = per_row(table, getattr(table, name), 2)
        assert wide == 2 * narrow > 0


@pytest.mark.parametrize("experts", [1, 4])
def test_int8_covers_the_matrices_of_a_layer_and_all_else_is_an_fp32_operator(
    experts: int,
) -> None:
    more = {"num_experts": [experts], "batch": [3], "drops": [True], "n_ffn": [9]}
    fp32 = lower_layers(MINI, shapes(**more, dtype=[DTYPES.index("fp32")]))
    int8 = lower_layers(MINI, shapes(**more, dtype=[DTYPES.index("int8")]))
    router = (int8.kind == KIND["matmul"]) & (int8.n == experts)
    body = np.isin(int8.kind, [KIND["matmul"], KIND["grouped_matmul"]]) & ~router
    assert body.sum() == 4
    assert (int8.dtype == np.where(body, DTYPES.index("int8"), DTYPES.index("fp32"))).all()
    np.testing.assert_array_equal(
        int8.weight_bytes, np.where(body, fp32.weight_bytes / 4, fp32.weight_bytes)
    )
    for name in ("kind", "count", "m", "k", "n", "activation_bytes", "flops", "executed_flops"):
        np.testing.assert_array_equal(getattr(int8, name), getattr(fp32, name))


@pytest.mark.parametrize(
    ("dtype", "plain", "weight_bytes"),
    [("tf32", "fp32", 4.0), ("fp8", "bf16", 1.0), ("int4", "bf16", 0.5)],
)
def test_serving_formats_change_the_matrices_and_leave_their_plain_type_around_them(
    dtype: str, plain: str, weight_bytes: float
) -> None:
    found, around = (lower_layers(MINI, shapes(dtype=[DTYPES.index(d)])) for d in (dtype, plain))
    body = found.kind == KIND["matmul"]
    assert {DTYPES[d] for d in found.dtype[body]} == {dtype}
    assert {DTYPES[d] for d in found.dtype[~body]} == {plain}
    values = found.k[body] * found.n[body] + found.n[body]
    np.testing.assert_array_equal(found.weight_bytes[body], weight_bytes * values)
    np.testing.assert_array_equal(found.activation_bytes, around.activation_bytes)


def test_heads_and_embeddings_of_int8_are_those_of_fp32() -> None:
    one = replace(FULL, depth=3, exits=Exits(layers=(1,), thresholds=(0.9,)))
    tables = [
        lower(stack([replace(one, dtype=d)]), lengths=12, batch=2, num_classes=2)
        for d in ("fp32", "int8")
    ]
    same = tables[1].dtype == DTYPES.index("fp32")
    assert same.sum() == len(tables[1]) - 3 * 4
    for f in fields(OpTable):
        a, b = (getattr(t, f.name) for t in tables)
        np.testing.assert_array_equal(a[same], b[same])


def test_a_dropping_layer_pays_explicit_attention_and_then_works_on_what_is_left() -> None:
    table = lower_layers(MINI, shapes(n_ffn=[4], drops=[True]))
    importance = only(table, "attention_importance")
    assert "attention_prefill" not in kinds(table)
    pairs = MINI.num_heads * 16 * 16
    assert importance.flops[0] == 4 * pairs * MINI.head_size + 6 * pairs
    kept_moves = 4 * 4 * H  # context and residual, read and written
    assert importance.activation_bytes[0] == 4 * (4 * 16 * H + 5 * pairs + kept_moves)
    assert only(table, "matmul").m.tolist() == [16, 4, 4, 4]
    assert only(table, "elementwise").m.tolist() == [4, 4, 4]


def test_a_long_text_pays_scores_of_few_queries_and_fused_attention_of_what_stays() -> None:
    n, kept, asked = 160, 40, 64
    table = lower_layers(MINI, shapes(n_in=[n], n_ffn=[kept], drops=[True]))
    importance, fused = only(table, "attention_importance"), only(table, "attention_prefill")
    pairs = MINI.num_heads * n * asked
    assert (importance.m[0], importance.n[0], fused.m[0], fused.n[0]) == (asked, n, kept, n)
    assert importance.flops[0] == 2 * pairs * MINI.head_size + 6 * pairs
    assert fused.flops[0] == 4 * MINI.num_heads * kept * n * MINI.head_size
    assert importance.activation_bytes[0] == 4 * ((asked + n) * H + 4 * pairs + 4 * kept * H)
    assert fused.activation_bytes[0] == 4 * 2 * (kept + n) * H


def test_experts_by_token_pay_router_sync_dispatch_and_those_that_got_rows() -> None:
    table = lower_layers(MINI, shapes(batch=[2], num_experts=[8], top_k=[2], granularity=[0]))
    T, E, k = 32, 8, 2
    touched = E * (1 - (1 - k / E) ** T)
    router = only(table, "matmul").take(only(table, "matmul").n == E)
    assert (router.m[0], router.k[0]) == (T, H)
    assert len(only(table, "host_sync")) == 1
    gather = only(table, "gather")
    experts = only(table, "grouped_matmul")
    assert experts.count.tolist() == pytest.approx([touched] * 2)
    assert experts.m.tolist() == [math.floor(T * k / touched + 0.5)] * 2
    assert (experts.k.tolist(), experts.n.tolist()) == ([H, F // E], [F // E, H])
    # sorted by expert and put back: all T k rows at once; padding left out and put back: T rows
    assert (gather.m.tolist(), gather.n.tolist()) == ([T * k, T], [H, H])
    assert gather.count.tolist() == [2.0, 2.0]
    added = only(table, "reduce")
    assert (int(added.m[-1]), int(added.n[-1])) == (T * H, k)  # the k answers of each token
    # what the method asks for does not depend on how rows fall on experts
    asked = float((experts.count * experts.flops).sum())
    assert asked == pytest.approx(2 * T * k * 2 * H * F / E)


def test_experts_by_sequence_route_once_per_sequence() -> None:
    table = lower_layers(MINI, shapes(batch=[3], num_experts=[4], top_k=[1], granularity=[1]))
    gather = only(table, "gather")
    assert (gather.m.tolist(), gather.count.tolist()) == ([48], [2.0])
    pooling = only(table, "reduce")
    assert (pooling.m[0], pooling.n[0]) == (3 * H, 16)
    router = only(table, "matmul").take(only(table, "matmul").n == 4)
    assert router.m[0] == 3
    touched = 4 * (1 - 0.75**3)
    experts = only(table, "grouped_matmul")
    assert experts.count[0] == pytest.approx(touched)
    assert experts.m[0] == 21  # 48 rows / 2.3125 = 20.76


@pytest.mark.parametrize("batch", [1, 3])
@pytest.mark.parametrize("granularity", [0, 1])
def test_routers_and_dispatch_are_operators_of_their_layer(batch: int, granularity: int) -> None:
    """What is left of the layer without them is as many operators as a dense layer has."""
    same: dict[str, Any] = {"batch": [batch], "granularity": [granularity]}
    more = shapes(num_experts=[4], top_k=[2], **same)
    whole, (router, dispatch) = lower_layers(MINI, more), lower_expert_overheads(MINI, more)
    assert kinds(router).count("host_sync") == kinds(router).count("matmul") == 1
    assert set(kinds(dispatch)) <= {"gather", "elementwise", "reduce"}
    names = [f.name for f in fields(OpTable)]
    rows = [tuple(getattr(whole, name)[i] for name in names) for i in range(len(whole))]
    for table in (router, dispatch):
        for i in range(len(table)):
            rows.remove(tuple(getattr(table, name)[i] for name in names))
    assert len(rows) == len(lower_layers(MINI, shapes(**same)))
    assert sum(map(len, lower_expert_overheads(MINI, shapes(**same)))) == 0


@given(E=st.integers(2, 8), T=st.integers(1, 5), data=st.data())
@settings(max_examples=20)
def test_the_expected_number_of_touched_experts_is_a_mean_over_all_routings(
    E: int, T: int, data: st.DataObject
) -> None:
    k = data.draw(st.integers(1, E))
    # inclusion-exclusion: an expert is missed by one item with probability C(E-1, k) / C(E, k)
    missed = (math.comb(E - 1, k) / math.comb(E, k)) ** T
    assert float(expected_experts(E, k, T)) == pytest.approx(E * (1 - missed))


def test_one_sequence_touches_exactly_k_experts() -> None:
    table = lower_layers(MINI, shapes(num_experts=[8], top_k=[2], granularity=[1]))
    experts = only(table, "grouped_matmul")
    assert experts.count.tolist() == pytest.approx([2.0, 2.0])
    assert experts.m.tolist() == [16, 16]
    assert "gather" not in kinds(table)


def test_using_all_experts_costs_what_the_dense_layer_costs() -> None:
    moe = Experts(layers=(1, 2), num_experts=(4, 4), top_k=(4, 4))
    dense, all_of_them = (
        lower(stack([c]), lengths=32, batch=2, num_classes=2)
        for c in (FULL, FULL.with_policy(moe=moe))
    )
    for f in fields(OpTable):
        assert np.array_equal(getattr(dense, f.name), getattr(all_of_them, f.name)), f.name


def test_padding_counts_as_executed_and_not_as_asked() -> None:
    real = {"real_in": [8.0], "real_in_sq": [80.0], "real_ffn": [4.0]}
    table = lower_layers(MINI, shapes(n_ffn=[8], drops=[True], **real))
    plain = lower_layers(MINI, shapes(n_ffn=[8], drops=[True]))
    assert np.array_equal(table.executed_flops, plain.executed_flops)
    share = table.flops / table.executed_flops
    assert share[0] == 8 / 16
    assert share[kinds(table).index("attention_importance")] == 80 / 256
    assert share[-1] == 4 / 8


def test_rows_do_not_change_each_other() -> None:
    many = shapes(
        n_in=[16, 64, 32],
        n_ffn=[8, 64, 32],
        drops=[True, False, False],
        batch=[1, 4, 2],
        num_experts=[1, 1, 8],
        top_k=[1, 1, 2],
        dtype=[0, 1, 0],
    )
    together = lower_layers(MINI, many)
    for row in range(3):
        one = LayerShapes(
            **{
                f.name: None if (v := getattr(many, f.name)) is None else v[row : row + 1]
                for f in fields(LayerShapes)
            }
        )
        alone, part = lower_layers(MINI, one), together.take(together.candidate == row)
        for f in fields(OpTable):
            if f.name != "candidate":
                assert np.array_equal(getattr(alone, f.name), getattr(part, f.name)), f.name


def test_an_exit_check_ends_in_a_synchronisation_and_the_last_head_does_not() -> None:
    table = lower_exit_check(
        MINI,
        layer=[2, 5],
        batch=[4, 1],
        n=[16, 8],
        dtype=[0, 0],
        num_classes=3,
        check=[True, False],
    )
    checked, last = (table.take(table.candidate == r) for r in (0, 1))
    body = ["reduce", "matmul", "elementwise", "matmul"]
    assert kinds(checked) == [*body, "reduce", "host_sync"]
    assert kinds(last) == body
    assert (checked.m[0], checked.n[0]) == (4 * H, 16)
    assert only(checked, "matmul").n.tolist() == [H, 3]
    assert set(last.layer.tolist()) == {5}


def test_a_linear_head_on_cls_is_a_gather_and_one_matmul() -> None:
    table = lower_exit_check(
        MINI, layer=0, batch=2, n=16, dtype=0, num_classes=2, head="linear", check=False, pooling=1
    )
    assert kinds(table) == ["gather", "matmul"]
    assert table.flops.sum() == 2 * 2 * H * 2


def test_an_unknown_head_and_other_backbones_are_refused() -> None:
    with pytest.raises(InputError, match="pooler_linear"):
        lower_exit_check(MINI, layer=0, batch=1, n=4, dtype=0, num_classes=2, head="mlp")
    decoder = replace(MINI, type="decoder")
    with pytest.raises(InputError, match="not lowered yet"):
        lower_layers(decoder, shapes())


def test_compaction_copies_the_rows_that_stay() -> None:
    table = lower_compaction(MINI, layer=[3], remaining=[5], n=[16], dtype=[1])
    assert kinds(table) == ["gather"]
    assert (table.m[0], table.n[0], table.layer[0]) == (5 * 16, H, 3)
    assert table.activation_bytes[0] == 2 * 2 * 5 * 16 * H


def test_an_embedding_looks_up_three_tables_adds_and_normalises() -> None:
    table = lower_embedding(MINI, batch=2, n=[8, 16], dtype=0)
    assert kinds(table.take(table.candidate == 0)) == ["gather", "elementwise", "elementwise"]
    assert table.count.tolist() == [3, 3, 2, 2, 1, 1]
    assert table.m.tolist() == [16, 32] * 3


def by_hand(candidate: Candidate, n: int, batch: int, classes: int) -> float:
    """Multiply-adds of matmuls and attention, times two, layer by layer in plain Python."""
    h, f = candidate.backbone.hidden_size, candidate.backbone.ffn_size
    rates = (
        dict(zip(candidate.skim[0].layers, candidate.skim[0].keep_rate, strict=True))
        if candidate.skim
        else {}
    )
    moe, total, rate, inside = candidate.moe, 0.0, 1.0, n
    for layer in range(1, candidate.depth + 1):
        rate = min(rate, rates.get(layer, 1.0))
        kept = min(n, max(2, math.ceil(rate * n - 1e-9)))
        total += 3 * h * h * inside + 2 * h * inside * inside + h * h * kept
        if moe and layer in moe.layers:
            E, k = (v[moe.layers.index(layer)] for v in (moe.num_experts, moe.top_k))
            total += (kept if moe.granularity == "token" else 1) * h * E + 2 * h * f * kept * k / E
        else:
            total += 2 * h * f * kept
        exits = candidate.exits.layers if candidate.exits else ()
        total += h * h + h * classes if layer in (*exits, candidate.depth) else 0
        inside = kept
    return 2 * batch * total


@given(seed=st.integers(0, 10_000), n=st.integers(4, 64), batch=st.integers(1, 4))
@settings(max_examples=30)
def test_whole_candidates_cost_what_a_loop_over_layers_says(seed: int, n: int, batch: int) -> None:
    candidates = SPACE.sample(np.random.default_rng(seed), 4)
    table = lower(candidates, lengths=[2, n], batch=batch, num_classes=3)
    matmuls = table.flops * np.isin(table.kind, [KIND["matmul"], KIND["grouped_matmul"]])
    rows = {"attention_prefill": table.kind == KIND["attention_prefill"]}
    rows["attention_importance"] = table.kind == KIND["attention_importance"]
    attention = sum(
        4.0 * table.batch * table.m * table.n * table.k * mask for mask in rows.values()
    )
    got = per_row(table, matmuls + attention, 4)
    expected = [by_hand(candidates.row(i), n, batch, 3) for i in range(4)]
    assert got.tolist() == pytest.approx(expected, rel=1e-12)


def test_layers_after_a_drop_before_the_first_are_those_of_a_shorter_text() -> None:
    learned = {"score": "learned", "point": "before_layer", "gate_width": SCORER_WIDTH}
    skim = Skim(layers=(1,), keep_rate=(0.25,), **learned)
    half = stack([Candidate(backbone=MINI, depth=3, skim=(skim,))])
    plain = stack([Candidate(backbone=MINI, depth=3)])
    long, short = (
        lower(batch, lengths=n, batch=2, num_classes=3) for batch, n in ((half, 80), (plain, 20))
    )
    entry = lower_entry(MINI, batch=2, n=80, kept=[80, 20], dtype=0)
    before = lower_embedding(MINI, batch=2, n=20, dtype=0)
    layers = short.flops.sum() - before.flops.sum()
    assert long.flops.sum() == layers + entry.flops[entry.candidate == 1].sum()
    scorer = 2 * 2 * 80 * (MINI.hidden_size * SCORER_WIDTH + SCORER_WIDTH)
    assert only(entry, "matmul").flops.sum() == scorer
    assert (
        entry.flops[entry.candidate == 0].sum()
        == lower_embedding(MINI, batch=2, n=80, dtype=0).flops.sum()
    )


@given(seed=st.integers(0, 10_000))
@settings(max_examples=20)
def test_candidates_do_not_change_each_other(seed: int) -> None:
    candidates = SPACE.sample(np.random.default_rng(seed), 3)
    together = lower(candidates, lengths=40, batch=2, num_classes=2)
    for i in range(3):
        alone = lower(candidates.take(np.array([i])), lengths=40, batch=2, num_classes=2)
        part = together.take(together.candidate == i)
        for f in fields(OpTable):
            if f.name != "candidate":
                assert np.array_equal(getattr(alone, f.name), getattr(part, f.name)), f.name


@given(
    n=st.integers(32, 128),
    first=st.floats(0.3, 0.9),
    second=st.floats(0.05, 0.25),
    raised=st.floats(0.0, 1.0),
    which=st.booleans(),
)
@settings(max_examples=50)
def test_a_raised_keep_rate_never_lowers_flops_while_the_same_layers_drop(
    n: int, first: float, second: float, raised: float, which: bool
) -> None:
    low = (first, second)
    high = (first + raised * (0.95 - first), second) if which else (first, second + raised * 0.04)
    skims = [FULL.with_policy(skim=(Skim(layers=(1, 3), keep_rate=r),)) for r in (low, high)]
    table = lower(stack(skims), lengths=n, batch=1, num_classes=2)
    less, more = per_row(table, table.flops, 2)
    assert more >= less


def test_a_text_too_short_to_lose_a_token_pays_fused_attention() -> None:
    skimmed = stack([FULL.with_policy(skim=(Skim(layers=(1,), keep_rate=(0.9,)),))])
    short, long = (lower(skimmed, lengths=n, batch=1, num_classes=2) for n in (9, 10))
    assert "attention_importance" not in kinds(short)
    assert only(long, "attention_importance").layer.tolist() == [0]


def test_an_exit_or_a_layer_more_costs_exactly_its_own_operators() -> None:
    exits = Exits(layers=(2,), thresholds=(0.9,))
    pair = stack([FULL, FULL.with_policy(exits=exits)])
    table = lower(pair, lengths=16, batch=1, num_classes=2)
    plain, with_exit = per_row(table, table.flops, 2)
    sync = only(table, "host_sync")
    assert (sync.candidate.tolist(), sync.layer.tolist()) == ([1], [1])
    head = lower_exit_check(MINI, layer=1, batch=1, n=16, dtype=0, num_classes=2)
    assert with_exit - plain == pytest.approx(head.flops.sum())
    depths = lower(
        stack([replace(FULL, depth=d) for d in (3, 4)]), lengths=16, batch=1, num_classes=2
    )
    shallow, deep = per_row(depths, depths.flops, 2)
    assert deep - shallow == pytest.approx(lower_layers(MINI, shapes()).flops.sum())
    assert depths.layer.max() == 3


def test_given_activity_only_real_tokens_are_asked_for_and_counts_ignore_reach() -> None:
    skimmed = FULL.with_policy(skim=(Skim(layers=(2,), keep_rate=(0.5,)),))
    candidates = stack([skimmed])
    tokens = keep_counts(np.array(16), np.array([1.0, 1.0, 0.5, 0.5, 0.5, 0.5]))
    reach = Activity(
        reach=np.array([[1, 0.5, 0.5, 0.25, 0.25, 0.25]]),
        tokens=np.stack([tokens / 2, tokens**2 / 4], axis=1)[None],
        expert_load=np.ones((1, 6, 1)),
    )
    given = lower(candidates, lengths=16, batch=4, num_classes=2, reach=reach)
    plain = lower(candidates, lengths=16, batch=4, num_classes=2)
    assert np.array_equal(given.count, plain.count)
    assert np.array_equal(given.executed_flops, plain.executed_flops)
    layers = np.isin(given.kind, MATMULS) & (given.m > 4)
    share = given.flops[layers] / plain.flops[layers]
    attention = np.isin(given.kind[layers], MATMULS[1:])
    assert share[~attention].tolist() == pytest.approx([0.5] * int((~attention).sum()))
    assert share[attention].tolist() == pytest.approx([0.25] * int(attention.sum()))
