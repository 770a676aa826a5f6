"""The way of a job on a tiny real model: search, resume, front, export, bench, report."""

from __future__ import annotations

import csv
import io
import json
import re
import shutil
import sys
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.storages import JournalStorage
from optuna.storages.journal import JournalFileBackend

from cost_models import device as device_module
from cost_models.device import load_device
from dynsearch import main_job
from dynsearch.analysis.run import analyse
from dynsearch.commands import show
from dynsearch.errors import InputError
from dynsearch.explain.run import explain
from dynsearch.export.front import read_front
from dynsearch.job import load_job
from dynsearch.models.dynamic import plan_of
from dynsearch.opened import reopen
from dynsearch.progress import make_progress
from dynsearch.quality.data import read_examples
from dynsearch.quality.splits import split_examples
from dynsearch.quality.trace import load_trace
from dynsearch.search.runs import open_run
from dynsearch.testing import tiny_data, tiny_model, tiny_texts
from search_spaces.codec import candidate_from_dict

sys.path.insert(0, str(Path(__file__).parent))
import recheck

JOB = """
schema_version = 1
name = "tiny"
devices = ["local", "nvidia-a100-80g-sxm"]
score_on = ["google-tpu-v5e"]
objectives = ["error", "latency_mean_s"]
[model]
folder = "model"
[data]
file = "data.jsonl"
[training]
epochs = 3
learning_rate = 1e-3
head_learning_rate = 3e-3
threads = 1
[space]
dtype = ["fp32"]
[space.skim]
layers = [1, 2]
keep = [1.0, 0.5]
[space.experts]
groups = [[1, 2], [3, 4]]
counts = [1, 4]
active = [0.25]
granularity = ["sequence"]
[space.exits]
layers = [1, 2, 3]
min_depth = 2
criteria = ["max_prob", "patience"]
[workload]
batch = 1
max_len = 24
[budgets]
latency_worst_s = { of_full_network = 0.98 }
[search]
trials = 5
workers = 1
sampler = "random"
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    home = tmp_path_factory.mktemp("home")
    tiny_model(home / "model")
    tiny_data(home / "data.jsonl", 1200)
    (home / "job.toml").write_text(JOB, encoding="utf-8")
    shipped = Path(device_module.__file__).parent / "devices" / "generic-x86-avx2.toml"
    (home / "cache" / "devices").mkdir(parents=True)
    shutil.copyfile(shipped, home / "cache" / "devices" / "local-1.toml")
    return home


@pytest.fixture(autouse=True)
def own_cache(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DYNSEARCH_CACHE", str(home / "cache"))


def run_job(home: Path, out: str = "out", **options: Any) -> dict[str, Any]:
    job = load_job(home / "job.toml")
    return main_job.search(job, out=home / out, progress=make_progress(quiet=True), **options)


@pytest.fixture(scope="module")
def found(home: Path) -> dict[str, Any]:
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("DYNSEARCH_CACHE", str(home / "cache"))
        return run_job(home)


@pytest.mark.ray
def test_a_search_leaves_a_confirmed_front_on_every_device(found):
    assert found["passes"] == 5
    points = found["front"]
    searched = {"generic-x86-avx2", "nvidia-a100-80g-sxm"}
    assert {p["device"] for p in points} == searched | {"google-tpu-v5e"}
    ids = {p["id"] for p in points}
    assert ids == {p["id"] for p in points if p["device"] == "google-tpu-v5e"}
    assert all(p["confirmed"] is not None and p["fidelity"] == "confirmed" for p in points)
    dynamic = [p for p in points if p["family"] not in ("full", "truncated")]
    assert dynamic
    front = read_front(Path(found["run"]))
    for p in front.front:
        if p.family in ("full", "truncated"):
            continue
        for name, limit in front.budgets.get(p.device, {}).items():
            assert getattr(p.predicted, name) <= limit


def test_a_job_for_another_device_runs_no_pass_of_a_run_that_it_begins_with(home):
    def run(name: str, device: str, **keys: object) -> dict[str, Any]:
        text = JOB.replace('["local", "nvidia-a100-80g-sxm"]', f'["{device}"]')
        text = text.replace("of_full_network = 0.98", "of_full_network = 9.0")  # nothing is cut
        for key, value in keys.items():
            text = re.sub(rf"\n{key} = .*", "", text) + f"{key} = {json.dumps(value)}\n"
        (home / f"{name}.toml").write_text(text, encoding="utf-8")
        job, progress = load_job(home / f"{name}.toml"), make_progress(quiet=True)
        return main_job.search(job, out=home / name, progress=progress)

    ours = {"workers": 1, "sampler": "dynsearch"}
    cold = run("cold", "local", trials=3, **ours)
    begun = [cold["run"]]
    warm = run("warm", "nvidia-a100-80g-sxm", trials=1, warm_start=begun, **ours)
    assert (cold["passes"], warm["passes"], warm["reused"]) == (3, 1, 3)
    front = read_front(Path(warm["run"]))
    assert [step.passes for step in front.hypervolume] == [0, 0, 0, 1]
    assert {p.device for p in front.front} == {"nvidia-a100-80g-sxm", "google-tpu-v5e"}
    assert all(p.confirmed is not None for p in front.front)
    resumed = main_job.resume(Path(warm["run"]), progress=make_progress(quiet=True))
    assert resumed["front"] == warm["front"]


@pytest.mark.ray
def test_named_points_are_the_fastest_within_budget_that_the_bound_allows(found):
    front = read_front(Path(found["run"]))
    full = front.reference.selected_error
    for device in front.budgets:
        mine = [p for p in front.front if p.device == device]
        inside = [
            p
            for p in mine
            if p.predicted.latency_worst_s <= front.budgets[device]["latency_worst_s"]
        ]
        for level in (0.0, 0.005, 0.01, 0.02):
            allowed = [p for p in inside if p.error_bound <= full + level + 1e-12]
            named = [p for p in mine if level in p.named]
            if not allowed:
                assert not named
                continue
            best = min(p.predicted.latency_mean_s for p in allowed)
            assert [p.predicted.latency_mean_s for p in named] == [best]


@pytest.mark.ray
def test_selected_and_confirmed_figures_are_what_real_execution_gives(found, home):
    """Every point is run, sample by sample, on the rows that its figures come from."""
    opened = reopen(open_run(Path(found["run"])))
    quality = opened.quality
    front = read_front(Path(found["run"]))
    checked = 0
    for p in front.front:
        if p.device != "generic-x86-avx2":
            continue
        plan = plan_of(candidate_from_dict(p.candidate))
        for split, figure in (("search", p.selected), ("report", p.confirmed)):
            data = quality.splits[split]
            wrong = 0
            for i in range(len(data.tokens)):
                result = quality.encoder("fp32").run(plan, *data.tokens.batch(np.array([i])))
                wrong += int(result.prediction[0] != data.labels[i])
            assert figure is not None
            assert abs(wrong / figure.n - figure.error) <= 0.01  # near ties, at most 1 %
        checked += 1
    assert checked >= 4


@pytest.mark.ray
def test_layers_that_no_budget_admits_are_not_run(found):
    """All layers cost more than 0.98 of the full network's worst case, unless cut."""
    depths = {}
    for file in (Path(found["run"]) / "traces").glob("*.npz"):
        trace = load_trace(file)
        depths[int(file.name.partition("-")[0])] = trace.depth
        assert (trace.logits[:, trace.depth :] == 0).all()
        assert (trace.logits[:, : trace.depth] != 0).any(axis=(0, 2)).all()
    assert depths[0] == 4  # the full network is the reference of every loss
    assert min(depths.values()) < 4


