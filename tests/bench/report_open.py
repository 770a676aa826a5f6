"""How long the report of a run of 2,000 passes takes to open in headless Chromium.

The run is generated (tests/report/run_folder.py): four devices, two number formats, 2,000 steps of
hypervolume. "many points" has as many configurations as a run can leave: 200 a device, all named
alike. Seconds are medians over fresh loads of the file, from the start of the navigation: to the
load event, before which every chart is drawn, and to the second frame after it, when pixels are on
the screen. CPU seconds are those of all processes of the browser: where these are fewer than the
seconds of a loaded machine, the rest is waiting for a core. Run: python tests/bench/report_open.py
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
from dataclasses import replace
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent.parent / "report"))

import chromium
import run_folder

from dynsearch.export.records import Front, FrontPoint
from dynsearch.report.html import build_report

PASSES, POINTS = 2000, 200
FRAMES = """new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(
    () => done(performance.now() / 1000))))"""
LOADED = "performance.getEntriesByType('navigation')[0].loadEventEnd / 1000"


def of_2000_passes() -> Front:
    """A front of 2,000 drawn candidates a device and format, with as many steps of history."""
    front = run_folder.make_front(draws=PASSES)
    step = front.hypervolume[0]
    steps = tuple(replace(step, passes=n, seconds=4.0 * n) for n in range(1, PASSES + 1))
    return replace(front, hypervolume=steps)


def with_many_points(front: Front) -> Front:
    """Every device's points repeated under other ids until there are `POINTS`."""
    points: list[FrontPoint] = []
    for device in front.devices:
        mine = [p for p in front.front if p.device == device]
        copies = [
            replace(p, id=f"{p.id[:5]}{n:03d}", named=() if n >= len(mine) else p.named)
            for n, p in enumerate(mine * (POINTS // len(mine) + 1))
        ]
        points += copies[:POINTS]
    return replace(front, front=tuple(points))


def opened(browser: chromium.Browser, path: Path, width: int) -> tuple[float, float, float]:
    """Seconds to the load event, to the second frame after it, and of CPU."""
    before = browser.cpu_seconds()
    browser.open(path, width=width)
    frames = browser.call(
        "Runtime.evaluate", expression=FRAMES, awaitPromise=True, returnByValue=True
    )["result"]["value"]
    return browser.value(LOADED), frames, browser.cpu_seconds() - before


def main() -> None:
    """One JSON object for each report and width."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    if chromium.CHROMIUM is None:
        print("Chromium is not installed")
        return
    front = of_2000_passes()
    with tempfile.TemporaryDirectory() as folder, chromium.browser() as browser:
        for name, one in (("2,000 passes", front), ("many points", with_many_points(front))):
            run = run_folder.make_run(
                Path(folder) / name, front=one.front, hypervolume=one.hypervolume
            )
            path = build_report(run)
            for width in (1280, 390):
                opened(browser, path, width)
                found = [opened(browser, path, width) for _ in range(args.repeats)]
                load, drawn, cpu = (
                    statistics.median(column) for column in zip(*found, strict=True)
                )
                print(
                    json.dumps(
                        {
                            "report": name,
                            "points": len(one.front),
                            "megabytes": round(path.stat().st_size / 1e6, 2),
                            "width": width,
                            "load_s": round(load, 3),
                            "on_screen_s": round(drawn, 3),
                            "cpu_s": round(cpu, 3),
                        }
                    ),
                    flush=True,
                )


if __name__ == "__main__":
    main()
