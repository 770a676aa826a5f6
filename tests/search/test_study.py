from __future__ import annotations

import itertools
import math
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from hypothesis import given
from hypothesis import strategies as st
from optuna.distributions import CategoricalDistribution, FloatDistribution, IntDistribution
from optuna.trial import TrialState
from toy_problem import BYTES, TINY_SPACE, ToyQuality, layer_cost, toy_problem, toy_space

from dynsearch.errors import InputError
from dynsearch.search import runs, study
from dynsearch.search.encoding import first_settings, full_setting, make_codec, setting_key
from dynsearch.search.fronts import as_merged, load_fronts, merge, policy_hash, save_fronts, thin
from dynsearch.search.sampler import SAMPLERS, Gate, ask_sampler, make_sampler
from dynsearch.search.screen import hopeless, shallowest
from dynsearch.search.types import build_inner
from search_spaces.domains import Choice, FloatRange, IntRange


@pytest.fixture
def run(tmp_path: Path) -> runs.Run:
    return runs.create_run(tmp_path / "toy-00000000", "")


def toy_fronts(**params: Any):
    quality, problem = ToyQuality(), toy_problem(budgets={"latency_worst_s": 1.0})
    space = toy_space()
    spec = {
        **problem.inner_spec,
        "reference_trace": quality.record(space.full(), "search"),
        "majority_error": quality.majority_error("search"),
    }
    outer = space.decode(space.full_params() | params)
    return build_inner(spec)(outer, quality.record(outer, "search"))


# anchors, values, constraints


def test_anchors_are_geometric_steps_that_end_at_the_budget() -> None:
    assert study.anchor_costs(1.0, 8.0) == pytest.approx((2.0, 4.0, 8.0))


@given(st.floats(1e-6, 1e3), st.floats(1.001, 1e3))
def test_anchors_rise_within_the_range(c_min: float, factor: float) -> None:
    a = study.anchor_costs(c_min, c_min * factor)
    assert c_min < a[0] < a[1] < a[2] == pytest.approx(c_min * factor)


@pytest.mark.parametrize(("low", "high"), [(2.0, 2.0), (3.0, 2.0), (0.0, 1.0)])
def test_a_budget_below_the_cheapest_policy_is_bad_input(low: float, high: float) -> None:
    with pytest.raises(InputError, match="no policy costs less"):
        study.anchor_costs(low, high)


def test_values_are_means_over_devices_of_what_each_reaches_at_an_anchor() -> None:
    fronts = toy_fronts()
    slow, fast = fronts.devices
    slow = replace(slow, anchor_values=np.array([0.5, 0.4, 0.2]))
    fast = replace(fast, anchor_values=np.array([0.3, 0.2, 0.2]))
    both = replace(fronts, devices=(slow, fast))
    assert study.trial_values(both) == pytest.approx([0.4, 0.3, 0.2])


def test_constraints_are_those_of_the_device_that_violates_least() -> None:
    fronts = toy_fronts()
    slow, fast = fronts.devices
    slow = replace(slow, violation=0.5, budget_values={"a": 3.0, "b": 1.0})
    fast = replace(fast, violation=0.1, budget_values={"a": 2.2, "b": 4.0})
    both = replace(fronts, devices=(slow, fast))
    limits = {"slow": {"a": 1.0, "b": 1.0}, "fast": {"a": 2.0, "b": 5.0}}
    found = study.trial_constraints(both, limits)
    assert found == pytest.approx({"a": 0.1, "b": -0.2})


# encoding


class MixedSpace:
    """One knob of every kind."""

    def outer_domains(self) -> dict[str, Any]:
        return {
            "rate": Choice((1.0, 0.25, 0.5)),
            "flag": Choice(("on", "off")),
            "kind": Choice(("a", "b", "c")),
            "pair": Choice(((1, 2), (3, 4), (5, 6))),
            "width": IntRange(2, 8, 2),
            "scale": FloatRange(0.1, 10.0, log=True),
        }

    def normalise(self, params: dict[str, Any]) -> dict[str, Any]:
        return dict(params)