@pytest.mark.ray
def test_the_same_job_again_is_the_same_finished_run(found, home):
    files = ("front.json", "report.html", "traces/*")
    run = Path(found["run"])
    before = {p: p.stat().st_mtime_ns for f in files for p in run.glob(f)}
    again = run_job(home)
    assert again["run"] == found["run"]
    assert again["front"] == found["front"]
    assert {p: p.stat().st_mtime_ns for f in files for p in run.glob(f)} == before


@pytest.mark.ray
def test_resume_with_more_trials_continues_where_the_run_stopped(found, home, tmp_path):
    copy = tmp_path / Path(found["run"]).name  # relocated as well
    shutil.copytree(found["run"], copy)
    more = main_job.resume(copy, trials=7, progress=make_progress(quiet=True))
    assert more["passes"] == 7
    assert len(list((copy / "traces").glob("*.npz"))) == 7
    old, new = Path(found["run"]), copy
    for trace in (old / "traces").glob("*.npz"):
        np.testing.assert_array_equal(
            load_trace(trace).logits, load_trace(new / "traces" / trace.name).logits
        )


@pytest.mark.ray
def test_exports_hold_what_the_front_holds(found, tmp_path):
    run = Path(found["run"])
    (written,) = main_job.export(run, "csv", tmp_path)["files"]
    with Path(written).open(encoding="utf-8", newline="") as f:
        rows = list(csv.DictReader(f))
    assert len(rows) == len(found["front"])
    (written,) = main_job.export(run, "json", tmp_path)["files"]
    assert len(json.loads(Path(written).read_text())["front"]) == len(found["front"])
    one = found["front"][0]["id"]
    files = main_job.export(run, "toml", tmp_path / "toml", (one,))["files"]
    assert [Path(f).name for f in files] == [f"{one}.toml"]
    with pytest.raises(InputError, match="no such configuration"):
        main_job.export(run, "toml", tmp_path / "toml", ("nothing",))


