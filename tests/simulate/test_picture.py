from __future__ import annotations

import xml.etree.ElementTree as ElementTree

import pytest

from dynsearch.report.svg import INK
from dynsearch.simulate.picture import LATENCIES, figure


def test_an_interval_without_width_lies_on_top_of_its_bar() -> None:
    values = {name: i + 1.0 for i, name in enumerate(LATENCIES)}
    result = {
        **{name: {"value": v, "low": v, "high": v} for name, v in values.items()},
        "subject": "x",
        "device": "y",
        "workload": {"batch": 1},
        "exits": [{"layer": 1, "share": 1.0, "early": False}],
        "tokens": [{"layer": 1, "mean": 8.0}],
        "experts": [],
    }
    root = ElementTree.fromstring(figure(result))
    place = "{http://www.w3.org/2000/svg}"
    panel = root.find(f"{place}g")
    assert panel is not None
    bars = [float(bar.get("y", "")) for bar in panel.iter(f"{place}rect")]
    ends = [float(x.get("y1", "")) for x in panel.iter(f"{place}line") if x.get("stroke") == INK]
    assert bars == pytest.approx(ends, abs=0.1)
    assert len(bars) == len(LATENCIES)