def test_ordered_choices_and_pairs_become_integers_others_categories() -> None:
    kinds = {name: type(d) for name, d in make_codec(MixedSpace()).distributions.items()}
    assert kinds == {
        "rate": IntDistribution,
        "flag": IntDistribution,
        "kind": CategoricalDistribution,
        "pair": CategoricalDistribution,
        "width": IntDistribution,
        "scale": FloatDistribution,
    }


@given(st.integers(0, 2**32 - 1))
def test_decoding_an_encoded_setting_gives_it_back(seed: int) -> None:
    rng = np.random.default_rng(seed)
    codec = make_codec(MixedSpace())
    setting = {n: d.sample(rng, 1)[0] for n, d in codec.space.outer_domains().items()}
    parameters = codec.encode(setting)
    assert codec.decode(parameters) == setting
    for name, distribution in codec.distributions.items():
        assert distribution._contains(distribution.to_internal_repr(parameters[name]))


def test_a_larger_number_has_a_larger_parameter() -> None:
    codec = make_codec(MixedSpace())
    rate = codec.knobs[0]
    assert [rate.encode(v) for v in (0.25, 0.5, 1.0)] == [0, 1, 2]


def test_distance_scales_every_knob_to_one() -> None:
    codec = make_codec(MixedSpace())
    low = {"rate": 0.25, "flag": "on", "kind": "a", "pair": (1, 2), "width": 2, "scale": 0.1}
    rows = [
        low,
        low | {"rate": 1.0},
        low | {"rate": 0.5},
        low | {"kind": "c"},
        low | {"scale": 1.0},
        low | {"width": 8, "kind": "b"},
    ]
    expected = [0, 1, 0.5, 1, 0.5, math.sqrt(2)]
    assert codec.distance(rows, low) == pytest.approx(expected)


def test_the_grid_holds_every_distinct_setting_once() -> None:
    space = toy_space()
    grid = make_codec(space).grid(10_000)
    assert grid is not None
    assert len({setting_key(s) for s in grid}) == len(grid) == space.outer_size()


def test_a_large_or_continuous_space_has_no_grid() -> None:
    assert make_codec(toy_space()).grid(100) is None
    assert make_codec(MixedSpace()).grid(10**9) is None


# the gate and the samplers

KEEPS = ("keep_after_1", "keep_after_3")


def test_every_sampler_is_kept_out_of_known_and_hopeless_settings(run: runs.Run) -> None:
    codec = make_codec(toy_space(TINY_SPACE))
    grid = codec.grid(100)
    assert grid is not None
    left = grid[3]
    for i, kind in enumerate(SAMPLERS):
        known = [s for s in grid if s != left and s["dtype"] == left["dtype"]]

        def screen(outer: list[Any]) -> Any:
            return np.array([c.dtype != left["dtype"] for c in outer])

        gate = Gate(codec=codec, screen=screen)
        gate.add(known)
        reserve = gate.reserve(np.random.default_rng(0))
        assert reserve == left
        s = optuna.create_study(directions=["minimize"] * 3)
        s.sampler = ask_sampler(kind, gate, reserve, (i, 0, 0))
        assert codec.decode(s.ask(codec.distributions).params) == left
        assert len(s.trials) == 1


def test_settings_that_differ_only_in_layers_out_of_reach_are_one() -> None:
    space = {"skim": {"layers": [1, 3], "keep": [1.0, 0.5]}, "exits": {"layers": [1, 2]}}
    codec = make_codec(toy_space(space))
    plain = codec.space.full_params()
    early, late = (dict(codec.space.normalise(plain | {k: 0.5})) for k in KEEPS)
    for depth, same in ((4, False), (3, False), (2, True)):
        gate = Gate(codec=codec, deepest=lambda outer, d=depth: np.full(len(outer), d))
        gate.add([plain])
        assert gate.refuse(early) is None
        assert gate.refuse(late) == ("known" if same else None)
        assert gate.free([late]) == ([] if same else [late])
        gate.add([early])
        assert gate.refuse(early) == "known"