@pytest.mark.ray
def test_bench_times_real_execution_and_feeds_the_report(found, tmp_path):
    copy = tmp_path / Path(found["run"]).name
    shutil.copytree(found["run"], copy)
    result = main_job.bench(
        copy, rows=8, configs=24, repeats=2, batches=(1, 8), progress=make_progress(quiet=True)
    )
    # five passes leave fewer points than that; the rest is drawn from the space
    assert [f["n"] for f in result["mape"]] == [24, 24]
    assert {(r["dtype"], r["batch"]) for r in result["rows"]} == {("fp32", 1), ("fp32", 8)}
    families = [r["family"] for r in result["rows"] if r["batch"] == 1]
    assert "full" in families
    assert "truncated" in families
    assert all(r["measured_s"] > 0 and r["predicted_s"] > 0 for r in result["rows"])
    measured = [p for p in main_job.front(copy)["front"] if p["measured"]]
    assert measured
    html = (copy / "report.html").read_text(encoding="utf-8")
    assert measured[0]["id"] in html


@pytest.mark.ray
def test_int8_is_searched_timed_and_exported_like_any_other_format(home, tmp_path):
    text = JOB.replace('dtype = ["fp32"]', 'dtype = ["int8", "fp32"]').replace('"tiny"', '"small"')
    (home / "int8.toml").write_text(text, encoding="utf-8")
    quiet = make_progress(quiet=True)
    made = main_job.search(load_job(home / "int8.toml"), out=tmp_path, trials=4, progress=quiet)
    run = Path(made["run"])
    front = read_front(run)
    mine = [p for p in front.front if p.dtype == "int8" and p.family != "full"]
    assert mine
    for device in {p.device for p in front.front}:
        small, whole = (front.reference.cost(device, d) for d in ("int8", "fp32"))
        assert small.peak_bytes < whole.peak_bytes
    result = main_job.bench(run, rows=8, configs=6, repeats=1, batches=(1,), progress=quiet)
    assert "int8" in {r["dtype"] for r in result["rows"]}
    main_job.export(run, "torch", tmp_path / "out", (mine[0].id,))
    config = json.loads((tmp_path / "out" / mine[0].id / "config.json").read_text())
    assert config["candidate"]["dtype"] == "int8"


