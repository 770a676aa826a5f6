"""Criteria that need more than one exit's logits, against plain Python."""

from __future__ import annotations

import math
from dataclasses import replace

import numpy as np
import pytest

from dynsearch.conformance import check_aggregator, check_criterion, sample_evidence, sample_exits
from search_spaces import Exits, InputError, exit_criteria, exit_criterion
from search_spaces.exits.base import Evidence, ExitCriterion
from search_spaces.exits.decay import decayed
from search_spaces.exits.decisions import (
    aggregators,
    answered_logits,
    exit_scores,
    gather_evidence,
    leaves,
    required_aux,
)
from search_spaces.exits.flexible_patience import DIVERGENCES
from search_spaces.exits.hash import random_layers, ranked_layers, sample_layers
from search_spaces.exits.position_schedule import budgets
from search_spaces.exits.prediction_set import log_gamma_draw, nested_sets

RNG = np.random.default_rng(3)
LOGITS = RNG.normal(size=(60, 6, 3)) * 2.0
LAYERS = (1, 2, 4, 5)
AUX = {
    "halting": RNG.random((60, 6)) * 0.5,
    "learned": RNG.random((60, 6)),
    "cosine_previous": RNG.uniform(-1, 1, (60, 6)),
    "planned_layer": np.repeat(RNG.integers(1, 7, (60, 1)), 6, axis=1),
    "hash_layer": np.repeat(RNG.integers(1, 7, (60, 1)), 6, axis=1),
    "position": np.repeat(np.arange(60)[:, None], 6, axis=1),
    "sequence": np.repeat(np.arange(60)[:, None] // 7, 6, axis=1),
    "correct": RNG.integers(0, 2, (60, 6)),
}


def policy(criterion: str, **fields: object) -> Exits:
    return Exits(layers=LAYERS, criterion=criterion, **fields)  # type: ignore[arg-type]


def first_exit(exits: Exits) -> list[int | None]:
    """Layer at which each row leaves early, None where it does not."""
    seen = gather_evidence(exits, LOGITS, AUX, 6)
    gone = leaves(exits, seen)
    return [LAYERS[int(row.argmax())] if row.any() else None for row in gone]


def softmax(z: np.ndarray) -> list[float]:
    total = math.fsum(math.exp(x) for x in z)
    return [math.exp(x) / total for x in z]


@pytest.mark.parametrize("kind", sorted(exit_criteria()))
def test_every_criterion_conforms(kind: str) -> None:
    check_criterion(exit_criteria()[kind])


@pytest.mark.parametrize("kind", sorted(aggregators()))
def test_every_aggregator_conforms(kind: str) -> None:
    check_aggregator(aggregators()[kind])


def test_a_criterion_that_looks_at_its_batch_or_ahead_does_not_conform() -> None:
    def ahead(exits: Exits, seen: Evidence) -> np.ndarray:
        return np.repeat(seen.logits[:, -1:].max(axis=-1), seen.layers.size, axis=1)

    def mates(exits: Exits, seen: Evidence) -> np.ndarray:
        return seen.logits.max(axis=-1) - seen.logits.mean()

    def undeclared(exits: Exits, seen: Evidence) -> np.ndarray:
        return seen.array("halting")

    def reversed_(exits: Exits, seen: Evidence) -> np.ndarray:
        return -seen.logits.max(axis=-1)

    for trail, words in (
        (ahead, "come after"),
        (mates, "otherwise alone"),
        (undeclared, "does not declare"),
        (reversed_, "score below others"),
    ):
        with pytest.raises(AssertionError, match=words):
            check_criterion(ExitCriterion(kind="user", trail=trail))


def test_halting_sums_and_distributions_stop_where_the_definition_does() -> None:
    for row, (by_sum, by_cdf) in enumerate(
        zip(
            first_exit(policy("halting_sum", thresholds=(0.6,) * 4)),
            first_exit(policy("halting_cdf", thresholds=(0.5,) * 4)),
            strict=True,
        )
    ):
        total, stays, want_sum, want_cdf = 0.0, 1.0, None, None
        for layer in LAYERS:
            p = AUX["halting"][row, layer - 1]
            total, stays = total + p, stays * (1 - p)
            want_sum = layer if want_sum is None and total >= 0.6 else want_sum
            want_cdf = layer if want_cdf is None and 1 - stays >= 0.5 else want_cdf
        assert (by_sum, by_cdf) == (want_sum, want_cdf)


@pytest.mark.parametrize("name", ["kl", "reverse_kl", "sym_kl", "js"])
def test_flexible_patience_counts_neighbours_that_are_close(name: str) -> None:
    exits = policy("flexible_patience", thresholds=(-0.4,) * 4, patience=2, similarity=name)
    for row, got in enumerate(first_exit(exits)):
        count, before, want = 0, None, None
        for layer in LAYERS:
            p = softmax(LOGITS[row, layer - 1])
            if before is not None:
                forward = math.fsum(a * math.log(a / b) for a, b in zip(before, p, strict=True))
                back = math.fsum(b * math.log(b / a) for a, b in zip(before, p, strict=True))
                middle = [(a + b) / 2 for a, b in zip(before, p, strict=True)]
                js = 0.5 * math.fsum(
                    a * math.log(a / m) + b * math.log(b / m)
                    for a, b, m in zip(before, p, middle, strict=True)
                )
                values = {"kl": forward, "reverse_kl": back, "sym_kl": forward + back, "js": js}
                count = count + 1 if values[name] <= 0.4 else 0
            before = p
            want = layer if want is None and count >= 2 else want
        assert got == want


def test_patience_needs_agreement_and_patient_confidence_needs_certainty() -> None:
    agreed = first_exit(policy("patience", patience=2))
    sure = first_exit(policy("patience_confidence", thresholds=(0.3,) * 4, patience=2))
    for row in range(60):
        run, before, want = 0, None, None
        certain, want_sure = 0, None
        for layer in LAYERS:
            p = softmax(LOGITS[row, layer - 1])
            answer = p.index(max(p))
            run = run + 1 if answer == before else 0
            before = answer
            want = layer if want is None and run >= 2 else want
            entropy = -math.fsum(x * math.log(x) for x in p)
            certain = certain + 1 if 1 - entropy / math.log(3) >= 0.3 else 0
            want_sure = layer if want_sure is None and certain >= 2 else want_sure
        assert (agreed[row], sure[row]) == (want, want_sure)


def test_votes_are_counted_over_the_exits_so_far() -> None:
    exits = policy("vote", thresholds=(1.2,) * 4, vote_power=0.5)
    for row, got in enumerate(first_exit(exits)):
        seen: list[int] = []
        want = None
        for layer in LAYERS:
            seen.append(int(LOGITS[row, layer - 1].argmax()))
            score = max(seen.count(c) for c in seen) / len(seen) ** 0.5
            want = layer if want is None and score >= 1.2 else want
        assert got == want


def test_a_window_that_leans_one_way_leaves_though_no_exit_is_sure() -> None:
    exits = policy("window", thresholds=(0.9,) * 4, window=3, window_floor=0.4)
    for row, got in enumerate(first_exit(exits)):
        leaning: list[int | None] = []
        want = None
        for layer in LAYERS:
            p = softmax(LOGITS[row, layer - 1])
            leaning.append(p.index(max(p)) if max(p) >= 0.4 else None)
            entropy = -math.fsum(x * math.log(x) for x in p)
            last = leaning[-3:]
            agrees = len(last) == 3 and last[0] is not None and len(set(last)) == 1
            sure = 1 - entropy / math.log(3) >= 0.9
            want = layer if want is None and (agrees or sure) else want
        assert got == want


def test_planned_and_hashed_layers_are_obeyed_at_the_next_exit() -> None:
    planned = first_exit(policy("learned_upfront", thresholds=(0.0,) * 4))
    later = first_exit(policy("learned_upfront", thresholds=(1.0,) * 4))
    hashed = first_exit(policy("hash"))
    for row in range(60):
        n, h = AUX["planned_layer"][row, 0], AUX["hash_layer"][row, 0]
        assert planned[row] == next((x for x in LAYERS if x >= n), None)
        assert later[row] == next((x for x in LAYERS if x >= n + 1), None)
        assert hashed[row] == next((x for x in LAYERS if x >= h), None)


def test_a_schedule_gives_later_tokens_no_more_layers() -> None:
    schedule = (5, 4, 2)
    got = budgets(np.arange(12), schedule, 9)
    assert got.tolist() == [5, 5, 5, 4, 4, 4, 2, 2, 2, 2, 2, 2]
    exits = policy("position_schedule", schedule=schedule, schedule_length=9)
    assert first_exit(exits)[:12] == got.tolist()


def test_an_oracle_leaves_at_the_first_right_exit_and_static_at_its_only_one() -> None:
    for row, got in enumerate(first_exit(policy("oracle"))):
        right = [x for x in LAYERS if AUX["correct"][row, x - 1]]
        assert got == (right[0] if right else None)
    assert set(first_exit(policy("static"))) == {1}


def test_thresholds_that_decay_are_those_of_the_published_formula() -> None:
    got = decayed(0.8, np.array([0, 10]), rate=4.0, length=40, share=0.1)
    assert got == pytest.approx([0.9 * 0.8 + 0.1, 0.9 * 0.8 + 0.1 * math.exp(-1.0)])
    exits = policy("max_prob", thresholds=(0.8,) * 4, decay_rate=4.0, decay_length=40)
    assert required_aux(exits) == ("position",)
    for row, layer in enumerate(first_exit(exits)):
        goal = min(0.72 + 0.1 * math.exp(-4 * row / 40), 1.0)
        sure = [x for x in LAYERS if max(softmax(LOGITS[row, x - 1])) >= goal]
        assert layer == (sure[0] if sure else None)


def test_a_token_window_waits_for_neighbours_of_the_same_text() -> None:
    exits = policy("max_prob", thresholds=(0.5,) * 4, token_window=1, granularity="token")
    got = exit_scores(exits, gather_evidence(exits, LOGITS, AUX, 6))
    for row in range(60):
        near = [i for i in (row - 1, row, row + 1) if 0 <= i < 60 and i // 7 == row // 7]
        want = min(max(softmax(LOGITS[i, 0])) for i in near)
        assert got[row, 0] == pytest.approx(want)


def test_temperatures_of_exits_divide_their_own_logits() -> None:
    own = policy("max_prob", temperatures=(0.5, 1.0, 2.0, 4.0), thresholds=(0.5,) * 4)
    scores = exit_scores(own, gather_evidence(own, LOGITS, {}, 6))
    for x, (layer, t) in enumerate(zip(LAYERS, own.temperatures, strict=True)):
        want = [max(softmax(z / t)) for z in LOGITS[:, layer - 1]]
        assert scores[:, x] == pytest.approx(want)
    hot = policy("energy", temperature=3.0, thresholds=(0.5,) * 4)
    energy = exit_scores(hot, gather_evidence(hot, LOGITS, {}, 6))
    want = [3.0 * math.log(sum(math.exp(z / 3.0) for z in row)) for row in LOGITS[:, 0]]
    assert energy[:, 0] == pytest.approx(want)


def test_the_cached_answer_never_becomes_less_sure() -> None:
    exits = policy("max_prob", aggregator="cache")
    layers = np.array([*LAYERS, 6])
    cached = answered_logits(exits, LOGITS[:, layers - 1], layers, 6)
    sure = np.array([[max(softmax(z)) for z in row] for row in cached])
    assert (np.diff(sure, axis=1) >= 0).all()
    for row in range(60):
        best = max((*LAYERS, 6), key=lambda x: max(softmax(LOGITS[row, x - 1])))
        assert (cached[row, -1] == LOGITS[row, best - 1]).all()


def test_the_product_of_exits_is_the_formula_and_its_answers_only_shrink() -> None:
    exits = policy("max_prob", aggregator="poe")
    layers = np.array([*LAYERS, 6])
    logits = LOGITS[:, layers - 1]
    combined = answered_logits(exits, logits, layers, 6)
    alive = np.logical_and.accumulate(logits > 0, axis=1)
    for row in range(60):
        for x in range(layers.size):
            wanted = [
                math.prod(logits[row, j, c] ** (layers[j] / 6) for j in range(x + 1))
                for c in np.flatnonzero(alive[row, x])
            ]
            if wanted:
                p = softmax(combined[row, x] - combined[row, x].max())
                got = [p[c] for c in np.flatnonzero(alive[row, x])]
                assert got == pytest.approx([w / sum(wanted) for w in wanted])
                assert sum(got) == pytest.approx(1.0)


def test_experts_that_only_rule_out_make_every_class_left_more_probable() -> None:
    # conditional monotonicity: with factors that are 0 or equal, what stays can only gain
    ruled = np.where(RNG.random((200, 5, 4)) < 0.3, -1.0, 2.0)
    exits = Exits(layers=(1, 2, 3, 4), aggregator="poe")
    combined = answered_logits(exits, ruled, np.arange(1, 6), 5)
    p = np.exp(combined - combined.max(axis=-1, keepdims=True))
    p /= p.sum(axis=-1, keepdims=True)
    left = (ruled > 0).all(axis=1)
    gains = np.diff(p, axis=1)
    assert (gains.transpose(0, 2, 1)[left] >= -1e-12).all()


def test_votes_of_exits_answer_their_majority() -> None:
    exits = policy("max_prob", aggregator="vote")
    voted = answered_logits(exits, LOGITS[:, :5], np.arange(1, 6), 6).argmax(axis=-1)
    for row in range(60):
        seen = LOGITS[row, :5].argmax(axis=-1).tolist()
        for x in range(5):
            counts = [seen[: x + 1].count(c) for c in range(3)]
            assert voted[row, x] == counts.index(max(counts))


def test_prediction_sets_are_nested_and_leave_when_small() -> None:
    sets = nested_sets(LOGITS, np.arange(1, 7), np.zeros(6), 0.1)
    assert (sets[:, 1:] <= sets[:, :-1]).all()
    assert sets[:, 0].any(axis=1).mean() > 0.5
    assert not sets[LOGITS <= 0].any()
    exits = policy("prediction_set", thresholds=(-1.0,) * 4, set_level=0.1)
    chosen = nested_sets(LOGITS[:, np.array(LAYERS) - 1], np.array(LAYERS), np.zeros(4), 0.1)
    for row, got in enumerate(first_exit(exits)):
        sizes = chosen[row].sum(axis=1).tolist()
        want = next((x for x, size in zip(LAYERS, sizes, strict=True) if size == 1), None)
        assert got == want


@pytest.mark.parametrize("shape", [0.3, 1.0, 4.0])
def test_draws_have_the_moments_of_a_gamma_distribution(shape: float) -> None:
    n = 200_000
    drawn = np.exp(log_gamma_draw(np.full(n, shape), layer=1))
    for power in (1, 2):
        exact = math.gamma(shape + power) / math.gamma(shape)
        spread = math.gamma(shape + 2 * power) / math.gamma(shape) - exact**2
        assert abs((drawn**power).mean() - exact) < 5 * math.sqrt(spread / n)


def test_sets_cover_the_label_at_all_exits_as_often_as_they_promise() -> None:
    # a class drawn from the very distribution that divides is lost with probability <= a (Ville)
    rng = np.random.default_rng(0)
    alpha = rng.uniform(0.5, 5.0, (4000, 1, 3))
    lost = 0
    for layer in range(1, 6):
        draws = np.exp(log_gamma_draw(alpha[:, 0], layer))
        pi = draws / draws.sum(axis=1, keepdims=True)
        label = (pi.cumsum(axis=1) > rng.random((4000, 1))).argmax(axis=1)
        sets = nested_sets(alpha, np.array([layer]), np.zeros(1), 0.2)
        lost += int((~sets[np.arange(4000), 0, label]).sum())
    assert lost / 20_000 <= 0.2


def test_hashed_layers_are_even_fixed_and_salted() -> None:
    layers = random_layers(np.arange(30_000), (2, 4, 6))
    counts = np.array([(layers == x).sum() for x in (2, 4, 6)])
    assert counts.sum() == 30_000
    assert (abs(counts - 10_000) < 4 * math.sqrt(30_000 * 2 / 9)).all()
    assert (random_layers(np.arange(9), (2, 4, 6)) == layers[:9]).all()
    assert (random_layers(np.arange(30_000), (2, 4, 6), salt=1) != layers).any()
    ranked = ranked_layers(np.array([5.0, 1.0, 9.0, 3.0]), (2, 6))
    assert ranked.tolist() == [2, 6, 2, 6]
    tokens = np.array([[2, 6, 4], [4, 2, 6]])
    assert sample_layers(tokens, np.array([3, 2])).tolist() == [6, 4]


def test_the_divergences_of_equal_distributions_are_zero_and_js_has_a_top() -> None:
    p = np.log(np.array([[0.999999, 0.000001]]))
    q = p[:, ::-1]
    for divergence in DIVERGENCES.values():
        assert divergence(p, p) == pytest.approx(0.0, abs=1e-12)
    assert float(DIVERGENCES["js"](p, q)[0]) == pytest.approx(math.log(2), abs=1e-4)


@pytest.mark.parametrize("kind", sorted(k for k, c in exit_criteria().items() if c.aux))
def test_a_missing_array_is_an_error_by_name(kind: str) -> None:
    exits = sample_exits(exit_criterion(kind), 3)
    name = exit_criterion(kind).aux[0]
    with pytest.raises(InputError, match=rf"aux\.{name}.*has not recorded"):
        gather_evidence(exits, LOGITS, {}, 6)
    with pytest.raises(InputError, match="one value per sample and layer"):
        gather_evidence(exits, LOGITS, {name: np.zeros((60, 2))}, 6)
    holes = np.zeros((60, 6))
    holes[3, 0] = np.nan
    with pytest.raises(InputError, match="not recorded at every exit"):
        gather_evidence(exits, LOGITS, {name: holes}, 6)


def test_samples_of_a_criterion_have_its_arrays_alone() -> None:
    rule = exit_criterion("halting_cdf")
    seen = sample_evidence(rule, sample_exits(rule, 3), RNG, rows=5, classes=2)
    assert set(seen.aux) == {"halting"}
    assert replace(seen, layers=seen.layers).logits.shape == (5, 3, 2)
