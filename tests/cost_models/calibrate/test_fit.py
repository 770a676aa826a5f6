"""Fitting: known truth comes back, errors are those of rows left out."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from cost_models.calibrate.fit import (
    SHARED_FLOOR,
    Rows,
    calibrate_host,
    fit,
    host_device,
    medians,
    predict,
    read_rounds,
    round_noise,
    rows_of,
)
from cost_models.calibrate.host import cache_bytes, host_name, usable_cores
from cost_models.calibrate.measure import run_plan
from cost_models.calibrate.plan import (
    GENERIC,
    MEASURED_DTYPES,
    make_plan,
    ops_of,
    working_set_bytes,
)
from cost_models.device import Device, Quantity, load_device
from cost_models.forms import parameters_of
from search_spaces.candidate import DTYPES
from search_spaces.ops import KINDS


def device() -> Device:
    facts = {
        "peak.fp32": 2e11,
        "peak.bf16": 8e11,
        "memory.capacity": 8e9,
        "memory.bandwidth": 2e10,
        "compute.units": 2.0,
        "cache.l3": 2.0**25,
    }
    return Device(
        name="box",
        kind="cpu",
        summary="",
        quantities={
            key: Quantity(value=value, dimension="number", source="test", grade="measured")
            for key, value in facts.items()
        },
    )


def truth() -> dict[str, float]:
    """A machine unlike the priors."""
    model = {name: p.default for name, p in parameters_of("cpu").items()}
    for name in model:
        if name.startswith(("overhead", "problem", "context", "call")):
            model[name] *= 2.0
        if name.startswith(("pack", "move")):
            model[name] *= 0.6
    model |= {"efficiency_matmul_fp32": 0.6, "efficiency_matmul_bf16": 0.5}
    model |= {"stream_share": 0.3, "resident_share": 0.25, "ramp_16_fp32": 0.7}
    return model


def synthetic(noise: float, dtypes: tuple[str, ...] = ("fp32",)) -> tuple[Rows, dict[str, float]]:
    """Rows of the part of the plan in these number formats."""
    items = [i for i in make_plan() if i["dtype"] in dtypes]
    rows = rows_of(items, {i["id"]: 1.0 for i in items}, GENERIC)
    error = np.random.default_rng(1).normal(0.0, noise, len(rows))
    return replace(rows, seconds=predict(rows, device(), truth()) * np.exp(error)), truth()


def test_parameters_of_known_truth_come_back() -> None:
    rows, known = synthetic(0.02)
    found = fit(rows, device(), folds=3)
    assert found.mape < 0.03
    for name in (
        "efficiency_matmul_fp32",
        "pack_fp32",
        "overhead_importance_fp32",
        "stream_share",
        "resident_share",
    ):
        assert found.model[name] == pytest.approx(known[name], rel=0.15), name
    assert predict(rows, device(), found.model) == pytest.approx(rows.seconds, rel=0.12)


def test_int8_matmuls_are_told_from_the_fp32_operators_around_them() -> None:
    rows, known = synthetic(0.02, ("fp32", "int8"))
    found = fit(rows, device(), folds=1)
    for name in ("efficiency_matmul_int8", "pack_int8"):
        assert found.model[name] == pytest.approx(known[name], rel=0.2), name
    assert predict(rows, device(), found.model) == pytest.approx(rows.seconds, rel=0.12)


@pytest.mark.parametrize("dtype", MEASURED_DTYPES)
def test_every_format_is_measured_up_to_the_longest_texts(dtype: str) -> None:
    items = [i for i in make_plan() if i["dtype"] == dtype]
    chains = [i for i in items if i["op"] == "chain"]
    for batch in (1, 8):
        mine = [i for i in chains if (i["batch"], i["tokens"]) == (batch, 256)]
        assert {i.get("keep_rate") for i in mine} == {None, 0.5, 0.25}
        assert {(i["experts"], i["by_token"]) for i in mine if "experts" in i} == {
            (4, False),
            (4, True),
        }
    assert max(i["m"] for i in items if i["op"] == "matmul") == 8 * 256
    kinds = {i["op"] for i in items}
    assert ("attention_prefill" in kinds) is (dtype != "int8")  # int8 has no attention of its own
    if dtype == "int8":
        tables = [ops_of(i, GENERIC) for i in items]
        matmuls = {
            KINDS[k] for t in tables for k in t.kind[t.dtype == DTYPES.index("int8")].tolist()
        }
        assert matmuls == {"matmul", "grouped_matmul"}
        assert {DTYPES[d] for t in tables for d in t.dtype.tolist()} == {"fp32", "int8"}


def test_parameters_without_rows_keep_their_prior() -> None:
    rows, _ = synthetic(0.0)
    found = fit(rows, device(), folds=1)
    known = parameters_of("cpu")
    for name in ("contention", "thread_start", "efficiency_matmul_bf16", "ramp_8_bf16"):
        assert found.model[name] == pytest.approx(known[name].default)


def test_efficiencies_never_pass_their_ceiling() -> None:
    rows, _ = synthetic(0.0)
    found = fit(replace(rows, seconds=rows.seconds / 20), device(), folds=1)
    for name, p in parameters_of("cpu").items():
        assert p.ceiling is None or found.model[name] <= p.ceiling


def test_noise_widens_the_interval() -> None:
    quiet, noisy = (fit(synthetic(s)[0], device(), folds=2) for s in (0.0, 0.2))
    assert noisy.shared_log_sd > 2 * quiet.shared_log_sd
    assert noisy.residual_log_sd["matmul"] > 2 * quiet.residual_log_sd["matmul"]


def test_networks_are_as_sure_as_those_left_out_and_the_machine_drifts() -> None:
    rows = synthetic(0.1)[0]
    found = fit(rows, device(), folds=2)
    whole = np.array([kind == "" for kind in rows.kind])
    own = np.quantile(np.abs(found.held_out_log[whole]), 0.9) / 1.6448536
    assert found.network_log_sd == pytest.approx(np.hypot(own, SHARED_FLOOR))


def test_outliers_barely_move_the_fit() -> None:
    rows, _ = synthetic(0.0)
    spoilt = rows.seconds.copy()
    spoilt[::25] *= 10
    found = fit(replace(rows, seconds=spoilt), device(), folds=1)
    error = np.abs(np.log(predict(rows, device(), found.model) / rows.seconds))
    assert np.median(error) < 0.03


def test_errors_are_of_groups_left_out() -> None:
    rows, _ = synthetic(0.0)
    odd = rows.group == rows.group[rows.kind.index("matmul") + 9]
    assert odd.sum() == 4  # the matmuls of one row count
    trusted = np.where(odd, 1e-3, rows.sigma)  # a fit that saw them would follow them
    shifted = np.where(odd, rows.seconds * 3, rows.seconds)
    found = fit(replace(rows, seconds=shifted, sigma=trusted), device())
    assert found.held_out_log[odd] == pytest.approx(-np.log(3), abs=0.1)


def test_every_item_of_the_plan_is_at_least_one_operator() -> None:
    items = [i for i in make_plan() if i["op"] != "copy"]
    assert len({i["id"] for i in items}) == len(items)
    for item in items:
        ops = ops_of(item, GENERIC)
        assert len(ops) >= 1
        assert (ops.m >= 1).all()
        assert working_set_bytes(item, ops) >= 0
        json.dumps(item)


def test_an_expert_item_is_the_layer_less_attention_and_norms() -> None:
    item = next(i for i in make_plan() if i["op"] == "experts" and i["by_token"])
    ops = ops_of(item, GENERIC)
    names = [KINDS[k] for k in ops.kind]
    assert names.count("grouped_matmul") == 2
    assert names.count("host_sync") == 1
    assert names.count("attention_prefill") == 0
    assert not ((ops.kind == KINDS.index("elementwise")) & (ops.weight_bytes > 0)).any()


def test_a_device_of_the_host_has_peaks_above_every_rate_seen() -> None:
    items = make_plan()
    measured = {i["id"]: 1e-3 for i in items}
    found = host_device(items, measured)
    assert found.name == host_name()
    best = max(2 * i["m"] * i["k"] * i["n"] for i in items if i["op"] == "matmul") / 1e-3
    assert found.get("peak.fp32") / usable_cores() == pytest.approx(1.05 * best)
    assert found.bandwidth_bytes_per_s == pytest.approx(2**27 / 1e-3)


def test_caches_are_read_by_level(tmp_path: Path) -> None:
    for i, (kind, level, size) in enumerate(
        [("Data", "1", "32K"), ("Instruction", "1", "64K"), ("Unified", "3", "8M")]
    ):
        folder = tmp_path / f"index{i}"
        folder.mkdir()
        for name, text in (("type", kind), ("level", level), ("size", size)):
            (folder / name).write_text(text + "\n")
    assert cache_bytes(tmp_path) == {"l1": 32 * 2**10, "l3": 8 * 2**20}
    assert cache_bytes(tmp_path / "none") == {}


def test_a_cut_off_last_line_loses_nothing_else(tmp_path: Path) -> None:
    path = tmp_path / "rows.jsonl"
    good = [{"id": 3, "seconds": s} for s in (1.0, 3.0, 2.0)]
    path.write_text("".join(json.dumps(r) + "\n" for r in good) + '{"id": 4, "sec')
    rounds = read_rounds(path)
    assert medians(rounds) == {3: 2.0}
    assert round_noise(rounds) == pytest.approx(np.std(np.log([1, 3, 2])))


def test_one_item_of_every_sort_runs_and_appends_rows(tmp_path: Path) -> None:
    chosen = {}
    for item in make_plan():
        key = (item["op"], item.get("by_token"), item.get("checks"), item.get("drop_after"))
        key += (item.get("ends"), item.get("batch", 1) > 1)
        small = item.get("tokens", 1) <= 24 and item.get("m", 1) <= 8
        if small and item["op"] != "copy" and item.get("copies", 1) <= 6:
            chosen.setdefault(key, item)
    items = list(chosen.values())
    path = tmp_path / "rows.jsonl"
    assert run_plan(items, path, seconds=0.0, threads=1) == 1
    assert run_plan(items[:2], path, seconds=0.0, threads=1) == 1
    rounds = read_rounds(path)
    assert set(rounds) == {i["id"] for i in items}
    assert len(rounds[items[0]["id"]]) == 2
    assert min(min(v) for v in rounds.values()) > 0


@pytest.mark.slow
def test_this_machine_is_calibrated_into_one_file(tmp_path: Path) -> None:
    path = calibrate_host(tmp_path / "new" / "host.toml", seconds=1.0)
    found = load_device(path)
    assert found.profile is not None
    assert found.profile.mape < 0.6
    assert found.origin.startswith("profile:")
    assert list(path.parent.iterdir()) == [path]