@pytest.mark.ray
def test_an_impossible_budget_is_refused_with_the_smallest_relaxation(home, tmp_path):
    text = JOB.replace("of_full_network = 0.98", "of_full_network = 0.01")
    (home / "impossible.toml").write_text(text, encoding="utf-8")
    with pytest.raises(InputError, match=r"impossible on .*; allow at least \d") as caught:
        main_job.search(
            load_job(home / "impossible.toml"),
            out=tmp_path,
            progress=make_progress(quiet=True),
        )
    assert caught.value.problems[0].key == "budgets.latency_worst_s"


def test_a_run_of_other_data_is_not_resumed(found, home, tmp_path):
    copy = tmp_path / Path(found["run"]).name
    shutil.copytree(found["run"], copy)
    other = tiny_data(tmp_path / "other.jsonl", 1200, seed=5)
    job = (copy / "job.toml").read_text()
    (copy / "job.toml").write_text(job.replace(str(home / "data.jsonl"), str(other)))
    with pytest.raises(InputError, match="differ from what the run began with"):
        main_job.resume(copy, progress=make_progress(quiet=True))


@pytest.mark.ray
def test_on_the_search_rows_themselves_nothing_shifts(home, found, tmp_path):
    rows = split_examples(read_examples(home / "data.jsonl"))["search"]
    file = tmp_path / "same.jsonl"
    lines = [
        json.dumps({"text": text, "label": rows.labels[k]})
        for text, k in zip(rows.texts, rows.classes, strict=True)
    ]
    file.write_text("\n".join(lines), encoding="utf-8")
    result = main_job.bench_data(
        Path(found["run"]), file, rows=16, repeats=1, progress=make_progress(quiet=True)
    )
    assert result["data"]["known_labels"] == result["data"]["rows"] == len(rows)
    assert result["rows"]
    for row in result["rows"]:
        assert row["reach"] == pytest.approx(row["reach_search"])
        assert row["error"] == pytest.approx(row["error_search"])
        assert row["predicted_s"] == pytest.approx(row["predicted_search_s"])
        assert row["measured_s"] > 0
        assert all(b["holds"] for b in row["budgets"] if row["named"])
        assert row["mean_depth_known"] == pytest.approx(row["mean_depth"])
        assert row["mean_depth_unknown"] is None
        for b in row["budgets"]:
            assert b["value"] == pytest.approx(b["value_search"])


@pytest.mark.ray
def test_longer_texts_of_no_known_class_cost_more_and_have_no_error(home, found, tmp_path):
    texts = [text for text, _ in tiny_texts(80, seed=5)]
    file = tmp_path / "other.csv"
    with file.open("w", newline="", encoding="utf-8") as f:
        table = csv.DictWriter(f, ["text", "label"])
        table.writeheader()
        table.writerows({"text": f"{a} {b} {a}", "label": "oos"} for a, b in pairwise(texts))
    result = main_job.bench_data(
        Path(found["run"]), file, rows=16, repeats=1, progress=make_progress(quiet=True)
    )
    data = result["data"]
    assert data["unknown_labels"] == {"oos": 79}
    assert data["truncated"] > 0
    assert data["mean_tokens"] > data["mean_tokens_search"]
    full = next(r for r in result["rows"] if r["family"] == "full")
    assert full["error"] is None
    assert full["predicted_s"] > full["predicted_search_s"]


