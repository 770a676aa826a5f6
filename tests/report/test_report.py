"""The report is one self-contained, escaped file built from whatever the run folder holds."""

from __future__ import annotations

import base64
import gzip
import hashlib
import json
import re
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import optuna
import pytest
import run_folder
from hypothesis import given
from hypothesis import strategies as st

from dynsearch.export.front import with_measurements
from dynsearch.export.records import FrontPoint
from dynsearch.report import plotly, units
from dynsearch.report.html import build_report
from dynsearch.report.importance import importances
from dynsearch.report.markup import Html, json_block, tag
from dynsearch.report.view import _point, chart_data, layer_strip
from dynsearch.risk.certificate import Certificate, sealed
from dynsearch.search.runs import open_run
from dynsearch.search.study import open_storage
from search_spaces import codec
from search_spaces.candidate import Candidate, Exits, Experts, Skim
from search_spaces.codec import candidate_to_dict
from search_spaces.errors import InputError


class Reader(HTMLParser):
    """Elements with attributes, and the text outside scripts and styles."""

    def __init__(self) -> None:
        super().__init__()
        self.elements: list[tuple[str, dict[str, str | None]]] = []
        self.text = ""
        self.data = ""
        self._inside = ""

    def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
        self.elements.append((name, dict(attributes)))
        self._inside = name if name in ("script", "style") else ""
        if dict(attributes).get("id") == "data":
            self._inside = "data"

    def handle_endtag(self, name: str) -> None:
        self._inside = ""

    def handle_data(self, data: str) -> None:
        if self._inside == "data":
            self.data += data
        elif not self._inside:
            self.text += data


def read(path: Path) -> Reader:
    reader = Reader()
    reader.feed(path.read_text(encoding="utf-8"))
    return reader


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return run_folder.make_run(tmp_path_factory.mktemp("run"))


def test_the_report_is_one_small_file_that_points_nowhere(run: Path):
    path = build_report(run)
    assert path.stat().st_size < 3_000_000
    for name, attributes in read(path).elements:
        assert name not in ("link", "img", "iframe", "object", "embed")
        assert "src" not in attributes
        assert attributes.get("href", "#").startswith("#")
    raw = path.read_text(encoding="utf-8")
    assert not re.search(r"@import|url\(|fetch\(|XMLHttpRequest|innerHTML\s*=", raw)
    assert re.findall(r"https?://[^\s\"']+", raw) == ["http://www.w3.org/2000/svg"]


def test_every_configuration_source_and_word_is_in_the_text(run: Path):
    text = read(build_report(run)).text
    front = run_folder.make_front()
    for p in front.front:
        assert p.id in text
    for device in front.devices:
        assert device in text
    for word in ("invented for a test", "invented processor", "a worker was slow", "Spearman"):
        assert word in text
    for word in ("Glossary", "hypervolume", "predicted_latency_mean_s", "measured_n"):
        assert word in text


def test_names_with_markup_stay_text(tmp_path: Path):
    name = '</script><b onclick="x">&lt;"\''
    run = run_folder.make_run(tmp_path, job=name, run=name)
    reader = read(build_report(run))
    assert name in reader.text
    assert not any("onclick" in a for _, a in reader.elements)


def test_texts_from_outside_stay_text_wherever_they_stand(tmp_path: Path):
    bad = '</script></style><img src=x onerror="window.hit=1"><a href="javascript:1">x</a>&amp;'
    front = run_folder.make_front(dtypes=("fp32",), draws=20)
    points = list(front.front)
    points[0] = replace(points[0], certificate=replace(made_up_certificate(points[0]), note=bad))
    points[0] = replace(points[0], certificate=sealed(points[0].certificate))
    run = run_folder.make_run(
        tmp_path,
        job=bad,
        run=bad,
        front=tuple(points),
        uncertified={points[1].id: bad, bad: bad},
        risk={"method": bad, "risk": bad, "epsilon": 0.1, "delta": 0.1},
        workload=front.workload | {"runtime": bad},
        budgets={bad: {bad: 1.0}},
    )
    bench = run_folder.make_bench(front) | {"warnings": [bad], "threads": bad}
    for row in bench["rows"]:
        row["runtime"] = bad
    (run / "bench-other.json").write_text(json.dumps(bench))
    (run / "environment.json").write_text(json.dumps(run_folder.ENVIRONMENT | {bad: [bad]}))
    (run / "job.toml").write_text(f"name = '{bad}'")
    (run / "log.jsonl").write_text(json.dumps({"level": "warning", "message": bad}))
    device = run_folder.device_toml("local").replace("invented", json.dumps(bad)[1:-1])
    (run / "devices" / "local.toml").write_text(device)
    reader = read(build_report(run))
    assert reader.text.count(bad) > 10
    for name, attributes in reader.elements:
        assert name != "img"
        assert not any(key.startswith("on") for key in attributes)
        assert not (attributes.get("href") or "#").startswith("javascript")
    assert json.loads(reader.data)["points"][0]["certificate"]["note"] == bad