def test_settings_whose_reach_differs_are_two() -> None:
    codec = make_codec(toy_space({"skim": {"layers": [1, 3], "keep": [1.0, 0.5]}}))
    plain = codec.space.full_params()
    late = dict(codec.space.normalise(plain | {KEEPS[1]: 0.5}))

    def deepest(outer: list[Any]) -> Any:
        return np.array([4 if candidate.skim else 2 for candidate in outer])

    gate = Gate(codec=codec, deepest=deepest)
    gate.add([plain])
    assert gate.refuse(late) is None


def test_a_search_begins_with_the_full_network_in_every_format() -> None:
    codec = make_codec(toy_space(TINY_SPACE))
    plain = codec.space.full_params()
    assert first_settings(codec)[0] == full_setting(codec)
    assert [s["dtype"] for s in first_settings(codec)] == ["fp32", "bf16"]
    assert all(s | {"dtype": "fp32"} == plain for s in first_settings(codec))
    alone = make_codec(toy_space(TINY_SPACE | {"dtype": ["fp32"]}))
    assert first_settings(alone) == [plain]


def test_an_exhausted_space_has_no_reserve() -> None:
    codec = make_codec(toy_space(TINY_SPACE))
    gate = Gate(codec=codec)
    gate.add(codec.grid(100) or [])
    assert gate.reserve(np.random.default_rng(0)) is None


def test_a_space_too_large_to_list_is_exhausted_when_no_draw_is_free() -> None:
    groups = {"layers": [1, 2, 3, 4], "keep": [1.0, *(i / 16 for i in range(1, 16))]}
    codec = make_codec(toy_space({"skim": groups}))
    assert codec.grid(4096) is None
    rng = np.random.default_rng(0)
    assert Gate(codec=codec).reserve(rng) is not None
    assert Gate(codec=codec, screen=lambda o: np.ones(len(o), dtype=bool)).reserve(rng) is None


def test_the_stand_in_is_the_free_setting_nearest_to_the_wish() -> None:
    codec = make_codec(toy_space())
    rng = np.random.default_rng(1)
    grid = codec.grid(10_000) or []
    known = {setting_key(s) for s in grid[::2]}
    gate = Gate(codec=codec)
    gate.add(grid[::2])
    wish = grid[10]
    found = gate.nearest(wish, grid[1], rng)
    free = [s for s in grid if setting_key(s) not in known]
    assert codec.distance([found], wish)[0] == codec.distance(free, wish).min()


def test_the_gate_is_asked_about_parameters_with_or_without_knobs_of_one_value() -> None:
    codec = make_codec(toy_space())
    whole = codec.encode(full_setting(codec))
    part = {n: v for n, v in whole.items() if not codec.distributions[n].single()}
    assert set(part) < set(whole)
    gate = Gate(codec=codec)
    assert gate.allows([whole, part]) == [True, True]
    gate.add([full_setting(codec)])
    assert gate.allows([whole, part]) == [False, False]


def test_rejected_proposals_are_counted_by_reason() -> None:
    codec = make_codec(toy_space(TINY_SPACE))
    grid = codec.grid(100) or []
    gate = Gate(codec=codec)
    gate.add(grid[:-1])
    s = optuna.create_study(directions=["minimize"] * 3)
    s.sampler = ask_sampler("random", gate, grid[-1], (0, 0, 0))
    s.ask(codec.distributions)
    assert set(gate.rejected) == {"known"}
    assert 1 <= gate.rejected["known"] <= 100


def test_equal_seeds_propose_alike_and_others_differ() -> None:
    codec = make_codec(toy_space())
    reserve = full_setting(codec)

    def proposal(seed: tuple[int, ...]) -> dict[str, Any]:
        s = optuna.create_study(directions=["minimize"] * 3)
        s.sampler = ask_sampler("random", Gate(codec=codec), reserve, seed)
        return s.ask(codec.distributions).params

    assert proposal((1, 5, 0)) == proposal((1, 5, 0))
    assert len({str(proposal((1, 5, i))) for i in range(5)}) > 1