@pytest.mark.ray
def test_rows_of_no_known_class_are_told_apart_from_the_others(home, found, tmp_path, capsys):
    rows = split_examples(read_examples(home / "data.jsonl"))["search"]
    longest = sorted(range(len(rows)), key=lambda k: len(rows.texts[k]))[-30:]
    file = tmp_path / "mixed.jsonl"
    lines = [
        json.dumps({"text": text, "label": rows.labels[k]})
        for text, k in zip(rows.texts, rows.classes, strict=True)
    ]
    lines += [json.dumps({"text": rows.texts[i], "label": "oos"}) for i in longest]
    file.write_text("\n".join(lines), encoding="utf-8")
    result = main_job.bench_data(
        Path(found["run"]), file, rows=8, repeats=1, progress=make_progress(quiet=True)
    )
    share = len(longest) / len(lines)
    for row in result["rows"]:
        known, unknown = row["mean_depth_known"], row["mean_depth_unknown"]
        assert (1 - share) * known + share * unknown == pytest.approx(row["mean_depth"])
        assert known == pytest.approx(row["mean_depth_search"])
        assert row["error"] == pytest.approx(row["error_search"])
    show.shift(result, sys.stdout)
    told = capsys.readouterr().out
    assert "of unknown" in told
    assert re.search(r"latency_worst_s (\d+) -> \1 %", told)


@pytest.mark.ray
@pytest.mark.parametrize(
    ("name", "content", "says"),
    [
        ("a.csv", "body\nfine\n", "column missing"),
        ("a.csv", "text\n", "no rows"),
        ("a.jsonl", '{"text": 5}', "no text in this row"),
        ("missing.csv", None, "no such data file"),
    ],
)
def test_other_texts_that_are_none_are_refused(found, tmp_path, name, content, says):
    if content is not None:
        (tmp_path / name).write_text(content, encoding="utf-8")
    with pytest.raises(InputError, match=says):
        main_job.bench_data(
            Path(found["run"]), tmp_path / name, progress=make_progress(quiet=True)
        )


@pytest.mark.ray
def test_explain_reaches_the_predicted_time_of_every_point(found):
    """Search, trace files and prices of a real run: the waterfall ends where the front stands."""
    run = Path(found["run"])
    front = read_front(run)
    for p in front.front:
        told = explain(run, p.id, device=p.device)
        full = front.reference.cost(p.device, p.dtype)
        assert told["total_s"] == pytest.approx(p.predicted.per_sample_s, rel=1e-9)
        assert told["full_s"] == pytest.approx(full.per_sample_s, rel=1e-9)
        reached = told["start_s"] + sum(step["seconds"] for step in told["steps"])
        assert reached == pytest.approx(told["total_s"], rel=1e-9)
        assert told["warnings"] == []
    assert explain(run, front.front[0].id, device="local")["device"] == "generic-x86-avx2"


@pytest.mark.ray
def test_no_exported_configuration_breaks_a_budget_when_read_again(found, tmp_path):
    front = read_front(Path(found["run"]))
    run = open_run(Path(found["run"]))
    devices = {d.name: d for d in map(load_device, sorted((run.path / "devices").glob("*.toml")))}
    traces = [load_trace(path) for path in sorted((run.path / "traces").glob("*.npz"))]
    files = main_job.export(run.path, "toml", tmp_path)["files"]
    checked = 0
    for file in map(Path, files):
        candidate = recheck.read(file)
        same = [t for t in traces if recheck.fits(t, candidate, file.stem)]
        for p in (p for p in front.front if p.id == file.stem):
            load = {"max_len": 24, "classes": 2}
            figures = {
                "latency_worst_s": recheck.worst_s(candidate, devices[p.device], **load),
                "peak_bytes": recheck.peak_bytes(candidate, **load),
                "latency_mean_s": recheck.mean_s(candidate, devices[p.device], same[0], classes=2),
            }
            for name, value in figures.items():
                assert value == pytest.approx(getattr(p.predicted, name), rel=1e-9), name
            limits = front.budgets.get(p.device, {})
            if p.family not in ("full", "truncated"):  # references may lie outside
                assert all(figures[name] <= limit * (1 + 1e-9) for name, limit in limits.items())
                checked += bool(limits)
    assert checked  # how many there are depends on what this machine is fast at


