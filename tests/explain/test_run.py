"""`dynsearch explain` from a run folder: the front's own figures, and one clear error."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import chromium
import pytest
import small_run

from dynsearch import cli
from dynsearch.explain.run import explain
from dynsearch.quality.trace import load_trace, save_trace
from dynsearch.report.html import build_report
from search_spaces.errors import InputError


@pytest.fixture(scope="module", params=[1, 4], ids="batch {}".format)
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory):
    return small_run.make_run(tmp_path_factory.mktemp("run"), batch=request.param)


@pytest.fixture
def copy(made: small_run.Made, tmp_path: Path) -> small_run.Made:
    """The run in a folder that a test may spoil."""
    path = tmp_path / made.path.name
    shutil.copytree(made.path, path)
    return small_run.Made(path, made.front, made.dynamic, made.truncated)


def test_times_are_those_of_the_front_on_every_device(made: small_run.Made) -> None:
    for p in made.front.front:
        found = explain(made.path, p.id, device=p.device)
        full = made.front.reference.cost(p.device, p.dtype)
        assert full is not None
        assert found["total_s"] == pytest.approx(p.predicted.per_sample_s, rel=1e-9)
        assert found["full_s"] == pytest.approx(full.per_sample_s, rel=1e-9)
        reached = found["start_s"] + sum(step["seconds"] for step in found["steps"])
        assert reached == pytest.approx(found["total_s"], rel=1e-9)
        assert found["flops"] == pytest.approx(p.predicted.flops_ideal, rel=0.03)
        assert found["warnings"] == []


def test_the_command_prints_text_and_json(
    made: small_run.Made, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["explain", str(made.path), made.dynamic, "--device", "google-tpu-v5e"]
    assert cli.run(words) == 0
    text = capsys.readouterr().out
    for part in (made.dynamic, "of the full network's FLOPs", "exit checks", "what would help"):
        assert part in text
    assert cli.run([*words, "--json", "--batch", "3"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert (data["command"], data["status"], data["batch"]) == ("explain", "done", 3)
    assert {step["name"] for step in data["steps"] if step["own_s"]} >= {"checks", "drop"}
    assert data["helps"]


def test_another_batch_is_priced_anew(made: small_run.Made) -> None:
    one, eight = (explain(made.path, made.dynamic, batch=b) for b in (1, 8))
    assert eight["total_s"] < one["total_s"]
    padded = {x["batch"]: x["steps"] for x in (one, eight)}
    own = {b: {s["name"]: s["own_s"] for s in steps} for b, steps in padded.items()}
    assert own[1]["padding"] == pytest.approx(0, abs=1e-15)
    assert own[8]["padding"] > 0
    assert own[8]["compaction"] > own[1]["compaction"] == 0


BAD = [
    (["{run}x", "{id}"], "no such run folder"),
    (["{run}", "00000000"], "no such configuration"),
    (["{run}", "{near}"], "did you mean {id}"),
    (["{run}", "{id}", "--device", "abacus"], "the run has no such device"),
    (["{run}", "{id}", "--batch", "0"], "--batch"),
    (["{run}", "{id}", "--batch", "100000"], "--batch"),
    (["{run}"], "ID"),
]


@pytest.mark.parametrize(("words", "message"), BAD, ids=[" ".join(w) for w, _ in BAD])
def test_bad_words_are_told_on_one_line(
    made: small_run.Made, capsys: pytest.CaptureFixture[str], words: list[str], message: str
) -> None:
    near = made.dynamic[:6]
    fill = {"run": made.path, "id": made.dynamic, "near": near}
    assert cli.run(["explain", *(w.format(**fill) for w in words)]) == 2
    seen = capsys.readouterr()
    assert seen.out == ""
    assert message.format(**fill) in seen.err
    assert len(seen.err.splitlines()) == 1


@pytest.mark.parametrize("fault", ["missing", "cut", "no setting", "long rows", "other layers"])
def test_a_trace_that_cannot_be_used_is_named(copy: small_run.Made, fault: str) -> None:
    trace = copy.path / "traces" / "1-00000001.npz"
    good = load_trace(trace)
    if fault == "missing":
        trace.unlink()
    elif fault == "cut":
        trace.write_bytes(trace.read_bytes()[:500])
    elif fault == "no setting":
        save_trace(trace, replace(good, header={}))
    elif fault == "long rows":
        save_trace(trace, replace(good, lengths=good.lengths + 500))
    else:
        save_trace(trace, replace(good, logits=good.logits[:, :2]))
    with pytest.raises(InputError) as caught:
        explain(copy.path, copy.dynamic)
    (problem,) = caught.value.problems
    assert str(copy.path / "traces") in problem.file
    assert "resume" in problem.message
    assert explain(copy.path, copy.truncated)["total_s"] > 0  # needs lengths alone


def test_a_damaged_trace_of_another_setting_does_not_matter(copy: small_run.Made) -> None:
    (copy.path / "traces" / "0-00000000.npz").write_bytes(b"nothing")
    assert explain(copy.path, copy.dynamic) == explain(copy.path, copy.dynamic, batch=None)
    assert explain(copy.path, copy.truncated)["total_s"] > 0


def test_a_front_without_its_full_network_or_a_device_file_is_told(copy: small_run.Made) -> None:
    front = json.loads((copy.path / "front.json").read_text())["front"]
    small_run.edit_front(copy.path, {"front": [p for p in front if p["family"] != "full"]})
    with pytest.raises(InputError, match="no full network in fp32"):
        explain(copy.path, copy.dynamic)
    (copy.path / "devices" / "google-tpu-v5e.toml").unlink()
    with pytest.raises(InputError, match="file is missing"):
        explain(copy.path, copy.dynamic, device="google-tpu-v5e")


def test_activity_that_differs_from_the_fronts_is_told(copy: small_run.Made) -> None:
    front = json.loads((copy.path / "front.json").read_text())["front"]
    for p in front:
        p["reach"] = [1.0] * len(p["reach"])
    small_run.edit_front(copy.path, {"front": front})
    (warning,) = explain(copy.path, copy.dynamic)["warnings"]
    assert "differs from the front's" in warning


def name_dynamic(made: small_run.Made) -> None:
    front = json.loads((made.path / "front.json").read_text())["front"]
    for p in front:
        p["named"] = [0.01] if p["id"] == made.dynamic else []
    small_run.edit_front(made.path, {"front": front})


@pytest.mark.browser
@pytest.mark.skipif(chromium.CHROMIUM is None, reason="Chromium is not installed")
def test_a_browser_draws_every_step_that_shows(copy: small_run.Made) -> None:
    name_dynamic(copy)
    device = copy.front.devices[0]
    told = explain(copy.path, copy.dynamic, device=device)
    longest = max(told["start_s"], told["total_s"])
    shown = {s["name"] for s in told["steps"] if abs(s["seconds"]) >= 0.003 * longest}
    report = build_report(copy.path)
    with chromium.browser() as browser:
        browser.open(report, width=390)
        steps = "[...document.querySelectorAll('[data-step]')].map((b) => b.dataset.step)"
        drawn = browser.value(steps)
        assert drawn[0] == "start"
        assert drawn[-1] == "total"
        assert set(drawn) - {"start", "total"} == shown
        assert len(shown) >= 3
        bars = browser.value(
            "[...document.querySelectorAll('[data-step]')].map((b) =>"
            " [Number(b.getAttribute('x')), Number(b.getAttribute('width'))])"
        )
        zero, scale = bars[-1][0], bars[-1][1] / told["total_s"]
        at, place = told["start_s"], dict(zip(drawn, bars, strict=True))
        for step in told["steps"]:
            after = at + step["seconds"]
            if step["name"] in shown:
                left, width = place[step["name"]]
                assert left == pytest.approx(zero + min(at, after) * scale, abs=0.01)
                assert width == pytest.approx(max(1.5, abs(step["seconds"]) * scale), abs=0.01)
            at = after
        assert browser.value("document.documentElement.scrollWidth") <= 390
        assert browser.complaints() == []


def test_the_report_shows_a_waterfall_of_named_points(copy: small_run.Made) -> None:
    name_dynamic(copy)
    html = build_report(copy.path).read_text(encoding="utf-8")
    assert f'data-waterfall="{copy.dynamic}"' in html
    assert "what would help" in html
    shutil.rmtree(copy.path / "traces")
    (copy.path / "traces").mkdir()
    html = build_report(copy.path).read_text(encoding="utf-8")
    assert 'data-waterfall="' not in html
    assert "do not tell" in html