def test_an_unknown_sampler_is_bad_input() -> None:
    with pytest.raises(InputError, match="choose one of dynsearch, tpe, nsga2, random, gp"):
        make_sampler("annealing", 0, Gate(codec=make_codec(toy_space())))


# screening


def test_the_shallowest_candidate_has_the_least_depth_and_no_exit() -> None:
    outer = toy_space().decode(toy_space().full_params() | {"keep_after_1": 0.5})
    cut = shallowest(outer, 2)
    assert (cut.depth, cut.exits, cut.dtype) == (2, None, outer.dtype)
    assert cut.skim[0].layers == (1,)


def test_only_what_breaks_a_budget_on_every_device_is_hopeless() -> None:
    space = toy_space()
    outer = [space.decode(p) for p in space.sample_outer(np.random.default_rng(0), 50)]
    speeds = {"slow": 1.0, "fast": 0.4}

    def bound(candidates: Any) -> dict[str, dict[str, Any]]:
        cost = np.array([layer_cost(c)[: c.depth].sum() for c in candidates])
        memory = np.array([BYTES * c.depth for c in candidates])
        return {d: {"latency_worst_s": s * cost, "peak_bytes": memory} for d, s in speeds.items()}

    limits = {"latency_worst_s": 0.6, "peak_bytes": 2 * BYTES}
    budgets = {"slow": limits, "fast": limits | {"latency_worst_s": 0.5}}
    found = hopeless(outer, lower_bound=bound, budgets=budgets, min_depth=2)
    sums = [layer_cost(c)[:2].sum() for c in outer]
    expected = [total > 0.6 and 0.4 * total > 0.5 for total in sums]
    assert found.tolist() == expected
    assert 0 < found.sum() < 50
    assert hopeless(outer, lower_bound=bound, budgets=budgets, min_depth=3).all()


# fronts


def test_fronts_survive_their_file(tmp_path: Path) -> None:
    fronts = toy_fronts(keep_after_1=0.5)
    found = load_fronts(save_fronts(tmp_path / "f.npz", fronts))
    assert found is not None
    for a, b in zip(fronts.devices, found.devices, strict=True):
        assert (a.device, a.violation, a.budget_values) == (b.device, b.violation, b.budget_values)
        assert np.array_equal(a.policies.thresholds, b.policies.thresholds)
        assert np.array_equal(a.error_bound, b.error_bound)
        assert np.array_equal(a.heuristic, b.heuristic)
        assert all(np.array_equal(a.costs[name], b.costs[name]) for name in a.costs)


def test_a_damaged_or_missing_file_of_fronts_is_rebuilt_not_trusted(tmp_path: Path) -> None:
    path = save_fronts(tmp_path / "f.npz", toy_fronts())
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 0xFF
    path.write_bytes(data)
    assert load_fronts(path) is None
    assert load_fronts(tmp_path / "none.npz") is None


@given(st.lists(st.tuples(st.integers(0, 8), st.integers(0, 8)), min_size=1, max_size=30))
def test_thinning_keeps_both_ends_and_the_limit(points: list[tuple[int, int]]) -> None:
    array = np.array(points, dtype=float)
    rows = thin(array, 4)
    assert len(set(rows.tolist())) == len(rows) == min(4, len(points))
    assert array[rows, 1].min() == array[:, 1].min()
    assert array[rows, 1].max() == array[:, 1].max()


def test_policies_with_equal_fields_have_equal_hashes() -> None:
    policies = toy_fronts().devices[0].policies
    hashes = [policy_hash(policies, i) for i in range(len(policies))]
    assert len(set(hashes)) == len(hashes)
    again = policies.take(np.arange(len(policies)))
    assert [policy_hash(again, i) for i in range(len(policies))] == hashes


def test_merging_keeps_what_no_point_of_any_pass_beats() -> None:
    parts = [toy_fronts(keep_after_1=k).devices[0] for k in (1.0, 0.5, 0.25)]
    merged = merge([as_merged(p, i) for i, p in enumerate(parts)], ("error", "latency_mean_s"))
    every = [
        (b, c)
        for p in parts
        for b, c in zip(p.error_bound, p.costs["latency_mean_s"], strict=True)
    ]
    best = {p for p in every if not any(q != p and q[0] <= p[0] and q[1] <= p[1] for q in every)}
    found = zip(merged.error_bound, merged.costs["latency_mean_s"], strict=True)
    assert sorted(found) == sorted(best)