@pytest.mark.ray
def test_an_analysis_replays_what_the_passes_recorded(found):
    result = analyse(Path(found["run"]))
    front = read_front(Path(found["run"]))
    run = open_run(Path(found["run"]))
    full = load_trace(next((run.path / "traces").glob("0-*.npz")))
    right = full.logits.argmax(axis=-1) == full.labels[:, None]
    assert [h["mean"] for h in result["hypervolume"]] == [s.mean for s in front.hypervolume]
    last = {d["device"]: d["hypervolume"] for d in result["devices"]}
    assert last == pytest.approx(front.hypervolume[-1].devices)
    binds = {(b["device"], b["budget"]): b for b in result["binds"]}
    assert binds.keys() == {(d, b) for d, limits in front.budgets.items() for b in limits}
    assert all(b["gain"] >= 0.0 and 0.0 <= b["rejected"]["all"] <= 1.0 for b in binds.values())
    steps = {one["id"]: one["steps"] for one in result["sensitivity"]}
    for p in front.front:
        moved = [s for s in steps.get(p.id, ()) if s["device"] == p.device]
        if p.device in front.budgets and p.family == "truncated":
            at = p.candidate["depth"]
            wanted = ("depth", str(at), str(at + 1))
            (deeper,) = [s for s in moved if (s["knob"], s["before"], s["after"]) == wanted]
            want = (~right[:, at]).mean() - (~right[:, at - 1]).mean()
            assert deeper["error_change"] == pytest.approx(want)
            assert deeper["cost_share"] > 0
        assert all(s["error_change"] is None or abs(s["error_change"]) <= 1 for s in moved)
    for wider in analyse(Path(found["run"]), relax=1.0)["binds"]:
        assert wider["gain"] >= binds[wider["device"], wider["budget"]]["gain"] - 1e-12


@pytest.mark.ray
def test_optuna_loads_both_kinds_of_study_of_a_run(found):
    run = open_run(Path(found["run"]))
    storage = JournalStorage(JournalFileBackend(str(run.journal)))
    names = [run.study_name, *(f"{run.study_name}/front/{d}" for d in found["budgets"])]
    assert sorted(optuna.get_all_study_names(storage)) == sorted(names)
    outer, *fronts = (optuna.load_study(study_name=n, storage=storage) for n in names)
    assert len(outer.trials) == found["passes"]
    assert all(len(t.values) == 3 for t in outer.trials)
    for study in fronts:
        assert study.metric_names == ["error", "latency_mean_s"]
        assert {t.number for t in study.best_trials} <= {t.number for t in study.trials}
        assert all(t.params["depth"] >= 2 for t in study.trials)


@pytest.mark.ray
def test_the_dashboard_of_optuna_shows_both_kinds_of_study_of_a_run(found):
    dashboard = pytest.importorskip("optuna_dashboard", reason="pip install optuna-dashboard")
    run = open_run(Path(found["run"]))
    app = dashboard.wsgi(JournalStorage(JournalFileBackend(str(run.journal))))

    def get(path: str) -> Any:
        status: list[str] = []
        environ = {"REQUEST_METHOD": "GET", "PATH_INFO": path, "wsgi.input": io.BytesIO()}
        body = b"".join(app(environ, lambda line, headers, *_: status.append(line)))
        assert status[0].startswith("200")
        return json.loads(body)

    shown = get("/api/studies")["study_summaries"]
    assert {s["study_name"] for s in shown} > {run.study_name}
    for study in shown:
        assert len(get(f"/api/studies/{study['study_id']}")["trials"]) > 0