@given(st.recursive(st.text(), lambda x: st.lists(x) | st.dictionaries(st.text(), x)))
def test_no_text_can_end_the_data_block(data: object):
    block = json_block("data", data)
    reader = Reader()
    reader.feed(block)
    assert json.loads(reader.data) == data
    assert block.count("<") == 2


@given(st.text(), st.text())
def test_text_and_attributes_are_escaped_and_html_is_not_escaped_twice(text: str, value: str):
    class Whole(HTMLParser):
        seen: tuple[str, str | None] = ("", None)

        def handle_starttag(self, name: str, attributes: list[tuple[str, str | None]]) -> None:
            self.seen = (name, dict(attributes).get("title"))

    reader = Whole()
    reader.feed(tag("p", text, title=value))
    assert reader.seen[0] == "p"
    assert reader.seen[1] == value.replace("\r\n", "\n") or reader.seen[1] == value
    assert tag("p", tag("b", "x")) == Html("<p><b>x</b></p>")


def test_a_run_without_bench_says_how_to_get_one(tmp_path: Path):
    run = run_folder.make_run(tmp_path, bench=False)
    (run / "environment.json").unlink()
    (run / "log.jsonl").unlink()
    text = read(build_report(run)).text
    assert "dynsearch bench RUN" in text
    assert "rows, interleaved" not in text


def test_a_broken_bench_file_is_bad_input(tmp_path: Path):
    run = run_folder.make_run(tmp_path)
    (run / "bench.json").write_text('{"schema_version": 1, "rows": [')
    with pytest.raises(InputError, match=r"bench\.json"):
        build_report(run)


def test_a_log_line_cut_short_is_left_out(tmp_path: Path):
    run = run_folder.make_run(tmp_path)
    with (run / "log.jsonl").open("a") as file:
        file.write('{"level": "warning", "mess')
    assert "a worker was slow" in read(build_report(run)).text


def test_an_empty_front_says_so(tmp_path: Path):
    run = run_folder.make_run(tmp_path, bench=False, front=())
    assert "The front is empty" in read(build_report(run)).text


def test_the_strip_shows_what_the_candidate_does_layer_by_layer():
    front = run_folder.make_front(dtypes=("fp32",), draws=1)
    candidate = Candidate(
        backbone=run_folder.BACKBONE,
        depth=5,
        exits=Exits(layers=(2, 4), thresholds=(0.9, 0.8)),
        moe=Experts(layers=(3,), num_experts=(4,), top_k=(1,)),
        skim=(Skim(layers=(2, 4), keep_rate=(0.5, 0.25)),),
    )
    p = replace(
        front.front[0],
        candidate=candidate_to_dict(candidate),
        reach=(1.0, 1.0, 0.75, 0.75, 0.5),
    )
    strip = layer_strip(p)
    assert [x["exists"] for x in strip] == [True] * 5 + [False]
    live = strip[:5]
    assert [x["keep"] for x in live] == [1.0, 0.5, 0.5, 0.25, 0.25]
    assert [x["experts"] for x in live] == [None, None, (1, 4), None, None]
    assert [x["exit"] for x in live] == [False, True, False, True, True]
    assert [x["threshold"] for x in live] == [None, 0.9, None, 0.8, None]
    assert [x["rate"] for x in live] == [0.0, 0.25, 0.0, 0.25, 0.5]
    assert sum(x["rate"] for x in live) == 1.0


def test_chart_data_keeps_predicted_and_measured_apart():
    front = run_folder.make_front(dtypes=("fp32",), draws=30)
    bench = run_folder.make_bench(front)
    data = chart_data(with_measurements(front, bench), bench, "local")
    assert len(data["points"]) == len(front.front)
    for shown, p in zip(data["points"], front.front, strict=True):
        assert shown["costs"]["latency_mean_s"] == p.predicted.latency_mean_s
        assert (shown["measured"] is not None) == (p.device == "local")
    assert [(g["dtype"], g["batch"]) for g in data["bench"]] == [("fp32", 1), ("fp32", 8)]
    json.dumps(data, allow_nan=False)


