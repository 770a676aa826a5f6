"""Predictions are judged group by group by fixed gates, and their intervals over everything."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from dynsearch import agreement as module
from dynsearch import cli
from dynsearch.agreement import agreement, judged, read_benches
from dynsearch.bench_select import pool_from_front
from search_spaces.errors import InputError

sys.path.insert(0, str(Path(__file__).parent / "report"))
import run_folder


def bench(count: int = 24, *, error: float = 0.0, outside: int = 0, **more: Any) -> dict[str, Any]:
    """A bench whose predictions all miss by `error`, `outside` of them by their interval too."""
    families = ("exit+skim", "exit+experts", "skim+experts")
    rows = []
    for i in range(count):
        measured = 1e-3 * (1 + 3 * i / max(1, count - 1))
        predicted = measured * (1 + error)
        low = measured * (1.01 if i < outside else 0.5)
        rows.append(
            {
                "id": f"{i:08x}",
                "runtime": "torch",
                "batch": 1,
                "dtype": "fp32",
                "family": families[i % 3],
                "counted": True,
                "predicted_s": predicted,
                "low_s": low,
                "high_s": 9.0,
                "measured_s": measured,
            }
        )
    reference = dict(rows[0], id="full", family="full", counted=False, predicted_s=1.0)
    return {"timed_rows": 400, "warnings": [], "rows": [*rows, reference]} | more


def only(found: dict[str, Any], limit: float | None = None) -> dict[str, Any]:
    (row,) = judged("run", found, None if limit is None else (limit, 1))
    return row


def test_references_are_not_judged_and_all_others_are() -> None:
    row = only(bench(error=0.05))
    assert (row["n"], row["inside"], row["inside_needed"]) == (24, 24, 19)
    assert row["mape"] == pytest.approx(0.05)
    assert row["spearman"] == pytest.approx(1.0)
    assert row["lacks"] == []
    assert row["passed"]


@pytest.mark.parametrize(
    ("made", "passed"),
    [
        ({"error": 0.0999}, True),
        ({"error": 0.1001}, False),
        ({"outside": 5}, True),
        ({"outside": 6}, False),
        ({"count": 48, "outside": 10}, True),
        ({"count": 48, "outside": 11}, False),
    ],
)
def test_a_group_passes_up_to_its_gates_and_no_further(made: dict[str, Any], passed: bool) -> None:
    assert only(bench(**made))["passed"] is passed


def test_the_overrun_is_the_worst_of_those_predicted_to_keep_the_budget() -> None:
    slow = bench()
    for row, predicted, measured in zip(
        slow["rows"], (0.9e-3, 0.95e-3, 1.2e-3), (1.04e-3, 0.5e-3, 9e-3), strict=False
    ):
        row.update(predicted_s=predicted, measured_s=measured, low_s=0.0)
    for row in slow["rows"][3:]:
        row.update(predicted_s=1.0, measured_s=1.0)
    assert only(slow, 1e-3)["over_budget"] == pytest.approx(0.04)
    assert only(slow)["over_budget"] is None
    assert only(slow, 1e-4)["over_budget"] is None
    (other,) = judged("run", slow, (1e-3, 8))
    assert other["over_budget"] is None, "a budget for batches of 8 says nothing of single texts"
    mild = bench()
    for row in mild["rows"]:
        row.update(predicted_s=1.0, measured_s=1.06, low_s=0.0)
    assert only(mild, 1.01)["passed"]
    assert not only(mild, 1.0)["passed"]


def test_what_the_protocol_lacks_is_told() -> None:
    few = bench(6, timed_rows=80)
    for row in few["rows"]:
        row.update(family="exit", predicted_s=1e-3)
    text = "; ".join(only(few)["lacks"])
    for word in ("6 configurations, 24", "1.00x", "0 configurations with skim", "80 timed rows"):
        assert word in text
    assert "0 configurations with experts" in text


def test_intervals_of_runtimes_and_runs_are_pooled_and_written(tmp_path: Path) -> None:
    one, two = (run_folder.make_run(tmp_path / name) for name in ("a", "b"))
    other = json.loads((one / "bench.json").read_text())
    for row in other["rows"]:
        row["runtime"] = "openvino"
    other["warnings"] = ["openvino is not calibrated on this machine"]
    (one / "bench-openvino.json").write_text(json.dumps(other))
    found = agreement([one, two])
    assert [len(read_benches(run)) for run in (one, two)] == [2, 1]
    assert [r["runtime"] for r in found["runtimes"]] == ["torch", "openvino"]
    assert len(found["rows"]) == 3 * 4
    whole = found["pooled"]
    rows = [r for b in (*read_benches(one), *read_benches(two)) for r in b["rows"] if r["counted"]]
    assert whole["n"] == len(rows) > module.MIN_POOLED
    inside = sum(r["low_s"] <= r["measured_s"] <= r["high_s"] for r in rows)
    assert whole["coverage"] == inside / len(rows)
    assert found["runtimes"][0]["mape"] == max(
        r["mape"] for r in found["rows"] if r["runtime"] == "torch"
    )
    assert f"openvino: {module.CALIBRATED}" in found["warnings"]
    text = (one / "agreement.md").read_text()
    assert found["files"] == [str(one / "agreement.md")]
    assert f"{inside} of {len(rows)} measurements" in text
    assert text.count("| openvino |") == 4


def test_few_intervals_prove_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    rows = judged("run", bench(outside=2), None) * 6
    assert module.pooled(rows)["n"] == 144
    assert not module.pooled(rows)["passed"]
    assert module.pooled(rows + rows[:1])["passed"]
    exact = judged("run", bench(), None) * 7
    assert not module.pooled(exact)["passed"], "intervals that hold everything are too wide"


def test_a_run_that_was_not_measured_is_bad_input(tmp_path: Path, capsys: Any) -> None:
    run = run_folder.make_run(tmp_path, bench=False)
    with pytest.raises(InputError, match="dynsearch bench RUN"):
        agreement([run])
    assert cli.run(["bench", str(run), "--agreement"]) == 2
    (run / "bench-x.json").write_text("{")
    assert cli.run(["bench", str(run), "--agreement"]) == 2
    capsys.readouterr()


def test_named_and_certified_points_are_timed_whatever_else_is() -> None:
    front = run_folder.make_front(dtypes=("fp32",), draws=20)
    mine = [p for p in front.front if p.device == "local"]
    plain = next(p for p in mine if not p.named)
    certified = replace(plain, certificate=object())  # type: ignore[arg-type]
    points = tuple(certified if p is plain else p for p in front.front)
    must = {c.id for c in pool_from_front(replace(front, front=points), "local") if c.must}
    assert must == {p.id for p in mine if p.named} | {plain.id}


def test_the_command_prints_the_table_that_it_writes(tmp_path: Path, capsys: Any) -> None:
    run, other = (run_folder.make_run(tmp_path / name) for name in ("a", "b"))
    assert cli.run(["bench", str(run), "--agreement", "--also", str(other)]) == 0
    shown = capsys.readouterr().out
    assert (run / "agreement.md").read_text().startswith("# Predicted against measured")
    assert shown.rstrip().endswith(str(run / "agreement.md"))
    counted = sum(r["counted"] for bench in read_benches(run) for r in bench["rows"])
    assert f"of {2 * counted} measurements lie inside" in shown