# the study's storage


def test_a_new_study_has_three_values_and_the_full_network_waiting(run: runs.Run) -> None:
    codec = make_codec(toy_space())
    book = study.open_book(run, "journal", codec, toy_problem())
    assert [d.name for d in book.study.directions] == ["MINIMIZE"] * 3
    (waiting,) = book.trials()
    assert waiting.state == TrialState.WAITING
    assert book.setting(waiting) == codec.space.full_params()
    assert book.study.user_attrs["problem"]["anchors"]["slow"] == [1.0, 2.0, 4.0]


def test_opening_again_adds_nothing(run: runs.Run) -> None:
    codec = make_codec(toy_space())
    for _ in range(2):
        book = study.open_book(run, "journal", codec, toy_problem())
    assert len(book.trials()) == 1


@pytest.mark.parametrize(
    ("space", "problem", "key"),
    [
        (TINY_SPACE, toy_problem(), "study.knobs"),
        (None, toy_problem(budgets={"peak_bytes": 1.0}), "study.budgets"),
        (None, toy_problem(devices=("slow",)), "study.devices"),
    ],
)
def test_a_study_of_another_problem_is_refused(
    run: runs.Run, space: Any, problem: Any, key: str
) -> None:
    study.open_book(run, "journal", make_codec(toy_space()), toy_problem())
    with pytest.raises(InputError, match="--fresh") as caught:
        study.open_book(run, "journal", make_codec(toy_space(space)), problem)
    assert caught.value.problems[0].key == key


def test_a_study_of_a_newer_schema_is_refused(run: runs.Run) -> None:
    codec = make_codec(toy_space())
    book = study.open_book(run, "journal", codec, toy_problem())
    record = book.study.user_attrs["problem"] | {"schema_version": 2}
    book.study.set_user_attr("problem", record)
    with pytest.raises(InputError, match="newer schema"):
        study.open_book(run, "journal", codec, toy_problem())


def test_a_damaged_journal_is_refused(run: runs.Run) -> None:
    run.journal.write_text("no json\n{}\n")
    with pytest.raises(InputError, match="is damaged"):
        study.open_storage(run, "journal")


@pytest.mark.parametrize(
    "storage", ["jornal", "nosuch://u:secret@h/db", "sqlite:////no/such/x.db"]
)
def test_a_storage_that_cannot_be_opened_is_bad_input_without_its_password(
    run: runs.Run, storage: str
) -> None:
    with pytest.raises(InputError) as caught:
        study.open_storage(run, storage)
    assert "secret" not in str(caught.value)


def test_a_retry_is_queued_once_however_often_the_driver_dies(run: runs.Run) -> None:
    book = study.open_book(run, "journal", make_codec(toy_space()), toy_problem())
    trial = book.study.ask(book.codec.distributions)
    stale = book.trials(TrialState.RUNNING)[0]
    study.enqueue(book, full_setting(book.codec), retry_of=stale)  # then the driver died
    study.mend_queue(book, [stale], full_first=True)
    states = [t.state for t in book.trials()]
    assert states == [TrialState.FAIL, TrialState.WAITING]
    assert book.trials()[1].user_attrs["retry_of"] == trial.number
    assert study.counts(book) == (0, 0)


def test_all_states_count_as_known(run: runs.Run) -> None:
    codec = make_codec(toy_space())
    book = study.open_book(run, "journal", codec, toy_problem())
    grid = codec.grid(10_000) or []
    for setting in grid[:3]:
        study.enqueue(book, setting)
    book.study.ask(codec.distributions)
    study.tell_failed(book, book.study.ask(codec.distributions), "no")
    expected = {setting_key(s) for s in itertools.chain([full_setting(codec)], grid[:3])}
    assert {setting_key(s) for s in study.settings_of(book)} == expected
