"""Two runs are compared where their figures mean the same, and refused where they do not."""

from __future__ import annotations

import io
import json
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from dynsearch.commands import compare, plot
from dynsearch.errors import InputError
from dynsearch.export.front import read_front, write_front_json

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))
import run_folder  # the generated run folder of the report's tests


def make(folder: Path, **changes: object) -> Path:
    run = run_folder.make_run(folder, bench=False, **changes)
    for name in ("traces", "fronts"):
        (run / name).mkdir()
    record = json.loads((run / "environment.json").read_text()) | {"study": folder.name}
    (run / "environment.json").write_text(json.dumps(record))
    return run


def test_a_run_does_not_differ_from_itself(tmp_path: Path) -> None:
    run = make(tmp_path)
    found = compare.compare(run, run)
    assert found["settings"] == []
    assert found["configurations"]["first_only"] == found["configurations"]["second_only"] == []
    assert {p.id for p in read_front(run).front} == set(found["configurations"]["both"])
    assert all(row["first"] == row["second"] for row in found["front"])


def test_what_differs_is_told_and_nothing_else(tmp_path: Path) -> None:
    one = make(tmp_path / "a")
    two = make(tmp_path / "b")
    front = read_front(two)
    gone = front.front[0].id
    write_front_json(replace(front, front=tuple(p for p in front.front if p.id != gone)), two)
    (one / "job.toml").write_text('name = "generated"\n[search]\ntrials = 8\nseed = 0\n')
    (two / "job.toml").write_text('name = "generated"\n[search]\ntrials = 9\n')
    found = compare.compare(one, two)
    assert found["settings"] == [
        {"key": "search.trials", "first": 8, "second": 9},
        {"key": "search.seed", "first": 0, "second": None},
    ]
    assert found["configurations"]["first_only"] == [gone]
    assert found["configurations"]["second_only"] == []
    assert [r["hypervolume"] for r in found["runs"]] == [front.hypervolume[-1].mean] * 2
    out = io.StringIO()
    compare.show(found, out)
    for word in ("search.trials", gone, "named configurations", str(one), str(two)):
        assert word in out.getvalue()


def test_named_points_stand_side_by_side_with_their_speed_up(tmp_path: Path) -> None:
    run = make(tmp_path)
    front = read_front(run)
    for row in compare.compare(run, run)["front"]:
        point = next(
            p
            for p in front.front
            if (p.device, p.dtype) == (row["device"], row["dtype"]) and row["level"] in p.named
        )
        full = front.reference.cost(point.device, point.dtype)
        assert row["first"]["id"] == point.id
        assert row["first"]["speed_up"] == full.per_sample_s / point.predicted.per_sample_s


@pytest.mark.parametrize(("key", "word"), [("metric", "another metric"), ("split", "other rows")])
def test_runs_of_another_metric_or_split_are_refused(tmp_path: Path, key: str, word: str) -> None:
    one, two = make(tmp_path / "a"), make(tmp_path / "b")
    front = read_front(two)
    other = {
        "metric": replace(front, metric="macro_f1"),
        "split": replace(front, reference=replace(front.reference, selected_n=1999)),
    }[key]
    write_front_json(other, two)
    with pytest.raises(InputError, match=word) as caught:
        compare.compare(one, two)
    assert caught.value.problems[0].key == key
    assert caught.value.problems[0].file == str(two)


def test_a_drawn_front_is_plain_text_with_every_named_point(tmp_path: Path) -> None:
    front = run_folder.make_front(dtypes=("fp32",), draws=40)
    data = json.loads((write_front_json(front, tmp_path)).read_text())
    out = io.StringIO()
    plot.front(data, out)
    text = out.getvalue()
    assert text.isascii()
    assert max(map(len, text.splitlines())) <= 76
    for device in front.devices:
        assert f"{device}: error bound" in text
        mine = [p for p in front.front if p.device == device]
        lines = plot.plane(device, [p for p in data["front"] if p["device"] == device], None)
        assert 1 <= sum(line.count("*") for line in lines) <= sum(bool(p.named) for p in mine)


def test_the_fastest_point_stands_left_and_the_best_at_the_bottom() -> None:
    def point(family: str, time: float, bound: float) -> dict[str, object]:
        predicted = {"latency_mean_s": time}
        return {"family": family, "predicted": predicted, "error_bound": bound, "named": []}

    points = [point("exit", 1e-3, 0.3), point("skim", 1e-2, 0.2), point("full", 1e-1, 0.1)]
    lines = plot.plane("d", points, 1e-2)
    rows = [line.split("+", 1)[1] for line in lines[1:-2]]
    assert rows[0].index("e") == 0
    assert rows[-1].index("F") == plot.WIDTH - 1
    middle = next(row for row in rows if "s" in row)
    assert abs(middle.index("s") - plot.WIDTH / 2) <= 1
    assert rows[0].index("|") == middle.index("s")
    assert lines[-1].split() == ["1", "100"]


def test_an_empty_front_is_said_to_be_empty() -> None:
    out = io.StringIO()
    plot.front({"front": []}, out)
    assert "empty" in out.getvalue()
