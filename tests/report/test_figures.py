"""Figures for papers are complete, well-formed and free of markup that names bring along."""

from __future__ import annotations

import xml.etree.ElementTree as ET
from dataclasses import replace
from pathlib import Path

import run_folder

from dynsearch.report.figures import COLOURS, front_figure, write_figures

SVG = "{http://www.w3.org/2000/svg}"


def test_every_device_has_a_figure_with_all_its_points(tmp_path: Path) -> None:
    run = run_folder.make_run(tmp_path, bench=False)
    front = run_folder.make_front()
    files = write_figures(run)
    assert [f.name for f in files] == [f"front-{d}.svg" for d in front.devices]
    for device, file in zip(front.devices, files, strict=True):
        root = ET.fromstring(file.read_text(encoding="utf-8"))
        marks = [c for c in root.iter(f"{SVG}circle") if c.find(f"{SVG}title") is not None]
        points = [p for p in front.front if p.device == device]
        assert [c.find(f"{SVG}title").text.split(":")[0] for c in marks] == [p.id for p in points]
        for mark, p in zip(marks, points, strict=True):
            assert mark.get("fill") == ("#ffffff" if p.dominated else COLOURS[p.family])
            assert 58 <= float(mark.get("cx")) <= 624
            assert 36 <= float(mark.get("cy")) <= 316


def test_faster_is_further_left_and_a_lower_error_is_lower() -> None:
    front = run_folder.make_front(dtypes=("fp32",), draws=30)
    points = [p for p in front.front if p.device == "local"]
    root = ET.fromstring(front_figure(front, "local"))
    marks = [c for c in root.iter(f"{SVG}circle") if c.find(f"{SVG}title") is not None]
    place = [(float(c.get("cx")), -float(c.get("cy"))) for c in marks]
    for axis, value in (
        (0, [p.predicted.latency_mean_s for p in points]),
        (1, [p.confirmed.error for p in points]),
    ):
        order = sorted(range(len(points)), key=lambda i: value[i])
        seen = [place[i][axis] for i in order]
        assert seen == sorted(seen)


def test_names_with_markup_stay_text_in_figures() -> None:
    bad = '</title><script>alert(1)</script>"&'
    front = run_folder.make_front(dtypes=("fp32",), draws=5)
    root = ET.fromstring(front_figure(replace(front, job=bad), "local"))
    assert not list(root.iter(f"{SVG}script"))
    assert any(bad in (text.text or "") for text in root.iter(f"{SVG}text"))
