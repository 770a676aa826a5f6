"""The strict comparison, end to end on a tiny real model, and its rules on small tables."""

from __future__ import annotations

import copy
import json
import shutil
from collections import Counter
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from cost_models import device as device_module
from dynsearch.cli import run
from dynsearch.commands.session import EXIT_STATUS, INTERRUPTED
from dynsearch.gains import families
from dynsearch.gains import run as gains_run
from dynsearch.gains.cells import speed_cells
from dynsearch.gains.formats import format_table
from dynsearch.gains.picks import Pick, same_rows_s
from dynsearch.gains.plot import figure
from dynsearch.gains.table import _agreement, _by_seed, _cell, _reference_table, agreement
from dynsearch.gains.timed import timed_rows
from dynsearch.opened import reopen
from dynsearch.quality.trace import trace_header
from dynsearch.search.runs import open_run
from dynsearch.testing import tiny_data, tiny_model
from search_spaces.candidate import policies_of
from search_spaces.codec import candidate_from_dict

JOB = """
schema_version = 1
name = "tiny"
[model]
folder = "model"
[data]
file = "data.jsonl"
[training]
epochs = 2
learning_rate = 1e-3
head_learning_rate = 3e-3
threads = 1
[space]
[space.skim]
layers = [1, 2]
keep = [1.0, 0.5]
[space.experts]
groups = [[1, 2], [3, 4]]
counts = [1, 4]
active = [0.25]
[space.exits]
layers = [1, 2, 3]
min_depth = 2
[workload]
max_len = 24
[search]
trials = 3
workers = 1
sampler = "random"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("gains")
    tiny_model(home / "model")
    tiny_data(home / "data.jsonl", 1200)
    (home / "job.toml").write_text(JOB, encoding="utf-8")
    shipped = Path(device_module.__file__).parent / "devices" / "generic-x86-avx2.toml"
    (home / "cache" / "devices").mkdir(parents=True)
    shutil.copyfile(shipped, home / "cache" / "devices" / "local-1.toml")
    return home


@pytest.fixture(scope="module")
def result(home: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
        options = ["--out", str(home / "out"), "--rows", "24", "--repeats", "2", "-q"]
        options += ["--formats", "fp32"]
        assert run(["gains", str(home / "job.toml"), *options]) == 0
    found: dict[str, Any] = json.loads((home / "out" / "tiny-seed0" / "result.json").read_text())
    return found


def job_with(space: dict[str, Any]) -> Any:
    """A job of which its space alone is asked."""
    return SimpleNamespace(space=space)


@pytest.mark.ray
def test_every_family_has_the_same_supernet_and_no_more_passes_than_the_job(home, result):
    assert list(result["passes"]) == ["exit-only", "skim-only", "experts-only", "joint"]
    assert all(1 <= n <= 3 for n in result["passes"].values())
    assert result["passes"]["exit-only"] == 1  # one number format: only the full network's pass
    assert len(list((home / "cache" / "supernets").iterdir())) == 1


@pytest.mark.ray
def test_no_setting_is_run_twice_whichever_family_asks_for_it(home, result):
    folder = home / "out" / "tiny-seed0" / "traces"
    networks = Counter(trace_header(path)["weights_hash"] for path in folder.glob("search-*.npz"))
    recorded = max(networks.values())  # of the supernet; each reference has one pass
    assert recorded <= sum(result["passes"].values()) - 3  # the full network is in every family
    assert list(folder.glob("report-*.npz"))


def test_number_formats_that_do_not_pay_are_told_once_and_kept(tmp_path, monkeypatch):
    slow = {"bf16": {16: 1.5, 64: 1.4}, "int8": {16: 0.4, 64: 0.3}}
    monkeypatch.setattr(gains_run, "time_formats", lambda: slow)
    every, two = (job_with({"dtype": d}) for d in (["fp32", "bf16", "int8"], ["bf16", "fp32"]))
    assert gains_run._formats(tmp_path, every, None) == ["fp32", "int8"]
    monkeypatch.setattr(gains_run, "time_formats", dict)
    assert gains_run._formats(tmp_path, every, None) == ["fp32", "int8"]
    (tmp_path / "formats.json").unlink()
    assert gains_run._formats(tmp_path, every, ["bf16", "fp32"]) == ["fp32", "bf16"]
    for job, found in (
        (two, ["fp32"]),
        (job_with({}), ["fp32"]),
        (job_with({"dtype": "int8"}), ["fp32", "int8"]),
    ):
        (tmp_path / "formats.json").unlink()
        monkeypatch.setattr(gains_run, "time_formats", lambda: slow)
        assert gains_run._formats(tmp_path, job, None) == found


@pytest.mark.parametrize(("formats", "says"), [("int8", "fp32"), ("fp32,fp64", "fp64")])
def test_formats_to_search_are_known_ones_and_fp32_among_them(home, capsys, formats, says):
    assert run(["gains", str(home / "job.toml"), "--formats", formats, "-q"]) == 2
    assert says in capsys.readouterr().err


def test_a_share_of_a_gpu_that_cannot_be_is_refused_before_anything_runs(home, capsys):
    assert run(["gains", str(home / "job.toml"), "--gpu-share", "2", "-q"]) == 2
    assert "command line: search.gpu_share" in capsys.readouterr().err


@pytest.mark.parametrize(("families", "says"), [("static", "static"), ("joint,exits", "exits")])
def test_families_to_compare_are_known_ones_and_one_is_searched(home, capsys, families, says):
    assert run(["gains", str(home / "job.toml"), "--families", families, "-q"]) == 2
    assert f"--families = {says}" in capsys.readouterr().err


@pytest.mark.ray
def test_some_families_are_compared_first_and_the_others_later(
    home, result, tmp_path, monkeypatch
):
    monkeypatch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
    options = ["--out", str(tmp_path), "--rows", "16", "--repeats", "1", "--formats", "fp32", "-q"]
    found = []
    for names in ("exit-only,joint", "joint,exit-only,static"):
        assert run(["gains", str(home / "job.toml"), *options, "--families", names]) == 0
        found.append(json.loads((tmp_path / "tiny-seed0" / "result.json").read_text()))
    few, more = found
    assert few["families"] == ["exit-only", "joint"]
    assert list(few["passes"]) == few["families"]
    assert [r["name"] for r in few["references"]] == ["conventional"]
    assert "first 2 layers" not in few["timings"][0]["per_sample_s"]
    assert more["families"] == ["exit-only", "joint", "static"]
    assert [f["points"] for f in more["fronts"]] == [f["points"] for f in few["fronts"]]
    assert "first 2 layers" in more["timings"][0]["per_sample_s"]  # what was new was timed
    assert {c["family"] for c in speed_cells([few])} == {"exit-only", "joint", "joint, combined"}


@pytest.mark.ray
def test_each_number_format_has_a_search_and_passes_of_its_own(home, tmp_path, monkeypatch):
    monkeypatch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
    options = ["--out", str(tmp_path), "--rows", "16", "--repeats", "1", "-q"]
    options += ["--formats", "fp32,bf16", "--families", "exit-only,joint"]
    assert run(["gains", str(home / "job.toml"), *options]) == 0
    found = json.loads((tmp_path / "tiny-seed0" / "result.json").read_text())
    assert found["passes"] == {"exit-only": 2, "joint": 6}
    fronts = {(f["family"], f["dtype"]): f for f in found["fronts"] if f["batch"] == 1}
    assert {d for _, d in fronts} == {"fp32", "bf16"}
    assert fronts["joint", "fp32"]["passes"] == fronts["joint", "bf16"]["passes"] == 3
    runs = [path.name.rsplit("-", 1)[0] for path in (tmp_path / "runs").iterdir()]
    families_and_formats = [f"{f}-{d}" for f in ("exit-only", "joint") for d in ("bf16", "fp32")]
    assert sorted(runs) == [f"tiny-{name}-seed0" for name in families_and_formats]


@pytest.mark.ray
def test_families_hold_only_their_own_ideas(result):
    allowed = {
        "exit-only": {"exits"},
        "skim-only": {"skim"},
        "experts-only": {"moe"},
    }
    for front in result["fronts"]:
        for point in front["points"]:
            used = {key for key in ("exits", "skim", "moe") if point["candidate"].get(key)}
            assert used <= allowed.get(front["family"], {"exits", "skim", "moe"})
            if front["family"] == "joint, combined":
                assert len(used) > 1


@pytest.mark.ray
def test_named_points_were_frozen_before_they_were_confirmed(home, result):
    frozen = json.loads((home / "out" / "tiny-seed0" / "named.json").read_text())
    for before, after in zip(frozen["fronts"], result["fronts"], strict=True):
        assert all(p["confirmed"] is None for p in before["points"])
        unread = {"confirmed": None, "predicted_same_rows_s": None}
        stripped = [{**p, **unread} for p in after["points"]]
        assert stripped == before["points"]


@pytest.mark.ray
def test_a_named_point_is_the_fastest_that_its_bound_allows(result):
    full = result["full"]["selected_error"]
    for front in result["fronts"]:
        for point in front["points"]:
            for level in point["levels"]:
                assert point["error_bound"] <= full + level + 1e-9
                assert point["predicted_s"] < point["predicted_high_s"]
                faster = [p for p in front["points"] if p["predicted_s"] < point["predicted_s"]]
                assert all(p["error_bound"] > full + level for p in faster)


@pytest.mark.ray
def test_every_named_point_and_reference_is_timed_in_its_own_group(result):
    for front in result["fronts"]:
        group = next(
            t
            for t in result["timings"]
            if (t["dtype"], t["batch"]) == (front["dtype"], front["batch"])
        )
        named = {p["id"] for p in front["points"] if p["levels"]}
        for name in named & set(group["same"]):
            assert group["per_sample_s"][name] == group["per_sample_s"]["full"]
        assert named <= set(group["per_sample_s"])
        assert {"full", "first 2 layers", "first 3 layers"} <= set(group["per_sample_s"])
        assert all(
            0 < t["least"] <= t["median"] <= t["most"] for t in group["per_sample_s"].values()
        )


@pytest.mark.ray
def test_every_group_has_a_scale_from_the_full_network_on_search_rows(home, result):
    plan = json.loads((home / "out" / "tiny-seed0" / "to-time.json").read_text())
    assert all(g["whole_predicted_s"] > 0 for g in plan["groups"])
    assert all(0 < t["scale"] < 1e4 for t in result["timings"])


@given(seed=st.integers(0, 2**32 - 1), total=st.integers(2, 300), share=st.floats(0.01, 1.1))
def test_timed_rows_are_as_long_as_all_rows_are(seed, total, share):
    lengths = np.random.default_rng(seed).integers(2, 60, total)
    number = max(1, int(share * total))
    rows = timed_rows(lengths, number)
    assert rows.size == min(number, lengths.size)
    assert (np.diff(rows) > 0).all()  # each once, in order
    chosen, every = np.sort(lengths[rows]), np.sort(lengths)
    assert chosen[0] >= every[0]
    # one row of each of equal parts of the ranks: means differ by no more than the parts' widths
    assert abs(chosen.mean() - every.mean()) <= np.ptp(every) / rows.size + 1e-9


@pytest.mark.ray
def test_a_prediction_of_the_timed_rows_is_the_plain_one_where_these_are_the_search_rows(
    home, result, monkeypatch
):
    monkeypatch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
    opened = reopen(open_run(next((home / "out" / "runs").glob("tiny-joint-fp32-*"))))
    picks = [
        pick_of(point, front)
        for front in result["fronts"]
        for point in front["points"]
        if point["levels"] and point["predicted_same_rows_s"] is not None
    ]
    assert picks
    search = opened.quality.splits["search"]
    quality = replace(opened.quality, splits={"report": search})

    def told(rows):
        return same_rows_s(picks, scene=opened.scene, quality=quality, rows=rows)

    every = told(np.arange(len(search.tokens)))
    assert every == {(p.id, p.batch): pytest.approx(p.predicted_s) for p in picks}
    short = told(np.sort(np.argsort(search.tokens.lengths, kind="stable")[:40]))
    assert all(short[key] < every[key] for key in every)


def pick_of(point: dict[str, Any], front: dict[str, Any]) -> Pick:
    """A point of `result.json` as what it was written from."""
    candidate = candidate_from_dict(point["candidate"], file="result.json")
    whole = replace(candidate, depth=candidate.backbone.num_layers, exits=None)
    own = ("levels", "selected_error", "selected_loss", "error_bound")
    return Pick(
        family=front["family"],
        dtype=front["dtype"],
        batch=front["batch"],
        candidate=candidate,
        outer=whole,
        policy=policies_of([candidate]),
        **{name: point[name] for name in (*own, "predicted_s", "predicted_high_s")},
    )


@pytest.mark.ray
def test_timings_of_other_rows_are_not_taken_for_those_that_are_asked(
    home, result, tmp_path, monkeypatch
):
    monkeypatch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
    shutil.copytree(home / "out", tmp_path / "out")
    (tmp_path / "out" / "tiny-seed0" / "result.json").unlink()  # cut off before it was written
    options = ["--out", str(tmp_path / "out"), "--rows", "8", "--repeats", "2", "-q"]
    assert run(["gains", str(home / "job.toml"), *options, "--formats", "fp32"]) == 0
    again = json.loads((tmp_path / "out" / "tiny-seed0" / "result.json").read_text())
    assert again["rows"]["timed"] == 8
    assert again["timings"] != result["timings"]


@pytest.mark.ray
def test_references_are_fine_tuned_networks_of_their_own(home, result):
    names = [r["name"] for r in result["references"]]
    assert names[0] == "conventional"
    assert "first 2 layers, fine-tuned" in names
    assert len(list((home / "cache" / "references").iterdir())) == len(names)
    assert result["references"][0]["confirmed"]["error"] < 0.4  # it did learn


@pytest.mark.ray
def test_passes_of_references_are_kept_for_a_comparison_that_goes_on(home, result):
    every = (home / "out" / "tiny-seed0" / "traces").glob("*.npz")
    headers = [trace_header(path) for path in every]
    for split in ("search", "report"):
        networks = {h["weights_hash"] for h in headers if h["split"] == split}
        assert len(networks) == 1 + len(result["references"])


@pytest.mark.ray
def test_a_finished_comparison_is_read_back(home, result, monkeypatch):
    monkeypatch.setenv("DYNSEARCH_CACHE", str(home / "nothing-here"))
    text = home / "out" / "gains.md"
    before = text.read_text()
    assert run(["gains", str(home / "job.toml"), "--out", str(home / "out"), "-q"]) == 0
    assert text.read_text() == before


def test_speed_up_is_a_ratio_of_times_in_one_group_and_missed_levels_stay():
    point = {
        "id": "a",
        "levels": [0.01],
        "selected_loss": 0.005,
        "confirmed": {"loss": 0.02, "low": 0.01, "high": 0.03, "error": 0.2},
    }
    result = {
        "seed": 0,
        "full": {"selected_error": 0.1},
        "references": [],
        "fronts": [{"family": "joint", "dtype": "bf16", "batch": 1, "points": [point]}],
        "timings": [
            {
                "dtype": dtype,
                "batch": 1,
                "per_sample_s": {"a": {"median": 1.0}, "full": {"median": full}},
            }
            for dtype, full in (("fp32", 10.0), ("bf16", 4.0))
        ],
    }
    cells = {c["level"]: c for c in speed_cells([result]) if c["family"] == "joint"}
    assert cells[0.01]["speed_up"] == 4.0
    assert cells[0.01]["against_fp32"] == 10.0
    assert cells[0.01]["confirmed_loss"] == 0.02
    assert "speed_up" not in cells[0.0]


def test_several_seeds_are_a_mean_with_the_least_and_the_largest_speed_up():
    cells = [
        {"speed_up": speed, "confirmed_loss": loss}
        for speed, loss in ((4.0, 0.004), (6.0, 0.008), (5.0, 0.006))
    ]
    assert _cell(cells, 0.005, 3) == "5.00x [4.00, 6.00] (+0.60) *missed in 2*"
    assert _cell(cells[:1], 0.005, 1) == "4.00x (+0.40)"
    assert _cell(cells[1:2], 0.005, 1) == "6.00x (+0.80) *missed*"
    assert _cell([*cells[:2], {}], 0.01, 3) == "5.00x [4.00, 6.00] (+0.60) [2 of 3 seeds]"


def test_what_seeds_do_not_share_is_told_of_each():
    assert _by_seed(["21 passes", "21 passes"]) == "21 passes"
    assert _by_seed(["21 passes", "20 passes"]) == "21 passes; 20 passes"
    confirmed = {"error": 0.1, "loss": 0.01, "low": 0.0, "high": 0.02}
    conventional = {"name": "conventional", "confirmed": confirmed}
    static = {"name": "first 2 layers, fine-tuned", "confirmed": confirmed | {"loss": 0.05}}
    results = [
        {"full": {"confirmed_error": 0.1}, "references": references}
        for references in ([conventional], [conventional, static])
    ]
    found = "\n".join(_reference_table(results))
    assert "| first 2 layers, fine-tuned | 10.00 % | +5.00 [+0.00, +2.00] |" in found


def test_a_plot_shows_the_families_that_were_compared():
    cell = {"confirmed": {"loss": 0.02, "low": 0.01, "high": 0.03}, "selected_loss": 0.0}
    fronts = [
        {
            "family": name,
            "dtype": "fp32",
            "batch": 1,
            "points": [cell | {"id": "a", "levels": [0.01]}],
        }
        for name in ("exit-only", "joint")
    ]
    times = {"a": {"median": 1.0}, "full": {"median": 3.0}}
    timings = [{"dtype": "fp32", "batch": 1, "per_sample_s": times}]
    result = {"job": "x", "seed": 0, "full": {"selected_error": 0.1}, "references": []}
    drawn = figure([result | {"fronts": fronts, "timings": timings}])
    assert "exit-only: 3.00x" in drawn
    assert ">joint<" in drawn
    assert "skim-only" not in drawn
    assert "static" not in drawn
    assert ">1 point<" in drawn
    assert ">2 points<" in drawn
    assert "hollow: confirmed loss above the level" in drawn


def test_a_bar_of_several_seeds_is_hollow_where_one_misses_and_says_how_many_have_a_point():
    def result(seed, loss, levels):
        confirmed = {"loss": loss, "low": 0.0, "high": 0.03}
        point = {"id": "a", "levels": levels, "selected_loss": 0.0, "confirmed": confirmed}
        front = {"family": "joint", "dtype": "fp32", "batch": 1, "points": [point]}
        times = {"a": {"median": 1.0}, "full": {"median": 3.0}}
        timed = [{"dtype": "fp32", "batch": 1, "per_sample_s": times}]
        whole = {"job": "x", "seed": seed, "full": {"selected_error": 0.1}, "references": []}
        return whole | {"fronts": [front], "timings": timed}

    def bars(results):
        return figure(results).count('fill="#ffffff"')

    held, barely = result(0, 0.004, [0.01]), result(1, 0.008, [0.01])
    missed, other = result(1, 0.011, [0.01]), result(1, 0.011, [0.02])
    assert bars([held, missed]) == bars([held, barely]) + 1  # though the mean is below the level
    assert ">1<" not in figure([held, missed])
    assert figure([held, other]).count(">1<") == 2
    assert "number: of 2 seeds" in figure([held, other])


def test_formats_threads_and_speed_ups_are_ratios_to_the_right_full_network():
    point = {
        "id": "a",
        "levels": [0.01],
        "selected_loss": 0.0,
        "selected_error": 0.1,
        "predicted_s": 0.5,
        "predicted_high_s": 0.9,
        "predicted_same_rows_s": 0.8,
        "confirmed": {"loss": 0.0, "low": 0.0, "high": 0.0, "error": 0.1},
    }
    whole = point | {"id": "whole", "levels": [0.0]}  # the full network is no configuration
    front = {"family": "joint", "dtype": "int8", "batch": 1, "points": [point, whole]}
    result = {
        "seed": 0,
        "full": {"selected_error": 0.1},
        "references": [],
        "fronts": [front | {"full_predicted_s": 3.0}],  # a speed-up of 6 is predicted
        "timings": [
            {
                "dtype": dtype,
                "batch": 1,
                "scale": 1.5,
                "same": {"whole": "full"},
                "per_sample_s": {
                    "a": {"median": 1.0},
                    "full": {"median": full},
                    "whole": {"median": full},
                },
                "threads": {"threads": 2, "one_s": full, "all_s": full / 2},
            }
            for dtype, full in (("fp32", 10.0), ("int8", 4.0))
        ],
    }
    lines = "\n".join(format_table([result]))
    assert "| fp32, batch 1 | 1.00x | none | none |" in lines
    assert "| int8, batch 1 | 2.50x | none | 10.00x |" in lines
    assert "| int8, batch 1, 2 threads | 5.00x |" in lines
    (found,) = (g for g in agreement([result])["predicted"] if g["dtype"] == "int8")
    assert found["n"] == 1
    assert found["mape"] == 0.5  # half a second predicted, one measured
    assert found["scaled"] == 0.25  # the machine was half as fast again: 0.75 seconds
    assert found["same_rows"] == pytest.approx(0.2)
    older = copy.deepcopy(result)
    del older["fronts"][0]["points"][0]["predicted_same_rows_s"]
    assert "| 20.0 % |" in "\n".join(_agreement([result]))
    assert "| 20.0 % (1 of 2) |" in "\n".join(_agreement([result, older]))
    assert "| - |" in "\n".join(_agreement([older]))
    assert found["speed_up"] == 0.5  # 6 predicted, 4 measured
    assert found["spearman"] is None  # of one point
    assert found["over"] == 1.0  # one second, in place of at most 0.9
    assert "too few" in "\n".join(_agreement([result]))


@pytest.mark.ray
def test_an_interrupt_ends_the_comparison_not_one_family(home, result, tmp_path, monkeypatch):
    begun = []

    def stopped(opened, problem, progress):
        begun.append(opened.job.name)
        return replace(run_passes(opened, problem, progress), stopped="interrupted")

    run_passes = families.run_passes
    monkeypatch.setattr(families, "run_passes", stopped)
    monkeypatch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
    options = ["--out", str(tmp_path / "out"), "--formats", "fp32", "-q"]
    assert run(["gains", str(home / "job.toml"), *options]) == EXIT_STATUS[INTERRUPTED]
    assert len(begun) == 1
    assert not (tmp_path / "out" / "tiny-seed0" / "named.json").exists()


def test_families_are_compared_by_accuracy_alone(home, tmp_path, capsys):
    (home / "nll.toml").write_text(JOB + '[quality]\nmetric = "nll"\n', encoding="utf-8")
    assert run(["gains", str(home / "nll.toml"), "--out", str(tmp_path / "out")]) == 2
    assert "compared by accuracy" in capsys.readouterr().err
    assert not (tmp_path / "out").exists()