@pytest.mark.parametrize(
    ("shown", "expected"),
    [
        (units.seconds(0.00294), "2.94 ms"),
        (units.seconds(0.9999), "1.00 s"),
        (units.seconds(3.1e-5), "31.0 \u00b5s"),
        (units.seconds(None), "\u2013"),
        (units.size(80 * 2**20), "80.0 MiB"),
        (units.size(12), "12.0 B"),
        (units.energy(0.0032), "3.20 mJ"),
        (units.flops(1.2e9), "1.20 G"),
        (units.flops(12), "12.0"),
        (units.points(0.006), "+0.60"),
        (units.points(-0.0123), "\u22121.23"),
        (units.points(-0.00001), "0.00"),
        (units.points(0.0025), "+0.25"),
        (units.points(-0.0025), "\u22120.25"),
        (units.percent(0.00125, 2), "0.13 %"),
        (units.percent(0.1792), "17.9 %"),
        (units.times(2.9), "2.90\u00d7"),
        (units.times(12345.0), "12300\u00d7"),
        (units.quantity("peak_bytes", 2**30), "1.00 GiB"),
        (units.quantity("error", 0.5), "50.0 %"),
        (units.digits(0), "0"),
    ],
)
def test_figures_have_three_digits_a_unit_and_a_true_minus(shown: str, expected: str):
    assert shown == expected


def test_plotly_is_there_once_packed_and_allowed_by_its_hash(run: Path):
    packed = plotly.packed()
    if packed is None:
        pytest.skip("plotly is not installed")
    script, digest = packed
    raw = build_report(run).read_text(encoding="utf-8")
    assert raw.count(script) == 1
    unpacked = gzip.decompress(base64.b64decode(script))
    assert unpacked.startswith(b"/**\n* plotly.js")
    assert base64.b64encode(hashlib.sha256(unpacked).digest()).decode() == digest
    assert f"sha256-{digest}" in raw


def test_a_certificate_is_told_with_its_note():
    front = run_folder.make_front(dtypes=("fp32",), draws=1)

    class Certified:
        """A point of a front whose points may carry certificates."""

        certificate = SimpleNamespace(statement="risk <= 0.02", note="Holds for such texts.")

        def __getattr__(self, name: str) -> object:
            return getattr(front.front[0], name)

    told = _point(front, Certified(), None)["certificate"]
    assert told == {"statement": "risk <= 0.02", "note": "Holds for such texts."}
    assert _point(front, front.front[0], None)["certificate"] is None


def test_certificates_and_what_has_none_are_told(tmp_path: Path):
    front = run_folder.make_front(dtypes=("fp32",), draws=20)
    named = [p for p in front.front if p.device == "local" and p.named and p.family != "full"]
    certified = replace(named[0], certificate=made_up_certificate(named[0]))
    points = tuple(certified if p is named[0] else p for p in front.front)
    lacking = {named[1].id: "12 calibration <b>rows</b>, at least 119 are needed"}
    asked = {"method": "wsr", "risk": "performance_gap", "epsilon": 0.02, "delta": 0.1}
    run = run_folder.make_run(
        tmp_path, bench=False, front=points, risk=asked | {"levels": [0.02]}, uncertified=lacking
    )
    reader = read(build_report(run))
    assert "performance gap of at most 0.02, all together with probability 0.9" in reader.text
    assert "configurations named for 2 points" in reader.text
    assert certified.certificate.statement in reader.text
    assert "risk \u2264 0.0182" in reader.text
    full = front.reference.cost("local", certified.dtype)
    gain = units.times(full.per_sample_s / certified.predicted.per_sample_s)
    assert f"{gain} predicted" in reader.text
    assert units.points(certified.confirmed.loss) in reader.text
    assert lacking[named[1].id] in reader.text
    shown = {p["id"]: p for p in json.loads(reader.data)["points"] if p["device"] == "local"}
    assert shown[named[1].id]["uncertified"] == lacking[named[1].id]
    assert shown[named[0].id]["certificate"]["statement"] == certified.certificate.statement
    assert ("a", {"href": "#certificates"}) in reader.elements


def test_a_run_that_asks_for_no_certificate_has_no_such_section(run: Path):
    reader = read(build_report(run))
    assert not any(a.get("id") == "certificates" for _, a in reader.elements)