@pytest.mark.ray
def test_every_metric_stands_beside_every_point_for_both_splits(found, home):
    front = read_front(Path(found["run"]))
    opened = reopen(open_run(Path(found["run"])))
    assert front.metric == "accuracy"
    assert sum(b.selected_n for b in front.length_buckets) == front.reference.selected_n
    assert sum(b.confirmed_n for b in front.length_buckets) == front.reference.confirmed_n
    labels = opened.quality.splits["report"].labels
    for p in front.front:
        for figures, point in (
            (p.selected_quality, p.selected),
            (p.confirmed_quality, p.confirmed),
        ):
            assert figures.value["accuracy"] == pytest.approx(1 - point.error)
            assert figures.loss["accuracy"] == pytest.approx(point.loss, abs=1e-12)
            assert figures.value["worst_class"] <= figures.value["accuracy"] + 1e-12
        assert p.confirmed.low == p.confirmed_quality.low["accuracy"]
        assert p.confirmed_quality.n == labels.size
    table = (Path(found["run"]) / "front.csv").read_text(encoding="utf-8")
    row = next(csv.DictReader(table.splitlines()))
    first = front.front[0]
    assert float(row["confirmed_mcc"]) == first.confirmed_quality.value["mcc"]
    assert float(row["confirmed_nll_loss_high"]) == first.confirmed_quality.high["nll"]
    assert len(row["confirmed_accuracy_by_length"].split()) == len(front.length_buckets)
    page = (Path(found["run"]) / "report.html").read_text(encoding="utf-8")
    assert 'id="quality"' in page
    assert "ranks by" not in page


@pytest.mark.ray
def test_a_job_may_rank_by_another_metric_to_the_end(home):
    text = JOB.replace("[workload]", '[quality]\nmetric = "nll"\n[workload]')
    (home / "nll.toml").write_text(text, encoding="utf-8")
    job = load_job(home / "nll.toml")
    found = main_job.search(job, out=home / "out", trials=3, progress=make_progress(quiet=True))
    assert found["metric"] == "nll"
    front = read_front(Path(found["run"]))
    full = next(p for p in front.front if p.family == "full")
    assert full.selected.error == front.reference.selected_error
    assert full.error_bound == full.selected.error
    assert full.confirmed.loss == 0.0
    for p in front.front:
        assert p.selected.error == pytest.approx(p.selected_quality.value["nll"])
        assert p.confirmed.loss == pytest.approx(p.confirmed_quality.loss["nll"])
        assert p.confirmed.low <= p.confirmed.loss <= p.confirmed.high
        assert p.error_bound == pytest.approx(
            full.selected.error + p.selected.loss + 1.28 * p.selected.se
        )
    page = (Path(found["run"]) / "report.html").read_text(encoding="utf-8")
    assert "ranks by NLL" in page


@pytest.mark.ray
@pytest.mark.slow
def test_a_job_of_pairs_runs_to_an_export_that_answers_pairs(home, tmp_path):
    """Whether the second text is of the same mood as the first: neither alone tells."""
    texts = tiny_texts(2400)
    rows = [
        {"one": a, "two": b, "same": str(k == m)}
        for (a, k), (b, m) in zip(texts[::2], texts[1::2], strict=True)
    ]
    (home / "pairs.jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    text = JOB.replace('"data.jsonl"', '"pairs.jsonl"\ntext = ["one", "two"]\nlabel = "same"')
    (home / "pairs.toml").write_text(text.replace("epochs = 3", "epochs = 1"), encoding="utf-8")
    job = load_job(home / "pairs.toml")
    found = main_job.search(job, out=home / "out", trials=2, progress=make_progress(quiet=True))
    opened = reopen(open_run(Path(found["run"])))
    report = opened.quality.splits["report"]
    assert report.tokens.types is not None
    front = read_front(Path(found["run"]))
    point = next(p for p in front.front if p.family == "full")
    main_job.export(Path(found["run"]), "torch", tmp_path, (point.id,))
    config = json.loads((tmp_path / point.id / "config.json").read_text())
    assert config["text_columns"] == ["one", "two"]
    right = 0
    plan = plan_of(candidate_from_dict(point.candidate))
    for i in range(len(report.tokens)):
        row = np.array([i])
        result = opened.quality.encoder("fp32").run(
            plan, *report.tokens.batch(row), report.tokens.batch_types(row)
        )
        right += int(result.prediction[0] == report.labels[i])
    assert 1 - right / report.labels.size == pytest.approx(point.confirmed.error, abs=0.01)