def made_up_certificate(p: FrontPoint) -> Certificate:
    """A certificate whose seal fits, about a point; its figures are invented."""
    candidate = codec.candidate_from_dict(p.candidate)
    return sealed(
        Certificate(
            method="wsr",
            guarantee="probability",
            risk="performance_gap",
            meaning="errors beyond the full network's",
            loss_bound=1.0,
            epsilon=0.02,
            delta=0.1,
            delta_each=0.05,
            configurations=2,
            selection="bonferroni",
            rows=400,
            split="calibrate",
            split_sha256="s",
            seed=0,
            weights_sha256="w",
            reference="r",
            calibrated_from="0a1b2c3d",
            candidate_sha256=codec.candidate_hash(candidate),
            knob="none",
            grid=(None,),
            chosen=0,
            thresholds=() if candidate.exits is None else tuple(candidate.exits.thresholds),
            empirical=0.004,
            upper=0.0182,
            p_value=None,
            exit_batching=candidate.exit_batching,
            batches="any",
            dtype=candidate.dtype,
            max_len=64,
        )
    )


def test_every_runtime_that_was_measured_stands_beside_its_own_full_network(tmp_path: Path):
    run = run_folder.make_run(tmp_path)
    front = run_folder.make_front()
    other = run_folder.make_bench(front, seed=5, runtime="openvino")
    other["rows"] = [r for r in other["rows"] if r["dtype"] == "fp32" or not r["counted"]]
    (run / "bench-openvino.json").write_text(json.dumps(other))
    reader = read(build_report(run))
    groups = [(g["runtime"], g["dtype"]) for g in json.loads(reader.data)["bench"]]
    assert groups == [("torch", "fp32")] * 2 + [("torch", "bf16")] * 2 + [("openvino", "fp32")] * 2
    named = {p.id for p in front.front if p.device == "local" and p.named and p.family != "full"}
    gained = [r for r in other["rows"] if r["id"] in named]
    assert gained
    for r in gained:
        assert units.times(r["speedup"]) in reader.text
    inside = [r for r in other["rows"] if r["counted"] and r["batch"] == 8]
    held = sum(r["low_s"] <= r["measured_s"] <= r["high_s"] for r in inside)
    assert f"{held} of {len(inside)}" in reader.text


def test_each_cost_says_what_it_follows_from(tmp_path: Path):
    run = run_folder.make_run(tmp_path)
    powered = run_folder.device_toml("local").replace(
        "[memory]",
        '[power]\nidle_w = { value = 5, source = "x", grade = "estimate" }\n'
        'max_w = { value = 15, source = "x", grade = "estimate" }\n\n[memory]',
    )
    (run / "devices" / "local.toml").write_text(powered)
    text = read(build_report(run)).text
    assert "datasheet, never measured" in text
    assert text.count("unknown: no power is stated") == 3
    assert text.count("from its power budget, within the range of the literature") == 1
    assert json.loads(read(run / "report.html").data)["origins"] == dict.fromkeys(
        sorted(run_folder.DEVICES), "datasheet, never measured"
    )


def test_what_binds_is_told_where_the_run_was_analysed(tmp_path: Path):
    bound = {"device": "local", "budget": "peak_bytes", "limit": 7e7, "gain": 0.0123}
    bound |= {"rejected": {"all": 0.31, "alone": 0.14}, "slack_least": 0.005, "slack_median": 0.2}
    free = {**bound, "budget": "latency_worst_s", "gain": 0.0, "slack_least": None}
    run = run_folder.make_run(tmp_path)
    assert "What binds" not in build_report(run).read_text()
    analysis = {"schema_version": 1, "relaxed_by": 0.1, "binds": [bound, free]}
    (run / "analysis.json").write_text(json.dumps(analysis))
    text = build_report(run).read_text()
    for part in (
        "What binds",
        "10 % more would add",
        "31 %",
        "14 %",
        "0.5 %",
        "+0.0123",
        "nothing",
    ):
        assert part in text


def test_a_study_of_passes_tells_which_knob_matters(tmp_path: Path):
    run = run_folder.make_run(tmp_path)
    for name in ("traces", "fronts"):
        (run / name).mkdir()
    record = json.loads((run / "environment.json").read_text()) | {"study": "s"}
    (run / "environment.json").write_text(json.dumps(record))
    assert importances(run)[0] == {}
    storage = open_storage(open_run(run), "journal")
    study = optuna.create_study(storage=storage, study_name="s", directions=["minimize"] * 3)
    for i in range(30):
        knobs = {"matters": i % 10 / 10, "idle": i // 10 / 10}
        wide = {name: optuna.distributions.FloatDistribution(0, 1) for name in knobs}
        values = [knobs["matters"] + 0.001 * k for k in range(3)]
        study.add_trial(optuna.trial.create_trial(params=knobs, distributions=wide, values=values))
    shares, why_not = importances(run)
    assert why_not == ""
    assert shares["matters"] > 0.9
    assert "matters" in read(build_report(run)).text
